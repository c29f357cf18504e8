"""A small run folder with every file that a report reads, and a reader of the page it becomes."""

import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from fastflow.pictures.strips import save_gif, save_strip
from fastflow.report.page import write_report

VOID = {"meta", "link", "img", "br", "hr", "input", "source"}
COUNT = 3


class Page(HTMLParser):
    """Elements with their attributes and text; fails on tags that don't nest."""

    def __init__(self, source):
        super().__init__()
        self.source, self.elements, self._open = source, [], []
        self.feed(source)
        self.close()
        assert not self._open, f"unclosed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})
        if tag not in VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop()["tag"] == tag
        if tag in {"td", "th", "dt", "dd"}:
            self.handle_data(" ")

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]

    def text(self, identifier):
        (element,) = [e for e in self.elements if e.get("id") == identifier]
        return " ".join(element["text"].split())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        images = rng.random((2, 5, 1, 8, 8))
        save_strip(images, folder / f"potential-{k:02d}.png", start=2)
        save_gif(images, folder / f"potential-{k:02d}.gif")
    return folder


@pytest.fixture
def run(tmp_path, pictures, evaluation):
    folder = tmp_path / "digits"
    shutil.copytree(pictures, folder / "traversals")
    write(
        folder / "config.json",
        {
            "kind": "discover",
            "versions": {"fastflow": "0.1.0", "torch": "2.13.0", "platform": "Linux-<x86>"},
            "generator": {"name": "digits-vae", "image_shape": [1, 8, 8]},
            "config": {
                "num_potentials": COUNT,
                "steps": 30,
                "seed": 7,
                "learning_rate": 0.001,
                "weights": {"pde": 2.0},
            },
        },
    )
    write(folder / "evaluation.json", evaluation)
    lines = [
        {"step": step, "loss": 1 / step, "pde": 0.1 / step, "strength": 0.02, "extra": step} for step in (10, 20, 30)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(
        folder / "traversals/index.json",
        {
            "potentials": [
                {"index": k, "strip": f"potential-{k:02d}.png", "animation": f"potential-{k:02d}.gif"}
                for k in range(COUNT)
            ],
            "start_column": 2,
            "starts": 2,
            "steps": 4,
        },
    )
    return folder


@pytest.fixture
def evaluation():
    """What evaluation.json holds."""
    return {
        "samples": 4096,
        "seed": 1,
        "path_steps": 4,
        "strength": {"mean": 0.0213, "per_potential": [0.0211, 0.0004, 0.0317], "target": [0.01, 0.1]},
        "distinctness": {
            "accuracy": 0.9871,
            "per_potential": [0.991, 0.92, 1.0],
            "confusion": [[641, 3, 2], [51, 588, 0], [0, 0, 655]],
            "target": 0.95,
            "random_directions": {"accuracy": 0.9953, "strength": 0.0214},
        },
        "residual": {
            "before": 0.8123,
            "after": 0.0234,
            "per_potential": [0.0111, 0.0222, 0.0555],
            "target": 0.05,
            "equation": "u_tt - c^2 lap",
            "coefficients": {"c": [0.612, 0.734, 0.856]},
        },
        "seconds": 12.5,
        "machine": "2 cores & no GPU",
    }


def write(file, value):
    file.write_text(json.dumps(value))


@pytest.fixture
def change(run, evaluation):
    """Replaces some of the evaluation's numbers: `change(residual={"after": 1})`."""

    def replace(**parts):
        for name, replaced in parts.items():
            evaluation[name].update(replaced)
        write(run / "evaluation.json", evaluation)

    return replace


@pytest.fixture
def rendered():
    """Writes a run's page and parses it."""
    return lambda folder: Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture
def parse():
    """Parses HTML into its elements."""
    return Page

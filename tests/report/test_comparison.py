"""A comparison's page: what it shows is what results.json holds, in one file that needs nothing else."""

import base64
import json
import re
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from fastflow.core.errors import InputError
from fastflow.pictures.strips import save_strip
from fastflow.report.comparison import write_comparison
from fastflow.training.flow_config import DiscoverConfig


def numbers(mean, best=False, **compared):
    return {"mean": mean, "standard_error": 0.0123, "best": best, **compared}


@pytest.fixture
def record():
    config = DiscoverConfig(num_potentials=2, steps=9, hidden=(8,), pde_schedule=((1, 1.0), (5, 0.5)), companion=True)
    return {
        "generator": {"name": "mlp-vae:my file.pth", "latent_dim": 4},
        "config": json.loads(json.dumps(asdict(config))),
        "attributes_from": "strokes",
        "attribute_names": ["slant", "<width>"],
        "names_given": None,
        "strength": 0.01,
        "pairs": 16,
        "starts": 4,
        "seeds": [0, 1],
        "methods": {"flows": "the flows", "random": "random ones", "sefa": "vectors"},
        "versions": {"torch": "2.13.0"},
        "device": "cpu",
        "measures": {
            "purity": {
                "title": "purity", "better": "higher", "digits": 2, "what": "how pure",
                "methods": {
                    "flows": numbers(0.5),
                    "random": numbers(0.625, True, difference=0.125, p=0.0004, verdict="better"),
                },
            },
            "training_cpu_s": {
                "title": "training, CPU s", "better": "", "digits": 1, "what": "of it",
                "methods": {"flows": numbers(12.0)},
            },
        },
        "attributes": {
            "flows": {"best_share": [0.75, 0.25], "covered": [2, 0]},
            "random": {"best_share": [0.5, 0.5], "covered": [0, 0]},
        },
        "left_out": {"sefa": "it has <no> layer"},
        "runs": [{"method": "flows", "seed": 0, "strip": ["slant 0.75", "<width> 0.60"]}],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, record):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(record))
    save_strip(np.random.default_rng(0).random((2, 4, 1, 8, 8)), folder / "strips" / "flows.png", start=0)
    return folder


@pytest.fixture
def page(folder, parse):
    file = write_comparison(folder)
    assert file == folder / "compare.html"
    return parse(file.read_text(encoding="utf-8"))


def test_page_is_one_file_without_a_network(page):
    for word in ("http://", "https://", "@import", "url("):
        assert word not in page.source
    assert not page.all("script")
    assert not page.all("link")
    for element in page.elements:
        assert element.get("src", "data:").startswith("data:")
        assert element.get("href", "#").startswith("#")


def test_accessible_structure(page):
    assert page.source.startswith("<!doctype html>")
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "header", "footer", "nav", "h1", "title")] == [1] * 6
    levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch(r"h[1-6]", e["tag"])]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(e["alt"] for e in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in e for e in page.all("th"))
    identifiers = [e["id"] for e in page.elements if "id" in e]
    assert len(identifiers) == len(set(identifiers))
    for e in page.elements:
        targets = [*e.get("aria-labelledby", "").split(), e.get("href", "").lstrip("#")]
        assert set(filter(None, targets)) <= set(identifiers)


def test_numbers_tests_and_reasons_are_shown(page):
    text = page.text("measures")
    assert "purity higher is better 0.50 ± 0.01 0.62 best ± 0.01▲ better, p < 0.001" in text
    assert "training, CPU s 12.0 ± 0.0" in text
    assert "sefa is left out: it has <no> layer." in text
    assert "slant 0.75 (2) 0.50" in page.text("attributes")
    assert "<width> 0.25 0.50" in page.text("attributes")
    assert "the flows are better in 0 and worse in 1" in page.source
    assert "0 stay undecided. The purest paths are those of random." in page.source


def test_the_strip_is_embedded_unchanged_with_its_rows(folder, page):
    (picture,) = page.all("img")
    assert base64.b64decode(picture["src"].partition(",")[2]) == (folder / "strips" / "flows.png").read_bytes()
    assert picture["alt"].startswith("2 paths of flows in rows")
    assert "slant 0.75, <width> 0.60" in page.text("strips")


def test_the_command_spells_every_setting_that_is_not_the_default(page):
    assert page.text("reproduce").endswith(
        "fastflow compare --generator 'mlp-vae:my file.pth' --out mine-again --seeds 2 --methods flows random sefa "
        "--attributes strokes --pairs 16 --starts 4 --strength 0.01 --num-potentials 2 --steps 9 --hidden 8 "
        "--companion --pde-schedule 1 1.0 5 0.5"
    )


def test_the_command_spells_names_device_and_width_where_they_are_needed(folder, record, parse):
    # "my height" is the same everywhere: it isn't shown, and the function still has to be given a name for it.
    record |= {"attributes_from": "my.py:look", "names_given": ["slant", "my height", "<width>"], "device": "cuda:1"}
    record["generator"] = {"name": "/mine/net.py:decode", "latent_dim": 4}
    (folder / "results.json").write_text(json.dumps(record))
    text = parse(write_comparison(folder).read_text(encoding="utf-8")).text("reproduce")
    assert text.endswith(
        "fastflow compare --generator /mine/net.py:decode --latent-dim 4 --device cuda:1 --out mine-again --seeds 2 "
        "--methods flows random sefa --attributes my.py:look --attribute-names slant 'my height' '<width>' --pairs 16 "
        "--starts 4 --strength 0.01 --num-potentials 2 --steps 9 --hidden 8 --companion --pde-schedule 1 1.0 5 0.5"
    )


def test_the_command_leaves_a_place_for_what_was_made_in_python(folder, record, parse):
    record |= {"attributes_from": None, "names_given": None}
    record["generator"] = {"name": None, "latent_dim": 4}
    (folder / "results.json").write_text(json.dumps(record))
    text = parse(write_comparison(folder).read_text(encoding="utf-8")).text("reproduce")
    assert "fastflow compare --generator FILE.py:FUNCTION --latent-dim 4 --out mine-again" in text
    assert "--attributes FILE.py:FUNCTION --pairs" in text


def test_without_strips_it_says_so(folder, parse):
    (folder / "strips" / "flows.png").unlink()
    assert "No strips were drawn." in parse(write_comparison(folder).read_text()).text("strips")


def test_refuses_a_folder_without_results(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        write_comparison(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("measures", {"purity": {}}), ("methods", None), ("config", 3)])
def test_refuses_results_that_no_comparison_wrote(folder, record, name, value):
    (folder / "results.json").write_text(json.dumps({**record, name: value}))
    with pytest.raises(InputError, match=r"results\.json' isn't one that a comparison wrote"):
        write_comparison(folder)


@pytest.mark.parametrize("damage", [lambda data: b"not a picture", lambda data: data[:10] + b"\xe7" + data[11:]])
def test_refuses_a_damaged_strip(folder, damage):
    file = folder / "strips" / "flows.png"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"flows.png' is not a PNG image: remove it"):
        write_comparison(folder)

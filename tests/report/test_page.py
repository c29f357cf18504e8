"""The report page: what it shows is what the run measured, in one file that needs nothing else."""

import base64
import io
import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastflow.report.page import write_report

COUNT = 3


def test_writes_report_html_into_the_run_folder(run):
    assert write_report(str(run)) == Path(run) / "report.html"
    assert not list(run.glob(".*"))


def test_page_is_one_file_without_a_network(run, rendered):
    page = rendered(run)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in page.source
    assert "url(" not in page.source
    for element in page.elements:
        assert element.get("src", "data:").startswith("data:")
        assert element.get("href", "#").startswith("#")


def test_every_picture_is_embedded_unchanged(run, rendered):
    embedded = [base64.b64decode(e["src"].partition(",")[2]) for e in rendered(run).all("img")]
    for file in sorted((run / "traversals").glob("potential-*")):
        assert file.read_bytes() in embedded
    assert len(embedded) == 3 * COUNT


def test_still_picture_is_the_start_of_the_animation(run, rendered):
    still = rendered(run).all("img", **{"class": "still"})[1]
    with Image.open(run / "traversals/potential-01.gif") as picture:
        picture.seek(2)
        start = np.asarray(picture.convert("L"))
    with Image.open(io.BytesIO(base64.b64decode(still["src"].partition(",")[2]))) as picture:
        assert (np.asarray(picture.convert("L")) == start).all()


def test_potential_that_leaves_the_data_says_where(run, rendered):
    file = run / "traversals" / "index.json"
    index = json.loads(file.read_text())
    starts, steps = index["starts"], index["steps"]
    start = index["potentials"][0].get("start_column", index["start_column"])
    whole = [[0, steps]] * (starts - 1)
    index["potentials"][0]["ends"] = [[0, start + 1], *whole]
    index["potentials"][1]["ends"] = [[0, steps], *whole]
    index["potentials"][2]["ends"] = [["0", None], 7]  # damaged
    file.write_text(json.dumps(index))
    source = rendered(run).source
    assert source.count("leaves the data") == 1
    where = f"from 1 of {starts} starts" if starts > 1 else ""
    assert f"This potential leaves the data after step 1 {where}".strip() in source


def test_potential_that_only_goes_forward_has_a_start_column_of_its_own_and_says_so(run, rendered):
    file = run / "traversals" / "index.json"
    index = json.loads(file.read_text())
    index["direction"] = "both"
    index["potentials"][1].update(start_column=0, direction="forward")
    index["potentials"][2].update(start_column=2, direction="both")
    file.write_text(json.dumps(index))
    page = rendered(run)
    assert "carried along potential 0 in columns from step -2 to step 2" in page.source
    assert "carried along potential 1 in columns from step 0 to step 4" in page.source
    assert "carried along potential 2 in columns from step -2 to step 2" in page.source
    assert page.source.count("shows the way forward only") == 1
    assert "shows the way forward only" in page.text("potential-1")
    assert "along the reverse flow to its left" in page.source


def test_accessible_structure(run, rendered):
    page = rendered(run)
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "header", "footer", "nav", "h1", "title")] == [1, 1, 1, 1, 1, 5]
    levels = [int(e["tag"][1]) for e in page.elements if re.fullmatch(r"h[1-6]", e["tag"])]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(e["alt"] for e in page.all("img"))
    assert "2 starting images in rows, carried along potential 1 in columns from step -2 to step 2" in page.source
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in e for e in page.all("th"))
    assert all(e["role"] == "img" for e in page.all("svg"))
    identifiers = [e["id"] for e in page.elements if "id" in e]
    assert len(identifiers) == len(set(identifiers))
    for element in page.elements:
        assert set(element.get("aria-labelledby", "").split()) <= set(identifiers)
        if element.get("href", "").startswith("#"):
            assert element["href"][1:] in identifiers
    for feature in ("prefers-color-scheme: dark", "prefers-reduced-motion: reduce", "@media print", ":focus-visible"):
        assert feature in page.source


def test_headline_numbers_and_targets(run, rendered):
    page = rendered(run)
    targets = page.text("targets")
    for shown in (
        "0.0213", "8.7%", "98.7%", "0.812 →", "0.0234", "0.612 to 0.856", "Mean |c| 0.734", "u_tt − c² lap = 0",
        "target 0.01 to 0.1", "target at least 95%", "target at most 0.05", "4096 latents",
        "Random straight directions at equal strength, 0.0214: 99.5%.",
        "Distinctness alone proves little: random directions reach it too.",
        "2 of 3 potentials are inside the target on their own.",
    ):  # fmt: skip
        assert shown in targets
    assert "✗" not in targets
    assert "✓ Pass. All 3 targets are met: images change by 0.0213 per step" in " ".join(
        page.all("header")[0]["text"].split()
    )


def test_missed_target_is_said_in_words(run, rendered, change):
    change(residual={"after": 0.07})
    page = rendered(run)
    assert "✗ Short. 1 of 3 targets missed (physics)" in " ".join(page.all("header")[0]["text"].split())
    assert "✗ short target at most 0.05" in page.text("targets")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "missed"),
    [
        ({"strength": {"mean": 0.0099999}}, "strength"),
        ({"strength": {"mean": 0.11}}, "strength"),
        ({"distinctness": {"accuracy": 0.94999}}, "distinctness"),
        ({"residual": {"after": 0.0500001}}, "physics"),
        ({"residual": {"after": float("nan")}}, "physics"),
        ({"residual": {"coefficient_target": 0.8}}, "coefficient c"),
    ],
)
def test_each_target_is_judged(run, part, missed, rendered, change):
    change(**part)
    assert f"targets missed ({missed})" in rendered(run).source


def test_a_near_miss_is_never_rounded_into_its_target(run, rendered, change):
    change(residual={"after": 0.05000012}, distinctness={"accuracy": 0.949999})
    targets = rendered(run).text("targets")
    assert "0.0500001" in targets
    assert "94.9999%" in targets


def test_random_directions_below_the_target_are_not_said_to_reach_it(run, rendered, change):
    change(distinctness={"random_directions": {"accuracy": 0.61, "strength": 0.3}})
    targets = rendered(run).text("targets")
    assert "Random straight directions at strength 0.300: 61.0%." in targets
    assert "reach it too" not in targets


def test_numbers_of_each_potential(run, rendered):
    page = rendered(run)
    rows = [
        ("0.0211", "99.1%", "0.0111", "0.612"),
        ("0.000400", "92.0%", "0.0222", "0.734"),
        ("0.0317", "100.0%", "0.0555", "0.856"),
    ]
    for k, row in enumerate(rows):
        assert all(shown in page.text(f"potential-{k}") for shown in row)
    assert "below target 0.000400" in page.text("potential-1")
    assert "below target 92.0%" in page.text("potential-1")
    assert "above target 0.0555" in page.text("potential-2")
    assert "target" not in page.text("potential-0")


def test_a_coefficient_of_one_value_belongs_to_all(run, rendered, change):
    change(residual={"coefficients": {"c": [0.61], "gamma": [0.1, 0.2, 0.3]}})
    page = rendered(run)
    assert all("c 0.610" in page.text(f"potential-{k}") for k in range(COUNT))
    assert "Mean |gamma| 0.200, from 0.100 to 0.300." in page.text("targets")


def test_confusion_matrix_is_a_table_of_the_counts(run, rendered, parse):
    page = rendered(run)
    table = page.source[page.source.index('<table class="confusion">') :].partition("</table>")[0]
    cells = [e["text"].strip() for e in parse(table + "</table>").all("td")]
    assert cells == ["641", "3", "2", "646", "51", "588", "0", "639", "0", "0", "655", "655"]


@pytest.mark.slow
@pytest.mark.parametrize("confusion", [None, [], [[1, 2], [3]], [[1, -2], [3, 4]], [[1, "x"], [3, 4]], "x"])
def test_unsound_confusion_matrix_is_noted(run, confusion, rendered, change):
    change(distinctness={"confusion": confusion})
    assert "No confusion matrix was measured" in rendered(run).text("confusion")


def test_curves_settings_and_versions(run, rendered):
    page = rendered(run)
    training, settings = page.text("training"), page.text("settings")
    for shown in (
        "loss 0.100 0.0333 0.0333 0.100 0",
        "pde 0.0100 0.00333",
        "Extra extra",
        "(logarithmic)" if False else "loss",
    ):
        assert shown in training
    assert len(page.all("svg")) == 4
    for shown in (
        "learning_rate 0.001",
        "weights.pde 2",
        "image_shape 1, 8, 8",
        "torch 2.13.0",
        "Linux-<x86>",
        "2 cores & no GPU",
    ):
        assert shown in settings


def test_long_lists_are_cut_short(run, rendered):
    settings = json.loads((run / "config.json").read_text())
    settings["generator"]["pixels"] = [k / 8 for k in range(64)]
    (run / "config.json").write_text(json.dumps(settings))
    assert "pixels 0, 0.125, 0.25, 0.375, … (64 values)" in rendered(run).text("settings")


def test_how_to_reproduce(run, rendered):
    reproduce = rendered(run).text("reproduce")
    for shown in (
        "run = ff.load_run('digits')",
        "run.traverse(z0, potential=0, steps=10)",
        "ff.discover(run.generator, run.config, out='digits-again')",
        "fastflow report digits",
        "fastflow demo --out digits-again --seed 7",
    ):
        assert shown in reproduce


def test_how_to_reproduce_with_a_generator_made_in_python(run, rendered):
    settings = json.loads((run / "config.json").read_text())
    settings["generator"]["name"] = None
    (run / "config.json").write_text(json.dumps(settings))
    reproduce = rendered(run).text("reproduce")
    assert reproduce.count("run = ff.load_run('digits', generator)") == 2
    assert "fastflow report digits --generator FILE.py:FUNCTION" in reproduce
    assert "fastflow demo" not in reproduce


def test_names_are_escaped_and_quoted(run, rendered, evaluation):
    odd = run.rename(run.parent / "a <b>&'c\"")
    settings = json.loads((odd / "config.json").read_text())
    settings["generator"]["name"] = "<script>alert(1)</script>"
    settings["config"]["<img src=x>"] = "</table>"
    (odd / "config.json").write_text(json.dumps(settings))
    lines = (odd / "metrics.jsonl").read_text()
    (odd / "metrics.jsonl").write_text(lines + json.dumps({"step": 40, "<b>&": 3.0}) + "\n")
    evaluation["residual"]["coefficients"] = {"<i>": [1.0, 2.0, 3.0]}
    evaluation["machine"] = "<u>"
    (odd / "evaluation.json").write_text(json.dumps(evaluation))
    page = rendered(odd)
    assert not any(page.all(tag) for tag in ("script", "b", "i", "u"))
    assert "</table>" in page.text("settings")
    assert page.all("h1")[0]["text"] == "a <b>&'c\""
    assert """fastflow report 'a <b>&'"'"'c"'""" in page.text("reproduce")

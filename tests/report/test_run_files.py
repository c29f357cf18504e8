"""The report of an incomplete or damaged run: a note where something is missing, an error where there is no run."""

import json
from pathlib import Path

import pytest

from fastflow.report.page import write_report

COUNT = 3


def write(file, value):
    file.write_text(json.dumps(value))


def test_without_evaluation(run, rendered):
    (run / "evaluation.json").unlink()
    page = rendered(run)
    assert "evaluation.json is missing" in page.text("targets")
    assert "Not judged" in page.source
    assert len(page.all("img")) == 3 * COUNT


def test_without_traversals(run, rendered):
    (run / "traversals/index.json").unlink()
    page = rendered(run)
    assert "traversals/index.json is missing" in page.text("potentials")
    assert not page.all("img")
    assert "0.0211" in page.text("potential-0")


def test_bare_run(tmp_path, rendered):
    write(tmp_path / "config.json", {})
    page = rendered(tmp_path)
    for section, note in [
        ("targets", "is missing"), ("potentials", "does not say how many"), ("confusion", "No confusion"),
        ("training", "no metrics.jsonl"), ("settings", "lists no settings"),
    ]:  # fmt: skip
        assert note in page.text(section)


def test_malformed_metrics_lines_are_counted_and_skipped(run, rendered):
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "loss": NaN}\n[1]\n{"loss": 2}\n\n{"step": 50, "lo')
    page = rendered(run)
    assert "3 lines were skipped in metrics.jsonl for not being a JSON object with a step (5, 6, 8)." in page.text(
        "training"
    )
    assert "loss 0.100 0.0333 0.0333 0.100 1" in page.text("training")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", "[]", "null", '"x"', "\0"])
def test_damaged_evaluation_and_index_are_noted(run, content, rendered):
    (run / "evaluation.json").write_text(content)
    (run / "traversals/index.json").write_text(content)
    page = rendered(run)
    assert "evaluation.json" in page.text("targets")
    assert "index.json" in page.text("potentials")


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, "x", 3, [], {}, [{}], {"per_potential": "x", "mean": "y", "target": [1]}])
def test_evaluation_of_other_types_does_not_fail(run, value, rendered):
    write(run / "evaluation.json", {"strength": value, "distinctness": value, "residual": value, "samples": value})
    rendered(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../secret.png", "\0.png", "a\nb.png", "", 3])
def test_missing_and_foreign_pictures_are_noted(run, rendered, name):
    (run / "traversals/potential-00.png").unlink()
    whole = (run / "traversals/potential-01.png").read_bytes()
    # Pillow finds the second damage itself, a chunk that is longer than the file, and raises another error for it.
    damaged = whole[:8] + b"\x7f" + whole[9:] if name else b"not a picture"
    (run / "traversals/potential-01.png").write_bytes(damaged)
    (run.parent / "secret.png").write_bytes((run / "traversals/potential-02.png").read_bytes())
    index = json.loads((run / "traversals/index.json").read_text())
    index["potentials"][2]["strip"] = name
    write(run / "traversals/index.json", index)
    page = rendered(run)
    assert "traversals/potential-00.png is missing." in page.text("potential-0")
    assert "traversals/potential-01.png is not a PNG image." in page.text("potential-1")
    assert "names no PNG file" in page.text("potential-2")
    assert len([e for e in page.all("img") if e["alt"].startswith("Strip")]) == 0


def test_evaluation_older_than_the_training_is_noted(run, rendered, evaluation):
    write(run / "evaluation.json", evaluation | {"training_steps": 20})
    assert "gone on to step 30 since these numbers were measured at step 20" in rendered(run).text("targets")


def test_attributes_older_than_the_training_are_noted(run, rendered):
    write(run / "attributes.json", {"training_steps": 20})
    (body,) = rendered(run).all("body")
    assert "gone on to step 30 since the attributes were measured at step 20" in " ".join(body["text"].split())


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_that_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value) or "give the folder" in str(caught.value)
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match="is not a folder"):
        write_report(tmp_path / "absent")


def test_failed_write_keeps_the_older_page(run, monkeypatch, change):
    file = write_report(run)
    before = file.read_bytes()
    change(residual={"after": 0.9})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_report(run)
    assert file.read_bytes() == before
    assert not list(run.glob(".*"))

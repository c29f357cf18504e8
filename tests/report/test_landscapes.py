"""Landscapes: what is measured on a path's plane, the contours through it, and how the page shows them."""

import json
import math

import numpy as np
import pytest
import torch
from support.runs import small_run

from fastflow.report import write_report, write_traversals
from fastflow.report.landscape_svg import contour_lines
from fastflow.report.landscapes import landscape
from fastflow.runs.loading import load_run


def test_contour_of_a_cone_is_one_circle():
    y, x = np.mgrid[-1:1:41j, -1:1:41j]
    ((ring,),) = contour_lines(np.hypot(x, y), [0.5])
    assert ring[0].tolist() == ring[-1].tolist()
    assert all(abs(math.hypot(px / 20 - 1, py / 20 - 1) - 0.5) < 2e-3 for px, py in ring)


def test_contour_of_a_slope_is_a_line_from_edge_to_edge():
    y, x = np.mgrid[0:4:5j, 0:4:5j]
    ((line,),) = contour_lines(x + 0.5 * y, [2.25])
    assert {0.0, 4.0} == {line[0][1], line[-1][1]}
    assert all(px + 0.5 * py == pytest.approx(2.25) for px, py in line)


@pytest.mark.parametrize(
    ("level", "cut"), [(0.4, {(0.6, 0), (1, 0.4)}), (0.6, {(0.4, 0), (0, 0.4)})], ids=["low-corners", "high-corners"]
)
def test_saddle_is_cut_by_the_height_of_its_middle(level, cut):
    (lines,) = contour_lines(np.array([[1.0, 0.0], [0.0, 1.0]]), [level])
    assert len(lines) == 2
    rounded = [{(round(x, 9), round(y, 9)) for x, y in line} for line in lines]
    assert cut in rounded


@pytest.mark.parametrize("level", [-1.0, 2.0])
def test_no_contour_beyond_the_heights(level):
    assert contour_lines(np.eye(3), [level]) == [[]]


@pytest.fixture
def run(digits_folder):
    return load_run(digits_folder)


def test_landscape_is_the_potential_on_the_paths_plane(run):
    path = run.traverse(run.generator.starts(1), 1, direction="both").latents[0]
    data = landscape(run, path, 1)
    assert data["columns"] == [0, 1, 2, 3]
    assert data["times"] == [0.0, 1.0, 2.0, 3.0]
    # The plane's axes, found again from the path: its points there, and the heights and slopes along the middle row.
    centred = path - path.mean(0)
    axes = torch.linalg.svd(centred).Vh[:2]
    axes = torch.where(((centred[-1] - centred[0]) @ axes.T < 0)[:, None], -axes, axes)
    flat = centred @ axes.T
    middle = (flat.amax(0) + flat.amin(0)) / 2
    torch.testing.assert_close(
        torch.tensor(data["path"]), (flat - middle) / data["side"], rtol=1e-3, atol=1e-4
    )  # fmt: skip
    for corner, row, column in (((-1, -1), 0, 0), ((1, -1), 0, -1), ((1, 1), -1, -1)):
        offset = data["side"] * torch.tensor(corner, dtype=path.dtype) + middle
        jet = run.bank.jet((path.mean(0) + offset @ axes)[None], 2.0, 1)
        assert data["values"][2][row][column] == pytest.approx(jet.u.item(), rel=1e-3, abs=1e-5)
        torch.testing.assert_close(
            torch.tensor(data["gradients"][2][row][column]), (axes @ jet.grad[0]), rtol=1e-2, atol=1e-5
        )  # fmt: skip
    residue = centred - flat @ axes
    assert data["share"] == pytest.approx(1 - float(residue.square().sum() / centred.square().sum()), abs=1e-5)


@pytest.mark.parametrize("still", [False, True], ids=["line", "point"])
def test_paths_that_span_no_plane_have_a_landscape(run, still):
    path = torch.linspace(0, 0 if still else 1, 30)[:, None] * torch.ones(8)
    data = landscape(run, path, 0)
    assert len(data["columns"]) == 12
    assert (data["columns"][0], data["columns"][-1]) == (0, 29)
    assert data["share"] == pytest.approx(1)
    assert np.isfinite(np.asarray(data["values"])).all()


def test_latents_on_a_line_have_a_landscape(tmp_path):
    from fastflow import generators

    generator = generators.from_callable(lambda z: torch.sigmoid(z)[:, :, None, None].expand(-1, 1, 4, 4), 1)
    run = small_run(tmp_path / "run", generator, steps=2)
    write_traversals(run, run.folder / "traversals", starts=2)
    assert "Landscape of potential 2" in write_report(run.folder).read_text(encoding="utf-8")


@pytest.mark.slow
def test_page_shows_a_frame_for_every_time(run, parse):
    write_traversals(run, run.folder / "traversals", starts=2)
    page = parse(write_report(run.folder).read_text(encoding="utf-8"))
    pictures = page.all("svg", **{"class": "landscape"})
    assert len(pictures) == 3
    frames = [e for e in page.all("g") if e.get("class", "").startswith("frame")]
    assert [e["class"] for e in frames[:4]] == [
        "frame frame-0",
        "frame frame-1 standing",
        "frame frame-2",
        "frame frame-3",
    ]
    radios = page.all("input", type="radio", name="time-0")
    assert [e["class"] for e in radios] == ["play", "time-0", "time-1", "time-2", "time-3"]
    assert [e["class"] for e in radios if "checked" in e] == ["play"]
    assert page.source.count(":has(.time-3:checked) .frame-3") == 1
    assert "prefers-reduced-motion" in page.source


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: entry.pop("values"),
        lambda entry: entry.update(columns=[0, 1, 2, 9]),
        lambda entry: entry.update(values=[[[0.0]]]),
        lambda entry: entry.update(gradients="steep"),
        lambda entry: entry["path"].__setitem__(0, [math.nan, 0.0]),
        lambda entry: entry.update(times=[str(time) for time in entry["times"]]),
    ],
    ids=["missing", "columns", "size", "text", "nan", "digits-in-quotes"],
)
def test_damaged_landscapes_are_left_out(run, parse, damage):
    write_traversals(run, run.folder / "traversals", starts=2)
    file = run.folder / "traversals" / "landscapes.json"
    record = json.loads(file.read_text())
    damage(record["potentials"][1])
    file.write_text(json.dumps(record))
    page = parse(write_report(run.folder).read_text(encoding="utf-8"))
    assert len(page.all("svg", **{"class": "landscape"})) == 2


@pytest.mark.slow
def test_report_suggests_names_from_strokes(run, parse):
    write_traversals(run, run.folder / "traversals", starts=2)
    page = parse(run.report(24, progress=False).read_text(encoding="utf-8"))
    record = json.loads((run.folder / "attributes.json").read_text())
    assert record["predictor"] == "fastflow.latents.attributes.strokes:stroke_attributes"
    assert "thickness" in page.text("potential-0")
    run.correlate(lambda images: images.mean((1, 2, 3)), ["brightness"], samples=4)
    run.report(24, progress=False)
    assert json.loads((run.folder / "attributes.json").read_text())["attributes"] == ["brightness"]

"""Line charts: curves where the numbers say, readable ends, sane axes."""

import re

import numpy as np
import pytest

from fastflow.report.charts import Line, line_chart


def test_chart_breaks_at_gaps_and_labels_ends():
    chart = line_chart([Line("a & b", [1, 2, 3, 4], [1, float("nan"), 3, 4])], key="x", title="<t>", description="d")
    (path,) = re.findall(r'<path class="curve curve-1" d="([^"]*)"', chart)
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert "&lt;t&gt;" in chart
    assert ">4.00</text>" in chart


def test_chart_places_values_on_its_scale():
    chart = line_chart([Line("a", [0, 1], [1, 100])], key="x", title="t", description="d", log=True, height=240)
    ticks = dict(re.findall(r'y="([\d.]+)" text-anchor="end">([^<]+)<', chart))
    heights = {text: float(y) - 4 for y, text in ticks.items()}
    assert heights["1"] - heights["10"] == pytest.approx(heights["10"] - heights["100"], abs=0.2)
    (path,) = re.findall(r' d="M[\d.]+ ([\d.]+)h0L[\d.]+ ([\d.]+)"', chart)
    assert [float(y) for y in path] == pytest.approx([heights["1"], heights["100"]], abs=0.1)


def test_chart_thins_long_curves_but_keeps_spikes_and_the_end():
    y = np.ones(50_000)
    y[31_234] = 9.0
    y[-1] = 3.0
    chart = line_chart([Line("a", range(50_000), y.tolist())], key="x", title="t", description="d", height=200)
    (path,) = re.findall(r' d="([^"]*)"', chart)
    assert path.count("L") < 500
    assert ">3.00</text>" in chart
    heights = [float(v) for v in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]
    assert heights.count(min(heights)) == 1
    assert min(heights) < 40


def test_chart_labels_do_not_overlap():
    lines = [Line(name, [0, 1], [0, 1 + k / 1000]) for k, name in enumerate("abc")]
    chart = line_chart(lines, key="x", title="t", description="d")
    places = sorted(float(y) for y in re.findall(r'class="end end-\d" x="[\d.]+" y="([\d.]+)"', chart))
    assert min(np.diff(places)) >= 15


@pytest.mark.parametrize(
    "lines", [[], [Line("a", [1], [float("nan")])], [Line("a", [1, 2], [1])]], ids=["none", "no point", "ragged"]
)
def test_chart_of_nothing_is_refused(lines):
    with pytest.raises(ValueError, match=r"no point|as many"):
        line_chart(lines, key="x", title="t", description="d")


@pytest.mark.parametrize(
    "y",
    [[0.0, 0.0], [5.0, 5.0], [-1e-9, 1e-9], [1e30, 2e30], [1e-300, 1e300], [-3.0, -3.0], [0.3, 0.7], [1e-5, 1.1e-5]],
)
@pytest.mark.parametrize("log", [False, True])
def test_chart_of_awkward_ranges(y, log):
    if log and min(y) <= 0:
        y = [abs(v) + 1e-12 for v in y]
    chart = line_chart([Line("a", [0, 1], y)], key="x", title="t", description="d", log=log)
    assert "nan" not in chart
    assert 2 <= chart.count('class="grid"') <= 10

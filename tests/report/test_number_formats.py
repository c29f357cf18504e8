"""Numbers as a page shows them."""

from fastflow.report.number_formats import exact, percent, short, value_text


def test_number_formats():
    assert [short(v) for v in (0.022, -0.5, 1.0, 1234.5, 1.2e-7, 0, float("nan"))] == [
        "0.0220", "−0.500", "1.00", "1\N{NARROW NO-BREAK SPACE}234", "1.20e−7", "0", "not finite",
    ]  # fmt: skip
    assert [exact(v) for v in (0.05, 0.1, 3.0, 1e-5)] == ["0.05", "0.1", "3", "1e−5"]


def test_a_near_miss_is_never_shown_as_its_limit():
    assert value_text(0.05) == "0.0500"
    assert value_text(0.05000012, (0.05,)) == "0.0500001"
    assert percent(0.949999, 0.95) == "94.9999%"
    assert percent(0.99999) == "99.999%"
    assert [text(None) for text in (value_text, percent)] == ["not measured"] * 2

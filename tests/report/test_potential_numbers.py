"""Names, ranks and attributes on the page, and what is wrong with their files."""

import json

import pytest


def test_names_stand_beside_the_numbers(run, rendered):
    (run / "names.json").write_text(json.dumps({"1": "turn & <tilt>"}))
    page = rendered(run)
    assert page.text("potential-1-title") == "Potential 1 · turn & <tilt>"
    assert page.text("potential-0-title") == "Potential 0"
    assert "1 · turn & <tilt>" in page.text("potentials")


def test_overview_is_ordered_by_score(run, rendered, evaluation):
    evaluation["ranking"] = {"order": [2, 0, 1], "scores": [0.5, 0.1, 0.9]}
    evaluation["smoothness"] = {"per_potential": [0.8, 0.7, 0.6], "random_directions": 0.9}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    page = rendered(run)
    links = [link["text"] for link in page.all("a") if (link.get("href") or "").startswith("#potential-")]
    assert links == ["2", "0", "1"]
    assert "most distinct, smooth and strong ones first" in page.text("potentials")
    assert "score 0.9" in page.text("potential-2")
    assert "smoothness 0.6" in page.text("potential-2")


def test_unranked_potentials_stay_in_order(run, rendered, evaluation):
    evaluation["ranking"] = {"order": [2, 0, 1], "scores": [0.5, None, 0.9]}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    links = [a["text"] for a in rendered(run).all("a") if (a.get("href") or "").startswith("#potential-")]
    assert links == ["0", "1", "2"]


def test_strongest_attribute_is_told(run, rendered):
    record = {"attributes": ["bright", "wide"], "correlation": [[0.2, -0.75], [0.5, None], []]}
    (run / "attributes.json").write_text(json.dumps(record))
    page = rendered(run)
    assert "wide falls along it (correlation -0.75)" in page.text("potential-0")
    assert "bright rises along it (correlation +0.50)" in page.text("potential-1")
    assert "along it (" not in page.text("potential-2")


def measured(*, correlation, change, spread):
    return {"attributes": ["slant", "width", "y"], "correlation": correlation, "change": change, "spread": spread}


SUGGESTED = {
    "one": ([0.9, 0.6, 0.1], [4.0, 1.0, 0.5], [1.0, 1.0, 1.0], "slant rises"),
    "two": ([0.9, -0.6, 0.7], [1.0, -1.2, 0.9], [1.0, 1.0, 1.0], "width falls, slant rises"),
    "spread": ([0.9, 0.6, 0.1], [4.0, 1.0, 0.5], [100.0, 1.0, 1.0], "width rises"),
    "steady": ([0.9, 0.4, 0.1], [0.1, 5.0, 5.0], [1.0, 1.0, 1.0], "slant rises"),
    "constant": ([0.9, 0.8, 0.1], [4.0, 1.0, 0.5], [0.0, 1.0, 1.0], "width rises"),
    "unknown-spread": ([0.6, -0.9, 0.1], [4.0, 1.0, 0.5], None, "width falls"),
    "nothing": ([0.4, -0.3, None], [4.0, 1.0, 0.5], [1.0, 1.0, 1.0], None),
}


@pytest.mark.slow
@pytest.mark.parametrize(("correlation", "change", "spread", "expected"), SUGGESTED.values(), ids=SUGGESTED)
def test_name_is_suggested_after_what_changes_most_and_steadily(run, rendered, correlation, change, spread, expected):
    record = measured(correlation=[correlation] * 3, change=[change] * 3, spread=spread)
    (run / "attributes.json").write_text(json.dumps(record))
    (run / "names.json").write_text(json.dumps({"1": "mine"}))
    page = rendered(run)
    if expected is None:
        assert "uggest" not in page.text("potentials")
        return
    assert f"Suggested name: {expected} fastflow name digits 0 '{expected}'" in page.text("potential-0")
    assert f"Its attributes would suggest: {expected}" in page.text("potential-1")


def test_shares_of_the_change_are_told(run, rendered):
    record = measured(correlation=[[0.9, -0.6, 0.1]] * 3, change=[[4.0, -1.0, 0.0]] * 3, spread=[2.0, 1.0, 1.0])
    (run / "attributes.json").write_text(json.dumps(record))
    text = rendered(run).text("potential-2")
    assert "slant +0.90 67% width −0.60 33% y +0.10 0%" in text


def test_damaged_files_are_noted(run, rendered):
    (run / "names.json").write_text("{")
    (run / "attributes.json").write_text("[]")
    text = rendered(run).text("potentials")
    assert "names.json is not valid JSON" in text
    assert "attributes.json does not hold a JSON object" in text

"""Names, ranks and attributes on the page, and what is wrong with their files."""

import json


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


def test_damaged_files_are_noted(run, rendered):
    (run / "names.json").write_text("{")
    (run / "attributes.json").write_text("[]")
    text = rendered(run).text("potentials")
    assert "names.json is not valid JSON" in text
    assert "attributes.json does not hold a JSON object" in text

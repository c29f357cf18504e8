"""A comparison's numbers, against SciPy, and its table."""

import pytest
import torch
from scipy import stats

from fastflow.studies.comparison import table as comparison_table
from fastflow.studies.comparison.measures import Measure
from fastflow.studies.comparison.table import summarise, table

SEEDS = [4, 5, 6]
SETTINGS = {
    "generator": {"name": "digits-vae"},
    "config": {"num_potentials": 2, "path_steps": 3, "steps": 9, "batch_size": 8},
    "attribute_names": ["slant", "width"],
    "strength": None,
    "pairs": 16,
    "starts": 4,
}
PURITY = {"flows": [0.5, 0.6, 0.7], "random": [0.4, 0.5, 0.59], "pca": [0.9, 0.1, 0.5]}
BENT = {"flows": [0.2, 0.3, 0.4], "random": [0.1, 0.21, 0.3], "pca": [0.2, 0.2, 0.4]}


@pytest.fixture
def record(monkeypatch):
    measures = {
        "purity": Measure("purity", "higher", 3, "how pure"),
        "bent": Measure("bending", "lower", 2, "how bent"),
        "strength": Measure("strength", "", 4, "matched"),
    }
    monkeypatch.setattr(comparison_table, "MEASURES", measures)
    done = {
        (method, seed): {
            "purity": PURITY[method][place],
            "bent": BENT[method][place],
            "strength": 0.02,
            "paths": {"change": [[3.0, 1.0], [1.0, 1.0]] if method == "flows" else [[1.0, 1.0], [0.0, 0.0]]},
            "covered": ["slant"] if method == "flows" and place else [],
        }
        for method in PURITY
        for place, seed in enumerate(SEEDS)
    }
    done |= {("sefa", seed): {"left_out": "no layer"} for seed in SEEDS}
    return summarise(SETTINGS, {method: f"the {method}" for method in (*PURITY, "sefa")}, SEEDS, done)


def test_means_errors_and_corrected_paired_tests(record):
    found = record["measures"]["purity"]["methods"]
    assert found["flows"]["mean"] == pytest.approx(0.6)
    assert found["flows"]["standard_error"] == pytest.approx(float(stats.sem(PURITY["flows"])))
    assert "p" not in found["flows"]
    p = {m: float(stats.ttest_rel(PURITY[m], PURITY["flows"]).pvalue) for m in ("random", "pca")}
    assert p["random"] < p["pca"]
    assert found["random"]["p"] == pytest.approx(2 * p["random"])
    assert found["pca"]["p"] == pytest.approx(max(2 * p["random"], p["pca"]))


def test_what_is_better_depends_on_the_measure(record):
    pure, bent = (record["measures"][name]["methods"] for name in ("purity", "bent"))
    assert [pure[m]["best"] for m in PURITY] == [True, False, False]
    assert [bent[m]["best"] for m in PURITY] == [False, True, False]
    assert (pure["random"]["verdict"], bent["random"]["verdict"]) == ("worse", "better")
    assert pure["pca"]["verdict"] == "undecided"
    assert not any(found["best"] for found in record["measures"]["strength"]["methods"].values())
    assert "verdict" not in record["measures"]["strength"]["methods"]["random"]


def test_attributes_are_the_best_paths_mean_share(record):
    assert record["attributes"] == {
        "flows": {"best_share": [0.75, 0.5], "covered": [2, 0]},
        "random": {"best_share": [0.5, 0.5], "covered": [0, 0]},
        "pca": {"best_share": [0.5, 0.5], "covered": [0, 0]},
    }


def test_table(record):
    lines = table(record).splitlines()
    assert "|  | `flows` | `random` | `pca` |" in lines
    row = next(line for line in lines if line.startswith("| purity ↑ |"))
    assert row.startswith("| purity ↑ | **0.600** ± 0.058 | 0.497 ± 0.055<br>▼ p = 0.002 | 0.500 ± 0.231<br>p = ")
    assert next(line for line in lines if line.startswith("| bending ↓ |")).split(" | ")[2].startswith("**0.20** ")
    assert "| strength | 0.0200 ± 0.0000 | 0.0200 ± 0.0000 | 0.0200 ± 0.0000 |" in lines
    assert "| slant | 0.75 (2/3) | 0.50 | 0.50 |" in lines
    assert "`sefa` is left out: no layer." in lines
    assert "seeds 4 to 6" in lines[2]


def test_one_seed_has_no_error_and_no_test(record):
    done = {(run["method"], run["seed"]): run for run in record["runs"] if run["seed"] == 4}
    found = summarise(SETTINGS, {"flows": "", "random": ""}, [4], done)
    assert found["measures"]["purity"]["methods"]["random"]["p"] is None
    assert "| purity ↑ | **0.500** | 0.400 |" in table(found).splitlines()


def test_nothing_is_best_where_all_are_equal(record):
    done = {(run["method"], run["seed"]): run | {"purity": 0.5} for run in record["runs"]}
    found = summarise(SETTINGS, {"flows": "", "random": ""}, SEEDS, done)["measures"]["purity"]["methods"]
    assert not found["flows"]["best"]
    assert not found["random"]["best"]
    assert found["random"]["p"] == 1.0


def test_a_seed_without_its_twin_is_in_no_difference(record):
    done = {(run["method"], run["seed"]): run for run in record["runs"] if (run["method"], run["seed"]) != ("flows", 5)}
    found = summarise(SETTINGS, {"flows": "", "random": ""}, SEEDS, done)["measures"]["purity"]["methods"]["random"]
    assert found["mean"] == pytest.approx(float(torch.tensor(PURITY["random"]).mean()))
    assert found["difference"] == pytest.approx((0.4 - 0.5 + 0.59 - 0.7) / 2)


def test_a_method_without_one_seed_is_in_no_comparison(record):
    """Its two seeds would otherwise be the best of the table, which doesn't show them."""
    done = {(run["method"], run["seed"]): run for run in record["runs"]}
    done["random", 4] = {"left_out": "too weak"}
    for seed in (5, 6):
        done["random", seed] = done["random", seed] | {"purity": 0.99}
    found = summarise(SETTINGS, dict.fromkeys(PURITY, ""), SEEDS, done)
    pure = found["measures"]["purity"]["methods"]
    assert set(pure) == {"flows", "pca"}
    assert pure["flows"]["best"]
    assert pure["pca"]["p"] == pytest.approx(float(stats.ttest_rel(PURITY["pca"], PURITY["flows"]).pvalue))
    assert found["left_out"] == {"random": "too weak"}

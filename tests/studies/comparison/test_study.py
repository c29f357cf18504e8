"""A comparison: what it runs and writes, at which strength, and that nothing is lost when it is killed."""

import html
import json
import shutil
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from support.processes import context
from support.runs import contents, sigmoid_generator, small_config

from fastflow.cli.main import main
from fastflow.core.errors import BusyError, InputError
from fastflow.core.files import locked_folder, read_sealed
from fastflow.metrics.strength import CLOSE
from fastflow.studies.comparison import study as module
from fastflow.studies.comparison.measures import MEASURES
from fastflow.studies.comparison.methods import chosen
from fastflow.studies.comparison.study import compare

METHODS = ("random", "sefa", "latentclr", "flows,step_length=0.2")
TIMES = ("training_cpu_s", "measuring_cpu_s")


def small(out, **changes):
    options = {"methods": METHODS, "seeds": 2, "pairs": 60, "starts": 6, "progress": False, **changes}
    return compare(sigmoid_generator(), out, small_config(), **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert small(out) == out / "compare.html"
    torch.set_num_threads(threads)
    return out


def results(out):
    return json.loads((out / "results.json").read_text())


def untimed(out):
    """What was found by each method with each seed, without its time."""
    return [{key: value for key, value in run.items() if key not in TIMES} for run in results(out)["runs"]]


@pytest.mark.slow
def test_every_method_has_every_seed_and_every_measure(done):
    runs = {(run["method"], run["seed"]): run for run in results(done)["runs"]}
    assert set(runs) == {(method, seed) for method in ("flows", *METHODS) for seed in (0, 1)}
    for (method, _), run in runs.items():
        if method == "sefa":
            assert run["left_out"].startswith("SeFa needs a layer that takes latents of width 4")
        else:
            assert set(MEASURES) <= set(run)
            assert 1 / 6 <= run["purity"] <= 1
            assert len(run["paths"]["change"]) == 3
    assert runs["flows", 0]["purity"] != runs["flows", 1]["purity"]


@pytest.mark.slow
def test_all_have_the_strength_of_the_flows_of_their_seed(done):
    runs = {(run["method"], run["seed"]): run for run in results(done)["runs"] if "left_out" not in run}
    for (method, seed), run in runs.items():
        # From the same starts along whole paths, so that no more is left than what the search for a length leaves.
        assert run["strength"] == pytest.approx(runs["flows", seed]["strength"], rel=CLOSE)
        assert (run["step_length"] is None) == (method == "flows")


@pytest.mark.slow
def test_flows_of_other_settings_have_that_strength_too(tmp_path):
    small(tmp_path / "out", methods=("flows,pde=heat",), seeds=1)
    own, other = (run["strength"] for run in results(tmp_path / "out")["runs"])
    assert other == pytest.approx(own, rel=CLOSE)
    assert other != own


@pytest.mark.slow
def test_all_have_the_strength_asked_for(tmp_path):
    small(tmp_path / "out", methods=("random",), seeds=1, strength=0.004)
    for run in results(tmp_path / "out")["runs"]:
        assert run["strength"] == pytest.approx(0.004, rel=CLOSE)
        assert run["step_length"] > 0
    assert "change the pixels by 0.004 in the mean" in (tmp_path / "out" / "compare.html").read_text()


@pytest.mark.slow
def test_what_cannot_be_that_strong_is_left_out(tmp_path, monkeypatch):
    def weak(source, strength, **options):
        if source.step_length is not None:
            raise InputError("no step length gives it that")
        return source

    monkeypatch.setattr(module, "match_strength", weak)
    small(tmp_path / "out", methods=("random",), seeds=1, strength=0.004)
    assert results(tmp_path / "out")["left_out"] == {"random": "no step length gives it that"}


@pytest.mark.slow
def test_a_method_whose_folder_is_held_is_not_left_out(tmp_path):
    """A killed comparison's last worker may still be writing its checkpoint when the comparison is resumed."""
    options = {"methods": ("latentclr",), "seeds": 1}
    held = tmp_path / "out" / "runs" / "latentclr" / "seed-0"
    small(tmp_path / "out", methods=("random",), seeds=1)
    with locked_folder(held), pytest.raises(BusyError, match="another process is training in"):
        small(tmp_path / "out", resume=True, **options)
    small(tmp_path / "out", resume=True, **options)
    assert not results(tmp_path / "out")["left_out"]


@pytest.mark.slow
def test_table_strips_and_page_are_there(done):
    text = (done / "table.md").read_text()
    assert "|  | `flows` | `flows,step_length=0.2` | `random` | `latentclr` |" in text
    assert "`sefa` is left out: SeFa needs a layer" in text
    assert {file.name for file in (done / "strips").iterdir()} == {
        f"{method}.png" for method in ("flows", *METHODS) if method != "sefa"
    }
    page = (done / "compare.html").read_text()
    assert page.count("data:image/png") == 4
    assert "SeFa needs a layer" in page


@pytest.mark.slow
def test_resumed_it_does_only_what_is_missing(done, monkeypatch):
    before, file = untimed(done), done / "jobs" / "random" / "seed-1.json"
    file.unlink()
    asked = []
    monkeypatch.setattr(module, "do", lambda job: asked.append((job.name, job.seed)) or do(job))
    small(done, resume=True)
    assert asked == [("random", 1)]
    assert untimed(done) == before


do = module.do


def test_every_result_names_the_weights_that_it_was_measured_on(done):
    found = {(run["method"], run["seed"]): run["weights"] for run in results(done)["runs"] if "left_out" not in run}
    for (method, seed), weights in found.items():
        files = sorted((done / "runs" / method / f"seed-{seed}" / "checkpoints").glob("step-*/weights.safetensors"))
        assert weights == (sha256(files[-1].read_bytes()).hexdigest() if files else None)
    assert sum(weights is not None for weights in found.values()) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("latentclr", [("latentclr", 1)]),
        # The others of its seed had to match their strength.
        ("flows", [("flows", 1), ("flows,step_length=0.2", 1), ("random", 1), ("sefa", 1), ("latentclr", 1)]),
    ],
)
def test_results_of_weights_that_have_changed_are_measured_again(done, tmp_path, monkeypatch, changed, again):
    out = shutil.copytree(done, tmp_path / "out")
    seeds = [out / "runs" / changed / f"seed-{seed}" / "checkpoints" for seed in (0, 1)]
    shutil.rmtree(seeds[1])
    shutil.copytree(seeds[0], seeds[1])
    asked = []

    def stop(job):
        asked.append((job.name, job.seed))
        return read_sealed(job.file)

    monkeypatch.setattr(module, "do", stop)
    small(out, resume=True)
    assert sorted(asked) == sorted(again)


def test_results_whose_trainings_were_removed_stay(done, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    shutil.rmtree(out / "runs")
    monkeypatch.setattr(module, "do", None)
    small(out, resume=True)
    assert untimed(out) == untimed(done)


def test_damaged_result_is_named(done, tmp_path):
    out = shutil.copytree(done, tmp_path / "out")
    file = out / "jobs" / "random" / "seed-1.json"
    file.write_text(file.read_text().replace("0.", "1.", 1))
    with pytest.raises(InputError, match=r"random/seed-1\.json' has changed since it was written"):
        small(out, resume=True)


LOOK = """
from pathlib import Path

def look(images):
    pixels = images.flatten(1)
    return pixels[:, [0, 7]] * float((Path(__file__).parent / "scale.txt").read_text())
"""
TYPED = "fastflow compare --generator FILE.py:FUNCTION --latent-dim 4 --out out-again --seeds 1 --methods flows random"


@pytest.fixture
def looked(tmp_path):
    """A comparison whose attributes are measured by a function in a file, which reads another; the function's name."""
    (tmp_path / "look.py").write_text(LOOK)
    (tmp_path / "scale.txt").write_text("1")
    spec = f"{tmp_path / 'look.py'}:look"
    names = ["one", "eight"]
    small(tmp_path / "out", methods=("random",), seeds=1, attributes=spec, attribute_names=names)
    return spec


@pytest.mark.slow
def test_the_page_says_how_to_make_it_again(looked, tmp_path):
    page = html.unescape((tmp_path / "out" / "compare.html").read_text())
    assert f"{TYPED} --attributes {looked} --attribute-names one eight --pairs 60" in page


@pytest.mark.slow
def test_resumed_with_edited_attributes_it_refuses(looked, tmp_path):
    options = {"methods": ("random",), "attributes": looked, "attribute_names": ["one", "eight"], "resume": True}
    before = contents(tmp_path / "out")
    (tmp_path / "look.py").write_text(LOOK.replace("[0, 7]", "[0, 8]"))
    with pytest.raises(InputError, match=r"its attributes .*look\.py:look give other values of the same images than"):
        small(tmp_path / "out", seeds=1, **options)
    (tmp_path / "look.py").write_text(LOOK)
    (tmp_path / "scale.txt").write_text("1.01")  # as another classifier's weights would be
    with pytest.raises(InputError, match="resume with the function and what it reads as they were"):
        small(tmp_path / "out", seeds=1, **options)
    assert contents(tmp_path / "out") == before
    (tmp_path / "look.py").write_text(LOOK + "# the eighth pixel is near the middle\n")
    (tmp_path / "scale.txt").write_text("1")
    small(tmp_path / "out", seeds=2, **options)
    assert {run["seed"] for run in results(tmp_path / "out")["runs"]} == {0, 1}


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_results(done, tmp_path):
    out = tmp_path / "out"
    child = context().Process(target=compare_alone, args=(out,))
    child.start()
    limit = time.monotonic() + 60
    while not list(out.rglob("flows/seed-0.json")):  # its first training at least is done
        assert time.monotonic() < limit
        assert child.is_alive()
        time.sleep(0.01)
    child.kill()
    child.join()
    assert not (out / "results.json").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    small(out, resume=True)
    torch.set_num_threads(threads)
    assert untimed(out) == untimed(done)


def compare_alone(out):
    torch.set_num_threads(1)
    small(out)


@pytest.mark.slow
def test_from_the_command_line_with_workers(tmp_path, capsys):
    words = ["compare", "--generator", "digits-vae", "--attributes", "strokes", "--methods", "sefa", "--workers", "2"]
    words += ["--num-potentials", "2", "--steps", "2", "--batch-size", "4", "--path-steps", "2", "--hidden", "8"]
    main([*words, "--pairs", "40", "--starts", "4", "--seeds", "2", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"look at {tmp_path / 'out' / 'compare.html'}\n"
    record = results(tmp_path / "out")
    assert record["attribute_names"] == ["area", "thickness", "slant", "width", "height", "x", "y"]
    assert not record["left_out"]
    assert set(record["measures"]["purity"]["methods"]) == {"flows", "sefa"}


def grey(images):
    return images.flatten(1)[:, :2]


REFUSED = {
    "seeds": ({"seeds": 0}, "seeds must be"),
    "workers": ({"workers": 0}, "workers must be"),
    "pairs": ({"pairs": 59}, "pairs must be at least 60, twenty for every path, got 59"),
    "start": ({"starts": 1}, "starts must be at least 2, so that attributes have a spread, got 1"),
    "starts": ({"starts": 1.5}, "starts must be"),
    "strength": ({"strength": 0.0}, "strength must be a positive number"),
    "method": ({"methods": ("random", "slow")}, "methods must be among flows, free, random, .*, got 'slow'"),
    "methods": ({"methods": "random"}, "methods must be a list of names"),
    "setting": ({"methods": ("flows,speed=3",)}, "method flows,speed=3 has an unknown key 'speed'"),
    "value": ({"methods": ("flows,pde_weight=high",)}, "method flows,pde_weight=high: pde_weight must be"),
    "shared": (
        {"methods": ("flows,path_steps=2",)},
        "num_potentials, path_steps and seed are the same for all methods",
    ),
    "seed": ({"methods": ("flows,seed=7",)}, "num_potentials, path_steps and seed are the same for all methods"),
    "attributes": ({"attributes": "strokez"}, "attributes must be appearance, strokes or FILE.py:FUNCTION"),
    "own names": ({"attributes": "strokes", "attribute_names": ["a"]}, "attributes strokes have names already"),
    "names": ({"attributes": grey, "attribute_names": ["a"]}, "attribute_names must be 2 different names"),
    "same": ({"attributes": lambda images: torch.zeros(len(images), 2)}, "of 2 attributes 0 vary over 6 starts"),
    "nan": ({"attributes": lambda images: images.flatten(1).log() * 0}, "the attributes must be finite"),
    "nameless": ({"workers": 2}, "several workers need a generator and attributes that are found by their names"),
    "both": ({"resume": True, "overwrite": True}, "resume and overwrite exclude each other"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_refuses(tmp_path, case):
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        small(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_a_methods_classifier_may_have_commas_in_its_path():
    name = "flows,classifier=/a/lr=0.1,bs=64/c.py:f,pde_weight=2"
    config = chosen([name], small_config())[name].config
    assert (config.classifier, config.pde_weight) == ("/a/lr=0.1,bs=64/c.py:f", 2)


def test_bad_input_on_the_command_line_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "--generator", "digits-vae", "--out", str(tmp_path / "out"), "--methods", "slow"])
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("fastflow: error: methods must be among flows, free, random, pca")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_refuses_a_folder_with_something_else(done, tmp_path):
    before = contents(done)
    with pytest.raises(InputError, match="holds a comparison already: resume it"):
        small(done)
    with pytest.raises(InputError, match="was of other data, size or settings"):
        small(done, resume=True, starts=7)
    assert contents(done) == before
    Path(tmp_path / "mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="isn't empty and isn't a comparison"):
            small(tmp_path, overwrite=overwrite)


@pytest.mark.slow
def test_overwriting_leaves_nothing_of_the_old(tmp_path):
    small(tmp_path / "out", methods=("random",), seeds=2)
    small(tmp_path / "out", methods=("pca",), seeds=1, overwrite=True)
    assert {run["method"] for run in results(tmp_path / "out")["runs"]} == {"flows", "pca"}
    assert not list((tmp_path / "out").rglob("*random*"))
    assert not list((tmp_path / "out").rglob("seed-1*"))


def test_one_path_or_one_step_is_nothing_to_compare(tmp_path):
    for changes in ({"num_potentials": 1}, {"path_steps": 1}):
        with pytest.raises(InputError, match="num_potentials and path_steps of at least 2"):
            compare(sigmoid_generator(), tmp_path / "out", small_config(**changes))


@pytest.mark.slow
def test_attributes_that_no_start_differs_in_are_left_out(tmp_path):
    def half(images):
        return torch.cat((torch.ones(len(images), 1), images.flatten(1)[:, :2]), 1)

    small(tmp_path / "out", methods=("random",), seeds=1, attributes=half, attribute_names=["still", "one", "two"])
    record = results(tmp_path / "out")
    assert record["attribute_names"] == ["one", "two"]
    assert all(min(map(min, run["paths"]["change"])) > 0 for run in record["runs"])  # of those two

"""What the page does, without a page: starts, films, chains, comparisons, names, files."""

import re
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.runs import WEIGHT, sigmoid_images, small_run

import fastflow as ff
from fastflow.app import explorer as explorer_module
from fastflow.app.explorer import LONGEST, Explorer
from fastflow.app.films import scene_html
from fastflow.app.scenes import picture
from fastflow.core.errors import ConvergenceError, InputError


@pytest.fixture
def digits(digits_folder):
    return Explorer(ff.load_run(digits_folder))


@pytest.fixture(scope="module")
def sigmoid_run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("sigmoid") / "run")


@pytest.fixture(scope="module")
def stroke():
    picture = np.zeros((64, 64), np.uint8)
    picture[8:56, 28:38] = 255
    picture.flags.writeable = False  # as Pillow's are
    return picture


def one(potential=1):
    return {potential: 1.0}


# Starts


def test_starts_are_what_their_lines_say(digits):
    run = digits.run
    for start in (digits.sample(3), digits.held_out(4)):
        assert torch.equal(eval(start.code), start.z), run
    assert not torch.equal(digits.held_out(4).z, digits.held_out(5).z)


def test_drawing_is_inverted(digits, stroke):
    start = digits.from_drawing(stroke)
    assert start.code is None
    image = digits.generator.decode(start.z)[0, 0]
    assert image[1:7, 3:5].mean() > 0.5 > image[:, [0, 1, 6, 7]].mean() + 0.2
    with pytest.raises(InputError, match="the drawing is empty"):
        digits.from_drawing(np.zeros((64, 64), np.uint8))


@pytest.mark.parametrize("start", ["sample", "held_out"])
@pytest.mark.parametrize("number", [-1, None, 1.5, 2**63])
def test_numbers_that_are_no_seed(digits, start, number):
    with pytest.raises(InputError, match="seed must be a whole number in"):
        getattr(digits, start)(number)


def test_only_generators_that_know_real_images_offer_them(digits, sigmoid_run):
    assert digits.has_real_images
    assert not Explorer(sigmoid_run).has_real_images


# Films


def test_film_is_the_traversal_both_ways(digits):
    start = digits.held_out(2)
    scene = digits.show(start, None, one(), 2)
    path = digits.run.traverse(start.z, 1, 4, "both", even=False)
    torch.testing.assert_close(scene.film.latents, path.latents[0])
    torch.testing.assert_close(scene.film.images, path.images[0])
    assert (scene.film.steps, scene.film.middle) == (range(-2, 3), path.start)
    assert torch.equal(scene.film.latents[scene.film.middle], start.z[0])
    change = (path.images[0, 1:] - path.images[0, :-1]).abs().mean()
    assert scene.film.change == pytest.approx(float(change))


def test_film_says_and_shows_where_it_leaves_the_data(digits):
    scene = digits.show(digits.sample(0), None, one(), 2)
    assert scene.film.ends == (0, 4)
    assert "leaves the data" not in scene_html(scene, 0)
    assert "data-beyond" not in scene_html(scene, 0)
    film = replace(scene.film, ends=(1, 2))
    html = scene_html(replace(scene, film=film), 0)
    assert "pixel change per step; leaves the data after step 0 and before step -1</small>" in html
    dimmed = re.findall(r'<img data-step="(-?\d+)"[^>]* data-beyond ', html)
    assert dimmed == ["-2", "1", "2"]
    far = digits.sample(0)
    far = replace(far, z=0.9999 * digits.generator.spread.farthest * far.z / far.z.norm())
    path = digits.run.traverse(far.z, 1, 4, "both", even=False)
    assert digits.show(far, None, one(), 2).film.ends == tuple(path.ends[0].tolist()) != (0, 4)


def test_film_of_values_in_another_range_is_shown_in_ours(tmp_path):
    generator = ff.generators.from_callable(lambda z: 2 * sigmoid_images(z) - 1, 4, value_range=(-1, 1))
    film = (e := Explorer(small_run(tmp_path / "run", generator))).show(e.sample(0), None, one(), 1).film
    torch.testing.assert_close(film.images, sigmoid_images(film.latents))


def test_mix_weighs_potentials(digits):
    start = digits.sample(0)
    scene = digits.show(start, None, {0: 0.0, 1: 1.0, 2: -0.5}, 2)
    assert scene.mix == {1: 1.0, 2: -0.5}
    expected = ff.mixed_flow(digits.run.bank, start.z, scene.mix, 2, 2.0)
    torch.testing.assert_close(scene.film.latents[2:], expected[0])
    assert scene.film.title == "1 × potential 1 − 0.5 × potential 2"
    with pytest.raises(InputError, match="mix must hold weights"):
        digits.show(start, None, {0: 0.0}, 2)


def test_flow_that_cannot_be_undone_goes_ahead_only(digits, monkeypatch):
    integrate_mix = explorer_module.integrate_mix

    def failing(bank, z, mix, steps, t0, integration, **options):
        if integration.direction == "reverse":
            raise ConvergenceError("no")
        return integrate_mix(bank, z, mix, steps, t0, integration, **options)

    monkeypatch.setattr(explorer_module, "integrate_mix", failing)
    start = digits.sample(0)
    scene = digits.show(start, None, one(), 2)
    assert scene.film.steps == range(5)
    assert "only goes ahead" in scene.note
    path = digits.run.traverse(start.z, 1, 4, even=False)
    torch.testing.assert_close(scene.film.latents, path.latents[0])
    applied = digits.edit(scene, 3).apply(digits.run, start.z)
    torch.testing.assert_close(applied.latents[0, -1], scene.film.latents[3])


@pytest.mark.parametrize("reach", [0, -1, None, LONGEST + 1])
def test_film_needs_a_length(digits, reach):
    with pytest.raises(InputError, match="steps each way must be"):
        digits.show(digits.sample(0), None, one(), reach)


@pytest.mark.parametrize("baseline", ["random", "pca"])
def test_baseline_walks_straight_in_steps_that_change_as_much(digits, baseline):
    scene = digits.show(digits.held_out(1), None, one(), 3, baseline, 2)
    beside = scene.beside
    assert beside.steps == scene.film.steps
    assert torch.equal(beside.latents[beside.middle], scene.film.latents[scene.film.middle])
    assert beside.change == pytest.approx(scene.film.change, rel=0.02)
    steps = beside.latents.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-4, atol=1e-6)
    method = {"random": ff.baselines.Random, "pca": ff.baselines.PCA}[baseline]
    direction = method(digits.generator, 8, **({} if baseline == "random" else {"samples": 1024})).directions[2]
    torch.testing.assert_close(steps[0] / steps[0].norm(), direction, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [-1, 8, None])
def test_baseline_that_there_is_not(digits, number):
    with pytest.raises(InputError, match=r"direction must lie in 0\.\.7"):
        digits.show(digits.sample(0), None, one(), 2, "pca", number)
    with pytest.raises(InputError, match="baseline must be one of random, pca"):
        digits.show(digits.sample(0), None, one(), 2, "sefa")


def test_every_change_is_answered_within_a_tenth_of_a_second(digits):
    """Everything that the server does for a new start, potential or mix; a step of the slider asks it for less."""
    times = []
    for k in range(5):
        begun = time.process_time()
        scene = digits.show(digits.held_out(k), None, one(k % 3), 5)
        scene_html(scene, 1)
        digits.lines(scene, 1)
        times.append(time.process_time() - begun)
    assert sorted(times)[2] < 0.1, times


# Chains


def test_chain_goes_on_from_what_was_seen(digits):
    start = digits.held_out(0)
    first = digits.show(start, None, one(0), 3)
    for step in (2, -3):
        edit = digits.edit(first, step)
        torch.testing.assert_close(edit.path(digits.run, start.z)[0, -1], first.film.latents[3 + step])
        second = digits.show(start, edit, {1: 2.0, 2: 1.0}, 3)
        torch.testing.assert_close(second.film.latents[3], first.film.latents[3 + step])
        both = digits.edit(second, -1)
        assert [part.steps for part in both.parts] == [step, -1]
        torch.testing.assert_close(both.path(digits.run, start.z)[0, -1], second.film.latents[2])
        assert digits.undone(both) == edit
        assert digits.undone(edit) is None
    assert digits.edit(first, 0) is None
    with pytest.raises(InputError, match=r"step must lie in -3\.\.3, got 4"):
        digits.edit(first, 4)


# Names


def test_names_stay_with_the_run_and_are_shown(digits):
    assert digits.choices() == [("0", 0), ("1", 1), ("2", 2)]
    assert "“slant” now" in digits.name(1, " slant ")
    assert digits.choices()[1] == ("1 · slant", 1)
    assert ff.load_run(digits.run.folder).names == {1: "slant"}
    assert digits.show(digits.sample(0), None, one(), 1).film.title == "potential 1, slant"
    assert digits.title({1: -1.0}) == "−1 × slant"
    with pytest.raises(InputError, match="is called 'slant' already"):
        digits.name(2, "slant")
    assert "no name now" in digits.name(1, " ")
    assert digits.names() == {}


def test_names_cannot_break_the_page(digits):
    digits.name(1, "<script>alert(1)</script>")
    html = scene_html(digits.show(digits.sample(0), None, one(), 1), 0)
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_damaged_names_are_told_and_leave_the_rest(digits):
    (digits.run.folder / "names.json").write_text("{")
    with pytest.raises(InputError, match=r"names\.json' isn't JSON"):
        digits.refresh()
    assert digits.choices()[0] == ("0", 0)
    digits.show(digits.sample(0), None, one(), 1)


# The folder, later


def test_newer_weights_are_taken_up(digits):
    folder, before = digits.run.folder, digits.run
    digits.refresh()
    assert digits.run is before
    small_run(folder, digits.generator, resume=True, steps=9)
    digits.refresh()
    assert digits.run.step == 9


def test_run_of_another_size_is_told_and_what_was_loaded_stays(digits):
    before, count = digits.run, digits.count
    small_run(digits.run.folder, digits.generator, overwrite=True, num_potentials=count + 1)
    for _ in range(2):
        with pytest.raises(InputError, match=f"of {count + 1} potentials in place of {count}: end fastflow serve"):
            digits.refresh()
    assert digits.run is before


def test_film_of_a_run_with_long_paths_begins_within_what_is_shown(digits, monkeypatch):
    monkeypatch.setattr(digits.run, "config", replace(digits.run.config, path_steps=10 * LONGEST))
    assert digits.reach == LONGEST


BREAKS = {
    "gone": (shutil.rmtree, "isn't a run"),
    "no-config": (lambda folder: (folder / "config.json").unlink(), "isn't a run"),
    "cut-off": (lambda folder: next(folder.glob("checkpoints/step-000006/w*")).write_bytes(b"x"), "can't be read"),
    "no-checkpoint": (lambda folder: shutil.rmtree(folder / "checkpoints"), "has no checkpoint yet"),
}


@pytest.mark.parametrize(("damage", "message"), BREAKS.values(), ids=BREAKS)
def test_folder_that_breaks_is_told_and_what_was_loaded_stays(digits, damage, message):
    damage(digits.run.folder)
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            digits.refresh()
    assert digits.show(digits.sample(0), None, one(), 1).film.steps == range(-1, 2)


def test_run_without_potentials_is_refused(digits):
    class Plain:
        @property
        def bank(self):
            raise InputError("no potentials")

    with pytest.raises(InputError, match="no potentials"):
        Explorer(Plain())


# Files


def test_files_hold_what_is_seen(digits, tmp_path):
    digits.name(1, "slant")
    scene = digits.show(digits.held_out(3), None, one(), 3, "pca", 1)
    files = digits.save(scene, -2, tmp_path / "out")
    assert [f.name for f in files] == [
        "edit.json", "edit.py", "image.png", "latents.safetensors", "path.gif", "strip.png"
    ]  # fmt: skip
    shown = scene.film.images[1]
    with Image.open(tmp_path / "out" / "image.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (256, 256)
    assert np.array_equal(pixels[16::32, 16::32], shown[0].mul(255).round().numpy())
    tensors = load_file(tmp_path / "out" / "latents.safetensors")
    assert torch.equal(tensors["path"], scene.film.latents)
    assert torch.equal(tensors["shown"], scene.film.latents[1:2])
    edit = ff.load_edit(tmp_path / "out" / "edit.json")
    assert edit == digits.edit(scene, -2)
    torch.testing.assert_close(edit.apply(digits.run, tensors["start"]).images[0, -1], shown)
    with Image.open(tmp_path / "out" / "strip.png") as strip, Image.open(tmp_path / "out" / "path.gif") as animation:
        assert strip.height > 2 * 64  # the baseline's row below
        assert animation.n_frames == 12


def test_nothing_is_edited_at_the_start(digits, tmp_path):
    scene = digits.show(digits.sample(0), None, one(), 2)
    assert "edit.json" not in {f.name for f in digits.save(scene, 0, tmp_path / "out")}


def made(lines):
    """The image that the lines make."""
    names = {}
    exec(lines, names)
    return names["image"][0]


def test_lines_in_python_make_what_is_seen(digits, tmp_path, stroke, monkeypatch):
    start = digits.from_drawing(stroke)
    scene = digits.show(start, digits.edit(digits.show(start, None, one(0), 2), 2), {1: 1.0, 2: 0.5}, 2)
    digits.save(scene, -1, tmp_path)
    lines = (tmp_path / "edit.py").read_text()
    assert lines == digits.lines(scene, -1)
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(made(lines), scene.film.images[1])


def test_lines_name_the_generator_and_the_class(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nimport fastflow as ff\nweight = torch.randn(4, 36, generator=torch.Generator().manual_seed(0))\n"
        "def images(z, labels):\n"
        "    return torch.sigmoid(z @ weight + labels[:, None]).unflatten(1, (1, 6, 6))\n"
        "def make():\n    return ff.generators.from_callable(images, 4, classes=[2, 5])\n"
    )
    load = f"ff.generators.load('{tmp_path}/mine.py:make')"
    generator = eval(load)
    explorer = Explorer(small_run(tmp_path / "run", generator), load)
    scene = explorer.show(explorer.sample(1, 5), None, one(), 2)
    torch.testing.assert_close(
        scene.film.images[2, 0], torch.sigmoid(scene.film.latents[2] @ WEIGHT + 5).view(6, 6)
    )  # fmt: skip
    lines = explorer.lines(scene, 1)
    assert load in lines
    torch.testing.assert_close(made(lines), scene.film.images[3])
    torch.testing.assert_close(made(explorer.lines(scene, 0)), scene.film.images[2])


# Films as HTML


def test_html_shows_one_frame_of_each_film(digits):
    scene = digits.show(digits.sample(0), None, one(), 2, "random")
    html = scene_html(scene, -1)
    frames = re.findall(r'<img class="ff-frame" data-step="(-?\d+)"( data-on)? src="data:image/png;base64,', html)
    assert [int(step) for step, _ in frames] == 2 * list(range(-2, 3))
    assert [step for step, on in frames if on] == ["-1", "-1"]
    assert html.count("−1</output>") == 2
    assert "ff-crisp" in html


@pytest.mark.slow
def test_large_images_have_small_thumbnails_and_stay_smooth(tmp_path):
    generator = ff.generators.from_callable(
        lambda z: torch.sigmoid(z)[:, :3, None, None].expand(-1, 3, 128, 96), 4
    )  # fmt: skip
    explorer = Explorer(small_run(tmp_path / "run", generator))
    scene = explorer.show(explorer.sample(0), None, one(), 1)
    assert "ff-crisp" not in scene_html(scene, 0)
    with Image.open(next(f for f in explorer.save(scene, 0, tmp_path / "out") if f.name == "image.png")) as image:
        assert image.size == (192, 256)


def test_images_of_other_channels_are_shown_as_pictures(tmp_path):
    generator = ff.generators.from_callable(lambda z: sigmoid_images(z).expand(-1, 2, -1, -1), 4)
    explorer = Explorer(small_run(tmp_path / "run", generator))
    scene = explorer.show(explorer.sample(0), None, one(), 1)
    assert scene.film.images.shape[1:] == (1, 6, 6)
    assert "ff-frame" in scene_html(scene, 0)
    with pytest.raises(InputError, match="images of 1 or 3 channels can be shown, got 2"):
        picture(torch.zeros(2, 6, 6))

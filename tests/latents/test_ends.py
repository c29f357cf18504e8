"""Where paths leave the data: too far from the generator's samples, or where its images stand still, tear or end."""

import copy

import pytest
import torch
from support.runs import small_run

import fastflow as ff
from fastflow.generators import from_callable
from fastflow.latents.ends import ends_at, leaving, path_ends
from fastflow.latents.traversal import flow_of

DIM = 16


def ramp(z):
    """Images whose brightness is the latents' first coordinate."""
    return z[:, :1, None, None].expand(-1, 1, 3, 3)


@pytest.fixture(scope="module")
def generator():
    return from_callable(ramp, DIM, value_range=(-2.0, 2.0))


def line(*firsts, rest=1.0):
    """Latents (B, T + 1, 16) whose first coordinates are these rows; each other coordinate is `rest`."""
    latents = torch.full((len(firsts), len(firsts[0]), DIM), rest)
    latents[..., 0] = torch.tensor(firsts)
    return latents


def ends(generator, latents, start=0, **options):
    images = torch.stack([generator.decode(z) for z in latents.unbind(1)], 1)
    return path_ends(generator, latents, images, start, **options).tolist()


def test_spread_is_that_of_the_samples():
    centre = torch.arange(4.0)
    moved = from_callable(
        lambda z: z[:, :1, None, None].expand(-1, 1, 3, 3), 4, value_range=(-2.0, 2.0),
        sample=lambda n, rng: centre + 0.5 * torch.randn(n, 4, generator=rng),
    )  # fmt: skip
    spread = moved.spread
    torch.testing.assert_close(spread.mean.float(), centre, rtol=0, atol=0.05)
    # Half a chi of 4 degrees of freedom, whose quantiles at 0.001 and 0.999 are 0.301 and 4.297.
    assert spread.nearest == pytest.approx(0.150, abs=0.05)
    assert spread.farthest == pytest.approx(2.15, abs=0.15)
    assert moved.spread is spread
    assert torch.equal(copy.deepcopy(moved).spread.mean, spread.mean)


def test_paths_end_where_samples_are_seldom(generator):
    farthest = generator.spread.farthest
    edge = (farthest**2 - 15) ** 0.5  # with 15 other coordinates of about 1 from the mean
    steps = [edge * share for share in (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)]
    assert ends(generator, line(steps)) == [[0, 3]]
    assert ends(generator, line([-s for s in steps[::-1]]), 5) == [[2, 5]]
    both = [-s for s in steps[:0:-1]] + steps
    assert ends(generator, line(both, [s / 2 for s in both]), 5) == [[2, 8], [0, 10]]


def test_paths_end_where_samples_are_nearer_to_the_mean_than_any():
    normal = from_callable(ramp, 64, value_range=(-2.0, 2.0))  # samples have a norm of 8, give or take 2
    start = torch.ones(1, 1, 64)
    shares = torch.tensor([1.0, 0.95, 0.9, 0.5, 0.1])[:, None]
    assert ends(normal, start * shares) == [[0, 2]]


def test_start_beyond_the_samples_ends_only_where_it_goes_farther(generator):
    far = 3 * generator.spread.farthest
    assert ends(generator, line([far, far - 1, far - 2, far])) == [[0, 3]]
    assert ends(generator, line([far, far - 1, far + 1, far - 1])) == [[0, 1]]
    assert ends(generator, line([0.0, 0.2, 0.1, 0.3], rest=0.0)) == [[0, 3]]


def test_paths_end_before_images_stand_still(generator):
    """Where all that moves is what the image doesn't show."""
    latents = line([0.0, 0.2, 0.4, 0.6, 0.602, 0.604], [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    latents[0, 4:, 1] += torch.tensor([0.2, 0.4])
    assert ends(generator, latents) == [[0, 3], [0, 5]]
    assert ends(generator, latents.flip(1), 5) == [[2, 5], [0, 5]]
    assert ends(generator, latents, 2) == [[0, 3], [0, 5]]


def test_paths_end_before_images_tear():
    torn = from_callable(lambda z: ramp(z) / 100 + (ramp(z) > 0.5), DIM, value_range=(-0.5, 1.5))
    assert ends(torn, line([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])) == [[0, 2]]
    smooth = line([0.0, 0.1, 0.2, 0.3, 0.4, 0.45])
    assert ends(torn, smooth) == [[0, 5]]
    # In features that don't see the jump, nothing tears.
    assert ends(torn, line([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), features=lambda x: torch.frac(2 * x) * 0) == [[0, 5]]


def test_paths_that_do_not_move_or_move_nothing_do_not_end(generator):
    latents = line([0.5] * 4, [0.5] * 4)
    latents[1, :, 2] += torch.arange(4) * 0.1
    assert ends(generator, latents) == [[0, 3], [0, 3]]


def test_paths_end_before_images_that_are_not_finite():
    broken = from_callable(lambda z: ramp(z) / (ramp(z) < 3), DIM, value_range=(-2.0, 2.0))
    assert ends(broken, line([0.0, 1.0, 2.0, 3.5, 4.0], rest=0.5)) == [[0, 2]]


# Traversals


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("ends") / "run", path_steps=8, dt=3.0)


@pytest.mark.parametrize("direction", ["forward", "descent", "reverse", "both"])
def test_traversals_have_the_ends_of_their_flow(run, direction):
    run, z0 = copy.copy(run), run.generator.sample(40)
    if direction in ("forward", "descent"):
        run.step_length = 0.8  # long steps, which leave the data
    else:  # steps that can be undone, and one start near the data's edge
        z0[0] *= 0.999 * run.generator.spread.farthest / z0[0].norm()
    steps = 8
    raw = run.traverse(z0, 1, steps, direction, even=False)
    assert torch.equal(raw.ends, path_ends(run.generator, raw.latents, raw.images, raw.start))
    even = run.traverse(z0, 1, steps, direction)
    assert even.ends.dtype == torch.long
    assert torch.equal(even.ends, ends_at(raw.ends, even.places, even.start))
    inside = (even.places >= raw.ends[:, :1] - raw.start) & (even.places <= raw.ends[:, 1:] - raw.start)
    columns = torch.arange(steps + 1)
    assert torch.equal(inside, (columns >= even.ends[:, :1]) & (columns <= even.ends[:, 1:]))
    assert inside[:, even.start].all()
    assert not inside.all()
    assert not even.images.isnan().any()  # frames beyond the ends are given


def test_baselines_and_edits_have_ends(run):
    z0 = run.generator.sample(3)
    directions = ff.baselines.Random(run.generator, 3, 2.0)
    path = directions.traverse(z0, 0, 8)
    assert (path.ends[:, 1] < 8).all()
    raw = flow_of(directions)(z0, 0, 8)
    assert torch.equal(raw.ends, path_ends(run.generator, raw.latents, raw.images))
    applied = run.edit(1, steps=2).apply(run, z0)
    assert torch.equal(applied.ends, path_ends(run.generator, applied.latents, applied.images))
    assert applied.places is None


# Words


@pytest.mark.parametrize(
    ("ends", "start", "columns", "words"),
    [
        ([(0, 10)], 0, 11, ""),
        ([(0, 6)], 0, 11, "leaves the data after step 6"),
        ([(0, 6), (0, 10), (0, 6)], 0, 11, "leaves the data after step 6 from 2 of 3 starts"),
        ([(0, 6), (0, 4)], 0, 11, "leaves the data after steps 4 to 6 from 2 of 2 starts"),
        ([(2, 10), (0, 10)], 5, 11, "leaves the data before step -3 from 1 of 2 starts"),
        (
            [(2, 7), (1, 10)], 5, 11,
            "leaves the data after step 2 from 1 of 2 starts and before steps -3 to -4 from 2 of 2 starts",
        ),
    ],
)  # fmt: skip
def test_ends_in_words(ends, start, columns, words):
    assert leaving(ends, start, columns) == words

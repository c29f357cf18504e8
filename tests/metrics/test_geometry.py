"""Lengths, bends and sameness of paths, where they can be worked out by hand."""

import math
from itertools import combinations, permutations

import pytest
import torch
from support.runs import small_run

import fastflow as ff
from fastflow.baselines.base import Baseline
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.metrics.attributes import AttributeCorrelation
from fastflow.metrics.held_out import held_out_paths

MATRIX = torch.randn(4, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def flat(z):
    """Images of 2 x 6 that depend linearly on the latents, in [-50, 50]."""
    return (z @ MATRIX.to(z)).view(-1, 1, 2, 6)


@pytest.fixture
def generator():
    return from_callable(flat, 4, value_range=(-50.0, 50.0), dtype=torch.float64)


@pytest.fixture
def straight(generator):
    return ff.baselines.Random(generator, 3, 0.5)


class Walks(Baseline):
    """Paths by a rule of their own; offsets (K, T + 1, D), or a function of the starts that gives (B, T + 1, D).

    Their steps stay as the rule has them, so that what is measured is known.
    """

    def __init__(self, generator, rules):
        super().__init__(generator, len(rules), 1.0)
        self.rules = rules

    def path(self, z0, index, steps):
        (k,) = set(index.tolist())
        offsets = self.rules[k](z0) if callable(self.rules[k]) else self.rules[k].expand(len(z0), -1, -1)
        return z0[:, None] + offsets.to(z0)

    def traverse(self, *arguments, even=False, **options):
        return super().traverse(*arguments, even=even, **options)


# Length


def test_length_in_pixels_is_that_of_a_line(straight):
    found = ff.metrics.path_length(straight, path_steps=4, samples=20)
    chords = 4 * 0.5 * straight.directions @ MATRIX / 100
    assert found.per_path == pytest.approx(chords.square().mean(1).tolist(), rel=1e-6)
    assert found.score == pytest.approx(sum(found.per_path) / 3)
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    assert (found.space, found.epsilon) == ("pixels", 1e-4)


def test_length_in_features_is_theirs(straight):
    found = ff.metrics.path_length(straight, path_steps=4, samples=20, features=lambda x: 7 * x[:, :, 0])
    chords = 4 * 0.5 * straight.directions @ MATRIX[:, :6] / 100
    assert found.per_path == pytest.approx((49 * chords.square().mean(1)).tolist(), rel=1e-6)
    assert found.space == "features"


def test_length_counts_every_step_and_follows_bends(generator):
    """Of steps of length 1, 2, 2, 0, each a quarter of the way: E |dz/dt|^2 = 16 (1 + 4 + 4 + 0) / 4."""
    a, b = torch.eye(4)[:2]
    path = torch.stack((0 * a, a, a + 2 * b, -a + 2 * b, -a + 2 * b))
    plain = from_callable(lambda z: z.view(-1, 1, 2, 2), 4, value_range=(-50.0, 50.0), dtype=torch.float64)
    found = ff.metrics.path_length(Walks(plain, [path]), path_steps=4, samples=4000)
    assert found.score == pytest.approx(16 * 9 / 4 / 4 / 100**2, rel=0.05)
    assert abs(found.score - 36 / 4 / 100**2) < 4 * found.standard_error


def test_length_is_not_rounded_to_eight_bits(tmp_path):
    run = small_run(tmp_path / "run")
    one, other = (ff.metrics.path_length(run, samples=50, epsilon=e).score for e in (1e-3, 1e-2))
    assert one == pytest.approx(other, rel=0.05)


def test_length_in_float32_can_be_measured_at_the_published_epsilon(straight):
    double = ff.metrics.path_length(straight, samples=50)
    single = ff.baselines.Random(from_callable(flat, 4, value_range=(-50.0, 50.0)), 3, 0.5)
    assert ff.metrics.path_length(single, samples=50).per_path == pytest.approx(double.per_path, rel=0.05)


# Curvature


def test_lines_do_not_bend_and_corners_do(generator):
    a, b = torch.eye(4)[:2]
    plain = from_callable(lambda z: z.view(-1, 1, 2, 2), 4, value_range=(-50.0, 50.0), dtype=torch.float64)
    line = torch.stack((0 * a, a, 2 * a, 3 * a))
    corner = torch.stack((0 * a, a, a + b, a + 2 * b))
    back = torch.stack((0 * a, a, 0 * a, a))
    pause = torch.stack((0 * a, a, a, a + b))
    still = torch.stack((0 * a,) * 4)
    found = ff.metrics.curvature(Walks(plain, [line, corner, back, pause, still]), path_steps=3, samples=5)
    assert found.per_path[:3] == pytest.approx([0, math.pi / 4, math.pi], abs=1e-6)
    assert found.per_path[3:] == [None, None]
    assert found.score == pytest.approx((0 + math.pi / 4 + math.pi) / 3, abs=1e-6)
    shear = torch.eye(4, dtype=torch.float64)
    shear[1, 0] = 1  # b becomes a + b
    options = {"path_steps": 3, "samples": 5, "features": lambda x: x.flatten(1) @ shear}
    sheared = ff.metrics.curvature(Walks(plain, [corner]), **options)
    assert sheared.per_path == [pytest.approx(math.pi / 8, abs=1e-6)]
    assert (found.space, sheared.space) == ("pixels", "features")


def test_angles_are_those_of_images_and_not_of_latents(generator):
    a, b = torch.eye(4, dtype=torch.float64)[:2]
    corner = torch.stack((0 * a, a, a + b))
    found = ff.metrics.curvature(Walks(generator, [corner]), path_steps=2, samples=5)
    angle = torch.nn.functional.cosine_similarity(MATRIX[0], MATRIX[1], dim=0).acos()
    assert found.score == pytest.approx(float(angle), rel=1e-6)


# Consistency


def test_the_same_change_from_everywhere_is_consistent(straight):
    found = ff.metrics.consistency(straight, path_steps=3, samples=10)
    assert found.per_path == pytest.approx([1, 1, 1])
    units = torch.nn.functional.normalize(straight.directions @ MATRIX, dim=1)
    expected = [float(units[i] @ units[j]) for i, j in combinations(range(3), 2)]
    assert found.across == pytest.approx(sum(expected) / 3)


def test_cosines_are_averaged_over_pairs_of_different_starts(generator):
    """Against the plainest count over all pairs; one path turns with its start, and one rests at some starts."""
    rules = [
        lambda z0: torch.stack((0 * z0, z0), 1),
        lambda z0: torch.stack((0 * z0, (z0[:, :1] > 0) * z0.flip(1)), 1),
    ]
    source = Walks(generator, rules)
    found = ff.metrics.consistency(source, path_steps=1, samples=12)
    changes = [path.images.diff(dim=1).flatten(1) for _, path in held_out_paths(source, 1, 12, 1)]

    def mean(pairs):
        cosines = [torch.nn.functional.cosine_similarity(u, v, dim=0) for u, v in pairs if u.any() and v.any()]
        return float(torch.stack(cosines).mean())

    starts = list(permutations(range(12), 2))
    assert found.per_path == pytest.approx([mean((c[i], c[j]) for i, j in starts) for c in changes])
    assert found.across == pytest.approx(mean((changes[0][i], changes[1][j]) for i, j in starts))
    assert abs(found.per_path[0]) < 0.5


# All of them


@pytest.mark.slow
@pytest.mark.parametrize("measure", [ff.metrics.path_length, ff.metrics.curvature, ff.metrics.consistency])
def test_measures_are_seeded_and_refuse_what_cannot_be(measure, generator, tmp_path):
    run = small_run(tmp_path / "run")
    one, again, other = (measure(run, samples=9, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one.score != other.score
    assert len(one.per_path) == 3
    labelled = from_callable(
        lambda z, y: flat(z) * (1 + y.view(-1, 1, 1, 1)), 4, value_range=(-99.0, 99.0), classes=[0, 1]
    )
    assert math.isfinite(measure(ff.baselines.Random(labelled, 2, 0.5), samples=70).score)
    for options, message in (
        ({"samples": 0}, "samples must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"path_steps": 0}, "path_steps must be a whole number of at least 1"),
        ({"features": lambda x: x / 0}, "features must be finite"),
        ({"features": lambda x: x.nothing}, "features failed: AttributeError"),
        ({"features": lambda x: x[:1]}, "features must be finite, a row for each of"),
    ):
        with pytest.raises(InputError, match=message):
            measure(run, **{"samples": 4, **options})
    with pytest.raises(InputError, match="the source must be a run"):
        measure(generator)


def test_what_cannot_be_measured_is_said(generator):
    still = Walks(generator, [torch.zeros(3, 4)])
    for measure in (ff.metrics.curvature, ff.metrics.consistency):
        with pytest.raises(InputError, match="no path changes the images"):
            measure(still, path_steps=2, samples=4)
    assert ff.metrics.path_length(still, path_steps=2, samples=4).score == 0
    with pytest.raises(InputError, match="path_steps must be at least 2, so that a path can bend, got 1"):
        ff.metrics.curvature(still, path_steps=1)
    for epsilon in (0, 0.2, float("nan")):
        with pytest.raises(InputError, match=r"epsilon must be a number above 0 and at most 0\.1"):
            ff.metrics.path_length(still, epsilon=epsilon)


def test_correlations_are_normalised_by_path_and_keep_their_signs():
    found = AttributeCorrelation(["a", "b"], [[0.2, -0.6], [0.0, 0.0], [-1.0, 0.0]], [], [], 1)
    assert found.normalized == [[pytest.approx(0.25), pytest.approx(-0.75)], [0, 0], [-1, 0]]

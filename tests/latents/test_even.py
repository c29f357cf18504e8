"""Even steps: points placed anew on the same path, so that each step makes the same visible change."""

import numpy as np
import pytest
import torch
from support.runs import sigmoid_generator, small_config, small_run

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import from_callable
from fastflow.latents.even import EVEN, evened
from fastflow.latents.traversal import flow_of, seen, traverse

RAW = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, 3.0, 3.1])
"""Coordinates of points along a straight line, in steps that differ by 19 times."""


def ramp(z):
    """Images whose brightness is the latents' first coordinate, so that a step's visible change is known."""
    return z[:, :1, None, None].expand(-1, 1, 4, 4)


def bend(z):
    """Images that change more and more along the first coordinate."""
    return z[:, :1, None, None].exp().expand(-1, 1, 4, 4)


def paths(*rows):
    """Latents (B, T + 1, 2) whose first coordinates are these rows; the second one is 1."""
    first = torch.stack([torch.as_tensor(row, dtype=torch.float32) for row in rows])
    return torch.stack((first, torch.ones_like(first)), 2)


def even(generator, latents, start=0, **options):
    images = torch.stack([generator.decode(z) for z in latents.unbind(1)], 1)
    return evened(generator, latents, images, start, **options)


def changes(generator, images):
    return generator.scaled(images).diff(dim=1).abs().flatten(2).mean(2)


def ratios(change):
    return change.amax(1) / change.amin(1)


@pytest.fixture
def plain():
    return from_callable(ramp, 2, value_range=(-2.0, 2.0))


@pytest.fixture
def bent():
    return from_callable(bend, 2, value_range=(0.0, 4.0))


def test_points_lie_at_equal_shares_of_the_change(plain):
    found = even(plain, paths(RAW, RAW.flip(0)))
    torch.testing.assert_close(found.latents[0, :, 0], torch.linspace(0, 3.1, 7))
    torch.testing.assert_close(found.latents[1], found.latents[0].flip(0))
    assert (found.latents[:, :, 1] == 1).all()
    # 3.1 / 6 lies between the given points 2 and 3, of which the first has 0.2 and the second 1.0.
    assert found.places[0, 1] == pytest.approx(2 + (3.1 / 6 - 0.2) / 0.8)
    assert found.places[0, 0] == 0
    assert found.places[0, -1] == 6


def test_path_is_the_same_curve_with_the_same_ends(bent):
    raw = paths([-2.0, 1.0, 0.5, 1.2, -1.0, 0.0], [0.0, 0.1, 0.4, 0.9, 1.2, 1.3])
    raw[..., 1] = raw[..., 0].sin() + torch.arange(6) * 0.3
    found = even(bent, raw)
    assert torch.equal(found.latents[:, [0, -1]], raw[:, [0, -1]])
    before = found.places.long().clamp_max(4)
    for row in range(2):
        first, second = raw[row, before[row]], raw[row, before[row] + 1]
        expected = first + (found.places[row] - before[row])[:, None].float() * (second - first)
        torch.testing.assert_close(found.latents[row], expected)
    assert (found.places.diff(dim=1) > 0).all()


def test_changes_are_measured_anew_until_they_are_equal(bent):
    raw = paths(torch.linspace(-3, 1.2, 7), torch.linspace(0, 1.2, 7))
    found = even(bent, raw)
    assert (ratios(changes(bent, found.images)) <= EVEN).all()
    # One round, which takes the change between given points as linear, isn't enough here.
    assert after_one_round(bent, raw[0]) > EVEN


def after_one_round(generator, path):
    """The unevenness of a path (T + 1, 2) whose points are placed once, by the given points alone."""
    value = generator.decode(path)[:, 0, 0, 0].double().numpy()
    length = np.concatenate(([0], np.abs(np.diff(value)).cumsum()))
    placed = np.interp(np.linspace(0, length[-1], len(path)), length, path[:, 0].double().numpy())
    return ratios(torch.from_numpy(np.abs(np.diff(np.exp(placed))))[None])[0]


def test_images_are_those_of_the_latents(bent):
    found = even(bent, paths(torch.linspace(-3, 1.2, 7)), 2)
    for column in range(7):
        torch.testing.assert_close(found.images[:, column], bent.decode(found.latents[:, column]))


@pytest.mark.parametrize("start", [1, 2, 4, 5])
def test_start_keeps_its_column_and_each_side_is_even(bent, start):
    raw = paths(torch.linspace(-3, 1.2, 7))
    found = even(bent, raw, start)
    assert torch.equal(found.latents[:, start], raw[:, start])
    assert found.places[0].tolist()[0] == -start
    assert found.places[0, start] == 0
    change = changes(bent, found.images)
    for side in (change[:, :start], change[:, start:]):
        assert ratios(side) <= EVEN


def test_paths_that_do_not_move_or_are_even_stay_as_they_are(bent):
    still = torch.tensor([0.5, 0.5, 0.5, 0.5])
    level = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()  # whose images go from 1 to 4 in equal steps
    raw = paths(still, level, [0.0, 0.1, 1.0, 1.2])
    raw[0, :, 1] = torch.tensor([0.0, 5.0, 6.0, 9.0])
    found = even(bent, raw)
    assert torch.equal(found.latents[:2], raw[:2])
    assert found.places[:2].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert not torch.equal(found.latents[2], raw[2])


def test_steps_that_stand_still_are_passed_over(plain):
    found = even(plain, paths([0.0, 0.0, 0.0, 1.0, 1.0, 2.0]))
    torch.testing.assert_close(found.latents[0, :, 0], torch.linspace(0, 2, 6))


def test_only_paths_that_are_not_even_yet_are_decoded_again():
    sizes = []

    def counted(z):
        sizes.append(len(z))
        return bend(z)

    generator = from_callable(counted, 2, value_range=(0.0, 4.0))
    level = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    raw = paths(level, level, [0.0, 0.1, 1.0, 1.2], level)
    images = torch.stack([generator.decode(z) for z in raw.unbind(1)], 1)
    sizes.clear()
    evened(generator, raw, images)
    assert 2 <= len(sizes) <= 8  # the two points between, in four rounds at most
    assert set(sizes) == {1}


def test_best_of_the_rounds_is_kept():
    """Where images jump, no placing is even, and rounds after the best one may be worse."""
    generator = from_callable(lambda z: (z[:, :1] > 0.5).float()[:, :, None, None].expand(-1, 1, 2, 2), 2)
    raw = paths(torch.linspace(0, 1, 6))
    found = even(generator, raw)
    assert torch.equal(found.latents, raw)


def test_features_say_what_changes_equally(bent):
    raw = paths(torch.linspace(-3, 1.2, 7))
    found = even(bent, raw, features=lambda images: images.log())
    # The logarithm undoes the exponential, so that the given points are even already.
    assert torch.equal(found.latents, raw)
    squares = even(bent, raw, features=lambda images: images.square())
    steps = (squares.images[:, :, 0, 0, 0] / 4).square().diff(dim=1)
    assert ratios(steps) <= EVEN


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda images: images.sum(0), "features must be finite, a row for each of 2 images"),
        (lambda images: images / 0, "features must be finite"),
        (lambda images: images.nothing, "features failed: AttributeError"),
    ],
    ids=["rows", "infinite", "failing"],
)
def test_features_that_can_not_be_used_are_told(bent, features, message):
    with pytest.raises(InputError, match=message):
        even(bent, paths(torch.linspace(-3, 1.2, 7), torch.linspace(0, 1, 7)), features=features)


def test_classes_are_kept():
    """Class 1 moves by the second coordinate, and class 0 by the first."""

    def images(z, labels):
        return z.gather(1, labels[:, None]).exp()[:, :, None, None].expand(-1, 1, 3, 3)

    generator = from_callable(images, 2, value_range=(0.0, 4.0), classes=[0, 1])
    raw = torch.zeros(3, 6, 2)
    raw[..., 0], raw[..., 1] = torch.linspace(0, 1.3, 6), torch.linspace(0, 1.3, 6).square()
    labels = torch.tensor([0, 1, 0])
    shown = torch.stack([generator.decode(z, labels) for z in raw.unbind(1)], 1)
    found = evened(generator, raw, shown, labels=labels)
    assert (ratios(changes(generator, found.images)) <= EVEN).all()
    for column in range(6):
        torch.testing.assert_close(found.images[:, column], generator.decode(found.latents[:, column], labels))


def test_images_that_are_not_finite_stay_as_they_are():
    generator = from_callable(
        lambda z: (1 / (z[:, :1] - 3))[:, :, None, None].expand(-1, 1, 2, 2), 2, value_range=(-9, 9)
    )
    raw = paths([0.0, 1.0, 3.0, 4.0])
    found = even(generator, raw)
    assert torch.equal(found.latents, raw)


# Traversals


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("even") / "run", path_steps=8, dt=3.0)


@pytest.mark.parametrize("direction", ["forward", "descent", "reverse", "both"])
def test_traversals_are_even_in_every_direction(run, direction):
    z0 = run.generator.sample(6)
    raw = run.traverse(z0, 1, 8, direction, even=False)
    path = run.traverse(z0, 1, 8, direction)
    assert raw.places is None
    assert path.start == raw.start
    assert torch.equal(path.latents[:, path.start], z0)
    assert torch.equal(path.latents[:, [0, -1]], raw.latents[:, [0, -1]])
    before, after = (changes(run.generator, found.images)[:, path.start :] for found in (raw, path))
    assert (ratios(after) <= EVEN).all()
    assert (ratios(before) > EVEN).any()
    assert torch.equal(path.places[:, path.start], torch.zeros(6, dtype=torch.float64))
    again = run.traverse(z0, 1, 8, direction)
    assert torch.equal(path.latents, again.latents)
    assert torch.equal(path.images, again.images)
    assert not path.images.requires_grad


def test_places_are_the_steps_that_an_edit_counts(run):
    z0 = run.generator.sample(1)
    path = run.traverse(z0, 1, 8)
    for column in (1, 4, 7):
        edited = run.edit(1, steps=float(path.places[0, column])).path(run, z0)
        torch.testing.assert_close(edited[0, -1], path.latents[0, column])


def test_baselines_are_even_unless_they_are_asked_not_to_be():
    directions = ff.baselines.Random(sigmoid_generator(), 3, 0.8)
    z0 = directions.generator.sample(5)
    path, raw = directions.traverse(z0, 1, 6), directions.traverse(z0, 1, 6, even=False)
    assert (ratios(changes(directions.generator, path.images)) <= EVEN).all()
    assert (ratios(changes(directions.generator, raw.images)) > EVEN).any()
    assert torch.equal(path.latents, directions.traverse(z0, 1, 6, even=True).latents)
    by_feature = directions.traverse(z0, 1, 6, features=lambda images: images[..., :2])
    assert not torch.equal(by_feature.latents, path.latents)


def test_vaes_step_by_the_transformation(learned_bars):
    z0 = learned_bars.generator.starts(3)
    path = learned_bars.traverse(z0, 0)
    assert path.places is None
    assert torch.equal(path.latents, learned_bars.traverse(z0, 0, even=False).latents)
    assert learned_bars.traverse(z0, 0, even=True).places is not None
    assert not learned_bars.is_even(0)


def test_even_must_be_said_clearly(run):
    z0 = run.generator.sample(1)
    directions = ff.baselines.Random(run.generator, 3)
    for source in (run, directions):
        with pytest.raises(InputError, match="even must be True, False, or None for the usual way, got 'no'"):
            source.traverse(z0, 0, 3, even="no")
        with pytest.raises(InputError, match="ask for even=True, or leave features out"):
            source.traverse(z0, 0, 3, even=False, features=torch.square)
        with pytest.raises(InputError, match="features must be a function"):
            source.traverse(z0, 0, 3, features=3)


def test_paths_of_a_bank_are_the_flow_unless_even_ones_are_asked_for():
    torch.manual_seed(0)
    bank, generator = PotentialBank(2, 4, (8,)).requires_grad_(False), sigmoid_generator()
    z0, integration = generator.sample(3), small_config(dt=3.0).integration
    raw = traverse(bank, generator, z0, 0, 5, integration=integration)
    assert torch.equal(raw.latents, ff.flow(bank, z0, 0, 5, dt=3.0))
    path = traverse(bank, generator, z0, 0, 5, integration=integration, even=True)
    assert not torch.equal(path.latents, raw.latents)
    assert (ratios(changes(generator, path.images)) <= EVEN).all()


# Sources of other people


class Own:
    """A source that knows no `even`."""

    step_length, num_paths, path_steps = 0.5, 2, 4

    def __init__(self, generator):
        self.generator = generator
        self._directions = ff.baselines.Random(generator, 2, 0.5)

    def traverse(self, z0, index, steps, direction="forward", /, *, labels=None):
        return self._directions.traverse(z0, index, steps, direction, labels=labels, even=False)


def test_sources_that_know_no_even_are_measured_as_they_are(run):
    own = Own(run.generator)
    z0 = run.generator.sample(2)
    assert flow_of(own)(z0, 1, 4).places is None
    assert flow_of(run)(z0, 1, 4).places is None
    for metric in (ff.metrics.pixel_change, ff.metrics.curvature, ff.metrics.consistency, ff.metrics.path_length):
        metric(own, samples=8)
    raw, codes = own.traverse(z0, 0, 4).latents[0], ff.metrics.flow_codes(own, z0)
    assert codes.shape == (2, 2)
    assert torch.equal(own.traverse(z0, 0, 4).latents[0], raw)


def test_codes_and_consistency_are_the_same_for_even_paths(run):
    """They are those of the flow, to the bit, whatever a source usually gives."""

    class Raw(Own):
        def __init__(self):
            self.generator, self.num_paths, self.path_steps, self.step_length = run.generator, 3, 8, None

        def traverse(self, z0, index, steps, direction="forward", /, *, labels=None):
            integration = run.config.integration._replace(step_length=self.step_length)
            return traverse(
                run.bank, run.generator, z0, index, steps, integration=integration, direction=direction, labels=labels
            )

    z = run.generator.sample(20)
    assert torch.equal(ff.metrics.flow_codes(run, z), ff.metrics.flow_codes(Raw(), z))
    assert ff.metrics.consistency(run, samples=8) == ff.metrics.consistency(Raw(), samples=8)
    assert ff.metrics.curvature(run, samples=8).score != ff.metrics.curvature(Raw(), samples=8).score


def test_visible_changes_of_the_given_points_are_measured_once():
    generator = sigmoid_generator()
    asked = []

    def features(images):
        asked.append(len(images))
        return images.flatten(1)

    latents = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    seen(generator, latents, 2, features=features)
    # A column each, and the starts' rounding.
    assert asked == [3] * 7
    own, given = seen(generator, latents, 2, even=True), even(generator, latents, 2)
    assert torch.equal(own.latents, given.latents)
    assert torch.equal(own.images, given.images)

"""Traversals: four directions through the same flow, and the images of every point."""

import pytest
import torch
from support.runs import sigmoid_generator, small_config

from fastflow.core.errors import InputError
from fastflow.engine.paths import flow
from fastflow.engine.potentials import PotentialBank
from fastflow.latents.traversal import traverse

STEPS = 5


@pytest.fixture(scope="module")
def bank():
    torch.manual_seed(0)
    return PotentialBank(3, 4, (8,)).double().requires_grad_(False)


@pytest.fixture(scope="module")
def generator():
    return sigmoid_generator()


@pytest.fixture(scope="module")
def z0():
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def go(bank, generator, z0, direction="forward", steps=STEPS, potential=1, **settings):
    integration = small_config(**settings).integration
    return traverse(bank, generator, z0, potential, steps, integration=integration, direction=direction)


SETTINGS = {"euler": {}, "heun": {"method": "heun"}, "dt": {"dt": 0.5}, "step-length": {"step_length": 0.1}}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("direction", ["forward", "descent", "reverse", "both"])
def test_images_are_those_of_the_latents(bank, generator, z0, direction, settings):
    traversal = go(bank, generator, z0, direction, **settings)
    assert traversal.latents.shape == (4, STEPS + 1, 4)
    assert traversal.images.shape == (4, STEPS + 1, 1, 6, 6)
    for column in range(STEPS + 1):
        assert torch.equal(traversal.images[:, column], generator.decode(traversal.latents[:, column]))
    assert torch.equal(traversal.latents[:, traversal.start], z0)
    assert not traversal.images.requires_grad


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_forward_and_descent_follow_the_gradient(bank, generator, z0, settings):
    options = {"dt": 1.0, "method": "euler", "step_length": None, **settings}
    forward, descent = (go(bank, generator, z0, way, **settings).latents for way in ("forward", "descent"))
    assert torch.equal(forward, flow(bank, z0, 1, STEPS, **options))
    assert torch.equal(descent, flow(bank, z0, 1, STEPS, direction="descent", **options))
    grad = bank.jet(z0, 0.0, 1).grad
    if options["method"] == "euler":
        assert (((forward[:, 1] - z0) * grad).sum(1) > 0).all()
        assert (((descent[:, 1] - z0) * grad).sum(1) < 0).all()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_reverse_is_the_path_that_ends_in_the_start(bank, generator, z0, settings):
    traversal = go(bank, generator, z0, "reverse", **settings)
    assert traversal.start == 0
    beginning = traversal.latents[:, -1]
    torch.testing.assert_close(go(bank, generator, beginning, **settings).latents.flip(1), traversal.latents)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("steps", "start"), [(2, 1), (4, 2), (5, 2)])
def test_both_is_one_forward_path_through_the_start(bank, generator, z0, steps, start, settings):
    traversal = go(bank, generator, z0, "both", steps, **settings)
    assert traversal.start == start
    assert torch.equal(traversal.latents[:, start], z0)
    whole = go(bank, generator, traversal.latents[:, 0], "forward", steps, **settings)
    torch.testing.assert_close(traversal.latents, whole.latents)
    # The reverse flow isn't the path mirrored at the start.
    mirrored = 2 * z0 - traversal.latents[:, start + 1]
    assert (traversal.latents[:, start - 1] - mirrored).abs().max() > 1e-4


def test_potentials_can_differ_between_samples(bank, generator, z0):
    index = torch.tensor([2, 0, 1, 2])
    together = go(bank, generator, z0, "both", potential=index).latents
    for row, k in enumerate(index.tolist()):
        alone = go(bank, generator, z0[row : row + 1], "both", potential=k).latents
        torch.testing.assert_close(together[row : row + 1], alone)
    assert not torch.allclose(together[0], go(bank, generator, z0, "both", potential=0).latents[0])


REFUSED = {
    "direction": (
        {"direction": "backward"},
        "direction must be one of forward, descent, reverse, both, got 'backward'",
    ),
    "both-with-one-step": ({"direction": "both", "steps": 1}, "steps must be at least 2 to go both ways, got 1"),
    "no-steps": ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    "potential": ({"potential": 3}, "index must lie in 0..2, got 3"),
    "negative-potential": ({"potential": -1}, "index must lie in 0..2, got -1"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_arguments_are_named(bank, generator, z0, changes, message):
    with pytest.raises(InputError) as error:
        go(bank, generator, z0, **changes)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z[:, :3], r"z must be a tensor of shape \(B, 4\), got \(4, 3\)"),
        (lambda z: z[0], r"z must be a tensor of shape \(B, 4\), got \(4,\)"),
        (lambda z: z.float(), "z must have the parameters' dtype"),
        (lambda z: z / 0, "z must be finite"),
    ],
    ids=["width", "no-batch", "dtype", "infinite"],
)
def test_refused_latents(bank, generator, z0, change, message):
    with pytest.raises(InputError, match=message):
        go(bank, generator, change(z0))

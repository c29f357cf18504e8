"""The likelihood of pairs and sequences under one chain of latents, held to closed forms and to a grid."""

import math
from types import SimpleNamespace

import pytest
import torch
from support.chains import STD, WIDTH, LinearGaussian, affine_run, distribution_of_sequence
from support.moving import Bars

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import normal_log_density

pytestmark = pytest.mark.usefixtures("rough_fit")
STEPS, COUNT = 4, 10
K = torch.arange(COUNT) % 2
KINDS = {"the flow's path": None, "steps with noise": 0.4}


def draws(run):
    """Sequences (N, T + 1, 1, 2, 3) of a linear run, of either kind in turn, and their log-densities."""
    laws = [distribution_of_sequence(run, k, STEPS) for k in (0, 1)]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pixels = torch.stack([laws[k].sample() for k in K.tolist()])
    density = torch.stack([laws[k].log_prob(x) for k, x in zip(K.tolist(), pixels, strict=True)])
    return pixels.view(COUNT, STEPS + 1, 1, 2, 3), density


def of_places(run, k, places):
    """The law of the frames at some places alone."""
    whole = distribution_of_sequence(run, k, STEPS)
    rows = torch.cat([torch.arange(6) + 6 * place for place in places])
    return torch.distributions.MultivariateNormal(whole.mean[rows], whole.covariance_matrix[rows][:, rows])


def agree(found, truth, error):
    """All within a few of their own standard errors, none of which is above `error`."""
    assert bool(((found.each - truth).abs() < 4 * found.each_standard_error + 1e-6).all())
    assert float(found.each_standard_error.max()) < error
    assert float((found.each - truth).abs().max()) < 2 * error


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_a_linear_sequence_has_its_closed_form(std):
    run = affine_run(std)
    frames, truth = draws(run)
    found = ff.metrics.sequence_log_likelihood(run, frames, K, 100)
    agree(found, truth, 0.12)
    assert float(found.effective_sample_size.min()) > 45


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_a_linear_pair_has_its_closed_form(std):
    run = affine_run(std)
    frames, _ = draws(run)
    place = torch.arange(COUNT) % STEPS + 1
    pairs = torch.stack((frames[:, 0], frames[torch.arange(COUNT), place]), 1)
    truth = [of_places(run, int(k), (0, int(n))).log_prob(x.flatten()) for k, n, x in zip(K, place, pairs, strict=True)]
    agree(ff.metrics.pair_log_likelihood(run, pairs, K, place, 100), torch.stack(truth), 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_frames_in_between_needn_t_be_known(std):
    run, places = affine_run(std), (1, 3)
    frames, _ = draws(run)
    truth = [of_places(run, int(k), places).log_prob(x[list(places)].flatten()) for k, x in zip(K, frames, strict=True)]
    found = ff.metrics.sequence_log_likelihood(run, frames[:, places], K, 100, places=places)
    agree(found, torch.stack(truth), 0.12)
    truth = [of_places(run, int(k), (3,)).log_prob(x[3].flatten()) for k, x in zip(K, frames, strict=True)]
    agree(ff.metrics.sequence_log_likelihood(run, frames[:, 3:4], K, 100, places=[3]), torch.stack(truth), 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_an_unknown_transformation_is_summed_over(std):
    run = affine_run(std)
    frames, _ = draws(run)
    laws = [distribution_of_sequence(run, k, STEPS) for k in (0, 1)]
    truth = torch.stack([law.log_prob(frames.flatten(1)) for law in laws]).logsumexp(0) - math.log(2)
    found = ff.metrics.sequence_log_likelihood(run, frames, None, 100)
    agree(found, truth, 0.12)
    assert found.num_samples == 100


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_a_transformation_may_follow_another_and_begins_anew(std):
    run = affine_run(std)
    kinds = torch.tensor([[0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).repeat(2, 1)
    laws = [distribution_of_sequence(run, k, STEPS) for k in kinds.tolist()]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        frames = torch.stack([law.sample() for law in laws]).view(COUNT, STEPS + 1, 1, 2, 3)
    truth = torch.stack([law.log_prob(x.flatten()) for law, x in zip(laws, frames, strict=True)])
    agree(ff.metrics.sequence_log_likelihood(run, frames, kinds, 100), truth, 0.12)
    whole = ff.metrics.sequence_log_likelihood(run, frames, K[:, None].expand(-1, STEPS), 100)
    assert torch.equal(whole.each, ff.metrics.sequence_log_likelihood(run, frames, K, 100).each)


@pytest.mark.slow
def test_any_length_will_do():
    """One frame is an image; more frames than a path of the training has are a longer path."""
    run = affine_run(0.4, steps=2)
    frames, truth = draws(run)
    agree(ff.metrics.sequence_log_likelihood(run, frames, K, 100), truth, 0.12)
    one = ff.metrics.sequence_log_likelihood(run, frames[:, :1], K, 100)
    torch.testing.assert_close(one.each, ff.metrics.log_likelihood(run.vae, frames[:, 0], 100).each)


def test_straight_directions_take_the_place_of_the_run_s_own_steps():
    run, directions = affine_run(0.4), 0.8 * torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(5)).double()
    frames, _ = draws(run)
    straight = affine_run()
    straight.transition.matrix = torch.eye(WIDTH).double().expand(2, -1, -1)
    straight.transition.shift = directions / STEPS
    laws = [distribution_of_sequence(straight, k, STEPS) for k in (0, 1)]
    expected = torch.stack([laws[k].log_prob(x.flatten()) for k, x in zip(K.tolist(), frames, strict=True)])
    agree(ff.metrics.sequence_log_likelihood(run, frames, K, 100, directions=directions), expected, 0.12)


@pytest.mark.slow
def test_a_bad_encoder_changes_less_than_the_standard_error():
    run = affine_run(0.4)
    frames, truth = draws(run)
    run.vae.encode = lambda x: (torch.full((len(x), WIDTH), 9.0).double(), torch.full((len(x), WIDTH), -4.0).double())
    agree(ff.metrics.sequence_log_likelihood(run, frames, K, 100), truth, 0.12)


def test_a_decoder_alone_is_enough():
    run = affine_run(0.4)
    frames, truth = draws(run)
    decoder = LinearGaussian()
    run.vae = SimpleNamespace(
        likelihood="gaussian", noise_std=STD, image_shape=(1, 2, 3), latent_dim=WIDTH,
        decode=decoder.decode, parameters=decoder.parameters,
    )  # fmt: skip
    agree(ff.metrics.sequence_log_likelihood(run, frames, K, 100), truth, 0.12)


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_annealing_agrees(std):
    run = affine_run(std)
    frames, truth = draws(run)
    agree(ff.metrics.sequence_log_likelihood(run, frames, K, 20, method="annealed"), truth, 0.12)


class Jumps:
    """A transition that was trained on pairs: noise of its own for each number of steps, none for single steps."""

    num_transformations = 2

    def mean(self, z, k, n):
        return z + 0.5

    def log_std(self, k, n):
        return None

    def jump(self, z, k, n):
        return z + 0.5 * n[:, None]

    def jump_log_std(self, k, n):
        return (0.2 * n[:, None]).log() + torch.zeros(WIDTH).double()


def test_a_run_that_was_trained_on_pairs_takes_all_steps_at_once():
    run = affine_run()
    run.transition = Jumps()
    frames, _ = draws(affine_run())
    place = torch.arange(COUNT) % STEPS + 1
    pairs = torch.stack((frames[:, 0], frames[torch.arange(COUNT), place]), 1)
    truth = []
    for n, x in zip(place.tolist(), pairs, strict=True):
        step = affine_run(0.2 * n)
        step.transition.matrix = torch.eye(WIDTH).double().expand(2, -1, -1)
        step.transition.shift = torch.full((2, WIDTH), 0.5 * n).double()
        truth.append(distribution_of_sequence(step, 0, 1).log_prob(x.flatten()))
    agree(ff.metrics.pair_log_likelihood(run, pairs, K, place, 100), torch.stack(truth), 0.12)
    with pytest.raises(InputError, match="frames must be a start and one later image of one transformation"):
        ff.metrics.sequence_log_likelihood(run, frames, K, 10)
    with pytest.raises(InputError, match="frames must be a start and one later image of one transformation"):
        ff.metrics.sequence_log_likelihood(run, frames[:, :2], K[:, None], 10)
    with pytest.raises(InputError, match="proposal must be 'fitted' for a run whose transition has noise"):
        ff.metrics.pair_log_likelihood(run, pairs, K, place, 10, proposal="encoder")


@pytest.mark.slow
def test_a_run_s_flow_is_integrated_over_its_latents(vae):
    k = torch.tensor([0, 1, 1])
    frames = Bars().frames(torch.arange(3), k, (torch.arange(4) / 3).expand(3, -1))
    axis = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(axis, axis)
    truth = []
    for x, potential in zip(frames, k.tolist(), strict=True):
        path = vae.traverse(grid, potential, 3).latents
        given = [
            vae.vae.log_density(vae.vae.decode(path[:, n]), image.expand(len(grid), *image.shape))
            for n, image in enumerate(x)
        ]
        prior = normal_log_density(grid, torch.zeros(2), torch.zeros(2))
        truth.append(float((sum(given) + prior).double().logsumexp(0)) + 2 * math.log(0.05))
    found = ff.metrics.sequence_log_likelihood(vae, frames, k, 500)
    assert found.each.tolist() == pytest.approx(truth, abs=0.1)
    pair = ff.metrics.pair_log_likelihood(vae, frames[:, [0, 2]], k, torch.full((3,), 2), 500)
    encoder = ff.metrics.pair_log_likelihood(vae, frames[:, [0, 2]], k, torch.full((3,), 2), 50_000, proposal="encoder")
    assert pair.each.tolist() == pytest.approx(encoder.each.tolist(), abs=0.1)


FRAMES = torch.zeros(COUNT, 3, 1, 2, 3).double()
REFUSED = {
    "frames": ({"frames": FRAMES[0]}, r"frames must be images \(N, P, 1, 2, 3\)"),
    "no frames": ({"frames": FRAMES[:, :0]}, "frames must be images"),
    "potential": ({"potential": K + 1}, r"potential must lie in 0\.\.1"),
    "dtype": ({"potential": K.double()}, "potential must be a long tensor"),
    "steps": ({"potential": K[:, None].expand(-1, 3)}, r"potential must be a long tensor of shape \(10, 2\)"),
    "places": ({"places": (0, 1)}, "places must be 3 whole numbers of at least 0, one for each frame"),
    "negative places": ({"places": (0, 1, -1)}, "places must be 3 whole numbers"),
    "samples": ({"num_samples": 0}, "num_samples must be"),
    "method": ({"method": "exact"}, "method must be one of importance, annealed"),
    "directions": ({"directions": torch.zeros(1, WIDTH)}, "directions must have shape"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        ff.metrics.sequence_log_likelihood(affine_run(), **{"frames": FRAMES, "potential": K, **changes})

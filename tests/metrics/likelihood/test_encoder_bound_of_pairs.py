"""The bound of an image and its moved one with the encoder as its proposal, held to a closed form and to a grid."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from support.moving import Bars
from torch import nn

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.generators.likelihoods import normal_log_density

encoder_bound = partial(ff.metrics.pair_log_likelihood, proposal="encoder")
D, SHAPE, STD, STEPS = 3, (1, 2, 3), 0.4, 4
RNG = torch.Generator().manual_seed(0)
WEIGHT, DIRECTIONS = torch.randn(D, 6, generator=RNG).double(), torch.randn(2, D, generator=RNG).double()
COUNT = 50
K, N = torch.arange(COUNT) % 2, torch.arange(COUNT) % STEPS + 1


class LinearGaussian(nn.Module):
    """x = W z + noise; its posterior is that of a single image."""

    likelihood, noise_std, image_shape = "gaussian", STD, SHAPE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(WEIGHT, requires_grad=False)

    def encode(self, x):
        precision = torch.eye(D).double() + WEIGHT @ WEIGHT.T / STD**2
        mean = x.flatten(1) @ WEIGHT.T / STD**2 @ torch.linalg.inv(precision)
        return mean, torch.linalg.inv(precision).diagonal().log().expand_as(mean)

    def decode(self, z):
        return (z @ WEIGHT).view(-1, *SHAPE)


RUN = SimpleNamespace(
    vae=LinearGaussian(),
    config=SimpleNamespace(path_steps=STEPS, latent_dim=D),
    transformations=("a", "b"),
)
SHIFT = (N / STEPS)[:, None].double() * DIRECTIONS[K] @ WEIGHT  # of the moved image
# Of the two images' pixels together: the latent is the same.
JOINT = torch.cat((WEIGHT, WEIGHT), 1)
TRUTH = torch.distributions.MultivariateNormal(
    torch.zeros(12).double(), JOINT.T @ JOINT + STD**2 * torch.eye(12).double()
)
PIXELS = torch.randn(COUNT, D, generator=RNG).double() @ JOINT + STD * torch.randn(COUNT, 12, generator=RNG).double()
PAIRS = (PIXELS + torch.cat((torch.zeros_like(SHIFT), SHIFT), 1)).view(-1, 2, *SHAPE)


@pytest.mark.slow
def test_linear_gaussian_model_is_approached_from_below():
    truth = float(TRUTH.log_prob(PIXELS).mean())
    measured = encoder_bound
    means = [measured(RUN, PAIRS, K, N, samples, directions=DIRECTIONS).mean for samples in (1, 8, 64, 8192)]
    assert means == sorted(means)
    assert truth - means[0] > 0.3
    assert abs(truth - means[-1]) < 0.01
    assert measured(RUN, PAIRS, 1 - K, N, 64, directions=DIRECTIONS).mean < means[2] - 1  # moved by the other


def test_one_sample_is_enough_where_the_proposal_is_the_posterior():
    """Images are z + noise, whose posterior is diagonal, and the latent is moved: the two images' product is exact."""
    count, shift = 7, torch.tensor([[1.0, -2.0, 0.5]]).double()
    model = SimpleNamespace(
        likelihood="gaussian", noise_std=0.5, image_shape=(1, 1, 3), decode=lambda z: z.view(-1, 1, 1, 3),
        parameters=lambda: iter([shift]),
        encode=lambda x: (x.flatten(1) / 1.25, torch.full((len(x), 3), math.log(0.2)).double()),
    )  # fmt: skip
    run = SimpleNamespace(vae=model, config=SimpleNamespace(path_steps=2, latent_dim=3), transformations=("a",))
    z = torch.randn(count, 3, generator=torch.Generator().manual_seed(1)).double()
    noise = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(2)).double()
    pairs = torch.stack((z + 0.5 * noise[0], z + shift / 2 + 0.5 * noise[1]), 1)
    covariance = torch.ones(2, 2).double() + 0.25 * torch.eye(2).double()  # of both images' pixels of one place
    centred = torch.stack((pairs[:, 0], pairs[:, 1] - shift / 2), -1)
    truth = torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).log_prob(centred).sum(1)
    found = encoder_bound(
        run, pairs.view(count, 2, 1, 1, 3), torch.zeros(count).long(), torch.ones(count).long(), 1, directions=shift
    )
    torch.testing.assert_close(found.each, truth)


@pytest.mark.slow
def test_a_flow_is_integrated_over_its_latents(vae):
    place = torch.tensor([1, 3, 2])
    k = torch.tensor([0, 1, 1])
    pairs = Bars().frames(torch.arange(3), k, torch.stack((torch.zeros(3), place / 3), 1))
    axis = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(axis, axis)
    truth = []
    for x, potential, n in zip(pairs, k, place, strict=True):
        carried = vae.traverse(grid, int(potential), 3).latents[:, n]
        given = [
            vae.vae.log_density(vae.vae.decode(z), image.expand(len(grid), *image.shape))
            for z, image in zip((grid, carried), x, strict=True)
        ]
        prior = normal_log_density(grid, torch.zeros(2), torch.zeros(2))
        truth.append(float((given[0] + given[1] + prior).double().logsumexp(0)) + 2 * math.log(0.05))
    found = encoder_bound(vae, pairs, k, place, num_samples=100_000)
    assert found.each.tolist() == pytest.approx(truth, abs=0.02)
    assert found.num_samples == 100_000


REFUSED = {
    "pairs": ({"pairs": PAIRS[:, :1]}, r"pairs must be images \(N, 2, 1, 2, 3\)"),
    "no pairs": ({"pairs": PAIRS[:0]}, "pairs must be images"),
    "dtype": ({"potential": K.float()}, "potential must be a long tensor"),
    "potential": ({"potential": K + 1}, r"potential must lie in 0\.\.1"),
    "place": ({"place": N - 1}, r"place must lie in 1\.\.4"),
    "samples": ({"num_samples": 0}, "num_samples must be"),
    "seed": ({"seed": -1}, "seed must be"),
    "directions": ({"directions": DIRECTIONS[:1]}, "directions must have shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case):
    changes, message = REFUSED[case]
    given = {"pairs": PAIRS, "potential": K, "place": N, "directions": DIRECTIONS, **changes}
    with pytest.raises(InputError, match=message):
        encoder_bound(RUN, **given)

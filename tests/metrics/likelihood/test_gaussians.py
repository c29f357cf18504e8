"""A chain's normal distribution, held to the dense matrix that its factor stands for."""

import math
from itertools import pairwise

import pytest
import torch
from support.chains import SHAPE, WEIGHT, WIDTH, Affine, LinearGaussian

from fastflow.metrics.likelihood.chains import Chain, Images, Quadratic
from fastflow.metrics.likelihood.gaussians import newton_step, normal_around, prior_of
from fastflow.metrics.likelihood.posterior import climbed, fitted_normal

COUNT, STEPS = 4, 3
RNG = torch.Generator().manual_seed(7)
K = torch.arange(COUNT) % 2
KINDS = {"no noise": None, "noise": 0.5}


def chain_of(std):
    """Chains of which two places are known, other ones in each."""
    places = torch.stack((K, torch.tensor([3, 2, 3, 3])), 1)
    x = torch.randn(COUNT, 2, *SHAPE, generator=RNG).double()
    deviation = torch.linspace(0.5, 2, COUNT).double()[:, None]
    return Chain(Images(LinearGaussian(), x), places, deviation, STEPS, Affine(std), K, torch.zeros_like(K))


def noises(chain):
    return torch.randn(COUNT, chain.blocks, WIDTH, generator=RNG).double()


def dense(chain, u):
    """Gradient and negative Hessian of the log joint density, by automatic differentiation."""
    shape = u.shape[1:]
    gradients, hessians = [], []
    for row in range(COUNT):
        one = chain.rows(torch.tensor([row]))

        def log_joint(flat, one=one):
            return one.log_joint(flat.view(1, *shape))[0]

        gradients.append(torch.func.grad(log_joint)(u[row].flatten()))
        hessians.append(-torch.func.hessian(log_joint)(u[row].flatten()))
    return torch.stack(gradients), torch.stack(hessians)


@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_gradient_precision_and_step_are_those_of_the_dense_matrix(std):
    chain = chain_of(std)
    assert chain.blocks == (1 if std is None else STEPS + 1)
    u = noises(chain)
    quadratic = chain.quadratic(u)
    gradient, hessian = dense(chain, u)
    torch.testing.assert_close(quadratic.gradient.flatten(1), gradient)
    normal = normal_around(chain, u, quadratic)
    torch.testing.assert_close(normal.log_volume, 0.5 * torch.logdet(hessian))
    step = torch.linalg.solve(hessian, gradient)
    torch.testing.assert_close(newton_step(chain, normal, quadratic).flatten(1), step)
    e = noises(chain)
    away = (normal.noises(chain, e)[0] - u).flatten(1)[:, :, None]
    torch.testing.assert_close((away.mT @ hessian @ away).flatten(), e.square().sum((1, 2)))


@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_noises_have_the_path_of_a_chain(std):
    chain = chain_of(std)
    normal = normal_around(chain, noises(chain), chain.quadratic(noises(chain)))
    u, path = normal.noises(chain, noises(chain))
    torch.testing.assert_close(path, chain.path(u))


def test_a_single_noise_has_its_inverse():
    chain = chain_of(None)
    normal, e = normal_around(chain, noises(chain), chain.quadratic(noises(chain))), noises(chain)
    torch.testing.assert_close(normal.independent(normal.noises(chain, e)[0]), e[:, 0])


def test_the_prior_leaves_numbers_as_they_are():
    chain = chain_of(0.5)
    e, prior = noises(chain), prior_of(chain, WIDTH)
    torch.testing.assert_close(prior.noises(chain, e)[0], e)
    assert prior.log_volume.tolist() == [0] * COUNT


@pytest.mark.slow
@pytest.mark.parametrize("std", KINDS.values(), ids=KINDS)
def test_one_step_reaches_the_maximum_of_a_linear_chain_and_the_fit_stays(std):
    chain = chain_of(std)
    top = climbed(chain, noises(chain), max_steps=1)
    assert float(chain.quadratic(top).gradient.abs().max()) < 1e-8
    fitted = fitted_normal(chain, [noises(chain)], torch.Generator().manual_seed(0))
    torch.testing.assert_close(fitted.log_volume, normal_around(chain, top, chain.quadratic(top)).log_volume)
    assert float((fitted.centre - top).abs().max()) < 0.2  # the noise of the last rounds' points


def test_the_line_search_climbs_where_whole_steps_would_fall():
    """A decoder that folds: from far away, whole Gauss-Newton steps overshoot."""
    model = LinearGaussian()
    model.decode = lambda z: (torch.atan(3 * z) @ WEIGHT).view(-1, *SHAPE)
    x = model.decode(torch.zeros(COUNT, WIDTH).double())[:, None] + 0.1
    chain = Chain(Images(model, x), torch.zeros(COUNT, 1).long(), torch.ones(COUNT, 1).double(), 0)
    start = torch.full((COUNT, 1, WIDTH), 3.0).double()
    value = [chain.log_joint(climbed(chain, start, max_steps=steps)) for steps in (0, 1, 2, 30)]
    assert all(bool((after >= before).all()) for before, after in pairwise(value))
    assert float((value[-1] - value[0]).min()) > 10
    assert float(chain.quadratic(climbed(chain, start)).gradient.abs().max()) < 1


class Expanding:
    """Steps that turn latents of width 8, and make them six times as long."""

    matrix = 6 * torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()).Q

    def mean(self, z, k, n):
        return z @ self.matrix.to(z).mT

    def log_std(self, k, n):
        return torch.full((len(k), 8), -0.7)


def test_roundings_don_t_grow_along_an_expanding_chain():
    u = torch.zeros(1, 9, 8)
    images = Images(LinearGaussian(), torch.zeros(1, 1, *SHAPE))  # only the places of its chain are used
    chain = Chain(images, torch.zeros(1, 1).long(), torch.ones(1, 1), 8, Expanding(), K[:1], K[:1])
    columns = torch.randn(1, 9, 8, 200, generator=RNG)
    curvature = (columns @ columns.mT + 1e-3 * torch.randn(1, 9, 8, 8, generator=RNG)).double()  # nearly symmetric
    parts = Quadratic(torch.zeros(1, 9, 8).double(), curvature, Expanding.matrix.expand(1, 8, 8, 8))
    # A block recursion in the covariance form, which can't lose symmetry, for the last noise alone.
    factors = normal_around(chain, u, parts).factors
    assert bool(factors.isfinite().all())
    last = torch.eye(8).double() + math.exp(-1.4) * (curvature[0, 8] + curvature[0, 8].mT) / 2
    torch.testing.assert_close(factors[0, 8] @ factors[0, 8].mT, last, rtol=1e-4, atol=1e-3)


def test_an_item_whose_precision_overflows_has_no_factor_and_spoils_no_other():
    chain = chain_of(0.5)
    quadratic = chain.quadratic(noises(chain))
    for bad in (torch.nan, -1e9):
        curvatures = quadratic.curvatures.clone()
        curvatures[1] = bad * torch.eye(WIDTH)
        factors = normal_around(chain, noises(chain), quadratic._replace(curvatures=curvatures)).factors
        whole = factors.flatten(1).isfinite().all(1)
        assert whole.tolist() == [True, False, True, True]

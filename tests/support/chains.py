"""Models of images and of sequences whose likelihood is known: linear ones in closed form, small ones on a grid."""

import math
from types import SimpleNamespace

import torch
from torch import nn

WIDTH, SHAPE, STD = 3, (1, 2, 3), 0.4
RNG = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(WIDTH, 6, generator=RNG).double()
OFFSET = torch.randn(6, generator=RNG).double()


class LinearGaussian(nn.Module):
    """x = W' z + b + noise, with the diagonal of the posterior as its encoder."""

    likelihood, noise_std, image_shape = "gaussian", STD, SHAPE

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(WEIGHT, requires_grad=False)

    def encode(self, x):
        covariance = torch.linalg.inv(torch.eye(WIDTH).double() + WEIGHT @ WEIGHT.T / STD**2)
        mean = (x.flatten(1) - OFFSET) @ WEIGHT.T / STD**2 @ covariance
        return mean, covariance.diagonal().log().expand_as(mean)

    def decode(self, z):
        return (z @ self.weight + OFFSET).view(-1, *SHAPE)


class Affine:
    """Steps z -> M_k z + d_k of two kinds, with noise that grows from step to step, or without."""

    num_transformations = 2
    matrix = torch.eye(WIDTH).double() + 0.4 * torch.randn(2, WIDTH, WIDTH, generator=RNG).double()
    shift = torch.randn(2, WIDTH, generator=RNG).double()

    def __init__(self, std=None):
        self.std = std

    def mean(self, z, k, n):
        return (self.matrix[k] @ z[:, :, None])[:, :, 0] + self.shift[k]

    def log_std(self, k, n):
        return None if self.std is None else math.log(self.std) + 0.1 * n[:, None] * torch.ones(WIDTH).double()


def affine_run(std=None, steps=4):
    config = SimpleNamespace(path_steps=steps, latent_dim=WIDTH)
    return SimpleNamespace(vae=LinearGaussian(), config=config, transition=Affine(std), transformations=("a", "b"))


def distribution_of_sequence(run, k, steps):
    """The joint distribution of the pixels of x_0 .. x_T of a linear run, T * 6 numbers; k may be one for each step."""
    step, width = run.transition, (steps + 1) * WIDTH
    means, maps = [torch.zeros(WIDTH).double()], [torch.eye(WIDTH, width).double()]
    kinds, number = [k] * steps if isinstance(k, int) else k, 0
    for n, kind in enumerate(kinds):
        number = number + 1 if n and kind == kinds[n - 1] else 0
        means.append(step.matrix[kind] @ means[-1] + step.shift[kind])
        maps.append(step.matrix[kind] @ maps[-1])
        log_std = step.log_std(torch.tensor([kind]), torch.tensor([number]))
        if log_std is not None:
            maps[-1][:, (n + 1) * WIDTH : (n + 2) * WIDTH] = log_std[0].exp().diag()
    mean = torch.cat([WEIGHT.T @ z + OFFSET for z in means])
    spread = torch.cat([WEIGHT.T @ z for z in maps])
    return torch.distributions.MultivariateNormal(mean, spread @ spread.T + STD**2 * torch.eye(len(mean)).double())


class Curved:
    """Two latents and a bent decoder of eight binary pixels, with an encoder that is roughly right."""

    likelihood, latent_dim = "bernoulli", 2
    first = torch.randn(2, 16, generator=RNG)
    second = torch.randn(16, 8, generator=RNG)

    def decode(self, z):
        return torch.tanh(0.5 * z @ self.first) @ self.second

    def draw(self, count, seed=0):
        rng = torch.Generator().manual_seed(seed)
        chances = torch.sigmoid(self.decode(torch.randn(count, 2, generator=rng)))
        return torch.bernoulli(chances, generator=rng)

    def truth(self, x):
        """Log p(x) by a sum over a grid, (N,) float64."""
        axis = torch.linspace(-7, 7, 351)
        grid = torch.cartesian_prod(axis, axis)
        logits = self.decode(grid).double()
        given = logits @ x.double().T - nn.functional.softplus(logits).sum(1, keepdim=True)
        prior = -0.5 * grid.double().square().sum(1, keepdim=True) - math.log(2 * math.pi)
        return (given + prior).logsumexp(0) + 2 * math.log(14 / 350)

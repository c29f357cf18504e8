"""Paths along a Jacobian's singular vectors, on generators whose Jacobian is known."""

import pytest
import torch
from baselines.test_directions import RIGHT, D, linear
from torch import nn

from fastflow import generators
from fastflow.baselines import JacobianVectors
from fastflow.core.errors import InputError

Z = torch.randn(4, D, generator=torch.Generator().manual_seed(3))


def test_on_a_linear_generator_they_are_straight():
    generator, _ = linear()
    paths = JacobianVectors(generator, 4, 0.3)
    for k in range(4):
        steps = paths.traverse(Z, k, 3).latents.diff(dim=1) / 0.3
        torch.testing.assert_close(steps, steps[:1, :1].expand_as(steps), atol=1e-4, rtol=0)
        assert abs(float(steps[0, 0] @ RIGHT[:, k])) > 0.9999
        before, after = (paths.traverse(Z, k, 1).images[:, place].mean() for place in (0, 1))
        assert after > before
        torch.testing.assert_close(paths.traverse(Z, k, 3, "descent").latents.diff(dim=1) / -0.3, steps)


@pytest.fixture(scope="module")
def curved():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(D, 32), nn.Tanh(), nn.Linear(32, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    return generators.from_callable(net, latent_dim=D)


def test_each_step_follows_the_vector_nearest_to_the_last_one(curved):
    index = torch.tensor([0, 1, 0, 2])
    steps = JacobianVectors(curved, 3, 0.2).traverse(Z, index, 8, even=False).latents.diff(dim=1) / 0.2
    z, last = Z.clone(), None
    for step in range(8):
        for row, latent in enumerate(z):
            jacobian = torch.func.jacrev(lambda x: curved.decode(x[None]).flatten())(latent.double().float())
            vectors = torch.linalg.svd(jacobian.double())[2]
            cosines = vectors @ steps[row, step].double()
            assert float(cosines.abs().max()) > 0.999
            if last is None:
                assert int(cosines.abs().argmax()) == index[row]
            else:
                assert float(steps[row, step] @ last[row]) >= float((vectors.float() @ last[row]).abs().max()) - 1e-3
        last = steps[:, step]
        z = z + 0.2 * last


def test_there_are_as_many_as_latents_have_coordinates(curved):
    assert JacobianVectors(curved, D).num_paths == D
    with pytest.raises(InputError, match="num_directions must be at most 6"):
        JacobianVectors(curved, D + 1)

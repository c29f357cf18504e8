"""Transitions of latents: what each kind says, step by step, and how flows' steps fit the engine's paths."""

import math

import pytest
import torch

import fastflow as ff
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.latents.transitions import AR1, Affine, Flow, Independent, Noise, Straight, Walk, linear_transition

K, D, B, T = 3, 4, 7, 5
RNG = torch.Generator().manual_seed(0)
Z = torch.randn(B, D, generator=RNG, dtype=torch.float64)
INDEX = torch.arange(B) % K
STEP = torch.arange(B) % T


def randomized(transition):
    for parameter in transition.double().parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=RNG)
    return transition


def flow(method="euler", companion=False, frame_steps=1, noise=None):
    torch.manual_seed(0)
    bank = ff.PotentialBank(K, D, (6, 5))
    field = DivergenceFreeField(K, D, (6, 5)) if companion else None
    return randomized(Flow(bank, Integration(0.7, method), field, frame_steps, noise))


LINEAR = {
    "independent": lambda noise=None: Independent(K, D, noise),
    "walk": lambda noise=None: Walk(K, D, noise),
    "ar1": lambda noise=None: randomized(AR1(K, D)),
    "straight": lambda noise=None: randomized(Straight(K, D, noise)),
    "affine": lambda noise=None: randomized(Affine(K, D, noise)),
}
FLOWS = {
    "euler": lambda: flow(),
    "companion": lambda: flow(companion=True),
    "heun": lambda: flow("heun", companion=True, frame_steps=2),
    "rk4": lambda: flow("rk4", frame_steps=3),
}
EVERY = {**LINEAR, **FLOWS}
every_kind = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


@every_kind
def test_a_path_is_its_steps(make):
    transition = make()
    path = transition.path(Z, INDEX, T)
    assert torch.equal(path[:, 0], Z)
    for step in range(T):
        torch.testing.assert_close(transition.mean(path[:, step], INDEX, torch.full((B,), step)), path[:, step + 1])
    torch.testing.assert_close(transition.means(path[:, :-1], INDEX), path[:, 1:])
    torch.testing.assert_close(transition.jump(Z, INDEX, STEP), path[torch.arange(B), STEP])


@every_kind
def test_steps_of_different_numbers_are_taken_together(make):
    transition = make()
    found = transition.mean(Z, INDEX, STEP)
    for b in range(B):
        torch.testing.assert_close(transition.mean(Z[b : b + 1], INDEX[b : b + 1], STEP[b : b + 1])[0], found[b])


@pytest.mark.slow
@every_kind
def test_jacobian_has_the_derivatives_of_the_mean(make):
    transition = make()
    expected = [
        torch.autograd.functional.jacobian(
            lambda z, b=b: transition.mean(z[None], INDEX[b : b + 1], STEP[b : b + 1])[0], Z[b]
        )
        for b in range(B)
    ]
    torch.testing.assert_close(transition.jacobian(Z, INDEX, STEP), torch.stack(expected))


@pytest.mark.slow
@every_kind
def test_means_have_derivatives_under_torch_func(make):
    transition = make()
    jacobian = transition.jacobian(Z, INDEX, STEP)
    direction = torch.randn(B, D, generator=RNG, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda z: transition.mean(z, INDEX, STEP), (Z,), (direction,))
    torch.testing.assert_close(tangent, (jacobian @ direction[:, :, None])[:, :, 0])
    mapped = torch.func.vmap(
        torch.func.jacrev(lambda z, k, n: transition.mean(z[None], k[None], n[None])[0]), randomness="error"
    )
    torch.testing.assert_close(mapped(Z, INDEX, STEP), jacobian)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
@pytest.mark.parametrize("companion", [False, True], ids=["gradient", "companion"])
def test_a_flow_follows_the_engine(method, companion):
    transition = flow(method, companion, frame_steps=2)
    expected = ff.flow(transition.bank, Z, INDEX, steps=2 * T, dt=0.7, method=method, companion=transition.companion)
    torch.testing.assert_close(transition.path(Z, INDEX, T), expected[:, ::2])


def test_a_flow_goes_on_beyond_any_training():
    transition, late = flow(), torch.full((B,), 40)
    gradient = transition.bank.jet(Z, 40 * 0.7, INDEX).grad
    torch.testing.assert_close(transition.mean(Z, INDEX, late), Z + 0.7 * gradient)


def test_an_affine_map_is_its_formula():
    transition = LINEAR["affine"]()
    for b in range(B):
        matrix = torch.eye(D, dtype=torch.float64) + transition.matrix[INDEX[b]]
        expected = matrix @ Z[b] + transition.displacement[INDEX[b]]
        torch.testing.assert_close(transition.mean(Z, INDEX, STEP)[b], expected)


def test_an_autoregression_keeps_the_prior():
    """Where z has variance 1, so has what follows, after any number of steps."""
    transition = LINEAR["ar1"]()
    for n in (1, 2, 7):
        number = torch.full((B,), n)
        factor = transition.jump(torch.ones_like(Z), INDEX, number)
        variance = (2 * transition.jump_log_std(INDEX, number)).exp()
        torch.testing.assert_close(factor**2 + variance, torch.ones_like(Z))
    one = torch.ones_like(INDEX)
    torch.testing.assert_close(transition.log_std(INDEX, STEP), transition.jump_log_std(INDEX, one))
    torch.testing.assert_close(transition.mean(Z, INDEX, STEP), transition.jump(Z, INDEX, one))


def test_every_learned_deviation_begins_at_one_half():
    assert torch.equal(AR1(K, D).log_std(INDEX, STEP).exp().round(decimals=5), torch.full((B, D), 0.5))
    noise = Noise(K, D)
    torch.testing.assert_close(Walk(K, D, noise).log_std(INDEX, STEP), torch.full((B, D), math.log(0.5)))


@pytest.mark.parametrize("kind", ["walk", "straight", "affine"])
def test_noise_is_of_steps_or_of_jumps(kind):
    exact = linear_transition(kind, K, D, None)
    assert exact.log_std(INDEX, STEP) is exact.jump_log_std(INDEX, STEP + 1) is None
    steps = linear_transition(kind, K, D, Noise(K, D))
    torch.nn.init.normal_(steps.noise.log_std, generator=RNG)
    assert torch.equal(steps.log_std(INDEX, STEP), steps.noise.log_std[INDEX])
    assert steps.jump_log_std(INDEX, STEP + 1) is None
    jumps = linear_transition(kind, K, D, Noise(K, D, jumps=2))
    torch.nn.init.normal_(jumps.noise.log_std, generator=RNG)
    assert jumps.log_std(INDEX, STEP) is None
    found = jumps.jump_log_std(INDEX, STEP + 1)
    for b in range(B):  # jumps beyond the longest have its noise
        assert torch.equal(found[b], jumps.noise.log_std[INDEX[b], min(int(STEP[b]), 1)])


def test_independent_latents_have_the_prior():
    transition = Independent(K, D)
    assert not list(transition.parameters())
    assert torch.equal(transition.mean(Z, INDEX, STEP), torch.zeros_like(Z))
    for found in (transition.log_std(INDEX, STEP), transition.jump_log_std(INDEX, STEP)):
        assert torch.equal(found, torch.zeros(B, D))

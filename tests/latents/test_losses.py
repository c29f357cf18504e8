"""The objective's terms."""

import pytest
import torch

import fastflow as ff
from fastflow.generators.change import generator_change
from fastflow.latents.losses import balance_loss, initial_loss, jacobian_loss, log_change


def test_initial_loss_is_the_gradients_mean_square_at_the_first_time():
    torch.manual_seed(0)
    bank = ff.PotentialBank(2, 3, (5, 4)).double()
    z, index = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    expected = (bank.jet(z, 0.0, index).grad ** 2).sum(1).mean()
    torch.testing.assert_close(initial_loss(bank, z, index), expected)


def test_generator_change_is_the_jacobian_times_the_direction():
    weight = torch.randn(4, 3, dtype=torch.float64)

    def decode(z):
        return torch.sigmoid(z @ weight.mT).unflatten(1, (1, 2, 2))

    z, direction = torch.randn(2, 5, 3, dtype=torch.float64)
    images, change = generator_change(decode, z, direction)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda x: decode(x[None])[0], x) for x in z])
    torch.testing.assert_close(images, decode(z))
    torch.testing.assert_close(change, torch.einsum("bchwd,bd->bchw", jacobian, direction))


def test_the_papers_reward_fades_with_scale_and_the_log_does_not():
    def pull(scale: float, kind: str) -> float:
        factor = torch.tensor(scale, requires_grad=True)
        change = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        jacobian_loss(factor * change, kind).backward()
        return float(factor.grad * factor.detach())  # change of the reward per relative change of scale

    assert pull(1e-3, "log") == pytest.approx(pull(1.0, "log"), rel=1e-5)
    assert abs(pull(1e-3, "square")) < 1e-5 * abs(pull(1.0, "square"))


def test_a_dead_potential_has_a_finite_reward():
    change = torch.zeros(2, 1, 4, 4, requires_grad=True)
    loss = jacobian_loss(change)
    loss.backward()
    assert loss.isfinite()
    assert change.grad.isfinite().all()


def test_free_paths_are_to_move_as_much_as_guided_ones():
    guided = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    asked = log_change(guided).mean()

    def pull(scale: float) -> float:
        factor = torch.tensor(scale, requires_grad=True)
        balance_loss(factor * guided, asked).backward()
        return float(factor.grad * scale)

    assert pull(0.01) == pytest.approx(-2)  # per relative change of the scale, as strong from anywhere
    assert pull(100.0) == pytest.approx(2)
    assert balance_loss(guided[:1].expand(4, -1, -1, -1), log_change(guided[:1]).mean()) < 1e-6
    assert balance_loss(torch.zeros(2, 1, 4, 4), asked).isfinite()


def test_unknown_rewards_are_refused():
    with pytest.raises(ff.InputError, match="kind must be one of log, square"):
        jacobian_loss(torch.zeros(1, 1, 1, 1), "cube")

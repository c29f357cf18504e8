"""Generators from callables: modules and functions, devices and dtypes, samples, and what is refused."""

import pytest
import torch
from support.runs import sigmoid_generator, sigmoid_images
from torch import nn

from fastflow.core.errors import InputError
from fastflow.generators import from_callable

dropout = nn.Dropout(0.5)  # left in training mode


@pytest.mark.parametrize(
    ("function", "latent_dim", "message"),
    [
        pytest.param(lambda z: z, 4, r"images \(2, C, H, W\), got \(2, 4\)", id="flat"),
        pytest.param(lambda z: z.reshape(1, -1, 2, 2), 4, r"got \(1, 2, 2, 2\)", id="batch-folded"),
        pytest.param(lambda z: [z], 4, "got list", id="not-a-tensor"),
        pytest.param(lambda z: z.reshape(-1, 1, 2, 2) / 0, 4, "must be finite", id="infinite"),
        pytest.param(lambda z: z.reshape(-1, 1, 2, 2).sqrt(), 4, "must be finite", id="nan"),
        pytest.param(lambda z: z.reshape(-1, 1, 2, 2).long(), 4, "floating-point", id="integers"),
        pytest.param(nn.Linear(4, 4), 5, r"failed on latents of shape \(2, 5\).*is latent_dim right\?", id="width"),
        pytest.param(sigmoid_images, 0, "latent_dim must be a whole number of at least 1, got 0", id="zero-width"),
        pytest.param(sigmoid_images, 4.0, "latent_dim must be a whole number", id="float-width"),
        pytest.param("digits-vae", 4, "must be callable", id="not-callable"),
        pytest.param(lambda z: dropout(z).reshape(-1, 1, 2, 2), 4, r"same images.*with \.eval\(\)", id="random"),
        pytest.param(nn.Linear(4, 4).half(), 4, "latents must be float32 or float64, got torch.float16", id="half"),
    ],
)
def test_from_callable_refuses(function, latent_dim, message):
    torch.manual_seed(0)  # two draws of a dropout are the same once in a while
    with pytest.raises(InputError, match=message) as error:
        from_callable(function, latent_dim)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value_range",
    [(1.0, 0.0), (0.5, 0.5), (float("nan"), 1.0), (0.0, float("inf")), None, 1.0, (0.0, 0.5, 1.0), ("dark", "bright")],
    ids=str,
)
def test_value_range_goes_upwards(value_range):
    with pytest.raises(InputError, match="value_range"):
        sigmoid_generator(value_range=value_range)


def test_module_is_frozen_in_eval_mode_for_good():
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Unflatten(1, (2, 2, 2)))
    generator = from_callable(module, 4)
    generator.train()
    z = generator.sample(3)
    assert not any(m.training for m in generator.modules())
    assert not any(p.requires_grad for p in generator.parameters())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert torch.equal(generator(z), generator(z))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class VAE(nn.Module):
    """Anybody's: its decoder is a method, and it is still in training mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Unflatten(1, (2, 2, 2)))

    def decode(self, z):
        return self.layers(z)


def test_method_of_a_module_is_frozen_and_moves_with_it():
    vae = VAE()
    generator = from_callable(vae.decode, 4)
    assert not any(module.training for module in vae.modules())
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert set(map(id, vae.parameters())) == set(map(id, generator.parameters()))
    generator.double()
    assert generator(generator.sample(2)).dtype == torch.float64


def test_function_over_modules_may_name_their_dtype():
    net = nn.Linear(4, 4).double()

    def decode(z):
        return net(z).reshape(-1, 1, 2, 2)

    generator = from_callable(decode, 4, dtype=torch.float64)
    assert generator.sample(2).dtype == torch.float64
    assert generator(generator.starts(2)).dtype == torch.float64
    with pytest.raises(InputError, match="latents must be float32 or float64"):
        from_callable(decode, 4, dtype=torch.bfloat16)


def test_latents_of_a_half_precision_network_may_be_wider():
    net = nn.Linear(4, 4).bfloat16()
    generator = from_callable(lambda z: net(z.bfloat16()).to(z).reshape(-1, 1, 2, 2), 4)
    assert generator(generator.sample(2)).dtype == torch.float32


@pytest.mark.parametrize("device", ["gpu", "meta", 1.5], ids=str)
def test_device_is_checked(device):
    with pytest.raises(InputError, match=f"device must be cpu, cuda or cuda:N, got {device!r}"):
        sigmoid_generator(device=device)


@pytest.mark.gpu
def test_function_over_modules_may_name_their_device():
    net = nn.Linear(4, 4).cuda()
    generator = from_callable(lambda z: net(z).reshape(-1, 1, 2, 2), 4, device="cuda")
    assert generator(generator.sample(2)).device.type == "cuda"


def test_generator_is_differentiable_both_ways(digits):
    z, direction = digits.sample(3).requires_grad_(), digits.sample(3, seed=1)
    images, change = torch.func.jvp(digits.decode, (z,), (direction,))
    cotangent = torch.ones_like(images)
    (pulled,) = torch.autograd.grad(images, z, cotangent)
    assert torch.allclose((pulled * direction).sum(), change.sum(), rtol=1e-4)
    assert change.abs().max() > 1e-3


def test_sample_repeats_by_seed_and_leaves_the_global_numbers_alone(digits):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, same, other = digits.sample(5, seed=3), digits.sample(5, seed=3), digits.sample(5, seed=4)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_sample_is_standard_normal_unless_told(digits):
    z = digits.sample(20_000)
    assert z.mean().abs() < 0.01
    assert abs(float(z.std()) - 1) < 0.01
    uniform = sigmoid_generator(sample=lambda n, rng: torch.rand(n, 4, generator=rng)).sample(100)
    assert uniform.min() >= 0
    assert uniform.max() <= 1


def test_own_sampler_must_give_the_right_shape():
    with pytest.raises(InputError, match=r"sample must give latents as a tensor \(2, 4\), got \(2, 3\)"):
        sigmoid_generator(sample=lambda n, rng: torch.rand(n, 3, generator=rng))


def test_latents_follow_the_module_dtype():
    module = nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 2, 2))).double()
    generator = from_callable(module, 4)
    assert generator.sample(2).dtype == torch.float64
    assert generator(generator.sample(2)).dtype == torch.float64


def test_eight_bit_maps_the_value_range_to_256_levels():
    generator = sigmoid_generator(value_range=(-1.0, 1.0))
    levels = generator.eight_bit(torch.tensor([-2.0, -1.0, 0.0, 0.003, 1.0, 5.0]))
    assert torch.equal(levels * 255, torch.tensor([0.0, 0.0, 128.0, 128.0, 255.0, 255.0]))


def test_starts_of_a_callable_are_samples():
    generator = sigmoid_generator()
    assert torch.equal(generator.starts(4, seed=2), generator.sample(4, seed=2))

"""The native module's jets and their backward, against automatic differentiation in float64."""

import pytest
import torch
from support.native_engine import (
    Engine,
    attach,
    check_all,
    flat,
    nan_gradient,
    nan_like,
    network,
    parameters,
    rebuild,
    relative_error,
)
from support.networks import nested_jet, random_mlp, random_samples

from fastflow import _native
from fastflow.engine.activations import ACTIVATIONS, OUT_ACTIVATIONS
from fastflow.engine.backends import reference

# (networks, dimensions, hidden widths, samples): padding, several tiles, more directions than a block of rows.
SHAPES = {
    "smallest": (1, 1, (1,), 1),
    "one layer": (3, 4, (5,), 20),
    "two layers": (3, 4, (6, 5), 20),
    "wide latents": (2, 19, (7, 9), 13),
    "square": (1, 33, (33, 17), 9),
    "deep": (2, 3, (4, 13, 5, 2), 20),
    "eight layers": (2, 2, (3,) * 8, 20),
    "several tiles": (2, 5, (40, 65, 70), 130),
    "no samples": (2, 3, (4, 4), 0),
}


def both_float64(engine: Engine, mlp, z, index, slot):
    """Jets, and gradients of a random combination of them, from the engine and from the reference."""
    inputs = attach([z, *parameters(mlp)])
    jet = reference.jet(rebuild(mlp, inputs[1:]), inputs[0], index, slot, *reference_options(engine))
    rng = torch.Generator().manual_seed(5)
    bars = [torch.randn(part.shape, generator=rng, dtype=torch.float64) for part in jet]
    gradients = torch.autograd.grad(jet, inputs, bars, materialize_grads=True)
    z_bar, parameter_bars = engine.jet_backward(mlp, z, index, slot, bars)
    return engine.jet(mlp, z, index, slot), jet, [z_bar, *parameter_bars], gradients


def reference_options(engine: Engine):
    return (engine.laplacian, engine.probes) if engine.laplacian == "hutchinson" else (engine.laplacian,)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("out_activation", OUT_ACTIVATIONS)
def test_jet_and_gradients(shape, out_activation):
    networks, dim, hidden, batch = SHAPES[shape]
    mlp = random_mlp(networks, dim, hidden, slots=5, out_activation=out_activation)
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(), mlp, *random_samples(mlp, batch))
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation):
    mlp = random_mlp(2, 6, (9, 8, 7), slots=3, activation=activation)
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(), mlp, *random_samples(mlp, 10))
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


def test_jet_against_nested_differentiation():
    mlp = random_mlp(2, 7, (9, 8), slots=3, activation="silu")
    samples = random_samples(mlp, 8)
    check_all(Engine().jet(mlp, *samples), nested_jet(mlp, *samples))


@pytest.mark.parametrize("probes", [1, 3, 20])
@pytest.mark.parametrize("out_activation", OUT_ACTIVATIONS)
def test_probes(probes, out_activation):
    mlp = random_mlp(2, 6, (9, 8, 7), slots=3, out_activation=out_activation)
    directions = torch.randn(probes, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    engine = Engine(laplacian="hutchinson", probes=directions)
    jet, exact_jet, gradients, exact_gradients = both_float64(engine, mlp, *random_samples(mlp, 30))
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_without_laplacian(depth):
    mlp = random_mlp(2, 6, (9, 8, 7, 6)[:depth], slots=3)
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(laplacian="none"), mlp, *random_samples(mlp, 30))
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


def test_without_time():
    mlp = random_mlp(2, 6, (9, 8), slots=3)
    still = mlp._replace(bias_jets=tuple(b * torch.tensor([1.0, 0, 0], dtype=b.dtype)[:, None] for b in mlp.bias_jets))
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(has_time=False), still, *random_samples(mlp, 30))
    check_all(jet, exact_jet)
    for bar in gradients[3:5]:
        assert (bar[:, 1:] == 0).all()
    check_all([g[:, :1] if g.dim() == 3 and g.shape[1] == 3 else g for g in gradients],
              [g[:, :1] if g.dim() == 3 and g.shape[1] == 3 else g for g in exact_gradients])  # fmt: skip


@pytest.mark.parametrize("absent", range(5))
def test_absent_cotangents_are_zero(absent):
    mlp = random_mlp(2, 4, (6, 5), slots=3)
    samples = random_samples(mlp, 20)
    bars = [torch.randn_like(part) for part in Engine().jet(mlp, *samples)]
    bars[absent].zero_()
    exact = Engine().jet_backward(mlp, *samples, bars)
    z_bar, gradient = Engine().jet_backward(mlp, *samples, [None if i == absent else bar for i, bar in enumerate(bars)])
    check_all([z_bar, *gradient], [exact[0], *exact[1]])


@pytest.mark.parametrize(("index", "slots"), [([1] * 30, 5), (list(range(3)) * 10, 1), (list(range(3)) * 10, 100)])
def test_shared_and_unused_potentials_and_slots(index, slots):
    mlp = random_mlp(3, 4, (6, 5), slots=slots)
    z, _, slot = random_samples(mlp, 30)
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(), mlp, z, torch.tensor(index), slot)
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


DEGENERATE = {
    "zero": lambda w: w * 0,
    "equal rows": lambda w: w[:, :1].expand_as(w).contiguous(),
    "rank two": lambda w: (
        w[:, :, :2] @ torch.randn(len(w), 2, w.shape[2], dtype=w.dtype, generator=torch.Generator().manual_seed(0))
    ),
    "zero first row": lambda w: torch.cat((w[:, :1] * 0, w[:, 1:]), 1),
    "tiny": lambda w: w * 1e-150,
}


@pytest.mark.parametrize("change", DEGENERATE)
@pytest.mark.parametrize("dim", [3, 11, 20])
def test_degenerate_first_weight(change, dim):
    mlp = random_mlp(2, dim, (11, 9), slots=2)
    mlp = mlp._replace(weights=(DEGENERATE[change](mlp.weights[0]), *mlp.weights[1:]))
    jet, exact_jet, gradients, exact_gradients = both_float64(Engine(), mlp, *random_samples(mlp, 10))
    check_all(jet, exact_jet)
    check_all(gradients, exact_gradients)


def cast(mlp, dtype):
    return rebuild(mlp, [p.to(dtype) for p in parameters(mlp)])


def reference_results(mlp, z, index, slot):
    """Jet and the gradients of its sum."""
    inputs = attach([z, *parameters(mlp)])
    jet = reference.jet(rebuild(mlp, inputs[1:]), inputs[0], index, slot)
    return [
        *(part.detach() for part in jet),
        *torch.autograd.grad(jet, inputs, [torch.ones_like(part) for part in jet]),
    ]


def output_layer_as_one(tensors):
    """The output bias's gradient alone is one sum, which may cancel: it is measured beside the output weights'."""
    *others, out_weight, out_bias = tensors
    return [*others, torch.cat((out_weight, out_bias[:, None]), 1)]


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(64, 64), (40, 30, 20)], ids=str)
def test_float32_errors(activation, hidden):
    """At most twice those of the same formula in plain PyTorch, summed over a few networks so that luck evens out."""
    errors, plain_errors = 0.0, 0.0
    for seed in range(10):
        single = cast(random_mlp(2, 12, hidden, 3, activation, seed=seed), torch.float32)
        z, index, slot = random_samples(single, 100, seed=seed)
        exact = reference_results(cast(single, torch.float64), z.double(), index, slot)
        plain = reference_results(single, z, index, slot)
        jet = Engine().jet(single, z, index, slot)
        z_bar, gradient = Engine().jet_backward(single, z, index, slot, [torch.ones_like(part) for part in jet])
        exact, plain, native = map(output_layer_as_one, (exact, plain, [*jet, z_bar, *gradient]))
        error = torch.tensor([relative_error(a, e) for a, e in zip(native, exact, strict=True)])
        assert error.max() <= 5e-5
        errors += error
        plain_errors += torch.tensor([relative_error(p, e) for p, e in zip(plain, exact, strict=True)])
    rounding = torch.finfo(torch.float32).eps * 10  # one in each network
    assert (errors <= 2 * plain_errors + rounding).all(), errors / plain_errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_same_bits_for_any_number_of_threads(dtype):
    mlp = random_mlp(3, 6, (20, 17), slots=50, dtype=dtype)
    z, index, slot = random_samples(mlp, 700)
    coefficients, source = torch.ones(3, 5, dtype=dtype), torch.ones(700, dtype=dtype)
    results = [Engine(num_threads=n).residual_backward(mlp, z, index, slot, coefficients, source) for n in (1, 2, 5, 1)]
    for loss, residual, gradients in results[1:]:
        assert loss == results[0][0]
        assert torch.equal(residual, results[0][1])
        assert all(map(torch.equal, gradients, results[0][2]))


def test_nan_stays_in_its_own_sample():
    mlp = random_mlp(1, 4, (6, 5), slots=1)
    z, index, slot = random_samples(mlp, 9)
    z[4, 2] = torch.nan
    clean = torch.arange(9) != 4
    for part in Engine().jet(mlp, z, index, slot):
        assert part[4].isnan().all()
        assert part[clean].isfinite().all()


def test_outputs_that_nobody_wants():
    mlp = random_mlp(1, 4, (6, 5), slots=1)
    samples = random_samples(mlp, 9)
    jet = Engine().jet(mlp, *samples)
    only = nan_like(jet.u)
    _native.jet(network(mlp), *samples, (None, None, only, None, None), **Engine().options(mlp))
    assert torch.equal(only, jet.laplacian)
    gradient = nan_gradient(mlp)
    _native.jet_backward(network(mlp), *samples, jet, None, gradient, **Engine().options(mlp))
    assert all(bar.isfinite().all() for bar in flat(gradient))


def call(mlp, z, index, slot, **changes):
    options = {**Engine().options(mlp), **changes}
    _native.jet(network(mlp), z, index, slot, (None,) * 5, **options)


BAD = {
    "index": (IndexError, "index must lie in", lambda m, z, i, s: (m, z, i + 5, s)),
    "negative slot": (IndexError, "slot must lie in", lambda m, z, i, s: (m, z, i, s - 9)),
    "index type": (TypeError, "index must be int64", lambda m, z, i, s: (m, z, i.int(), s)),
    "index shape": (ValueError, "index must have shape", lambda m, z, i, s: (m, z, i[1:], s)),
    "z shape": (ValueError, r"weights\[0\] must have shape", lambda m, z, i, s: (m, z[:, 1:].contiguous(), i, s)),
    "z type": (TypeError, "z must be float32 or float64", lambda m, z, i, s: (m, z.half(), i, s)),
    "z dimensions": (ValueError, "z must have 2 dimensions", lambda m, z, i, s: (m, z[0], i, s)),
    "z strides": (ValueError, "z must be contiguous", lambda m, z, i, s: (m, z.mT.contiguous().mT, i, s)),
    "z not a tensor": (TypeError, "z must be a CPU tensor", lambda m, z, i, s: (m, 3, i, s)),
    "z on another device": (TypeError, "z must be a CPU tensor", lambda m, z, i, s: (m, z.to("meta"), i, s)),
    "mixed types": (
        TypeError,
        r"out_bias must be float64",
        lambda m, z, i, s: (m._replace(out_bias=m.out_bias.float()), z, i, s),
    ),
    "bias shape": (
        ValueError,
        r"bias_jets\[1\] must have shape",
        lambda m, z, i, s: (m._replace(bias_jets=m.bias_jets[:1] * 2), z, i, s),
    ),
    "no layers": (
        ValueError,
        "weights must have between 1 and 8",
        lambda m, z, i, s: (m._replace(weights=()), z, i, s),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    error, message, change = BAD[case]
    mlp = random_mlp(2, 4, (6, 5), slots=3)
    with pytest.raises(error, match=message):
        call(*change(mlp, *random_samples(mlp, 9)))


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("activation", "relu", ValueError),
        ("out_activation", "relu", ValueError),
        ("laplacian", "all", ValueError),
        ("num_threads", 0, ValueError),
        ("num_threads", "two", TypeError),
        ("surprise", 1, TypeError),
    ],
)
def test_bad_options_are_named(option, value, error):
    mlp = random_mlp(2, 4, (6, 5), slots=3)
    with pytest.raises(error, match=option):
        call(mlp, *random_samples(mlp, 9), **{option: value})

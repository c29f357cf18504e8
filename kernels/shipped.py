"""Every kernel as users meet it, with all that is needed to compile it ahead of time on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .configurations import Launch, choose
from .jet_bwd import jet_bwd_kernel
from .jet_fwd import jet_fwd_kernel
from .reduce import reduce_partials_kernel, reduce_runs_kernel
from .residual import residual_kernel
from .rotation import rotate_kernel

ACTIVATIONS = ("sin", "gelu", "silu", "softplus")  # beside tanh

_INDICES = ("slot", "order", "starts", "tile_ends", "tile_potential", "run_order", "slot_starts")
_SIZES = ("batch", "num_potentials", "num_directions", "scratch_size", "partial_size", "programs", "row")


class Shipped(NamedTuple):
    """Arguments of `triton.compiler.ASTSource` (kernel, signature, constexprs, attrs) and `triton.compile` (options).

    Without the interpreter, kernel is a triton.JITFunction. uses_tensor_cores tells whether its matrix products should
    run on them.
    """

    kernel: Any
    name: str
    signature: dict[str, Any]
    constexprs: dict[str, Any]
    attrs: dict[tuple[int, ...], Any]
    options: dict[str, int]
    uses_tensor_cores: bool


def shipped() -> Iterator[Shipped]:
    """List all kernels at every choice of blocks, activation and Laplacian, and at one, two and three layers.

    A loss with its gradients has all stages of a jet and its backward, so variants of a stage are listed for that
    kernel alone. Widths between these have the same blocks and rolled loops, and differ in numbers only.
    """
    middle = (12, 64, 64)
    yield from _passes(middle)
    for precision in ("tf32", "tf32x3"):
        yield from _passes(middle, precision=precision, kernels=("jet_fwd", "jet_bwd", "loss"))
    for precision in ("ieee", "tf32", "tf32x3"):
        yield from _passes((128, 128, 128), precision=precision, kernels=("jet_fwd", "loss"))
        for widths in ((3, 16), (512, 512, 512)):
            yield from _passes(widths, precision=precision, kernels=("loss",))
    yield from _passes((3, 20), kernels=("jet_fwd", "loss"))
    yield from _passes((64, 32, 32, 32), precision="tf32", kernels=("loss",))
    for activation in ACTIVATIONS:
        yield from _passes(middle, activation=activation, kernels=("loss",))
    for laplacian in ("hutchinson", "none"):
        yield from _passes(middle, laplacian=laplacian, kernels=("jet_fwd", "jet_bwd"))
    yield from _passes(middle, timed=False, out_activation="identity", kernels=("loss",))
    yield from _passes((32, 20, 20), triangular=True, kernels=("loss",))
    yield from _passes(middle, itemsize=8)
    constexprs = {"HEIGHT": 64, "WIDTH": 128, "ROWS": 16, "COLUMNS": 128, "TINY": 1e-6}
    yield _shipped(rotate_kernel, "128x64", 4, constexprs, {"num_warps": 8})
    yield _shipped(reduce_partials_kernel, "", 4, {"BLOCK": 1024}, {})
    yield _shipped(reduce_runs_kernel, "64", 4, {"WIDTH": 192, "WRITTEN": 192, "ROWS": 16, "BLOCK": 128}, {})


def _passes(
    widths: tuple[int, ...],
    activation: str = "tanh",
    out_activation: str = "tanh",
    timed: bool = True,
    laplacian: str = "exact",
    triangular: bool = False,
    precision: str = "ieee",
    itemsize: int = 4,
    kernels: tuple[str, ...] = ("jet_fwd", "jet_bwd", "residual", "loss"),
) -> Iterator[Shipped]:
    """List the kernels of one pass. In `kernels`, "residual" is the loss alone, "loss" the loss with its gradients."""
    settings = (widths, activation, out_activation, timed, laplacian, triangular, precision)
    forward, backward = (choose(*settings, backward, itemsize) for backward in (False, True))
    kind = "probes" if laplacian == "hutchinson" else laplacian  # lists of different versions are compared by name
    name = "x".join(map(str, widths)) + f" {activation} {out_activation} {kind} {precision} fp{8 * itemsize}"
    name += (" timed" if timed else "") + (" triangular" if triangular else "")

    def made(kernel: Any, launch: Launch, **flags: bool) -> Shipped:
        constexprs = {"C": launch.config, **flags}
        return _shipped(kernel, name, itemsize, constexprs, launch.options, len(widths) - 1, precision != "ieee")

    if "jet_fwd" in kernels:
        yield made(jet_fwd_kernel, forward)
    if "jet_bwd" in kernels:
        yield made(jet_bwd_kernel, backward, WITH_Z=True)
    if "residual" in kernels:
        yield made(residual_kernel, forward, HAS_SOURCE=True, WITH_GRADIENT=False, WITH_Z=False)
    if "loss" in kernels:
        yield made(residual_kernel, backward, HAS_SOURCE=True, WITH_GRADIENT=True, WITH_Z=True)


def _shipped(
    kernel: Any, name: str, itemsize: int, constexprs: dict[str, Any], options: dict[str, int], depth: int = 0,
    uses_tensor_cores: bool = False,
) -> Shipped:  # fmt: skip
    number = f"*fp{8 * itemsize}"
    aligned = [["tt.divisibility", 16]]  # as torch allocates
    signature: dict[str, Any] = {}
    attrs: dict[tuple[int, ...], Any] = {}
    for place, argument in enumerate(kernel.arg_names):
        if argument in constexprs:
            signature[argument] = "constexpr"
        elif argument in ("weights", "bias_jets"):
            signature[argument] = (number,) * depth
            attrs |= {(place, layer): aligned for layer in range(depth)}
        elif argument in _SIZES:
            signature[argument] = "i32"
        else:
            signature[argument] = "*i64" if argument in _INDICES else "*i32" if argument == "run" else number
            attrs[(place,)] = aligned
    title = f"{kernel.__name__} {name}".strip()
    return Shipped(kernel, title, signature, constexprs, attrs, options, uses_tensor_cores)

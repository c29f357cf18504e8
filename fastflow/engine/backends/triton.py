"""The Triton kernels behind the operators' signatures: sorts the samples, allocates results, and launches.

Nothing here waits for the device, so calls can be captured in a CUDA graph. The number of programs is bounded by the
batch; programs without work find that out themselves.
"""

# The folder kernels/ takes its place in the package when that is built.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.engine.backends.memory import plain
from fastflow.engine.types import MLP, Jet
from fastflow.kernels.configurations import Launch, choose, round_up
from fastflow.kernels.jet_bwd import jet_bwd_kernel
from fastflow.kernels.jet_fwd import jet_fwd_kernel
from fastflow.kernels.reduce import reduce_partials_kernel, reduce_runs_kernel
from fastflow.kernels.residual import residual_kernel
from fastflow.kernels.rotation import rotate_kernel
from fastflow.kernels.tiles import HEADER, LOSS

# The most bytes for scratch and partial gradients of all programs together: where they need more, there are fewer
# programs.
MAX_WORKSPACE = 2**30
REDUCTION_BLOCK = 128


class Schedule(NamedTuple):
    """Samples in the order of their potentials, cut into tiles; see `kernels.tiles.open_tile`.

    slot: their slots in that order. For a gradient of the bias jets, samples of one potential lie in the order of their
    slots. A run is a stretch of samples of one tile and one slot; `run` has the number of each sample's run. run_order
    lists the runs slot by slot, those of slot s from slot_starts[s] on.
    """

    slot: Tensor
    order: Tensor
    starts: Tensor
    tile_ends: Tensor
    tile_potential: Tensor
    run: Tensor
    run_order: Tensor
    slot_starts: Tensor


class Tangents(NamedTuple):
    """The first tangents: seeds, which are X_1^T (K, r, H_1), their squared norms (K, H_1), and the basis.

    seeds = basis W_1^T. basis holds one direction per row: (K, r, D) from a rotation, (r, D) from probes, and None for
    the identity.
    """

    seeds: Tensor
    seed_norms: Tensor
    basis: Tensor | None


def jet(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: str,
    probes: Tensor | None,
    with_u_tt: bool,
    precision: str,
) -> Jet:
    """See `reference.jet`."""
    mlp, z, index, slot = _checked(mlp, z, index, slot)
    scalars = [z.new_empty(len(z)) for _ in range(4)]
    result = Jet(scalars[0], torch.empty_like(z), *scalars[1:])
    if len(z) == 0:
        return result
    tangents = _tangents(mlp, laplacian, probes)
    launch = _launch(mlp, laplacian, tangents, precision, mlp.has_time, backward=False)
    schedule = _schedule(mlp, index, slot, launch, by_slot=False)
    programs = _programs(z, schedule, launch.scratch_size, launch.options["num_warps"])
    scratch = z.new_empty(programs * launch.scratch_size)
    with _device(z):
        jet_fwd_kernel[(programs,)](
            z, *_network(mlp), tangents.seeds, tangents.seed_norms, _probes(tangents, z), *schedule[:5], *result,
            scratch, len(mlp.out_bias), tangents.seeds.shape[1], launch.scratch_size, C=launch.config,
            **launch.options,
        )  # fmt: skip
    if not with_u_tt:
        result.u_tt.zero_()
    return result


def jet_backward(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: str,
    probes: Tensor | None,
    jet_bar: Sequence[Tensor | None],
    with_z: bool,
    precision: str,
) -> list[Tensor]:
    """Compute gradients for z (empty unless with_z) and the network's tensors from cotangents of the jet's parts."""
    mlp, z, index, slot = _checked(mlp, z, index, slot)
    # Without a cotangent of the Laplacian no tangents are needed, and without those of u_t and u_tt no time tangents.
    laplacian = "none" if jet_bar[2] is None else laplacian
    timed = mlp.has_time and not (jet_bar[3] is None and jet_bar[4] is None)
    bars = [
        z.new_zeros(z.shape if i == 1 else len(z)) if bar is None else bar.detach().contiguous()
        for i, bar in enumerate(jet_bar)
    ]
    tangents = _tangents(mlp, laplacian, probes)
    launch = _launch(mlp, laplacian, tangents, precision, timed, backward=True)
    gradient = _Gradient(mlp, z, index, slot, tangents=tangents, launch=launch, with_z=with_z)
    if gradient.programs:
        with _device(z):
            jet_bwd_kernel[(gradient.programs,)](
                z, *_network(mlp), tangents.seeds, tangents.seed_norms, _probes(tangents, z), *gradient.schedule[:6],
                *bars, gradient.z_bar, gradient.run_rows, gradient.partial, gradient.scratch,
                len(mlp.out_bias), tangents.seeds.shape[1], launch.scratch_size, gradient.partial_size,
                C=launch.config, WITH_Z=with_z, **launch.options,
            )  # fmt: skip
    _, *parameters = gradient.finish()
    return [gradient.z_bar, *parameters]


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None, precision: str
) -> Tensor:
    """See `reference.residual_loss`."""
    mlp, z, index, slot = _checked(mlp, z, index, slot)
    tangents = _tangents(mlp, "exact", None)
    launch = _launch(mlp, "exact", tangents, precision, mlp.has_time, backward=False)
    schedule = _schedule(mlp, index, slot, launch, by_slot=False)
    programs = _programs(z, schedule, launch.scratch_size, launch.options["num_warps"])
    losses, scratch = z.new_empty(programs), z.new_empty(programs * launch.scratch_size)
    _clear_losses(scratch, launch)
    coefficients, source = coefficients.detach().contiguous(), None if source is None else source.detach().contiguous()
    with _device(z):
        residual_kernel[(programs,)](
            z, *_network(mlp), tangents.seeds, tangents.seed_norms, coefficients, z if source is None else source,
            *schedule[:6], losses, z, z, z, z, scratch,
            len(z), len(mlp.out_bias), tangents.seeds.shape[1], launch.scratch_size, 0, C=launch.config,
            HAS_SOURCE=source is not None, WITH_GRADIENT=False, WITH_Z=False, **launch.options,
        )  # fmt: skip
    return losses.sum()


def residual_loss_and_gradient(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    with_z: bool,
    precision: str,
) -> list[Tensor]:
    """Return the loss and its gradients for z (empty unless with_z), coefficients, source (empty if None), network."""
    mlp, z, index, slot = _checked(mlp, z, index, slot)
    tangents = _tangents(mlp, "exact", None)
    launch = _launch(mlp, "exact", tangents, precision, mlp.has_time, backward=True)
    gradient = _Gradient(mlp, z, index, slot, tangents=tangents, launch=launch, with_z=with_z)
    losses = z.new_empty(gradient.programs)
    _clear_losses(gradient.scratch, launch)
    coefficients, source = coefficients.detach().contiguous(), None if source is None else source.detach().contiguous()
    source_bar = z.new_empty(0) if source is None else torch.empty_like(source)
    with _device(z):
        residual_kernel[(gradient.programs,)](
            z, *_network(mlp), tangents.seeds, tangents.seed_norms, coefficients, z if source is None else source,
            *gradient.schedule[:6], losses, gradient.z_bar, source_bar, gradient.run_rows, gradient.partial,
            gradient.scratch, len(z), len(mlp.out_bias), tangents.seeds.shape[1], launch.scratch_size,
            gradient.partial_size, C=launch.config, HAS_SOURCE=source is not None, WITH_GRADIENT=True, WITH_Z=with_z,
            **launch.options,
        )  # fmt: skip
    coefficients_bar, *parameters = gradient.finish()
    return [losses.sum(), gradient.z_bar, coefficients_bar, source_bar, *parameters]


class _Gradient:
    """The buffers that a backward launch writes to; `finish` makes the parameters' gradients from them."""

    def __init__(
        self, mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, tangents: Tangents, launch: Launch, with_z: bool
    ) -> None:
        config, num_potentials, slots = launch.config, len(mlp.out_bias), len(mlp.bias_jets[0])
        self.mlp, self.tangents, self.config = mlp, tangents, config
        self.schedule = _schedule(mlp, index, slot, launch, by_slot=True)
        seeds = tangents.seeds.shape[1] * tangents.seeds.shape[2]
        self.partial_size = config.weights_at[-1].value + round_up(seeds)
        size = launch.scratch_size + self.partial_size
        self.programs = _programs(z, self.schedule, size, launch.options["num_warps"]) if len(z) else 0
        self.partial = z.new_empty((self.programs + num_potentials) * self.partial_size)
        self.scratch = z.new_empty(self.programs * launch.scratch_size)
        self.run_rows = z.new_empty(len(self.schedule.run_order), config.bias_at[-1].value)
        self.total = z.new_empty(num_potentials, self.partial_size)
        self.bias_bars = [z.new_empty(slots, *bias.shape[1:]) for bias in mlp.bias_jets]
        self.z_bar = torch.empty_like(z) if with_z else z.new_empty(0)

    def finish(self) -> list[Tensor]:
        """Return the gradients of the coefficients, then of the network's tensors."""
        if self.programs == 0:
            zeros = [torch.zeros_like(tensor) for tensor in self.mlp.tensors()]
            return [self.total.new_zeros(len(self.total), 5), *zeros]
        self._reduce()
        config, total = self.config, self.total
        depth = config.depth.value
        weights = []
        for below, width, place in zip(config.widths[:-1], config.widths[1:], config.weights_at[:-1], strict=True):
            flat = total[:, place.value : place.value + below.value * width.value]
            weights.append(_copy(flat.unflatten(1, (width.value, below.value))))
        if self.tangents.seeds.shape[1]:
            weights[0] = weights[0] + self._from_seeds()
        place, last = config.out_weight_at.value, config.widths[depth].value
        out_weight = _copy(total[:, place : place + last])
        coefficients = _copy(total[:, config.coefficients_at.value : config.coefficients_at.value + 5])
        return [coefficients, *weights, *self.bias_bars, out_weight, _copy(total[:, config.out_bias_at.value])]

    def _reduce(self) -> None:
        config, schedule, row = self.config, self.schedule, self.run_rows.shape[1]
        with _device(self.total):
            grid = (-(-self.partial_size // 1024), len(self.total))
            arguments = (self.partial, schedule.tile_ends, self.total, self.programs, self.partial_size)
            reduce_partials_kernel[grid](*arguments, BLOCK=1024)
            for bar, place in zip(self.bias_bars, config.bias_at[:-1], strict=True):
                width = bar.shape[1] * bar.shape[2]
                grid = (len(bar), -(-width // REDUCTION_BLOCK))
                reduce_runs_kernel[grid](
                    self.run_rows[:, place.value :], schedule.run_order, schedule.slot_starts, bar, row, WIDTH=width,
                    WRITTEN=width if config.timed.value else bar.shape[2], ROWS=16, BLOCK=REDUCTION_BLOCK,
                )  # fmt: skip

    def _from_seeds(self) -> Tensor:
        """Return the part of W_1's gradient that comes through the seeds and their squared norms."""
        config, (seeds, _, basis) = self.config, self.tangents
        place = config.seed_norms_at.value
        seed_norms_bar = self.total[:, None, place : place + seeds.shape[2]]
        seeds_bar = 2 * seed_norms_bar * seeds
        if config.depth.value > 1:
            place = config.weights_at[-1].value
            seeds_bar += self.total[:, place : place + seeds[0].numel()].reshape(seeds.shape)
        return seeds_bar.mT if basis is None else _product(seeds_bar.mT, basis)


def _tangents(mlp: MLP, laplacian: str, probes: Tensor | None) -> Tangents:
    weight = mlp.weights[0]  # (K, H_1, D)
    num_potentials, width, dim = weight.shape
    if laplacian == "none":
        return Tangents(weight.new_empty(num_potentials, 0, width), weight, None)
    basis = None
    if laplacian == "hutchinson":
        assert probes is not None
        basis = probes.detach().to(weight.dtype) / len(probes) ** 0.5  # so that squares add up to the mean
        seeds = _product(basis, weight.mT)
    elif dim > width and len(mlp.weights) > 1:
        # W_1 = R Q^T: the potential bends only along the columns of Q, fewer than the latents have dimensions, and R is
        # triangular. With no more dimensions than units, a rotation would save no direction, only half the second
        # layer's products. At D = H = 128 the rotation takes about as long as that, since its rows wait for each other.
        basis, seeds = torch.empty_like(weight), weight.new_empty(num_potentials, width, width)
        with _device(weight):
            rotate_kernel[(num_potentials,)](
                weight, seeds, basis, HEIGHT=width, WIDTH=dim, ROWS=16, COLUMNS=1 << (dim - 1).bit_length(),
                TINY=8 * torch.finfo(weight.dtype).eps, num_warps=8,
            )  # fmt: skip
    else:
        seeds = weight.mT
    seeds = seeds.contiguous()
    return Tangents(seeds, weight.square().sum(2) if laplacian == "exact" else seeds.square().sum(1), basis)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Compute a small product outside the kernels in full precision, whatever precision torch is set to."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        return a @ b
    finally:
        matmul.fp32_precision = before


def _launch(mlp: MLP, laplacian: str, tangents: Tangents, precision: str, timed: bool, backward: bool) -> Launch:
    widths = (mlp.weights[0].shape[2], *(len(weight[0]) for weight in mlp.weights))
    triangular = laplacian == "exact" and tangents.basis is not None
    double = mlp.out_bias.dtype == torch.float64
    return choose(
        widths,
        activation=mlp.activation,
        out_activation=mlp.out_activation,
        timed=timed,
        laplacian=laplacian,
        triangular=triangular,
        precision="ieee" if double else precision,
        backward=backward,
        itemsize=mlp.out_bias.element_size(),
    )


def _schedule(mlp: MLP, index: Tensor, slot: Tensor, launch: Launch, by_slot: bool) -> Schedule:
    """Sort the samples; also by slot for a gradient of the bias jets, which a forward pass doesn't need."""
    batch, num_potentials, samples = len(index), len(mlp.out_bias), launch.config.samples.value
    slots = len(mlp.bias_jets[0])
    key = index * slots + slot if by_slot else index
    order = torch.argsort(key, stable=True)
    sorted_index, sorted_slot = index[order], slot[order]
    starts = torch.searchsorted(sorted_index, torch.arange(num_potentials + 1, device=index.device))
    tile_ends = ((starts.diff() + samples - 1) // samples).cumsum(0)
    max_tiles = -(-batch // samples) + min(num_potentials, batch)
    tile_potential = torch.searchsorted(tile_ends, torch.arange(max_tiles, device=index.device), right=True)
    if not by_slot:
        return Schedule(
            sorted_slot,
            order,
            starts=starts,
            tile_ends=tile_ends,
            tile_potential=tile_potential,
            run=order,
            run_order=order,
            slot_starts=order,
        )
    place = torch.arange(batch, device=index.device)
    begins = (place - starts[sorted_index]) % samples == 0
    begins[1:] |= key[order].diff() != 0
    run = begins.cumsum(0) - 1
    # At most one run for each tile, and one more for each change of slot within a potential.
    max_runs = min(batch, max_tiles + num_potentials * slots)
    run_slot = torch.full((max_runs,), slots, dtype=torch.long, device=index.device).scatter_(0, run, sorted_slot)
    sorted_runs, run_order = torch.sort(run_slot, stable=True)
    slot_starts = torch.searchsorted(sorted_runs, torch.arange(slots + 1, device=index.device))
    return Schedule(
        sorted_slot,
        order,
        starts=starts,
        tile_ends=tile_ends,
        tile_potential=tile_potential,
        run=run.to(torch.int32),
        run_order=run_order,
        slot_starts=slot_starts,
    )


def _programs(z: Tensor, schedule: Schedule, size: int, num_warps: int) -> int:
    """Return how many programs to launch: what the device holds, or fewer for fewer tiles or too little workspace."""
    # A multiprocessor has registers for eight warps of these programs.
    at_once = 8 // num_warps * torch.cuda.get_device_properties(z.device).multi_processor_count if z.is_cuda else 3
    room = max(1, MAX_WORKSPACE // (size * z.element_size()))
    return min(at_once, len(schedule.tile_potential), room)


def _clear_losses(scratch: Tensor, launch: Launch) -> None:
    """Set the place where each program sums up its loss to zero.

    Programs do so themselves, but a program without tiles has no barrier between writing these zeros and summing them,
    so its other warps may find what was there before.
    """
    samples = launch.config.samples.value
    begin = HEADER.value + LOSS.value * samples
    programs = scratch.unflatten(0, (scratch.numel() // launch.scratch_size, launch.scratch_size))
    programs[:, begin : begin + samples].zero_()


def _checked(mlp: MLP, *tensors: Tensor) -> tuple[Any, ...]:
    """Make tensors contiguous and detached, and indices bounded; an index out of range stops the device."""
    mlp = mlp.with_tensors(plain(*mlp.tensors()))
    z, index, slot = plain(*tensors)
    return mlp, z, _bounded(index, len(mlp.out_bias), "index"), _bounded(slot, len(mlp.bias_jets[0]), "slot")


def _bounded(values: Tensor, count: int, name: str) -> Tensor:
    inside = ((values >= 0) & (values < count)).all()
    torch.ops.aten._assert_async.msg(inside, f"{name} must lie in 0..{count - 1}")
    return values.clamp(0, count - 1)


def _copy(view: Tensor) -> Tensor:
    """Copy a view, since an operator's results must have memory of their own even where the view is contiguous."""
    return view.clone(memory_format=torch.contiguous_format)


def _network(mlp: MLP) -> tuple[Any, ...]:
    return mlp.weights, mlp.bias_jets, mlp.out_weight, mlp.out_bias


def _probes(tangents: Tangents, z: Tensor) -> Tensor:
    return z if tangents.basis is None else tangents.basis


def _device(tensor: Tensor) -> torch.cuda.device:
    """Make the tensor's device current, as Triton launches there; -1 changes nothing, for the interpreter on a CPU."""
    return torch.cuda.device(tensor.device.index if tensor.is_cuda else -1)

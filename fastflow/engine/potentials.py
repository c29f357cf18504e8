"""Banks of learned potential landscapes u_k(z, t): K small networks, stacked; time enters through their biases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.engine.activations import OUT_ACTIVATIONS, check_activation, derivatives
from fastflow.engine.chunking import Piecewise
from fastflow.engine.grouping import group
from fastflow.engine.inputs import (
    Times,
    as_time,
    check_index,
    check_laplacian,
    check_latents,
    check_parameters,
    check_times,
    draw_probes,
)
from fastflow.engine.operators.jet import jet
from fastflow.engine.pde import LinearQuadratic
from fastflow.engine.tracing import any_requires_grad, forward_mode, func_transforms, has_one_value
from fastflow.engine.types import MLP, Jet, Laplacian

# How many biases, of all samples and layers, there are at once where pieces of the samples do: with their derivatives
# and what their computation holds, a few tens of MiB. Where a graph would keep them, a jet's backward computes pieces
# once more: that begins at more.
MAX_BIASES = 3 * 2**17
MAX_BIASES_KEPT = 9 * 2**16
# Of a piece, for each potential: smaller ones would be padding more than samples.
MIN_ROWS = 8

TimeInput = Literal["sinusoidal", "linear", "none"]


class Networks(NamedTuple):
    """Stacked networks bound to samples: what the engine's operators take.

    network (B,): each sample's network in `mlp`. slot: its bias row (B,), or each
    network's at the times of a path (T, K). potential (B,): its potential in the bank.
    """

    mlp: MLP
    network: Tensor
    slot: Tensor
    potential: Tensor


class PotentialBank(nn.Module):
    """K potentials u_k(z, t), each an MLP on z whose biases depend on t; parameters are stacked along a first axis.

    Args:
        num_potentials: K.
        dim: width D of the latents.
        hidden: widths of the hidden layers, one at least.
        activation: "tanh", "sin", "gelu", "silu" or "softplus".
        out_activation: "tanh" or "identity", applied to the scalar output.
        time: "sinusoidal", the network of Song et al. (ICML 2023): an embedding of t through two layers, added to the
            first hidden layer (to the only layer's input where there is one); "linear": t enters the first layer as one
            more input; "none": no dependence on time, u_t and u_tt are zero.

    Raises:
        InputError: a size below one, or an unknown name.
    """

    def __init__(
        self,
        num_potentials: int,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        out_activation: str = "tanh",
        time: TimeInput = "sinusoidal",
    ) -> None:
        super().__init__()
        if not isinstance(hidden, Sequence) or len(hidden) == 0:
            raise InputError(f"hidden must name the width of at least one layer, such as (64, 64), got {hidden!r}")
        for name, size in (("num_potentials", num_potentials), ("dim", dim), *(("hidden", h) for h in hidden)):
            check_count(size, name)
        check_activation(activation)
        check_activation(out_activation, OUT_ACTIVATIONS, "out_activation")
        if time not in ("sinusoidal", "linear", "none"):
            raise InputError(f"time must be one of sinusoidal, linear, none, got {time!r}")
        self.num_potentials, self.dim, self.hidden = num_potentials, dim, tuple(hidden)
        self.activation, self.out_activation, self.time = activation, out_activation, time

        k, first = num_potentials, hidden[0]
        sizes = list(zip((dim, *hidden[:-1]), hidden, strict=True))
        self.weights = nn.ParameterList(_uniform(fan_in, k, width, fan_in) for fan_in, width in sizes)
        self.biases = nn.ParameterList(_uniform(fan_in, k, width) for fan_in, width in sizes)
        self.out_weight = _uniform(hidden[-1], k, hidden[-1])
        self.out_bias = _uniform(hidden[-1], k)
        if time == "sinusoidal":
            embedding = dim + dim % 2
            self.time_weight_in = _uniform(embedding, k, first, embedding)
            self.time_bias_in = _uniform(embedding, k, first)
            self.time_weight_out = _uniform(first, k, first, first)
            self.time_bias_out = _uniform(first, k, first)
        elif time == "linear":
            self.time_weight = _uniform(dim + 1, k, first)

    @override
    def extra_repr(self) -> str:
        return (
            f"num_potentials={self.num_potentials}, dim={self.dim}, hidden={self.hidden}, "
            f"activation={self.activation!r}, out_activation={self.out_activation!r}, time={self.time!r}"
        )

    def forward(self, z: Tensor, t: Times, index: int | Tensor, **options: Any) -> Jet:
        """See `jet`."""
        return self.jet(z, t, index, **options)

    def jet(
        self,
        z: Tensor,
        t: Times,
        index: int | Tensor,
        *,
        laplacian: Laplacian = "exact",
        num_probes: int = 1,
        generator: torch.Generator | None = None,
        with_u_tt: bool = True,
    ) -> Jet:
        """Value, gradient, Laplacian and time derivatives of each sample's potential, exact and differentiable.

        Args:
            z: latents (B, D) of the parameters' dtype.
            t: times; see `fastflow.engine.inputs.Times`.
            index: the potential, one for all or one per sample (B,) long.
            laplacian: "exact" trace of the spatial Hessian; "hutchinson", an unbiased estimate from `num_probes`
                Rademacher probes drawn from `generator`; "none", zeros; "row_sum", the Hessian's row sums (B, D), for
                old runs only.
            with_u_tt: False leaves u_tt zero, which spares its tangents: a tenth of the time of a small network's jet.

        Raises:
            InputError: a shape, dtype or value that doesn't fit, by the argument's name.
        """
        z = check_latents(z, self.dim, self.out_bias)
        check_laplacian(laplacian)
        probes = draw_probes(z, num_probes, generator) if laplacian == "hutchinson" else None

        t = check_times(t, z)

        def part(z: Tensor, t: Times, index: int | Tensor, *parameters: Tensor) -> Jet:
            networks = self.networks(t, index, z, parameters)
            return jet(networks.mlp, z, networks.network, networks.slot, laplacian, probes, with_u_tt)

        pieces = self.pieces(z, t, index)
        if len(pieces) == 1:
            return part(z, t, index)
        return Jet(*Piecewise(part, 3, pieces).each(z, t, index, *self.tensors().values()))

    def pieces(self, z: Tensor, t: Times, index: int | Tensor) -> list[slice]:
        """Samples z (B, D) with their times and potentials: all together, or in pieces where that bounds the memory.

        A time for each sample takes a row of biases for each, most of a call's memory. As many at once are enough as
        keep the engine busy.
        """
        index = index if isinstance(index, int) else check_index(index, self.num_potentials, z)
        everything = slice(0, z.shape[0])
        # Transforms of torch.func can't differentiate in pieces; traced and mapped samples can't be counted.
        if not isinstance(t, Tensor) or t.ndim == 0 or forward_mode() or func_transforms():
            return [everything]
        given = [z, t] if isinstance(index, int) else [z, t, index]
        if not all(map(has_one_value, given)):
            return [everything]
        if any_requires_grad(*given, *self.parameters()) and self._num_biases(index, everything) <= MAX_BIASES_KEPT:
            return [everything]
        return self._halved(index, everything)

    def _halved(self, index: int | Tensor, piece: slice) -> list[slice]:
        least = MIN_ROWS * (1 if isinstance(index, int) else self.num_potentials)
        if piece.stop - piece.start <= least or self._num_biases(index, piece) <= MAX_BIASES:
            return [piece]
        middle = (piece.start + piece.stop) // 2
        halves = slice(piece.start, middle), slice(middle, piece.stop)
        return [part for half in halves for part in self._halved(index, half)]

    def _num_biases(self, index: int | Tensor, piece: slice) -> int:
        # As `group` lays them out: for each potential as many as for the most frequent one.
        if isinstance(index, int):
            return (piece.stop - piece.start) * sum(self.hidden)
        counts = torch.bincount(index[piece], minlength=self.num_potentials)
        return self.num_potentials * int(counts.max()) * sum(self.hidden)

    def networks(
        self, t: Times | tuple[Tensor, None], index: int | Tensor, z: Tensor, parameters: Sequence[Tensor] = ()
    ) -> Networks:
        """The stacked networks with their biases evaluated at the times `t` of samples z (B, D).

        A grid of times without places is that of a path, all of whose samples are at one of them at once. One index
        for all samples selects that network alone, so nothing is computed for the others. `parameters` stand in for the
        bank's own, in the order of `tensors`.
        """
        own = self.tensors()
        check_parameters(own.items())
        given = dict(zip(own, parameters, strict=True)) if parameters else own
        potential = check_index(index, self.num_potentials, z)
        chosen = {name: _chosen(parameter, index) for name, parameter in given.items()}
        weights = tuple(chosen[f"weights.{layer}"] for layer in range(len(self.hidden)))
        out_weight, out_bias = chosen["out_weight"], chosen["out_bias"]
        network = potential - index if isinstance(index, int) else potential
        if isinstance(t, Tensor) and t.ndim == 1:
            grouping = group(network, out_bias.shape[0])
            times, slot = grouping.pack(t), grouping.place
        else:
            grid, place = t if isinstance(t, tuple) else (as_time(t, out_bias).reshape(1), 0)
            times = grid.expand(out_bias.shape[0], -1)
            if place is None:
                slot = torch.arange(times.numel(), device=z.device).view(times.shape).T.contiguous()
            else:
                slot = network * grid.shape[0] + place
        with torch.autocast(z.device.type, enabled=False):  # what is differentiated twice keeps its precision
            bias_jets = self._bias_jets(times.to(out_bias), chosen)
        settings = (self.activation, self.out_activation, self.time != "none")
        mlp = MLP(weights, bias_jets, out_weight, out_bias, *settings)
        return Networks(mlp, network, slot, potential)

    def tensors(self) -> dict[str, Tensor]:
        """What the networks are made of, each stacked along a first axis, by the parameters' names."""
        times = {
            "sinusoidal": ("time_weight_in", "time_bias_in", "time_weight_out", "time_bias_out"),
            "linear": ("time_weight",),
            "none": (),
        }
        return {
            **{f"weights.{layer}": weight for layer, weight in enumerate(self.weights)},
            **{f"biases.{layer}": bias for layer, bias in enumerate(self.biases)},
            **{name: getattr(self, name) for name in ("out_weight", "out_bias", *times[self.time])},
        }

    def coefficients(self, pde: LinearQuadratic, index: int | Tensor) -> Tensor:
        """The equation's coefficients for each network that `networks` gives for this index, (K, 5)."""
        values = pde.coefficients().to(self.out_bias, non_blocking=True)
        if values.ndim == 1:
            return values.expand(1 if isinstance(index, int) else self.num_potentials, 5)
        if values.shape[0] != self.num_potentials:
            raise InputError(f"pde has constants for {values.shape[0]} potentials, the bank has {self.num_potentials}")
        return _chosen(values, index)

    def _bias_jets(self, times: Tensor, chosen: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Each layer's bias with two time derivatives, (K * N, 3, H_l), at times (K, N) of the chosen potentials."""
        jets, nothing = [], times.new_zeros(())
        for layer in range(len(self.hidden)):
            value = chosen[f"biases.{layer}"][:, None].expand(*times.shape, -1)  # (K, N, H)
            zero = nothing.expand_as(value)
            jets.append([value, zero, zero])
        if self.time == "linear":
            value, zero, _ = jets[0]
            weight = chosen["time_weight"][:, None]
            jets[0] = [torch.addcmul(value, times[..., None], weight), weight.expand_as(value), zero]
        elif self.time == "sinusoidal":
            layer = min(1, len(jets) - 1)
            tau = self._time_network(times, chosen)
            if layer == 1:
                tau = [component @ chosen["weights.1"].mT for component in tau]
            jets[layer] = [jets[layer][0] + tau[0], tau[1], tau[2]]
        return tuple(torch.stack(jet, 2).flatten(0, 1) for jet in jets)

    def _time_network(self, times: Tensor, chosen: Mapping[str, Tensor]) -> list[Tensor]:
        """tau(t) = V_2 gelu(V_1 e(t) + c_1) + c_2 with two time derivatives, each (K, N, H_1)."""
        embedding, velocity, acceleration = sinusoidal_embedding(times, self.dim)
        weight_in, weight_out = chosen["time_weight_in"].mT, chosen["time_weight_out"].mT
        a = embedding @ weight_in + chosen["time_bias_in"][:, None]
        a_t, a_tt = velocity @ weight_in, acceleration @ weight_in
        h, slope, curvature = derivatives("gelu", a)
        return [
            h @ weight_out + chosen["time_bias_out"][:, None],
            (slope * a_t) @ weight_out,
            (slope * a_tt + curvature * a_t**2) @ weight_out,
        ]


def check_bank(bank: PotentialBank) -> None:
    """Raise InputError unless it is a bank."""
    if not isinstance(bank, PotentialBank):
        raise InputError(f"bank must be a PotentialBank, got {type(bank).__name__}")


def sinusoidal_embedding(t: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sin and cos of t at the frequencies 10000^(-i / (n - 1)), i < n, with two time derivatives.

    Args:
        t: times (...,). dim: D; n = ceil(D / 2), so that odd widths are padded to even and D = 2 has the frequency 1.

    Returns:
        Three tensors (..., 2 n): the embedding, all sines first, and its first and second derivative.
    """
    half = (dim + 1) // 2
    exponent = torch.arange(half, dtype=t.dtype, device=t.device) / max(half - 1, 1)
    frequency = torch.exp(-math.log(10000.0) * exponent)
    phase = t[..., None] * frequency
    sine, cosine = phase.sin(), phase.cos()
    return (
        torch.cat((sine, cosine), -1),
        torch.cat((frequency * cosine, -frequency * sine), -1),
        torch.cat((-(frequency**2) * sine, -(frequency**2) * cosine), -1),
    )


def _chosen(x: Tensor, index: int | Tensor) -> Tensor:
    """Of a tensor (K, ...) what one index for all samples needs, (1, ...), or else all of it."""
    return x[index : index + 1] if isinstance(index, int) else x


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """nn.Linear's own initialisation, uniform within 1 / sqrt(fan_in)."""
    return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))

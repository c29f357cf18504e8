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
from fastflow.engine.activations import OUT_ACTIVATIONS, check_activation, gelu_within_rounding
from fastflow.engine.chunking import Piecewise
from fastflow.engine.grouping import group
from fastflow.engine.inputs import (
    Index,
    Samples,
    Times,
    check_index,
    check_laplacian,
    check_latents,
    check_parameters,
    check_time,
    check_with_u_tt,
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
    """Stacked networks bound to samples: what the engine's operators take beside the latents.

    network (B,): each sample's network in `mlp`. slot: its bias row (B,), or for a path each network's bias row at each
    of the path's times (T, K).
    """

    mlp: MLP
    network: Tensor
    slot: Tensor


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
        return self.jet_of(
            self.samples(z, t, index),
            laplacian=laplacian,
            num_probes=num_probes,
            generator=generator,
            with_u_tt=with_u_tt,
        )

    def samples(self, z: Tensor, t: Times, index: int | Tensor) -> Samples:
        """The samples that a caller means; raise InputError unless they fit the bank."""
        z = check_latents(z, self.dim, self.out_bias)
        return Samples(z, check_time(t, z), check_index(index, self.num_potentials, z))

    def jet_of(
        self,
        samples: Samples,
        *,
        laplacian: Laplacian = "exact",
        num_probes: int = 1,
        generator: torch.Generator | None = None,
        with_u_tt: bool = True,
    ) -> Jet:
        """The `jet` of samples that have been checked."""
        check_laplacian(laplacian)
        check_with_u_tt(with_u_tt)
        probes = draw_probes(samples.z, num_probes, generator) if laplacian == "hutchinson" else None
        tensors = self.tensors()

        def whole(samples: Samples, tensors: Mapping[str, Tensor]) -> Jet:
            networks = self.networks(samples, tensors)
            bound = networks.mlp, samples.z, networks.network, networks.slot
            return jet(*bound, laplacian=laplacian, probes=probes, with_u_tt=with_u_tt)

        def part(z: Tensor, times: Tensor, each: Tensor, *parameters: Tensor) -> Jet:
            return whole(samples.with_columns(z, times, each), dict(zip(tensors, parameters, strict=True)))

        pieces = self.pieces(samples)
        if len(pieces) == 1:
            return whole(samples, tensors)
        return Jet(*Piecewise(part, 3, pieces).each(*samples.columns(), *tensors.values()))

    def pieces(self, samples: Samples) -> list[slice]:
        """All samples together, or in pieces where that bounds the memory.

        A time for each sample takes a row of biases for each, most of a call's memory. As many at once are enough as
        keep the engine busy.
        """
        everything, index = slice(0, samples.z.shape[0]), samples.potential
        # Transforms of torch.func can't differentiate in pieces; traced and mapped samples can't be counted.
        if samples.time.place is not None or forward_mode() or func_transforms():
            return [everything]
        columns = samples.columns()
        if not all(map(has_one_value, columns)):
            return [everything]
        if any_requires_grad(*columns, *self.parameters()) and self._num_biases(index, everything) <= MAX_BIASES_KEPT:
            return [everything]
        return self._halved(index, everything)

    def _halved(self, index: Index, piece: slice) -> list[slice]:
        least = MIN_ROWS * (self.num_potentials if index.one is None else 1)
        if piece.stop - piece.start <= least or self._num_biases(index, piece) <= MAX_BIASES:
            return [piece]
        middle = (piece.start + piece.stop) // 2
        halves = slice(piece.start, middle), slice(middle, piece.stop)
        return [part for half in halves for part in self._halved(index, half)]

    def _num_biases(self, index: Index, piece: slice) -> int:
        # As `group` lays them out: for each potential as many as for the most frequent one.
        if index.one is not None:
            return (piece.stop - piece.start) * sum(self.hidden)
        counts = torch.bincount(index.each[piece], minlength=self.num_potentials)
        return self.num_potentials * int(counts.max()) * sum(self.hidden)

    def networks(self, samples: Samples, tensors: Mapping[str, Tensor]) -> Networks:
        """The networks of the samples' potentials, with their biases evaluated at the samples' times.

        One index for all samples selects that network alone, so nothing is computed for the others.

        Args:
            tensors: those of `tensors`, or others in their place.
        """
        chosen, network = _chosen_tensors(tensors, samples.potential)
        num_networks = chosen["out_bias"].shape[0]
        values, place = samples.time
        if place is None:
            grouping = group(network, num_networks)
            times, slot = grouping.pack(values), grouping.place
        else:
            times, slot = values.expand(num_networks, -1), torch.add(place, network, alpha=values.shape[0])
        return Networks(self._mlp(times, chosen), network, slot)

    def networks_along(self, times: Tensor, index: Index) -> Networks:
        """The same for samples that are all at one of these times (T,) at once, as those of a path are."""
        chosen, network = _chosen_tensors(self.tensors(), index)
        times = times.expand(chosen["out_bias"].shape[0], -1)
        slot = torch.arange(times.numel(), device=times.device).view(times.shape).T.contiguous()
        return Networks(self._mlp(times, chosen), network, slot)

    def _mlp(self, times: Tensor, chosen: Mapping[str, Tensor]) -> MLP:
        """The chosen networks, with a row of biases for each of their times (K, N)."""
        out_weight, out_bias = chosen["out_weight"], chosen["out_bias"]
        with torch.autocast(times.device.type, enabled=False):  # what is differentiated twice keeps its precision
            bias_jets = self._bias_jets(times.to(out_bias), chosen)
        weights = tuple(chosen[f"weights.{layer}"] for layer in range(len(self.hidden)))
        settings = (self.activation, self.out_activation, self.time != "none")
        return MLP(weights, bias_jets, out_weight, out_bias, *settings)

    def tensors(self) -> dict[str, Tensor]:
        """What the networks are made of, each stacked along a first axis, by the parameters' names.

        Raises:
            InputError: they aren't of one dtype and on one device.
        """
        times = {
            "sinusoidal": ("time_weight_in", "time_bias_in", "time_weight_out", "time_bias_out"),
            "linear": ("time_weight",),
            "none": (),
        }
        tensors = {
            **{f"weights.{layer}": weight for layer, weight in enumerate(self.weights)},
            **{f"biases.{layer}": bias for layer, bias in enumerate(self.biases)},
            **{name: getattr(self, name) for name in ("out_weight", "out_bias", *times[self.time])},
        }
        check_parameters(tensors.items())
        return tensors

    def coefficients(self, pde: LinearQuadratic, index: Index) -> Tensor:
        """The equation's coefficients for each network that `networks` gives for this index, (K, 5)."""
        values = pde.coefficients().to(self.out_bias, non_blocking=True)
        if values.ndim == 1:
            return values.expand(self.num_potentials if index.one is None else 1, 5)
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
                tau = [torch.bmm(component, chosen["weights.1"].mT) for component in tau]
            jets[layer] = [jets[layer][0] + tau[0], tau[1], tau[2]]
        return tuple(torch.stack(jet, 2).flatten(0, 1) for jet in jets)

    def _time_network(self, times: Tensor, chosen: Mapping[str, Tensor]) -> list[Tensor]:
        """tau(t) = V_2 gelu(V_1 e(t) + c_1) + c_2 with two time derivatives, each (K, N, H_1)."""
        embedding, velocity, acceleration = sinusoidal_embedding(times, self.dim)
        weight_in, weight_out = chosen["time_weight_in"].mT, chosen["time_weight_out"].mT
        # bmm: `@` would expand and reshape first, which is most of its time here
        a = torch.bmm(embedding, weight_in) + chosen["time_bias_in"][:, None]
        a_t, a_tt = torch.bmm(velocity, weight_in), torch.bmm(acceleration, weight_in)
        h, slope, curvature = gelu_within_rounding(a)
        return [
            torch.bmm(h, weight_out) + chosen["time_bias_out"][:, None],
            torch.bmm(slope * a_t, weight_out),
            torch.bmm(slope * a_tt + curvature * a_t**2, weight_out),
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
    squared = -(frequency**2)
    return (
        torch.cat((sine, cosine), -1),
        torch.cat((frequency * cosine, -frequency * sine), -1),
        torch.cat((squared * sine, squared * cosine), -1),
    )


def _chosen(x: Tensor, index: Index) -> Tensor:
    """A tensor (K, ...), or its one row (1, ...) if all samples have the same index."""
    return x if index.one is None else x[index.one : index.one + 1]


def _chosen_tensors(tensors: Mapping[str, Tensor], index: Index) -> tuple[dict[str, Tensor], Tensor]:
    """The same of each tensor, and each sample's place in them (B,)."""
    chosen = {name: _chosen(tensor, index) for name, tensor in tensors.items()}
    return chosen, index.each if index.one is None else index.each - index.one


def _uniform(fan_in: int, *shape: int) -> nn.Parameter:
    """nn.Linear's own initialisation, uniform within 1 / sqrt(fan_in)."""
    return nn.Parameter(torch.empty(shape).uniform_(-1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in)))

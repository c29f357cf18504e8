"""Calls on many samples, a piece of them at a time: what a call on all gives, in the memory of a piece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from fastflow.engine.tracing import any_requires_grad, second_backward_may_follow


class Piecewise(NamedTuple):
    """A function of samples that goes through them piece by piece and keeps no piece's graph.

    Gradients are exact; those that are to be differentiated once more are taken of all samples together.

    function: gives a tuple of tensors, and takes `num_each` arguments with a row for each sample, then others, which
        all pieces share. Those that aren't tensors are passed as they are. No further tensor that requires a gradient
        may enter its results. pieces: they cover the samples in their order.
    """

    function: Callable[..., tuple[Tensor, ...]]
    num_each: int
    pieces: Sequence[slice]

    def each(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The function's results, which have a row for each sample; a backward computes them once more."""
        return _Each.apply(self, *arguments) if _differentiable(arguments) else self.joined(arguments)

    def mean(self, *arguments: Any) -> Tensor:
        """The function's only result, a mean over the samples; its gradients are computed together with it."""
        if _differentiable(arguments):
            return _Mean.apply(self, *arguments)
        return self.average(lambda piece: self.function(*self.of(piece, arguments))[0], arguments[0])

    def of(self, piece: slice, arguments: Sequence[Any]) -> list[Any]:
        """What the function takes for this piece."""
        each, shared = arguments[: self.num_each], arguments[self.num_each :]
        return [*(x[piece] if isinstance(x, Tensor) else x for x in each), *shared]

    def share(self, piece: slice) -> float:
        """A piece's part of all samples."""
        return (piece.stop - piece.start) / self.pieces[-1].stop

    def average(self, mean_of: Callable[[slice], Tensor], like: Tensor) -> Tensor:
        """The mean over all samples from those over pieces, added up in double; of the dtype and device of `like`."""
        total = like.new_zeros((), dtype=torch.float64)
        for piece in self.pieces:
            total += self.share(piece) * mean_of(piece)
        return total.to(like.dtype)

    def joined(self, arguments: Sequence[Any]) -> tuple[Tensor, ...]:
        """The results for all samples, without a graph."""
        whole: tuple[Tensor, ...] = ()
        for piece in self.pieces:
            results = self.function(*self.of(piece, arguments))
            # Written where it belongs at once: results that wait for the last one would scatter the memory.
            whole = whole or tuple(x.new_empty(self.pieces[-1].stop, *x.shape[1:]) for x in results)
            for all_values, values in zip(whole, results, strict=True):
                all_values[piece] = values
        return whole


class _Gradients:
    """Gradients for the wanted ones of a function's arguments, gathered from its pieces."""

    def __init__(self, call: Piecewise, arguments: Sequence[Any], wanted: Sequence[bool]) -> None:
        self.call, self.arguments, self.wanted = call, arguments, wanted
        # What pieces share has a sum over them, kept in double.
        dtypes = [None] * call.num_each + [torch.float64] * (len(arguments) - call.num_each)
        zeros = zip(arguments, wanted, dtypes, strict=True)
        self.totals = [torch.zeros_like(x, dtype=dtype) if w else None for x, w, dtype in zeros]

    def add(self, piece: slice, bars: Sequence[Tensor | float | None]) -> tuple[Tensor, ...]:
        """Take in a piece, whose results have these cotangents, and give the results."""
        given = zip(self.call.of(piece, self.arguments), self.wanted, strict=True)
        leaves = [x.detach().requires_grad_(w) if isinstance(x, Tensor) else x for x, w in given]
        # This graph is its own: a checkpoint around the call has no part in it.
        with torch.enable_grad(), saved_tensors_hooks(lambda x: x, lambda x: x):
            results = self.call.function(*leaves)
            # As a backward after the call would be: out of the reach of an autocast around it.
            with torch.autocast(results[0].device.type, enabled=False):
                gradients = _gradients(results, leaves, self.wanted, bars)
        for i, (total, gradient) in enumerate(zip(self.totals, gradients, strict=True)):
            if total is not None and gradient is not None:
                (total[piece] if i < self.call.num_each else total).add_(gradient)
        return tuple(x.detach() for x in results)

    def result(self) -> list[Tensor | None]:
        """The gradients, None for arguments without."""
        pairs = zip(self.totals, self.arguments, strict=True)
        return [None if total is None else total.to(x.dtype) for total, x in pairs]


class _Each(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Piecewise, *arguments: Any) -> tuple[Tensor, ...]:
        _save(ctx, call, arguments)
        ctx.set_materialize_grads(False)
        return call.joined(arguments)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted, (arguments, _) = ctx.needs_input_grad[1:], _saved(ctx)
        if second_backward_may_follow():
            return None, *_gradients_of_all(ctx.call, arguments, wanted, bars)
        gradients = _Gradients(ctx.call, arguments, wanted)
        for piece in ctx.call.pieces:
            gradients.add(piece, [None if bar is None else bar[piece] for bar in bars])
        return None, *gradients.result()


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Piecewise, *arguments: Any) -> Tensor:
        gradients = _Gradients(call, arguments, ctx.needs_input_grad[1:])
        mean = call.average(lambda piece: gradients.add(piece, [call.share(piece)])[0], arguments[0])
        _save(ctx, call, arguments, gradients.result())
        return mean

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Tensor | None, ...]:
        arguments, gradients = _saved(ctx)
        if second_backward_may_follow():
            return None, *_gradients_of_all(ctx.call, arguments, ctx.needs_input_grad[1:], bars)
        return None, *(None if gradient is None else bars[0] * gradient for gradient in gradients)


def _save(ctx: Any, call: Piecewise, arguments: Sequence[Any], gradients: Sequence[Tensor | None] = ()) -> None:
    ctx.call, ctx.others = call, [None if isinstance(x, Tensor) else x for x in arguments]
    ctx.save_for_backward(*(x if isinstance(x, Tensor) else None for x in arguments), *gradients)


def _saved(ctx: Any) -> tuple[list[Any], Sequence[Tensor | None]]:
    """The arguments and gradients that `_save` was given."""
    saved, count = ctx.saved_tensors, len(ctx.others)  # looked at once: a checkpoint gives them only once
    arguments = [other if x is None else x for x, other in zip(saved[:count], ctx.others, strict=True)]
    return arguments, saved[count:]


def _gradients_of_all(
    call: Piecewise, arguments: Sequence[Any], wanted: Sequence[bool], bars: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated, of all samples together: their graph would hold every piece anyway."""
    with torch.enable_grad():
        # Aliases, since one argument may be computed from another, to which its gradient isn't to be added here.
        own = [x.view_as(x) if isinstance(x, Tensor) else x for x in arguments]
        return _gradients(call.function(*own), own, wanted, bars, create_graph=True)


def _gradients(
    results: Sequence[Tensor],
    arguments: Sequence[Any],
    wanted: Sequence[bool],
    bars: Sequence[Tensor | float | None],
    *,
    create_graph: bool = False,
) -> list[Tensor | None]:
    """The gradient for each wanted argument, None for the others. A cotangent that is None is zero."""
    pairs = [(x, bar) for x, bar in zip(results, bars, strict=True) if bar is not None and x.requires_grad]
    asked = [x for x, w in zip(arguments, wanted, strict=True) if w]
    if not pairs:
        found = iter(map(torch.zeros_like, asked))
    else:
        outputs = [x for x, _ in pairs]
        cotangents = [bar if isinstance(bar, Tensor) else torch.full_like(x, bar) for x, bar in pairs]
        options = {"create_graph": create_graph, "materialize_grads": True}
        found = iter(torch.autograd.grad(outputs, asked, cotangents, **options))
    return [next(found) if w else None for w in wanted]


def _differentiable(arguments: Sequence[Any]) -> bool:
    return any_requires_grad(*(x for x in arguments if isinstance(x, Tensor)))

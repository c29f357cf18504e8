"""What all autograd functions of this folder share."""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TypeVar

from torch.autograd import Function

_Function = TypeVar("_Function", bound=type[Function])
_ANY_NUMBER = Signature([Parameter("arguments", Parameter.VAR_POSITIONAL)])


def quick_to_apply(function: _Function) -> _Function:
    """Let `apply` pass its arguments on as they are.

    It fills in defaults otherwise, which our functions don't have, and for that reads the signature of `forward` anew
    at each call: a tenth of the time of a loss of few samples.
    """
    function.forward.__signature__ = _ANY_NUMBER
    return function

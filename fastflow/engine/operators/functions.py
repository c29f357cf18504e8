"""What all operators and autograd functions of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, TypeVar

from torch import Tensor
from torch.autograd import Function
from torch.utils._pytree import tree_leaves

from fastflow.core.errors import InputError

_Function = TypeVar("_Function", bound=type[Function])
_ANY_NUMBER = Signature([Parameter("arguments", Parameter.VAR_POSITIONAL)])


def quick_to_apply(function: _Function) -> _Function:
    """Let `apply` pass its arguments on as they are.

    It fills in defaults otherwise, which our functions don't have, and for that reads the signature of `forward` anew
    at each call: a tenth of the time of a loss of few samples.
    """
    function.forward.__signature__ = _ANY_NUMBER
    return function


def fake(operator: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register an operator's fake, which torch also calls where one of several tensors is on the meta device.

    Then the results would be on the device of the others, and would never be computed.
    """

    def register(function: Callable[..., Any]) -> Any:
        @wraps(function)
        def checked(*arguments: Any) -> Any:
            devices = sorted({str(x.device) for x in tree_leaves(arguments) if isinstance(x, Tensor)})
            if len(devices) > 1:
                raise InputError(
                    f"all tensors of {operator._qualname} must be on one device, got {' and '.join(devices)}: move them"
                )
            return function(*arguments)

        return operator.register_fake(checked)

    return register

"""How functions become operators: as by `torch.library.custom_op`, without what that does at every call.

Its check that no output aliases an input and its Python autograd kernel take as long as a small call of the engine. The
operators here give tensors of their own, and are called where nothing requires gradients: in autograd functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("fastflow", "FRAGMENT")


class Operator:
    """A function registered as the operator `fastflow::<name>`, which mutates nothing."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = f"fastflow::{name}"
        schema = torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")

    def register_fake(self, function: Callable[..., Any]) -> None:
        """The outputs' shapes and dtypes, for tracing."""
        torch.library.register_fake(self.name, function, lib=_LIBRARY)

    def register_vmap(self, rule: Callable[..., Any]) -> None:
        """The operator under torch.vmap."""
        torch.library.register_vmap(self.name, rule, lib=_LIBRARY)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Register the function below as the operator `fastflow::<name>`; its annotations give the schema."""
    return lambda function: Operator(name, function)

"""The backends' modules keep to the table's protocols."""

import inspect

import pytest

from fastflow.engine.backends import table


def functions(protocol: type) -> dict[str, list[str]]:
    """The protocol's functions with their parameters' names."""
    found = inspect.getmembers(protocol, lambda x: inspect.isfunction(x) and not x.__name__.startswith("_"))
    return {name: list(inspect.signature(function).parameters)[1:] for name, function in found}


@pytest.mark.parametrize(
    ("protocol", "loader"),
    [(protocol, loader) for protocol, loaders in
     ((table.Jets, table.JETS), (table.Paths, table.PATHS), (table.Rollouts, table.ROLLOUTS))
     for loader in loaders.values()],
    ids=lambda value: value.__name__,
)  # fmt: skip
def test_a_module_has_the_functions_of_its_protocol(protocol, loader):
    if loader is table.JETS["triton"]:
        pytest.importorskip("triton", reason="triton is for Linux alone")
    module = loader()
    for name, parameters in functions(protocol).items():
        assert list(inspect.signature(getattr(module, name)).parameters) == parameters

"""Configurations: typed values, known keys, sensible sizes, and messages that say which."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from annotated_types import Ge, Gt, Lt
from support.runs import sigmoid_generator, small_config

from fastflow.core.errors import InputError
from fastflow.engine.pde import EQUATIONS
from fastflow.engine.types import Jet
from fastflow.training.config_file import check_settings, from_dict
from fastflow.training.discover import Discovery
from fastflow.training.flow_config import DiscoverConfig


def test_configuration_survives_json():
    config = small_config(step_length=0.5, learn_pde=False, pde="heat")
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    assert from_dict(DiscoverConfig, values, "there") == config


def test_missing_keys_take_the_defaults():
    assert from_dict(DiscoverConfig, {"steps": 5}, "there") == DiscoverConfig(steps=5)


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small_config().steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_unknown_key_is_named_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"^there has an unknown key 'num_potential'; expected some of num_potentials, "
    ):
        from_dict(DiscoverConfig, {"num_potential": 3}, "there")


@pytest.mark.parametrize("value", ["\x1b[31mred", ["wave", "\x1b]0;title\x07"]])
def test_texts_that_a_terminal_would_follow_are_refused(value):
    with pytest.raises(InputError, match=r"^there: pde must be a text without escape characters, got ") as refused:
        from_dict(DiscoverConfig, {"pde": value}, "there")
    assert "\x1b" not in str(refused.value)


REFUSED = [
    ("learn_pde", "false", "must be true or false, got 'false'"),
    ("learn_pde", 0, "must be true or false, got 0"),
    ("steps", True, "must be a whole number, got True"),
    ("steps", 2.0, "must be a whole number, got 2.0"),
    ("steps", "10", "must be a whole number, got '10'"),
    ("steps", 0, "must be above 0, got 0"),
    ("num_potentials", 0, "must be above 0, got 0"),
    ("num_potentials", -1, "must be above 0, got -1"),
    ("batch_size", 0, "must be above 0, got 0"),
    ("path_steps", 0, "must be above 0, got 0"),
    ("log_every", 0, "must be above 0, got 0"),
    ("checkpoint_every", 0, "must be above 0, got 0"),
    ("learning_rate", 0.0, "must be above 0, got 0.0"),
    ("learning_rate", float("nan"), "must be a finite number, got nan"),
    ("learning_rate", "1e-3", "must be a finite number, got '1e-3'"),
    ("dt", float("inf"), "must be a finite number, got inf"),
    ("dt", True, "must be a finite number, got True"),
    ("seed", -1, "must be 0 or above, got -1"),
    ("seed", 2**63, "must be below 2^63"),
    ("pde_weight", -0.5, "must be 0 or above, got -0.5"),
    ("step_length", 0.0, "must be above 0, got 0.0"),
    ("step_length", "long", "must be a finite number or none, got 'long'"),
    ("hidden", [], "each at least 1"),
    ("hidden", [8, 0], "each at least 1"),
    ("hidden", [8, "8"], "must be a list, each a whole number"),
    ("hidden", 8, "must be a list, each a whole number, got 8"),
    ("activation", "relu", "must be one of tanh, sin, gelu, silu, softplus, got 'relu'"),
    ("time", None, "must be one of sinusoidal, linear, none, got None"),
    ("pde", "waves", "must be one of wave, "),
    ("time", "none", "must be sinusoidal or linear for pde wave, which has derivatives in time; only helmholtz and"),
    ("dt", 10**400, "must be a finite number, got 1000"),
    ("method", "rk5", "must be one of euler, heun, rk4, got 'rk5'"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=[f"{name}={value!r}" for name, value, _ in REFUSED])
def test_refused_values_name_the_setting_and_its_origin(name, value, message):
    with pytest.raises(InputError) as error:
        from_dict(DiscoverConfig, {name: value}, "there")
    assert str(error.value).startswith(f"there: {name} must")
    assert message in str(error.value)
    if not isinstance(value, list):
        with pytest.raises(InputError, match=f"^{name} must"):
            DiscoverConfig(**{name: value})


@pytest.mark.parametrize("pde", EQUATIONS)
def test_potentials_without_time_are_for_equations_without_it(pde):
    # What the residual is made of: an equation that knows of time has it change with u_t or u_tt.
    jet = [torch.full((2, 3) if name == "grad" else (2,), 1.5) for name in Jet._fields]
    still, moving = Jet(*jet)._replace(u_t=torch.zeros(2), u_tt=torch.zeros(2)), Jet(*jet)
    if torch.equal(EQUATIONS[pde]()(still), EQUATIONS[pde]()(moving)):
        assert small_config(time="none", pde=pde).pde == pde
    else:
        with pytest.raises(InputError, match=f"time must be sinusoidal or linear for pde {pde}"):
            small_config(time="none", pde=pde)


@pytest.mark.parametrize("force", ["none", "constant"])
def test_a_residual_that_is_its_only_term_is_refused(force):
    with pytest.raises(InputError, match="learn_pde must be true for pde poisson, unless residual is square or force"):
        small_config(pde="poisson", learn_pde=False, force=force)
    for changes in ({"residual": "square"}, {"force": "field"}):
        task = Discovery(small_config(pde="poisson", learn_pde=False, **changes), sigmoid_generator())
        batch = task.draw(1)
        task._residual(batch.z0, batch.potential)[0].backward()
        assert task.bank.weights[0].grad.abs().max() > 0


def test_a_list_of_widths_is_as_good_as_a_tuple():
    assert small_config(hidden=[5, 6]) == small_config(hidden=(5, 6))
    assert hash(small_config(hidden=[5, 6])) == hash(small_config(hidden=(5, 6)))


def test_every_step_has_a_sample_for_every_potential():
    assert small_config(num_potentials=4, batch_size=4).batch_size == 4
    with pytest.raises(InputError, match="batch_size must be at least num_potentials, 4"):
        small_config(num_potentials=4, batch_size=3)


def test_types_of_any_configuration():
    @dataclass(frozen=True)
    class Settings:
        name: str = "digits"
        widths: tuple[float, ...] = ()

    check_settings(Settings(widths=(1, 2.5)))
    with pytest.raises(InputError, match="name must be a text, got 3"):
        check_settings(Settings(name=3))  # pyright: ignore[reportArgumentType]


def even(name, value):
    if value % 2:
        raise InputError(f"{name} must be even, got {value}")
    return value


@dataclass(frozen=True)
class Constrained:
    above: Annotated[float, Gt(0.5)] = 1.0
    between: Annotated[int, Ge(0), Lt(2**63)] = 0
    optional: Annotated[float, Gt(0)] | None = None
    number: Annotated[int, even] = 2
    names: tuple[str, ...] = ()


CONSTRAINTS = {
    "above": (0.5, "above must be above 0.5, got 0.5"),
    "between": (-1, "between must be 0 or above, got -1"),
    "optional": (0, "optional must be above 0, got 0"),
    "number": (3, "number must be even, got 3"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *rest) for name, rest in CONSTRAINTS.items()])
def test_constraints_stand_at_their_fields(name, value, message):
    check_settings(Constrained(optional=0.1))
    with pytest.raises(InputError) as error:
        check_settings(Constrained(**{name: value}))
    assert str(error.value) == message


def test_large_bounds_are_written_as_powers():
    with pytest.raises(InputError, match=r"^between must be below 2\^63, got 9223372036854775808$"):
        check_settings(Constrained(between=2**63))


def test_types_are_checked_before_constraints():
    with pytest.raises(InputError, match="number must be a whole number, got 'two'"):
        check_settings(Constrained(above=0.0, number="two"))  # pyright: ignore[reportArgumentType]


def test_lists_become_tuples():
    settings = Constrained(names=["a", "b"])  # pyright: ignore[reportArgumentType]
    check_settings(settings)
    assert settings.names == ("a", "b")

"""Loading generators by name: bundled ones, state dicts of known architectures, archives, and functions in files."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from fastflow.core.devices import torch_as_usual
from fastflow.core.errors import InputError
from fastflow.core.plugins import function_in, names_function, running
from fastflow.generators.archives import archive, check_program
from fastflow.generators.autoencoder_kl import load_autoencoder_kl
from fastflow.generators.base import Decode, Generator, from_callable
from fastflow.generators.biggan import load_biggan
from fastflow.generators.dcgan import dcgan_from, faces
from fastflow.generators.digits import DigitsVAE
from fastflow.generators.finals import FINALS
from fastflow.generators.sngan import sngan_from
from fastflow.generators.specs import ARCHIVE, FUNCTION, Spec
from fastflow.generators.state_dicts import read_state_dict
from fastflow.generators.vae import conv_decoder_from, mlp_decoder_from


@dataclass(frozen=True)
class _Architecture:
    """How to build a generator of one kind from a path, and which options may follow the path."""

    build: Callable[..., Generator]
    options: tuple[str, ...] = ()


def _from_state_dict(read: Callable[..., Any], usual: str) -> Callable[..., Generator]:
    """How to build a generator from a state dict; `usual` is its last activation unless an option says which."""

    def build(path: str, **options: Any) -> Generator:
        final = options.get("final", usual)
        value_range = options.pop("range", FINALS[final].value_range)
        net = read(read_state_dict(path), f"weights file {path!r}", **options)
        return Generator(net, net.latent_dim, value_range=value_range)

    return build


NAMED: dict[str, Callable[[], Generator]] = {"digits-vae": DigitsVAE, "faces": faces}

ARCHITECTURES = {
    "sngan": _Architecture(_from_state_dict(sngan_from, "tanh"), ("final", "range")),
    "dcgan": _Architecture(_from_state_dict(dcgan_from, "tanh"), ("final", "range")),
    "mlp-vae": _Architecture(_from_state_dict(mlp_decoder_from, "sigmoid"), ("layers", "shape", "final", "range")),
    "conv-vae": _Architecture(_from_state_dict(conv_decoder_from, "sigmoid"), ("final", "range")),
    "biggan": _Architecture(load_biggan, ("classes", "truncation")),
    "autoencoder-kl": _Architecture(load_autoencoder_kl, ("size",)),
}

_WRAPPED = ("latent_dim", "range", "output")  # the options of archives, and of functions that map latents to images
_ARCHIVES = (".pt", ".pth", ".pt2", ".ts", ".jit")


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(":"))
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(text)
    return low, high


def _final(text: str) -> str:
    if text not in FINALS:
        raise ValueError(text)
    return text


def _output(text: str) -> str | int:
    if not text:
        raise ValueError(text)
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


# Each option's reader of its text, and an example of the text.
_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "classes": (lambda text: tuple(map(int, text.split("+"))), "207+208"),
    "final": (_final, "tanh"),
    "latent_dim": (int, "128"),
    "layers": (lambda text: tuple(text.split("+")), "fc3+fc4"),
    "output": (_output, "sample"),
    "range": (_range, "-1:1"),
    "shape": (_shape, "1x28x28"),
    "size": (int, "64"),
    "truncation": (float, "0.4"),
}


@torch_as_usual()
def load(spec: str, latent_dim: int | None = None) -> Generator:
    """The generator that `spec` names; its `name` finds it again from anywhere.

    Args:
        spec: one of
            a bundled generator's name, digits-vae or faces;
            KIND:PATH, weights of a known architecture: sngan, dcgan, mlp-vae or conv-vae and a state dict's file,
            biggan or autoencoder-kl and a folder;
            FILE.pt, an archive of torch.jit.save or torch.export.save;
            FILE.py:FUNCTION. The function either takes no arguments and returns a generator, or maps latents
            (B, latent_dim) to images (B, C, H, W) itself, as an nn.Module may too. FILE.py can import what lies beside
            it, which comes before installed packages. Archives and functions are programs, and are run.
            Options follow a path after commas: biggan:FOLDER,classes=207+208,truncation=0.4 or
            FILE.pt,latent_dim=128,range=-1:1. An archive and a function that maps latents to images have the options
            latent_dim, range and, if they return several outputs, output: FILE.py:FUNCTION,output=sample.
        latent_dim: the width of the latents; an archive needs it, unless it is among its options, and so does a
            function of the second kind.

    Raises:
        InputError: there is no such generator, file or function, or it can't be used.
    """
    if not isinstance(spec, str):
        raise InputError(f"a generator's name must be a text, {_forms()}, got {spec!r}")
    found = parse(spec)
    if found is None:
        raise InputError(f"unknown generator {spec!r}: {_near(spec)}expected {_forms()}")
    return load_spec(found, latent_dim)


def load_spec(spec: Spec, latent_dim: int | None = None) -> Generator:
    """The generator of a spec; see `load`.

    Raises:
        InputError: there is no such generator, file or function, or it can't be used.
    """
    if spec.kind in NAMED:
        generator = NAMED[spec.kind]()
    elif spec.kind in ARCHITECTURES:
        if not spec.path:
            raise InputError(f"{spec.kind} must be followed by its weights' file or folder, as in {spec.kind}:PATH")
        architecture = ARCHITECTURES[spec.kind]
        generator = architecture.build(spec.path, **_options(spec.kind, spec.options, architecture.options))
    elif spec.kind == ARCHIVE:
        generator = _from_archive(spec, latent_dim)
    elif spec.kind == FUNCTION:
        generator = _from_file(spec, latent_dim)
    else:
        raise InputError(f"unknown generator {spec.name!r}: {_near(spec.name)}expected {_forms()}")
    if spec.kind not in NAMED:
        generator.spec = spec.resolved()
        generator.name = generator.spec.name
    if latent_dim not in (None, generator.latent_dim):
        raise InputError(
            f"generator {spec.name} has latents of width {generator.latent_dim}, not {latent_dim}: leave out latent_dim"
        )
    return generator


def parse(text: str) -> Spec | None:
    """The spec that a text of one of the forms of `load` says; None if it has none of them."""
    if text in NAMED:
        return Spec(text)
    if "\0" in text:
        return None  # no file has such a name
    kind, separator, rest = text.partition(":")
    if separator and kind in ARCHITECTURES:
        path, words = _split(rest)
        return Spec(kind, path, options=words)
    path, words = _split(text)
    if names_function(path):
        file, _, function = path.rpartition(":")
        return Spec(FUNCTION, file, function, words)
    return Spec(ARCHIVE, path, options=words) if path.endswith(_ARCHIVES) else None


def spec_of(generator: Generator) -> Spec | None:
    """The spec by which a generator is found again; None if it was made in Python and has no such name."""
    if generator.spec is not None and generator.spec.name == generator.name:
        return generator.spec
    return None if generator.name is None else parse(generator.name)


def recorded_spec(description: dict[str, Any]) -> Spec | None:
    """The spec in a generator's description, as `fastflow.generators.identity.describe` makes it; None if none.

    Descriptions of earlier versions have a name alone, and so has one whose name was changed by hand: it is parsed.
    """
    name, spec = description.get("name"), Spec.from_json(description.get("spec"))
    if spec is not None and spec.name == name and "\0" not in spec.name:
        return spec
    return parse(name) if isinstance(name, str) else None


def may_need_width(name: str) -> bool:
    """Whether `load` may need the latents' width for a generator of this name."""
    spec = parse(name)
    return spec is not None and spec.program is not None


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The path and the options in PATH,NAME=VALUE,...; a comma belongs to the path if such a file or folder exists."""
    pieces = re.split(r",(?=\w+=)", text)
    paths = [",".join(pieces[: count + 1]) for count in range(len(pieces))]
    # No option's value has a slash.
    least = max((place for place, piece in enumerate(pieces) if "/" in piece), default=0)
    last = next((place for place in reversed(range(least, len(paths))) if _exists(paths[place])), least)
    return paths[last], {name: value for name, _, value in (word.partition("=") for word in pieces[last + 1 :])}


def _exists(path: str) -> bool:
    file, _, function = path.rpartition(":") if names_function(path) else (path, "", "")
    if "," in function:
        return False
    try:
        return bool(file) and Path(file).exists()
    except OSError:  # such as a name that is too long
        return False


def _from_archive(spec: Spec, latent_dim: int | None) -> Generator:
    kind, separator, _ = spec.path.partition(":")
    if separator and re.fullmatch(r"[\w-]{2,}", kind) and not Path(spec.path).exists():
        raise InputError(f"unknown kind {kind!r} in {spec.path!r}: {_near(spec.path)}expected {_forms()}")
    options = _options("an archive", spec.options, _WRAPPED)
    latent_dim = options.get("latent_dim", latent_dim)
    if latent_dim is None:
        check_program(Path(spec.path))
        example = shlex.quote(f"{spec.path},latent_dim=N")
        raise InputError(f"{spec.path} doesn't say how wide its latents are: {example} or --latent-dim N")
    return archive(spec.path, latent_dim, options.get("range", (0.0, 1.0)), output=options.get("output"))


def _near(place: str) -> str:
    """What a name that isn't known was perhaps meant to be; empty if it is like none."""
    if ":" not in place and (place in ARCHITECTURES or place.endswith((".safetensors", ".py"))):
        meant = f"KIND:{place}" if place.endswith(".safetensors") else f"{place}:FUNCTION"
        meant = f"{place}:PATH" if place in ARCHITECTURES else meant
        return f"did you mean {shlex.quote(meant)}? If not, "
    kind, separator, path = place.partition(":")
    known = ARCHITECTURES if separator else NAMED
    folded = {name.replace("-", ""): name for name in known}
    near = difflib.get_close_matches(re.sub(r"[\W_]", "", kind.lower()), folded, 1)
    return f"did you mean {shlex.quote(folded[near[0]] + separator + path)}? If not, " if near else ""


def _options(what: str, texts: dict[str, str], allowed: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for name, text in texts.items():
        if name not in allowed:
            raise InputError(f"{what} has no option {name!r}; it has {', '.join(allowed) or 'none'}")
        read, example = _OPTIONS[name]
        try:
            options[name] = read(text)
        except ValueError as error:
            raise InputError(f"option {name} must look like {name}={example}, got {f'{name}={text}'!r}") from error
    return options


def _forms() -> str:
    return f"{', '.join(NAMED)}, KIND:PATH (KIND one of {', '.join(ARCHITECTURES)}), FILE.pt or FILE.py:FUNCTION"


def _from_file(spec: Spec, latent_dim: int | None) -> Generator:
    options = _options("a function", spec.options, _WRAPPED)
    latent_dim = options.pop("latent_dim", latent_dim)
    made: Any = function_in(spec.path, spec.function, "generator")
    with running(spec.path, spec.function, "generator"):
        if isinstance(made, Generator):
            generator = made
        elif not isinstance(made, nn.Module) and _takes_no_arguments(made):
            generator = made()
            if not isinstance(generator, Generator):
                raise InputError(
                    f"{spec.name} returned {type(generator).__name__}, expected a generator: "
                    "wrap it in ff.generators.from_callable"
                )
        elif latent_dim is None:
            raise InputError(f"{spec.name} maps latents to images, so their width must be given: --latent-dim N")
        else:
            generator = from_callable(
                cast(Decode, made),
                latent_dim,
                value_range=options.pop("range", (0.0, 1.0)),
                output=options.pop("output", None),
            )
    if options:
        raise InputError(
            f"{spec.name} gives a generator that is made already, so that {', '.join(options)} can't be changed: "
            "give it to ff.generators.from_callable there"
        )
    return generator


def _takes_no_arguments(function: object) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters)

"""Loading generators by name: bundled ones, state dicts of known architectures, archives, and functions in files."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from fastflow.core.devices import torch_as_usual
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining, import_function, names_function
from fastflow.generators.archives import archive
from fastflow.generators.autoencoder_kl import load_autoencoder_kl
from fastflow.generators.base import Decode, Generator, from_callable
from fastflow.generators.biggan import load_biggan
from fastflow.generators.dcgan import dcgan_from, faces
from fastflow.generators.digits import DigitsVAE
from fastflow.generators.sngan import sngan_from
from fastflow.generators.state_dicts import read_state_dict
from fastflow.generators.vae import conv_decoder_from, mlp_decoder_from


@dataclass(frozen=True)
class _Architecture:
    """How to build a generator of one kind from a path, and which options may follow the path."""

    build: Callable[..., Generator]
    options: tuple[str, ...] = ()


def _from_state_dict(read: Callable[..., Any], value_range: tuple[float, float]) -> Callable[..., Generator]:
    def build(path: str, **options: Any) -> Generator:
        net = read(read_state_dict(path), f"weights file {path!r}", **options)
        return Generator(net, net.latent_dim, value_range=value_range)

    return build


NAMED: dict[str, Callable[[], Generator]] = {"digits-vae": DigitsVAE, "faces": faces}

ARCHITECTURES = {
    "sngan": _Architecture(_from_state_dict(sngan_from, (-1.0, 1.0))),
    "dcgan": _Architecture(_from_state_dict(dcgan_from, (-1.0, 1.0))),
    "mlp-vae": _Architecture(_from_state_dict(mlp_decoder_from, (0.0, 1.0)), ("layers", "shape")),
    "conv-vae": _Architecture(_from_state_dict(conv_decoder_from, (0.0, 1.0))),
    "biggan": _Architecture(load_biggan, ("classes", "truncation")),
    "autoencoder-kl": _Architecture(load_autoencoder_kl, ("size",)),
}

_ARCHIVES = (".pt", ".pth", ".pt2", ".ts", ".jit")


def _range(text: str) -> tuple[float, float]:
    low, high = map(float, text.split(":"))
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(text)
    return low, high


def _shape(text: str) -> tuple[int, int, int]:
    channels, height, width = map(int, text.split("x"))
    return channels, height, width


# Each option's reader of its text, and an example of the text.
_OPTIONS: dict[str, tuple[Callable[[str], Any], str]] = {
    "classes": (lambda text: tuple(map(int, text.split("+"))), "207+208"),
    "latent_dim": (int, "128"),
    "layers": (lambda text: tuple(text.split("+")), "fc3+fc4"),
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
            it.
            Options follow a path after commas: biggan:FOLDER,classes=207+208,truncation=0.4 or
            FILE.pt,latent_dim=128,range=-1:1.
        latent_dim: the width of the latents; an archive needs it, unless it is among its options, and so does a
            function of the second kind.

    Raises:
        InputError: there is no such generator, file or function, or it can't be used.
    """
    if not isinstance(spec, str):
        raise InputError(f"a generator's name must be a text, {_forms()}, got {spec!r}")
    if spec in NAMED:
        generator = NAMED[spec]()
    else:
        place, words = _split(spec)
        if _kind(place) is not None:
            generator = _from_architecture(place, words)
        elif place.endswith(_ARCHIVES):
            generator = _from_archive(place, words, latent_dim)
        else:
            generator = _from_file(spec, latent_dim)
    if latent_dim not in (None, generator.latent_dim):
        raise InputError(
            f"generator {spec} has latents of width {generator.latent_dim}, not {latent_dim}: leave out latent_dim"
        )
    return generator


def can_be_found(name: str | None) -> bool:
    """Whether a generator's name has one of the forms that `load` takes."""
    if name is None:
        return False
    place, _ = _split(name)
    return name in NAMED or _kind(place) is not None or place.endswith(_ARCHIVES) or names_function(name)


def may_need_width(name: str) -> bool:
    """Whether `load` may need the latents' width for a generator of this name."""
    place, _ = _split(name)
    return _kind(place) is None and (place.endswith(_ARCHIVES) or names_function(name))


def _split(spec: str) -> tuple[str, list[str]]:
    """The part before the options, and the options."""
    place, *words = re.split(r",(?=\w+=)", spec)
    return place, words


def _kind(place: str) -> str | None:
    """The architecture in KIND:PATH; None if there is none."""
    kind, separator, _ = place.partition(":")
    return kind if separator and kind in ARCHITECTURES else None


def _from_architecture(place: str, words: list[str]) -> Generator:
    kind, _, path = place.partition(":")
    architecture = ARCHITECTURES[kind]
    generator = architecture.build(path, **_options(kind, words, architecture.options))
    generator.name = ",".join([f"{kind}:{Path(path).resolve()}", *words])
    return generator


def _from_archive(path: str, words: list[str], latent_dim: int | None) -> Generator:
    options = _options("an archive", words, ("latent_dim", "range"))
    latent_dim = options.get("latent_dim", latent_dim)
    if latent_dim is None:
        raise InputError(f"{path} doesn't say how wide its latents are: {path},latent_dim=N or --latent-dim N")
    return archive(path, latent_dim, options.get("range", (0.0, 1.0)), ",".join([str(Path(path).resolve()), *words]))


def _options(what: str, words: list[str], allowed: tuple[str, ...]) -> dict[str, Any]:
    options = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in allowed:
            raise InputError(f"{what} has no option {name!r}; it has {', '.join(allowed) or 'none'}")
        read, example = _OPTIONS[name]
        try:
            options[name] = read(text)
        except ValueError as error:
            raise InputError(f"option {name} must look like {name}={example}, got {word!r}") from error
    return options


def _forms() -> str:
    return f"{', '.join(NAMED)}, KIND:PATH (KIND one of {', '.join(ARCHITECTURES)}), FILE.pt or FILE.py:FUNCTION"


def _from_file(spec: str, latent_dim: int | None) -> Generator:
    if not names_function(spec):
        raise InputError(f"unknown generator {spec!r}: expected {_forms()}")
    file, _, function = spec.rpartition(":")
    made: Any = import_function(spec, "generator")
    if isinstance(made, Generator):
        generator = made
    elif not isinstance(made, nn.Module) and _takes_no_arguments(made):
        with explaining(f"generator {spec}"):
            generator = made()
        if not isinstance(generator, Generator):
            raise InputError(
                f"{spec} returned {type(generator).__name__}, expected a generator: "
                "wrap it in ff.generators.from_callable"
            )
    elif latent_dim is None:
        raise InputError(f"{spec} maps latents to images, so their width must be given: --latent-dim N")
    else:
        generator = from_callable(cast(Decode, made), latent_dim)
    generator.name = f"{Path(file).resolve()}:{function}"
    return generator


def _takes_no_arguments(function: object) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters)

"""The class `Generator`: a latent width, a sampler of latents, and a differentiable map from latents to images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastflow.core.checks import check_count, check_pixels, check_seed
from fastflow.core.devices import find_device, send
from fastflow.core.errors import InputError
from fastflow.core.plugins import first_line
from fastflow.generators.change import Way
from fastflow.generators.derivatives import right_way
from fastflow.generators.specs import Spec

Decode = Callable[[Tensor], Any]
"""A map from latents (B, D) to images (B, C, H, W), or to several outputs of which `output` names the images."""
Encode = Callable[[Tensor], Tensor | tuple[Tensor, ...]]
Sampler = Callable[[int, torch.Generator], Tensor]
Picture = Callable[[Tensor], Tensor]

_NARROW = 0.51  # images that span a smaller share of their range than this are said to
_OUTSIDE = 0.05  # so are images of which a greater share of the pixels lies outside it

_SAMPLES, _AT_ONCE = 4096, 256  # of the samples by which `Generator.spread` is found

_INSTEAD = {
    Way.ELEMENTARY: "taken with its fused operations computed from elementary ones instead, which is exact",
    Way.REVERSE: "taken by differentiating its backward pass instead, which is exact, at twice the cost or more",
    Way.DIFFERENCES: "taken by central finite differences instead, at three evaluations a step and two or three digits",
}


class Spread(NamedTuple):
    """Where a generator's own latents lie: their mean, and how near to it and how far from it they are."""

    mean: Tensor
    """(D,) float64"""
    nearest: float
    """The distance from the mean that one sample in a thousand falls below."""
    farthest: float
    """The distance from the mean that one sample in a thousand exceeds."""


class Generator(nn.Module):
    """A frozen map from latents (B, D) to images (B, C, H, W).

    Args:
        decode: the map; any callable that autograd can differentiate backwards, and better forwards too. A module, or
            the module that a method belongs to, is put in eval mode and frozen; modules that a function only uses are
            left as they are. With `classes` it takes labels (B,) long as well.
        latent_dim: D, the width of the latents.
        value_range: the images' darkest and brightest value.
        sample: draws latents, (n, torch.Generator) -> (n, D); the standard normal if None. With `mapping` it draws the
            mapping's inputs. Evaluation draws latents with other random numbers than training; a sampler that chooses
            among finitely many latents gives both the same ones.
        mapping: maps inputs z (n, mapping_dim) to latents (n, D), as to the W space of a StyleGAN. Sampled latents go
            through it, and the potentials are functions of its outputs. A module is frozen as well.
        mapping_dim: the width of the mapping's inputs; D if None.
        encode: the way back, from images (B, C, H, W) in [0, 1] to latents (B, D), or to several tensors of which the
            latents are the first, such as a VAE's mean and log-variance; `ff.invert` uses it. A module is frozen as
            well.
        classes: the classes that a class-conditional decode is asked for. Training and evaluation draw among all of
            them; elsewhere images have the first class if no labels are given.
        output: which of decode's outputs are the images, if it returns several: the name of a dict's item or of an
            attribute, such as "sample", or a place in a tuple or list.
        picture: how to draw images that are neither grey nor colour: a function from images (B, C, H, W) in [0, 1] to
            pictures (B, 1, H, W) or (B, 3, H, W) in [0, 1]. If None, four channels are drawn as red, green, blue and
            opacity, on black; of other numbers, the first three are drawn, or the first of two.
        name: the generator's name in a run's config.json; a generator made by `load` can be found again by its name.
        device, dtype: the device and dtype of the latents, float32 or float64; by default those of the module if there
            is one, otherwise the CPU and float32.

    Attributes:
        image_shape: (C, H, W).
        spec: what `load` found the generator by, and will find it by again; None for a generator made in Python.
        outside: the share of pixels, in some images, that lie outside value_range by more than a twentieth of it.

    Raises:
        InputError: decode fails on such latents, or its images aren't finite, aren't of shape (B, C, H, W), are random,
            or have quite another range.

    Warns if the images of some samples lie outside value_range, or fill only half of it.
    """

    _anchor: Tensor

    def __init__(
        self,
        decode: Decode,
        latent_dim: int,
        *,
        value_range: tuple[float, float] = (0.0, 1.0),
        sample: Sampler | None = None,
        mapping: Decode | None = None,
        mapping_dim: int | None = None,
        encode: Encode | None = None,
        classes: Sequence[int] | None = None,
        output: str | int | None = None,
        picture: Picture | None = None,
        name: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not callable(decode):
            raise InputError(f"a generator must be callable, latents (B, D) -> images (B, C, H, W), got {decode!r}")
        if mapping is not None and not callable(mapping):
            raise InputError(f"mapping must be callable, inputs (n, mapping_dim) -> latents (n, D), got {mapping!r}")
        if encode is not None and not callable(encode):
            raise InputError(f"encode must be callable, images (B, C, H, W) -> latents (B, D), got {encode!r}")
        if output is not None and (not isinstance(output, str | int) or isinstance(output, bool)):
            raise InputError(f"output must be a name, such as 'sample', or a place, such as 0, got {output!r}")
        if picture is not None and not callable(picture):
            raise InputError(f"picture must be callable, images (B, C, H, W) -> (B, 1 or 3, H, W), got {picture!r}")
        if mapping is None and mapping_dim is not None:
            raise InputError("mapping_dim is the width of a mapping's inputs: give both, or neither")
        self.function = decode
        check_count(latent_dim, "latent_dim")
        if mapping_dim is not None:
            check_count(mapping_dim, "mapping_dim")
        self.latent_dim = latent_dim
        self.mapping = mapping
        self.mapping_dim = latent_dim if mapping_dim is None else mapping_dim
        self.classes = None if classes is None else _checked_classes(classes)
        self.value_range = _checked_range(value_range)
        self.name = name
        self.spec: Spec | None = None
        self.output, self.picture = output, picture
        self._sample = sample
        self.module = _module_of(decode)
        self._mapping_module = None if mapping is None else _module_of(mapping)
        self.encoder = encode
        self._encoder_module = None if encode is None else _module_of(encode)
        anchor = torch.zeros((), device="cpu")
        for module in (self.module, self._mapping_module, self._encoder_module):
            if module is not None:
                module.eval()
                _leave_inference_mode(module)
                for parameter in module.parameters():  # one by one: scripted modules have no requires_grad_
                    parameter.requires_grad_(False)
        if self.module is not None:
            anchor = next((p for p in self.module.parameters() if p.is_floating_point()), anchor)
        device = anchor.device if device is None else find_device(device)
        dtype = anchor.dtype if dtype is None else dtype
        if dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a generator's latents must be float32 or float64, got {dtype}: convert the module, or wrap it in a "
                "function that converts latents and images"
            )
        # It has the latents' device and dtype; as a buffer it moves with the generator.
        self.register_buffer("_anchor", torch.zeros((), device=device, dtype=dtype), persistent=False)
        self.image_shape, self.outside = self._probe()
        if picture is not None:
            self._check_picture(picture)

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) of latents (B, D), and of labels (B,) long where there are `classes`."""
        if self.classes is None:
            if labels is not None:
                raise _classless()
            return self._images_of(self.function(z))
        if labels is None:
            labels = torch.full((len(z),), self.classes[0], dtype=torch.long, device=z.device)
        return self._images_of(self._conditional(z, labels))

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W) in [0, 1].

        Raises:
            InputError: there is no encoder, the images have another shape, or the encoder doesn't return such latents.
        """
        if self.encoder is None:
            raise InputError("this generator has no encoder: ff.invert finds an image's latents by optimization")
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise InputError(f"images must have shape (B, {expected}), got {tuple(images.shape)}")
        check_pixels(images)
        z = self.encoder(images.to(self._anchor))
        z = z if isinstance(z, Tensor) else z[0]
        if z.shape != (len(images), self.latent_dim) or not bool(z.isfinite().all()):
            raise InputError(
                f"encode must give finite latents ({len(images)}, {self.latent_dim}), got {tuple(z.shape)}"
            )
        return z.to(self._anchor)

    def conditioned(self, labels: Tensor | None) -> Decode:
        """`decode` with a batch's labels, as `draw_labels` gives them."""
        return self.decode if labels is None else partial(self.decode, labels=labels)

    def check_labels(self, labels: Tensor, z: Tensor) -> Tensor:
        """The labels of latents z (B, D) as (B,) long; raise InputError unless each is one of `classes`."""
        if self.classes is None:
            raise _classless()
        whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
        if not whole or labels.dtype == torch.bool or labels.shape != z.shape[:1]:
            got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels must be a tensor of whole numbers of shape ({len(z)},), got {got}")
        if labels.device != z.device:
            raise InputError(f"labels must be on the latents' device {z.device}, got {labels.device}")
        strange = set(labels.tolist()) - set(self.classes)
        if strange:
            known = ", ".join(map(str, self.classes[:8])) + (", ..." if len(self.classes) > 8 else "")
            raise InputError(f"labels must be among the generator's classes, {known}; got {min(strange)}")
        return labels.long()

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) of latents (B, D); see `decode`."""
        return self.decode(z, labels)

    @property
    def like(self) -> Tensor:
        """A scalar tensor with the dtype and the device of the latents."""
        return self._anchor

    @torch.no_grad()
    def sample(self, count: int, seed: int | torch.Generator = 0) -> Tensor:
        """Draw `count` latents (count, D), on the generator's device; a seed gives the same latents on every device."""
        if isinstance(seed, torch.Generator):
            rng = seed
        else:
            check_seed(seed)
            rng = torch.Generator().manual_seed(seed)
        if self._sample is None:
            z = torch.randn(count, self.mapping_dim, generator=rng, device="cpu")
        else:
            z = self._sample(count, rng)
            if not isinstance(z, Tensor) or z.shape != (count, self.mapping_dim):
                got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise InputError(f"sample must give latents as a tensor ({count}, {self.mapping_dim}), got {got}")
        z = send(z.to(self._anchor.dtype), self._anchor)
        if self.mapping is None:
            return z
        w = self.mapping(z)
        if not isinstance(w, Tensor) or w.shape != (count, self.latent_dim):
            got = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
            raise InputError(f"mapping must give latents ({count}, {self.latent_dim}), got {got}")
        return w.to(self._anchor)

    def draw_labels(self, count: int, rng: torch.Generator) -> Tensor | None:
        """Draw `count` labels (count,) long from `classes`; without classes, return None and draw no random numbers."""
        if self.classes is None:
            return None
        place = torch.randint(len(self.classes), (count,), generator=rng, device="cpu")
        return send(torch.tensor(self.classes, device="cpu")[place], self._anchor)

    @cached_property
    def forward_mode(self) -> Way:
        """How `generator_change` differentiates `decode`: by torch's forward mode, where that is right.

        It is checked at the first use, by differences. Where forward mode fails or its gradients are wrong, another
        exact way is taken, or differences where none is right (then it is false), and a warning says so once.
        """
        z = self.sample(2)
        try:
            way, problem = right_way(self.decode, z)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # a training will raise the error itself, and say what it was doing
            return Way.FORWARD
        if way is Way.DIFFERENCES and not self.decode(z.requires_grad_()).requires_grad:
            return Way.FORWARD  # finite differences wouldn't help: a training will say that nothing passes through
        if way is not Way.FORWARD:
            warnings.warn(
                f"forward-mode differentiation of the generator {problem}: its rate of change is {_INSTEAD[way]}",
                stacklevel=2,
            )
        return way

    @cached_property
    def spread(self) -> Spread:
        """Where the generator's own samples lie, by 4,096 of them with a fixed seed."""
        rng = torch.Generator().manual_seed(0)
        # A few at a time, as elsewhere: a sampler may choose among finitely many latents.
        z = torch.cat([self.sample(_AT_ONCE, rng) for _ in range(_SAMPLES // _AT_ONCE)]).double()
        mean = z.mean(0)
        nearest, farthest = (z - mean).norm(dim=1).quantile(torch.tensor([0.001, 0.999]).to(z)).tolist()
        return Spread(mean, nearest, farthest)

    def starts(self, count: int, seed: int = 0) -> Tensor:
        """`count` latents (count, D) to start traversals from: samples, or the latents of held-out images."""
        return self.sample(count, seed)

    def eight_bit(self, images: Tensor) -> Tensor:
        """Images in [0, 1], rounded to 256 levels as in an image file."""
        return self.scaled(images).clamp(0, 1).mul(255).round() / 255

    def scaled(self, images: Tensor) -> Tensor:
        """Images on the scale from 0, darkest, to 1, brightest."""
        low, high = self.value_range
        return (images - low) / (high - low)

    def drawn(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) as what is drawn of them, (..., 1 or 3, H, W) in the same range; see `pictured`."""
        if self._is_drawn_as_it_is(images):
            return images
        low, high = self.value_range
        return low + (high - low) * self.pictured(self.scaled(images).clamp(0, 1))

    def pictured(self, images: Tensor) -> Tensor:
        """Images (..., C, H, W) in [0, 1] as pictures (..., 1 or 3, H, W) in [0, 1].

        Grey and colour images stay as they are unless `picture` was given.
        """
        if self._is_drawn_as_it_is(images):
            return images
        flat = images.reshape(-1, *images.shape[-3:])
        pictures = _default_picture(flat) if self.picture is None else self.picture(flat)
        return pictures.reshape(*images.shape[:-3], *pictures.shape[-3:])

    def train(self, mode: bool = True) -> Generator:
        """Stay in eval mode: a frozen generator has no training mode."""
        return super().train(False)

    @property
    def _conditional(self) -> Callable[[Tensor, Tensor], Tensor]:
        function: Any = self.function
        return function

    def _is_drawn_as_it_is(self, images: Tensor) -> bool:
        return self.picture is None and images.shape[-3] in (1, 3)

    def _images_of(self, returned: Any) -> Tensor:
        """The images in what decode returned, converted to the latents' dtype, as from half precision."""
        images = returned if self.output is None else _chosen(returned, self.output)
        convertible = isinstance(images, Tensor) and images.is_floating_point()
        return images.to(self._anchor.dtype) if convertible else images

    @torch.no_grad()
    def _check_picture(self, picture: Picture) -> None:
        """Raise InputError unless `picture` makes pictures of two images."""
        images = self.scaled(self.decode(self.sample(2))).clamp(0, 1)
        try:
            pictures = picture(images)
        except Exception as error:
            raise InputError(f"picture failed on images {tuple(images.shape)}: {first_line(error)}") from error
        fits = isinstance(pictures, Tensor) and pictures.ndim == 4 and pictures.shape[:1] == images.shape[:1]
        if not fits or pictures.shape[1] not in (1, 3) or not pictures.is_floating_point():
            got = (
                f"{pictures.dtype} {tuple(pictures.shape)}" if isinstance(pictures, Tensor) else type(pictures).__name__
            )
            raise InputError(f"picture must return floats (2, 1, H, W) or (2, 3, H, W) for two images, got {got}")

    @torch.no_grad()
    def _probe(self) -> tuple[tuple[int, int, int], float]:
        """Decode two latents, check the images, and return `image_shape` and `outside`."""
        z = self.sample(2)
        images = self._tried(z)
        wanted = f"a generator must map latents (2, {self.latent_dim}) to images (2, C, H, W)"
        if not isinstance(images, Tensor):
            chosen = "" if self.output is None else f"as its output {self.output!r} "
            raise InputError(f"{wanted}, got {chosen}{_other_outputs(images, nested=self.output is not None)}")
        if images.layout != torch.strided or images.device.type == "meta":
            kind = "without values, on the device meta" if images.is_meta else f"of layout {images.layout}"
            raise InputError(f"{wanted}, got a tensor {kind}: return a dense one on the latents' device")
        shape = tuple(images.shape)
        if images.ndim != 4 or shape[0] != 2 or not images.numel():
            raise InputError(f"{wanted}, got {shape}{_reshaping(shape)}")
        if self.picture is None and shape[3] <= 4 < min(shape[1:3]):
            raise InputError(
                f"{wanted}, got {shape}, whose channels seem to be last: return images.permute(0, 3, 1, 2), or say "
                f"with picture= how to draw {shape[1]} channels"
            )
        if not images.is_floating_point() or not bool(images.isfinite().all()):
            got = "NaN or infinity" if images.is_floating_point() else f"{images.dtype}: gradients don't pass integers"
            got = f"{images.dtype}: take their real part" if images.is_complex() else got
            raise InputError(f"a generator's images must be finite floating-point numbers, got {got}")
        # A network that normalizes over the batch gives other images if a third latent is in the batch.
        again = self._tried(torch.cat((z, z[:1])))[:2]
        low, high = self.value_range
        # The order of sums on a GPU may differ between calls; noise makes larger differences.
        # Images that were computed in half precision have two or three digits.
        halves = [d for d in (torch.float16, torch.bfloat16) if torch.equal(images.to(d).to(images), images)]
        tolerance = 4 * torch.finfo(halves[0]).eps if halves else 1e-4
        if again.shape != images.shape or bool(((again - images).abs() > tolerance * (high - low)).any()):
            raise InputError(
                "a generator must give the same images for the same latents in any batch, got two different ones: "
                "switch its networks to evaluation with .eval(), and draw no noise in it"
            )
        # The distance of values from the range, in widths of it; images in 0..255 are far outside [0, 1].
        distance = torch.maximum(low - images, images - high) / (high - low)
        if float((distance > 1).float().mean()) > 0.5:
            raise InputError(
                f"the images span {float(images.min()):.4g} to {float(images.max()):.4g}, far outside value_range "
                f"({low:g}, {high:g}): give the range that they span, value_range=(low, high)"
            )
        outside = float((distance > 0.05).float().mean())
        self._warn_of_images(images, outside)
        _, channels, height, width = images.shape
        return (channels, height, width), outside

    def _tried(self, z: Tensor) -> Any:
        """What decode makes of latents; raise InputError if it fails."""
        try:
            return self.decode(z)
        except _OutputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(
                f"the generator failed on latents of shape {tuple(z.shape)}: {first_line(error)}; is latent_dim right?"
            ) from error

    def _warn_of_images(self, images: Tensor, outside: float) -> None:
        """Warn of images that lie outside value_range, fill half of it at most, or aren't shown whole."""
        low, high = self.value_range
        least, most = images.amin(), images.amax()
        mend = "value_range=(low, high), or range=LOW:HIGH where a name takes options"
        if outside > _OUTSIDE:
            warnings.warn(
                f"the generator's images span {least:.4g} to {most:.4g}: {outside:.0%} of their pixels lie outside its "
                f"value_range ({low:g}, {high:g}) and are clipped in pictures and measurements; if they have another "
                f"range, give it, {mend}",
                stacklevel=4,
            )
        elif self._is_narrow(least, most):
            warnings.warn(
                f"the generator's images span little more than {least:.4g} to {most:.4g}, half of its value_range "
                f"({low:g}, {high:g}) or less: is its last activation the right one? If they have another range, give "
                f"it, {mend}",
                stacklevel=4,
            )
        if self.picture is None and images.shape[1] not in (1, 3):
            shown = {2: "the first one", 4: "them as red, green, blue and opacity"}.get(
                images.shape[1], "the first three"
            )
            warnings.warn(
                f"the generator's images have {images.shape[1]} channels, and pictures show {shown}: give picture= to "
                "draw them otherwise",
                stacklevel=4,
            )

    def _is_narrow(self, least: Tensor, most: Tensor) -> bool:
        """Whether further images, as those from `least` to `most`, fill half of value_range at most."""
        low, high = self.value_range
        for seed in range(1, 8):
            if most - least > _NARROW * (high - low):
                return False
            images = self.decode(self.sample(2, seed))
            least, most = torch.minimum(least, images.amin()), torch.maximum(most, images.amax())
        return bool(most - least <= _NARROW * (high - low))


def from_callable(
    function: Decode,
    latent_dim: int,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    sample: Sampler | None = None,
    mapping: Decode | None = None,
    mapping_dim: int | None = None,
    encode: Encode | None = None,
    classes: Sequence[int] | None = None,
    output: str | int | None = None,
    picture: Picture | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Generator:
    """A generator from any callable, latents (B, latent_dim) -> images (B, C, H, W).

    The arguments are those of `Generator`.
    """
    return Generator(
        function,
        latent_dim,
        value_range=value_range,
        sample=sample,
        mapping=mapping,
        mapping_dim=mapping_dim,
        encode=encode,
        classes=classes,
        output=output,
        picture=picture,
        name=name,
        device=device,
        dtype=dtype,
    )


class _OutputError(InputError):
    """What decode returns has no such output."""


def _chosen(returned: Any, output: str | int) -> Any:
    """The output of this name or at this place in what decode returned."""
    try:
        if isinstance(returned, Mapping):
            names = list(returned)
            return returned[output if output in returned else names[output]]  # pyright: ignore
        if isinstance(output, str) and not isinstance(returned, Tensor):
            return getattr(returned, output)
        if not isinstance(returned, Tensor):
            return returned[output]
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    raise _OutputError(
        f"the generator's output {output!r} isn't there: it returned {_outputs(returned)[0]}; leave output out if it "
        "returns one tensor"
    )


def _outputs(returned: Any) -> tuple[str, dict[str | int, Any]]:
    """What decode returned in words, and its parts by the names or places that `output` takes."""
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        parts: dict[str | int, Any] = {name: part for name, part in returned.items() if isinstance(name, str | int)}
    elif is_dataclass(returned):
        parts = {field.name: getattr(returned, field.name) for field in fields(returned)}
    elif isinstance(returned, tuple | list):
        parts = dict(zip(getattr(returned, "_fields", range(len(returned))), returned, strict=True))
    elif isinstance(returned, Tensor):
        return f"a tensor {tuple(returned.shape)}", {}
    elif hasattr(returned, "__dict__"):
        parts = {name: part for name, part in vars(returned).items() if not name.startswith("_")}
    else:
        return kind, {}
    shown = ", ".join(map(repr, list(parts)[:6])) + (", ..." if len(parts) > 6 else "")
    return f"{kind} with {shown}" if shown else f"{kind} with nothing in it", parts


def _other_outputs(returned: Any, *, nested: bool) -> str:
    """What decode returned in place of images, and how to say which part of it the images are.

    Args:
        returned: what it returned, or its `output` if it is `nested`, of which no part can be named.
    """
    words, parts = _outputs(returned)
    if type(returned).__module__ == "numpy":
        return f"{words}: return torch's tensors, so that gradients pass"
    images = [name for name, part in parts.items() if isinstance(part, Tensor) and part.ndim == 4 and len(part) == 2]
    names = images or [name for name, part in parts.items() if isinstance(part, Tensor)]
    if not names or nested:
        return f"{words}: return one tensor"
    return (
        f"{words}: say which one holds the images, as output={names[0]!r}, or on the command line after the "
        f"generator's name, as FILE.py:FUNCTION,output={names[0]}; or return one tensor"
    )


def _reshaping(shape: tuple[int, ...]) -> str:
    """How to make images of tensors of another shape, if it can be told."""
    if shape[:1] != (2,):
        return ""
    return {
        2: ": reshape them, as images.reshape(-1, C, H, W)",
        3: ": for grey ones, add the channel's axis, as images[:, None]",
        5: ": a video has an axis too many; choose a frame, or join frames and channels as images.flatten(1, 2)",
    }.get(len(shape), "")


def _default_picture(images: Tensor) -> Tensor:
    """Pictures (N, 1 or 3, H, W) of images (N, C, H, W) in [0, 1] that are neither grey nor colour."""
    channels = images.shape[1]
    if channels == 4:  # red, green, blue and opacity, on black
        return images[:, :3] * images[:, 3:]
    return images[:, :1] if channels == 2 else images[:, :3]


def _leave_inference_mode(module: nn.Module) -> None:
    """Put copies in the place of weights that were made in inference mode, which autograd can't use."""
    with torch.inference_mode(False):
        for part in module.modules():
            for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
                if value.is_inference():
                    copied = value.clone()
                    setattr(part, name, nn.Parameter(copied, False) if isinstance(value, nn.Parameter) else copied)


def _module_of(decode: Callable[..., Any]) -> nn.Module | None:
    """The callable itself if it is a module, or the module that it is a method of; None otherwise."""
    owner = decode if isinstance(decode, nn.Module) else getattr(decode, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def _classless() -> InputError:
    return InputError("labels are for a generator with classes; this one has none: leave labels out")


def _checked_classes(classes: Sequence[int]) -> tuple[int, ...]:
    whole = isinstance(classes, Sequence) and all(isinstance(c, int) and not isinstance(c, bool) for c in classes)
    if not whole or not classes or min(classes) < 0:
        raise InputError(f"classes must be one or more whole numbers of at least 0, got {classes!r}")
    return tuple(classes)


def _checked_range(value_range: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"value_range must be two numbers (darkest, brightest), got {value_range!r}")
    return low, high


def as_generator(generator: Generator) -> Generator:
    """The argument; raise InputError unless it is a generator."""
    if not isinstance(generator, Generator):
        raise InputError(
            f"generator must be a fastflow generator, got {type(generator).__name__}: wrap it in "
            "ff.generators.from_callable"
        )
    return generator

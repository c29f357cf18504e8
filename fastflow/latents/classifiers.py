"""The classifiers, which recognize the potential that moved an image from two consecutive images of a path.

Their input is an image and its change. They normalize over the channels of one image, if at all, and never over the
batch. A sample's logits therefore don't depend on the other samples of its batch or its process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core import trust
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining, function_in, names_function, running

ImageShape = tuple[int, int, int]


class _ImageAndChange(nn.Module):
    """A sequence of layers, applied to an image and its change."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor, next_images: Tensor) -> Tensor:
        """Logits (B, K) for consecutive images, each (B, C, H, W) in [0, 1]."""
        return self.layers(with_change(images, next_images))


class PairClassifier(_ImageAndChange):
    """A small convolutional network on an image and its change, similar to LeNet.

    Args:
        image_shape: (C, H, W), any size.
        num_classes: K.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        channels, height, width = image_shape
        size = min(height, width)
        # Most of the cost is at full resolution, so only small images are convolved at it.
        stride = 1 if size <= 8 else 2
        layers: list[nn.Module] = [nn.Conv2d(2 * channels, 32, 3, stride, padding=1), nn.ReLU()]
        size = -(-size // stride)
        while size > 8:  # halve until the last pooling leaves 4 x 4
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            size //= 2
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        layers += [nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, num_classes)]
        super().__init__(layers)


class LeNet(_ImageAndChange):
    """LeNet-5 (LeCun et al., 1998) with twice its widths, as in the public code of Song et al.

    The arguments are those of `PairClassifier`.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in ((2 * image_shape[0], 12), (12, 32)):
            layers += [nn.Conv2d(inputs, outputs, 5, padding=2), _norm(outputs), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.Conv2d(32, 240, 5, padding=2), _norm(240), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers += [nn.Linear(240, 168), nn.ReLU(), nn.Linear(168, num_classes)]
        super().__init__(layers)


class ResNet18(_ImageAndChange):
    """ResNet-18 (He et al., CVPR 2016) with group normalization (Wu and He, ECCV 2018): 11 million parameters.

    The arguments are those of `PairClassifier`.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        stem: list[nn.Module] = [nn.Conv2d(2 * image_shape[0], 64, 7, 2, 3, bias=False), _norm(64), nn.ReLU()]
        widths = (64, 64, 128, 256, 512)
        blocks: list[nn.Module] = []
        for before, width in pairwise(widths):
            blocks += [_Block(before, width, 1 if before == width else 2), _Block(width, width, 1)]
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))
        super().__init__([*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head])


class _Block(nn.Module):
    """A residual block: two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            _norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            _norm(outputs),
        )
        shortcut = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(outputs))
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


CLASSIFIERS: dict[str, Callable[[ImageShape, int], nn.Module]] = {
    "small": PairClassifier,
    "lenet": LeNet,
    "resnet18": ResNet18,
}
"""The classifiers by the names that configurations use."""


def with_change(images: Tensor, next_images: Tensor) -> Tensor:
    """The channels of an image and of its change, (B, 2 C, H, W)."""
    # A step changes pixels by hundredths; the factor brings the change to the images' scale.
    return torch.cat((images, 10 * (next_images - images)), 1)


def check_classifier(spec: str) -> None:
    """Raise InputError unless `spec` has the form of a classifier's name."""
    if spec not in CLASSIFIERS and not names_function(spec):
        raise InputError(f"classifier must be one of {', '.join(CLASSIFIERS)}, or FILE.py:FUNCTION, got {spec!r}")


def make_classifier(spec: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The classifier that `spec` names, for images (C, H, W) and K potentials.

    Raises:
        InputError: FILE.py:FUNCTION can't be found, fails, returns no module, or isn't trusted.
    """
    if spec in CLASSIFIERS:
        return CLASSIFIERS[spec](image_shape, num_classes)
    program = classifier_program(spec)
    if isinstance(spec, trust.FromFile):
        trust.check(spec.run, program, f"training with the settings in {spec.where!r}")
    function = function_in(program.path, program.function, "classifier")
    with running(program.path, program.function, "classifier"):
        module = function(image_shape, num_classes)
    if not isinstance(module, nn.Module):
        raise InputError(f"classifier {spec} returned {type(module).__name__}, expected a torch.nn.Module")
    return module


def classifier_program(spec: str) -> trust.NamedProgram:
    """The program that a classifier's FILE.py:FUNCTION names."""
    file, _, function = spec.rpartition(":")
    return trust.NamedProgram("classifier", file, function)


def try_classifier(classifier: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise InputError unless a module maps two batches of images (B, C, H, W) to logits (B, K)."""
    with explaining("the classifier"), torch.no_grad():
        logits = classifier(images, images)
    expected = (len(images), num_classes)
    if not isinstance(logits, Tensor) or logits.shape != expected:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the classifier must give logits {expected} for {len(images)} pairs of images, got {got}")


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(4, channels)

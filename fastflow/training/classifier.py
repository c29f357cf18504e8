"""The classifier that must tell which potential moved an image, from two consecutive images of a path."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairClassifier(nn.Module):
    """A small convolutional network, after LeNet, on an image and its change.

    Args:
        image_shape: (C, H, W), any size.
        num_classes: K.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = [nn.Conv2d(2 * channels, 32, 3, padding=1), nn.ReLU()]
        size = min(height, width)
        while size > 8:  # halve until the last pooling leaves 4 x 4
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            size //= 2
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        layers += [nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, num_classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor, next_images: Tensor) -> Tensor:
        """Logits (B, K) for consecutive images, each (B, C, H, W) in [0, 1]."""
        # A step changes pixels by hundredths; the factor brings the change to the images' own scale.
        change = 10 * (next_images - images)
        return self.layers(torch.cat((images, change), 1))

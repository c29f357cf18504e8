"""DCGAN's generator, and the pretrained one of 64 x 64 faces that the package gan-face-generate ships."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.generators.base import Generator
from fastflow.generators.finals import FINALS
from fastflow.generators.state_dicts import StateDict, load_weights, read_state_dict


class DCGAN(nn.Module):
    """Radford et al.'s generator (arXiv 1511.06434), latents (B, D) to images (B, C, S, S), in [-1, 1] after its tanh.

    The names of its weights are those of PyTorch's tutorial, main.0.weight and so on.

    Args:
        widths: the channels of the layers; the first layer makes 4 x 4 pixels, and each further one doubles the side.
        latent_dim: D, the width of the latents. channels: C, of the images. bias: whether convolutions have a bias.
        final: the activation after the last layer, one of `FINALS`.
    """

    def __init__(
        self,
        widths: Sequence[int] = (512, 256, 128, 64),
        latent_dim: int = 100,
        channels: int = 3,
        bias: bool = False,
        final: str = "tanh",
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        layers: list[nn.Module] = [nn.ConvTranspose2d(latent_dim, widths[0], 4, bias=bias)]
        for before, after in zip(widths, (*widths[1:], channels), strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.ConvTranspose2d(before, after, 4, 2, 1, bias=bias)]
        self.main = nn.Sequential(*layers, FINALS[final].activation())

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, C, S, S) of latents (B, D)."""
        return self.main(z[:, :, None, None])


def dcgan_from(state: StateDict, where: str, final: str = "tanh") -> DCGAN:
    """The generator with the weights of a state dict in the tutorial's layout, followed by one of `FINALS`.

    Raises:
        InputError: the state dict belongs to another network; the message names the first key that shows it.
    """
    convolutions = {
        int(match[2]): match[1]
        for key, value in state.items()
        if value.ndim == 4 and (match := re.fullmatch(r"(.*?)(\d+)\.weight", key))
    }
    prefix = convolutions.get(0, "")
    shapes = []
    while (weight := state.get(f"{prefix}{3 * len(shapes)}.weight")) is not None and weight.ndim == 4:
        shapes.append(weight.shape)
    if len(shapes) < 2:
        missing = f"{prefix}{3 * len(shapes)}.weight"
        raise InputError(f"{where} isn't the state dict of a DCGAN generator: it lacks the convolution {missing!r}")
    net = DCGAN([shape[0] for shape in shapes[1:]], shapes[0][0], shapes[-1][1], f"{prefix}0.bias" in state, final)
    load_weights(net.main, state, where, prefix=prefix)
    return net


def faces() -> Generator:
    """Chien Liu's DCGAN of faces of 64 x 64 pixels, with weights from the package gan-face-generate (MIT).

    It was trained on DigiFace-1M, synthetic, rendered faces, whose terms allow non-commercial research only.

    Raises:
        InputError: the package isn't installed.
    """
    # Only the package's file is needed; importing the package would need torchvision and more.
    package = find_spec("gan_face_generate")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "generator faces needs the package gan-face-generate: pip install 'fastflow[faces]', or the package alone, "
            "13 MB, with pip install --no-deps gan-face-generate"
        )
    file = Path(package.submodule_search_locations[0]) / "weights.tar"
    net = dcgan_from(read_state_dict(file), f"weights file {str(file)!r}")
    return Generator(net, net.latent_dim, value_range=(-1.0, 1.0), name="faces")

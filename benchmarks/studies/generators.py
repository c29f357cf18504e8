"""Generators of digits that studies of controls need: GANs of MNIST, trained in minutes on one thread.

python -m benchmarks.studies.generators mlp --data ../shared/data/mnist --seed 0 --out mlp-0.pth

writes the weights, and a contact sheet of samples beside them. The training is plain: a generator and a critic
with dropout, the usual loss that doesn't saturate, and a moving average of the generator's weights.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import fastflow as ff
from fastflow.datasets.idx import read_idx
from fastflow.generators import Generator
from fastflow.pictures.strips import save_strip

_AVERAGE, _BATCH = 0.998, 64


class MLPNet(nn.Sequential):
    """A generator of three layers: latents (B, 64) to images (B, 1, 28, 28) in [0, 1]."""

    latent_dim = 64

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(self.latent_dim, 256),
            nn.BatchNorm1d(256),
            nn.LeakyReLU(0.2),
            nn.Linear(256, 512),
            nn.BatchNorm1d(512),
            nn.LeakyReLU(0.2),
            nn.Linear(512, 784),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 28, 28)),
        )


class ConvNet(nn.Sequential):
    """A generator of two upsampling convolutions: latents (B, 32) to images (B, 1, 28, 28) in [0, 1]."""

    latent_dim = 32

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(self.latent_dim, 64 * 49),
            nn.BatchNorm1d(64 * 49),
            nn.LeakyReLU(0.2),
            nn.Unflatten(1, (64, 7, 7)),
            nn.ConvTranspose2d(64, 32, 4, 2, 1),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.ConvTranspose2d(32, 1, 4, 2, 1),
            nn.Sigmoid(),
        )


NETS: dict[str, type[MLPNet | ConvNet]] = {"mlp": MLPNet, "conv": ConvNet}


class Critic(nn.Sequential):
    """Logits (B, 1) of images (B, 1, 28, 28): positive for real ones."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(784, 512),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(256, 1),
        )


def load(kind: str, file: Path) -> Generator:
    """The generator in a file of weights."""
    net = NETS[kind]()
    net.load_state_dict(torch.load(file, weights_only=True))
    return ff.generators.from_callable(net.eval(), net.latent_dim)


def train(kind: str, images: Tensor, steps: int, seed: int) -> nn.Module:
    """The moving average of a generator that was trained on images (N, 1, 28, 28) in [0, 1]."""
    torch.manual_seed(seed)
    net, critic = NETS[kind](), Critic()
    average = copy.deepcopy(net).requires_grad_(False)
    makers, judges = (torch.optim.Adam(part.parameters(), 2e-4, (0.5, 0.999)) for part in (net, critic))
    begun = time.process_time()
    for step in range(1, steps + 1):
        real = images[torch.randint(len(images), (_BATCH,))]
        with torch.no_grad():
            made = net(torch.randn(_BATCH, net.latent_dim))
        loss = functional.softplus(-critic(real)).mean() + functional.softplus(critic(made)).mean()
        judges.zero_grad()
        loss.backward()
        judges.step()
        loss = functional.softplus(-critic(net(torch.randn(_BATCH, net.latent_dim)))).mean()
        makers.zero_grad()
        loss.backward()
        makers.step()
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), net.parameters(), strict=True):
                slow.lerp_(fast, 1 - _AVERAGE)
            for slow, fast in zip(average.buffers(), net.buffers(), strict=True):
                slow.copy_(fast)
        if step % 1000 == 0:
            print(f"step {step}, {time.process_time() - begun:.0f} s of CPU, loss {loss.item():.2f}", flush=True)
    return average


def main(arguments: list[str] | None = None) -> None:
    """Train, and write the weights and samples."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.generators")
    parser.add_argument("kind", choices=NETS)
    parser.add_argument("--data", type=Path, required=True, help="the folder of MNIST's files")
    parser.add_argument("--images", default="t10k-images-idx3-ubyte.gz", help="which of them holds the images")
    parser.add_argument("--steps", type=int, default=15000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the file of the weights")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    images = read_idx(options.data / options.images, ndim=3)[:, None].float() / 255
    net = train(options.kind, images, options.steps, options.seed)
    torch.save(net.state_dict(), options.out)
    generator = load(options.kind, options.out)
    with torch.no_grad():
        samples = generator.decode(generator.sample(96, 1)).view(8, 12, 1, 28, 28).cpu()
    save_strip(samples, options.out.with_suffix(".png"), value_range=generator.value_range)


if __name__ == "__main__":
    main()

"""Discovery on your own generator: the decoder of an autoencoder that scikit-learn trained on digits.

    python examples/own_generator.py [--steps N] [--seed N] [--out RUN]

fastflow needs only a differentiable function from latents to images. This one is made from the weights of a trained
`MLPRegressor`. RUN/report.html shows what was found.
"""

from pathlib import Path

import numpy as np
import torch
import tyro
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPRegressor
from torch import Tensor

import fastflow as ff


class Decoder(torch.nn.Module):
    """The second half of the network 64-64-8-64-64, behind a map from standard normal latents to likely codes."""

    def __init__(self, net: MLPRegressor, images: np.ndarray) -> None:
        super().__init__()
        weights, biases = net.coefs_, net.intercepts_
        codes = np.tanh(np.tanh(images @ weights[0] + biases[0]) @ weights[1] + biases[1])
        spread = np.linalg.cholesky(np.cov(codes.T))  # codes are about mean + spread @ z, z standard normal
        self.layers = torch.nn.ParameterList()
        for weight, bias in zip((spread.T, *weights[2:]), (codes.mean(0), *biases[2:]), strict=True):
            self.layers.extend(torch.tensor(array, dtype=torch.float32) for array in (weight, bias))

    def forward(self, z: Tensor) -> Tensor:
        """Images (B, 1, 8, 8) of latents z (B, 8); nearly all of their pixels lie in [0, 1]."""
        spread, mean, weight, bias, out_weight, out_bias = self.layers
        hidden = torch.tanh((z @ spread + mean) @ weight + bias)
        return (hidden @ out_weight + out_bias).unflatten(1, (1, 8, 8))


def train(epochs: int, seed: int) -> Decoder:
    """Train the autoencoder, which needs nothing of fastflow, and take its decoder."""
    images = load_digits().data / 16
    options = {"activation": "tanh", "batch_size": 100, "learning_rate_init": 3e-3, "random_state": seed}
    net = MLPRegressor(hidden_layer_sizes=(64, 8, 64), **options)
    for _ in range(epochs):
        net.partial_fit(images, images)
    error = np.mean((net.predict(images) - images) ** 2) / images.var(0).mean()
    print(f"the autoencoder leaves {error:.2f} of the pixels' variance")
    return Decoder(net, images)


def main(steps: int = 600, epochs: int = 100, samples: int = 4096, seed: int = 0, out: Path = Path("runs/own")) -> None:
    """Discover six potentials, rank them, name the first and write the report."""
    generator = ff.generators.from_callable(train(epochs, seed), latent_dim=8)
    config = ff.DiscoverConfig(num_potentials=6, steps=steps, seed=seed)
    run = ff.discover(generator, config, out=out, overwrite=True, progress=False)
    found = run.evaluate(samples, progress=False)
    told_apart, change = found["distinctness"], found["strength"]["mean"]
    print(
        f"told apart {told_apart['accuracy']:.3f}, random directions {told_apart['random_directions']['accuracy']:.3f}"
    )
    print(f"pixel change per step {change:.4f}, normalised residual {found['residual']['after']:.4f}")
    for potential, score in run.ranking():
        print(f"potential {potential}: score {score:.2f}")
    run.name(run.ranking()[0][0], "the best")
    path = run.traverse(generator.sample(4), potential="the best", steps=10)
    print(f"a path's latents {tuple(path.latents.shape)} and images {tuple(path.images.shape)}")
    print(run.report(samples, progress=False))


if __name__ == "__main__":
    tyro.cli(main)

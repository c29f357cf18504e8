"""Networks that others trained: what a user's own generator and attribute predictor are."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "pretrained"
MNIST_VAE, MNIST_LENET = FOLDER / "mnist_vae.pth", FOLDER / "mnist_lenet.pth"

needs_mnist = pytest.mark.skipif(
    not (MNIST_VAE.is_file() and MNIST_LENET.is_file()),
    reason="needs mnist_vae.pth and mnist_lenet.pth of github.com/csinva/gan-vae-pretrained-pytorch in "
    "../shared/data/pretrained, seen from the checkout",
)

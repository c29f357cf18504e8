"""Train the bundled digits generator and write its weights into the package.

    python tools/train_digits_vae.py [--out FILE] [--seed N] [--epochs N]

Needs scikit-learn for the data: 1,797 handwritten digits of 8 x 8 pixels with 17 grey levels (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, CC BY 4.0). Four fifths train the VAE; the held-out fifth is stored beside
the weights, so that a demonstration can start from real digits that training never saw. Ten seconds on one thread.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from fastflow.generators.vae import MLPVAE

WEIGHTS = Path(__file__).parents[1] / "fastflow" / "generators" / "digits_vae.safetensors"
NOISE = 0.12  # about the size of the pixel errors that remain


def split(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Train images (N, 1, 8, 8) in [0, 1], held-out images and the held-out labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held_out, train = order[: len(order) // 5], order[len(order) // 5 :]
    return images[train], images[held_out], labels[held_out]


def negative_elbo(vae: MLPVAE, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Mean negative ELBO in nats per image, under a Gaussian likelihood of standard deviation NOISE.

    A Bernoulli likelihood on grey levels says little about them: it left four of ten latents in use and blurred every
    digit.
    """
    mean, log_variance = vae.encode(images)
    noise = torch.randn(mean.shape, generator=rng)
    error = vae.decode(mean + noise * (0.5 * log_variance).exp()) - images
    reconstruction = (0.5 * (error / NOISE) ** 2 + math.log(NOISE * math.sqrt(2 * math.pi))).flatten(1).sum(1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    return (reconstruction + divergence).mean()


def main() -> None:
    arguments = argparse.ArgumentParser(description="Train the bundled digits VAE.")
    arguments.add_argument("--out", type=Path, default=WEIGHTS)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--epochs", type=int, default=400)
    options = arguments.parse_args()

    torch.manual_seed(options.seed)
    train, held_out, labels = split(options.seed)
    vae = MLPVAE(image_shape=(1, 8, 8), latent_dim=8, hidden=(160, 160))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    rng = torch.Generator().manual_seed(options.seed)
    for epoch in range(options.epochs):
        for batch in torch.randperm(len(train), generator=rng).split(128):
            optimizer.zero_grad()
            negative_elbo(vae, train[batch], rng).backward()
            optimizer.step()
        schedule.step()
        if epoch % 20 == 19:
            with torch.no_grad():
                losses = [
                    float(negative_elbo(vae, images, torch.Generator().manual_seed(1))) for images in (train, held_out)
                ]
            print(f"epoch {epoch + 1}: negative ELBO {losses[0]:.2f} train, {losses[1]:.2f} held out")

    tensors = {f"vae.{name}": value.contiguous() for name, value in vae.state_dict().items()}
    tensors["held_out.images"] = (held_out * 16).to(torch.uint8)
    tensors["held_out.labels"] = labels.to(torch.uint8)
    save_file(tensors, options.out, metadata={"data": "UCI handwritten digits, CC BY 4.0", "seed": str(options.seed)})
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()

"""The bundled generator: a small VAE of 8 x 8 handwritten digits, with the real digits that its training held out."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.generators.base import Generator
from fastflow.generators.vae import MLPVAE

WEIGHTS = Path(__file__).with_name("digits_vae.safetensors")
IMAGE_SHAPE, LATENT_DIM, HIDDEN = (1, 8, 8), 8, (160, 160)


class DigitsVAE(Generator):
    """VAE of UCI's handwritten digits (E. Alpaydin, C. Kaynak; CC BY 4.0), trained by tools/train_digits_vae.py.

    Attributes:
        held_out_images: (359, 1, 8, 8) real digits in [0, 1] that training never saw. held_out_labels: (359,) long.
    """

    held_out_images: Tensor
    held_out_labels: Tensor

    def __init__(self) -> None:
        tensors = load_file(WEIGHTS)
        vae = MLPVAE(IMAGE_SHAPE, LATENT_DIM, HIDDEN)
        vae.load_state_dict({name[4:]: value for name, value in tensors.items() if name.startswith("vae.")})
        super().__init__(vae.decode, LATENT_DIM, encode=vae.encode, name="digits-vae")
        self.vae = vae
        self.register_buffer("held_out_images", tensors["held_out.images"].float() / 16, persistent=False)
        self.register_buffer("held_out_labels", tensors["held_out.labels"].long(), persistent=False)

    @torch.no_grad()
    def starts(self, count: int, seed: int = 0) -> Tensor:
        """Latents (count, 8) of held-out digits of different classes, as far as there are enough."""
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.held_out_images), generator=rng)
        labels = self.held_out_labels.cpu()[order]
        # The first of every class, then the second of every class, and so on; classes in a random order.
        rank = torch.stack([(labels[: i + 1] == label).sum() for i, label in enumerate(labels)])
        chosen = order[torch.argsort(rank, stable=True)]
        if count > len(chosen):
            raise InputError(f"count must be at most the {len(chosen)} held-out digits, got {count}")
        return self.encode(self.held_out_images[chosen[:count].to(self.held_out_images.device)])

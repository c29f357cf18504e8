"""A data set small enough for tests: bars that slide or fade, and VAEs trained on it within a test."""

import torch

from fastflow.runs import train as trainings
from fastflow.training.sequence import task_kind
from fastflow.training.vae import resolved, some_images
from fastflow.training.vae_config import VAEConfig


class Bars:
    """24 images of a soft bar, 1 x 6 x 6; the first transformation slides it downwards, the second lets it fade."""

    name, note = "bars", "24 bars made up for tests"
    image_shape, transformations = (1, 6, 6), ("slide", "fade")

    def __len__(self):
        return 24

    def frames(self, rows, transformation, place):
        slides, fades = (transformation == k for k in (0, 1))
        centre = (rows % 4)[:, None] * 0.5 + 2 * place * slides[:, None]  # (B, P)
        height = (0.5 + (rows // 4)[:, None] / 12) * (1 - 0.8 * place * fades[:, None])
        lines = torch.exp(-((torch.arange(6) - centre[..., None]) ** 2))  # (B, P, 6)
        return (height[..., None] * lines)[:, :, None, :, None].expand(-1, -1, 1, 6, 6).float()


SMALL = {
    "objective": "paper",
    "companion": False,
    "data": "bars",
    "steps": 6,
    "batch_size": 12,
    "latent_dim": 3,
    "widths": (16,),
    "hidden": (8,),
    "path_steps": 3,
    "log_every": 2,
    "checkpoint_every": 3,
}


def small_config(**changes):
    return VAEConfig(**{**SMALL, **changes})


def small_task(**changes):
    data = Bars()
    group = {"group": changes.pop("group")} if "group" in changes else {}
    config = resolved(small_config(**changes), data)
    return task_kind(config)(config, data, some_images(data), torch.device("cpu"), **group)


def small_vae(folder, *, data=None, options=None, **changes):
    data = Bars() if data is None else data
    return trainings.train_vae(small_config(**changes), out=folder, data=data, progress=False, **(options or {}))

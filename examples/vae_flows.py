"""A VAE of digits that turn and grow, trained with a potential for each movement, and again without.

    python examples/vae_flows.py [--steps N] [--seed N] [--out DIR]

Both VAEs are measured on held-out digits: log p(x_0) in nats, and the distance between the decoded path and the digit
that really moves. The path follows the flows, or the plain VAE's best straight directions. DIR/flows/report.html shows
the paths.
"""

from pathlib import Path

import torch
import tyro

import fastflow as ff

MOVEMENTS = ("rotation", "scale")


def main(steps: int = 2000, images: int = 359, seed: int = 0, out: Path = Path("runs/vae-flows")) -> None:
    """Train both VAEs, measure both, and write a report."""
    train, test = (ff.datasets.load("digits", split=split, transformations=MOVEMENTS) for split in ("train", "test"))
    rows = torch.arange(images)
    # Where a digit starts, its latent has the prior N(0, I); later ones follow it.
    held_out = test.frames(rows, rows % len(MOVEMENTS), torch.zeros(images, 1))[:, 0]

    for name, weight in (("flows", 1.0), ("plain", 0.0)):
        config = ff.VAEConfig(data="digits", transformations=MOVEMENTS, steps=steps, seed=seed, flow_weight=weight)
        run = ff.train_vae(config, out=out / name, overwrite=True, progress=False)
        likelihood = ff.metrics.log_likelihood(run.vae, held_out, num_samples=100)
        directions = None if weight else ff.metrics.straight_directions(run, train)
        moved = ff.metrics.equivariance_error(run, test, samples=images, directions=directions)
        print(
            f"{name}: log p(x_0) {likelihood.mean:.2f} ± {likelihood.standard_error:.2f} nats, error of the moved "
            f"digits {moved.error:.4f} (standing still {moved.still:.4f}, each image's own reconstruction "
            f"{moved.floor:.4f})"
        )
        if weight:
            path = run.traverse(run.generator.starts(4), "rotation")
            print(f"  a path along the potential 'rotation': images {tuple(path.images.shape)}")
            print(f"  {run.report(samples=images, progress=False)}")


if __name__ == "__main__":
    tyro.cli(main)

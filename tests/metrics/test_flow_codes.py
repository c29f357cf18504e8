"""Codes by flows: arc lengths that can be worked out, and factor metrics of them."""

import math

import numpy as np
import pytest
import torch
from support.moving import Bars, small_vae
from support.runs import small_run

import fastflow as ff
from fastflow.baselines.base import Baseline
from fastflow.core.errors import InputError
from fastflow.generators import from_callable


@pytest.fixture
def generator():
    return from_callable(lambda z: z.sigmoid().view(-1, 1, 1, 3), 3, dtype=torch.float64)


@pytest.fixture
def axes(generator):
    found = ff.baselines.Random(generator, 3, 0.01)
    found.directions = torch.eye(3, dtype=torch.float64)[[2, 0, 1]]
    return found


def test_along_axes_the_code_is_the_coordinate_within_reach(axes, generator):
    z = 2 * generator.sample(3000, 5)
    found = ff.metrics.flow_codes(axes, z, path_steps=7)
    torch.testing.assert_close(found, z[:, [2, 0, 1]].clamp(-3, 3))
    assert axes.step_length == 0.01  # as it was
    start = torch.tensor([1.0, 0, -1], dtype=torch.float64)
    moved = ff.metrics.flow_codes(axes, z, start=start, reach=2)
    torch.testing.assert_close(moved, (z - start)[:, [2, 0, 1]].clamp(-2, 2))


class Circles(Baseline):
    """One path through any point of the plane of the first two latents: a circle about the origin."""

    def path(self, z0, index, steps):
        radius = z0[:, :2].norm(dim=1)
        angle = torch.atan2(z0[:, 1], z0[:, 0])[:, None] + self.step_length / radius * torch.arange(steps + 1)
        return torch.stack((radius * angle.cos(), radius * angle.sin(), z0[:, 2:].expand(-1, steps + 1)), 2)


def test_along_a_circle_the_code_is_the_arc(generator):
    angles = torch.linspace(-1.4, 1.4, 41, dtype=torch.float64)
    z = torch.stack((3 * angles.cos(), 3 * angles.sin(), 5 + 0 * angles), 1)  # outside the circle, and above it
    start = torch.tensor([2.0, 0, 0], dtype=torch.float64)
    found = ff.metrics.flow_codes(Circles(generator, 1, 1.0), z, start=start, path_steps=400)
    torch.testing.assert_close(found[:, 0], 2 * angles, rtol=1e-3, atol=1e-3)


def test_points_of_a_runs_own_flow_have_its_arc(tmp_path):
    run = small_run(tmp_path / "run", path_steps=4)
    walker = run.traverse
    paced = ff.load_run(run.folder, run.generator)
    paced.step_length = 3.0 / 4
    zero = torch.zeros(1, 4)
    for k in range(3):
        onwards, back = (paced.traverse(zero, k, 4, way, even=False).latents[0] for way in ("forward", "descent"))
        torch.testing.assert_close(
            ff.metrics.flow_codes(run, onwards)[:, k], torch.arange(5, dtype=torch.float64) * 0.75, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(
            ff.metrics.flow_codes(run, back)[:, k], torch.arange(5, dtype=torch.float64) * -0.75, rtol=0, atol=1e-5
        )
    assert run.step_length is None
    assert walker(zero, 0).latents.shape == (1, 5, 4)


def test_a_vaes_run_encodes_images(tmp_path):
    run, data = small_vae(tmp_path / "run"), Bars()
    rows = torch.arange(24)
    images = data.frames(rows, torch.zeros(24, dtype=torch.long), torch.zeros(24, 1))[:, 0]
    found = ff.metrics.flow_codes(run, images)
    assert found.shape == (24, 2)
    assert torch.equal(found, ff.metrics.flow_codes(run, run.vae.encode(images)[0]))


def test_factor_metrics_of_flows(axes, generator):
    """Flows along the axes that factors lie on score the maximum, in any order; turned ones don't."""
    rng = np.random.default_rng(0)
    factors = rng.integers(5, size=(1500, 3))
    z = torch.from_numpy(factors - 2.0)
    assert ff.metrics.mig(ff.metrics.flow_codes(axes, z), factors).score > 0.97
    axes.directions = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    assert ff.metrics.mig(ff.metrics.flow_codes(axes, z), factors).score < 0.5


@pytest.mark.slow
def test_what_does_not_fit_is_refused(axes, generator, tmp_path):
    z = generator.sample(4)
    run = small_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"Run has no encoder for images: give their latents \(N, D\)"):
        ff.metrics.flow_codes(run, torch.zeros(2, 1, 6, 6))
    with pytest.raises(InputError, match=r"latents must be a tensor of shape \(B, 3\), got \(4, 2\)"):
        ff.metrics.flow_codes(axes, z[:, :2])
    with pytest.raises(InputError, match="latents must be finite"):
        ff.metrics.flow_codes(axes, z * math.nan)
    with pytest.raises(InputError, match=r"start must be a tensor of shape \(B, 3\), got \(1, 2\)"):
        ff.metrics.flow_codes(axes, z, start=z[0, :2])
    with pytest.raises(InputError, match="reach must be a positive number, got 0"):
        ff.metrics.flow_codes(axes, z, reach=0)
    vae = small_vae(tmp_path / "vae")
    with pytest.raises(InputError, match=r"images must be a tensor \(N, 1, 6, 6\), got \(2, 1, 5, 5\)"):
        ff.metrics.flow_codes(vae, torch.zeros(2, 1, 5, 5))

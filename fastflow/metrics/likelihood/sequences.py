"""The likelihood of pairs and of whole sequences of images, each under one chain of latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastflow.core.checks import check_pixels
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.engine.paths import integrate
from fastflow.metrics.likelihood.chains import Chain, Images
from fastflow.metrics.likelihood.encoder_bound import encoder_bound, product
from fastflow.metrics.likelihood.measuring import Proposal, SamplingMethod, check_sampling, fitted_estimate
from fastflow.metrics.likelihood.models import ITEMS, encoded, log_p_given
from fastflow.metrics.likelihood.result import Estimate, LogLikelihood, joined, mixture, summary
from fastflow.metrics.likelihood.transitions import Changing, frames_of, jump_of, transformations_of, transition_of
from fastflow.saved.run import SavedVAE


@torch.no_grad()
def pair_log_likelihood(
    run: SavedVAE,
    pairs: Tensor,
    potential: Tensor,
    place: Tensor,
    num_samples: int = 100,
    seed: int = 0,
    *,
    directions: Tensor | None = None,
    proposal: Proposal = "fitted",
    method: SamplingMethod = "importance",
) -> LogLikelihood:
    """Estimate log p(x_0, x_n | k), the likelihood of a start and its moved image under one chain of latents.

    The model is z_0 ~ N(0, I), x_0 ~ p(x | z_0), x_n ~ p(x | z_n), where n steps along transformation k lead from z_0
    to z_n: of the run's transition, which may have noise, or of straight directions. If the run was trained on pairs,
    z_n is reached in one jump. The estimate is that of `sequence_log_likelihood`.

    Compare a model without flows either with its straight directions (`directions`), which also know the
    transformation, or with two independent latents, log p(x_0) + log p(x_n), which don't.

    Args:
        run: the VAE whose likelihood is measured.
        pairs: images (N, 2, C, H, W), at the start and after `place` steps.
        potential: the number of the potential that moved each image, (N,) long.
        place: the number of steps, (N,) long in 1 .. path_steps.
        num_samples, seed, method: as for `log_likelihood`.
        directions: latent displacements (K, D), one for each whole transformation, in place of the run's transition;
            see `straight_directions`.
        proposal: as for `log_likelihood`. "encoder" is a mixture in equal parts of q(z | x_0) and the product
            q(z | x_0) q(z + d | x_n) / p(z + d), where d is the displacement of the mean of q(z | x_0). It is for
            steps without noise.

    Raises:
        InputError: an argument can't be used, or the run has no potentials.

    Warns where the effective sample size is too small.
    """
    check_sampling(num_samples, seed, proposal, method)
    _check_frames(run, pairs, "pairs", 2)
    _check_kinds(run, pairs, potential, directions)
    _check_numbers(place, "place", (len(pairs),), 1, frames_of(run))
    places = torch.stack((torch.zeros_like(place), place), 1)
    if proposal == "fitted":
        return summary(_of_chains(run, pairs, potential, places, num_samples, seed, directions, method), num_samples)
    one = torch.ones_like(potential)
    transition = transition_of(run, directions, int(place.max()))
    if transition.log_std(potential, one) is not None or jump_of(transition, potential, one) is not None:
        raise InputError("proposal must be 'fitted' for a run whose transition has noise, got 'encoder'")
    return summary(_by_encoder(run, pairs, potential, place, num_samples, seed, directions), num_samples)


@torch.no_grad()
def sequence_log_likelihood(
    run: SavedVAE,
    frames: Tensor,
    potential: Tensor | None = None,
    num_samples: int = 100,
    seed: int = 0,
    *,
    places: Sequence[int] | None = None,
    directions: Tensor | None = None,
    method: SamplingMethod = "importance",
) -> LogLikelihood:
    """Estimate log p(x_0, .., x_T | k), the likelihood of whole sequences under one chain of latents, for any T.

    The model is z_0 ~ N(0, I), x_n ~ p(x | z_n), and z_{n+1} follows z_n by the run's transition along k: exactly where
    the flow leads, or with noise, N(mean_k(z_n, n), diag sigma^2), if it was trained with it.

    Without noise z_0 alone is unknown, and the estimate is that of `log_likelihood`; the encoder's part of the mixture
    is the product of the posteriors of all frames, pulled back along the transition. With noise, the fitted
    distribution of all latents has a block-tridiagonal precision. The samples are then particles, which are resampled
    at each latent: see `particle_estimate`.

    Args:
        run: the VAE whose likelihood is measured.
        frames: images (N, T + 1, C, H, W), or (N, P, C, H, W) at `places`.
        potential: the number of the transformation of each sequence, (N,) long; or (N, T) long, of each of the steps to
            the last place: then a transformation that follows another one begins anew, as if it were the first. None
            if it isn't known: then the likelihood is the mean of those of all K transformations.
        num_samples: as for `log_likelihood`, for each transformation.
        seed, method: as for `log_likelihood`.
        places: the number of steps from the start to each frame; 0, 1, .., T by default. With (0, n) the likelihood is
            that of a pair, and with (n,) that of the image after n steps. The frames between aren't known then.
        directions: as for `pair_log_likelihood`.

    Raises:
        InputError: an argument can't be used, or the run has no potentials.

    Warns where the effective sample size is too small.
    """
    check_sampling(num_samples, seed, "fitted", method)
    _check_frames(run, frames, "frames", None)
    numbers = tuple(range(frames.shape[1])) if places is None else tuple(places)
    if len(numbers) != frames.shape[1] or any(not isinstance(n, int) or n < 0 for n in numbers):
        raise InputError(
            f"places must be {frames.shape[1]} whole numbers of at least 0, one for each frame, got {numbers!r}"
        )
    every = torch.tensor(numbers).expand(len(frames), -1)
    if potential is not None:
        _check_kinds(run, frames, potential, directions, steps=max(numbers))
        return summary(_of_chains(run, frames, potential, every, num_samples, seed, directions, method), num_samples)
    count = transformations_of(run, directions)
    kinds = [torch.full((len(frames),), kind) for kind in range(count)]
    _check_kinds(run, frames, kinds[0], directions)
    found = [_of_chains(run, frames, k, every, num_samples, seed, directions, method) for k in kinds]
    return summary(mixture(found), num_samples)


def _of_chains(
    run: SavedVAE,
    frames: Tensor,
    potential: Tensor,
    places: Tensor,
    num_samples: int,
    seed: int,
    directions: Tensor | None,
    method: SamplingMethod,
) -> Estimate:
    """The estimates for frames (N, P, ...) at places (N, P) of the chains of their potentials (N,)."""
    device, transition, found = _device_of(run), transition_of(run, directions, int(places.max())), []
    for number, rows in enumerate(torch.arange(len(frames)).split(ITEMS)):
        x, k, at = (part[rows].to(device) for part in (frames, potential, places))
        moves, first, steps = transition, torch.zeros_like(at[:, 0]), int(at.max())
        begun, last = k[:, 0] if k.ndim == 2 else k, at[:, -1].clamp_min(1)
        if steps and (jump := jump_of(transition, begun, last)) is not None:
            if k.ndim == 1 and at.shape[1] <= 2 and not bool(at[:, :-1].any()):
                moves, first, at, steps = jump, last, at.clamp(max=1), 1
            elif transition.log_std(begun, first) is None:
                raise InputError(
                    "frames must be a start and one later image of one transformation, or one of them, for a run that "
                    "was trained on pairs: its single steps have no noise of their own; train with frames 'path'"
                )
        if k.ndim == 2:
            moves, k = Changing.of(transition, k), torch.arange(len(k), device=device)
        chain = Chain(Images(run.vae, x), at, x.new_ones((len(k), 1)), steps, moves, k, first)
        found.append(fitted_estimate(chain, num_samples, method, step_rng(seed, number, stream=3)))
    return joined(found)


def _by_encoder(
    run: SavedVAE,
    pairs: Tensor,
    potential: Tensor,
    place: Tensor,
    num_samples: int,
    seed: int,
    directions: Tensor | None,
) -> Estimate:
    """The bounds of pairs whose latents move without noise, with proposals that are the encoder's."""
    steps, device, found = run.config.path_steps, _device_of(run), []

    def carry(z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents (M, D) after n (M,) steps along k (M,)."""
        if directions is not None:
            return z + (n / frames_of(run))[:, None].to(z) * directions.to(z)[k]
        path = integrate(run.bank, z, k, steps, t0=0.0, integration=run.config.integration, companion=run.companion)
        return path[torch.arange(len(z), device=z.device), n * (steps // frames_of(run))]

    for number, rows in enumerate(torch.arange(len(pairs)).split(ITEMS)):
        start, moved = pairs[rows].to(device).unbind(1)
        k, n = potential[rows].to(device), place[rows].to(device)

        def log_density(
            z: Tensor, start: Tensor = start, moved: Tensor = moved, k: Tensor = k, n: Tensor = n
        ) -> Tensor:
            carried = carry(z.flatten(0, 1), k.repeat(len(z)), n.repeat(len(z))).view_as(z)
            return log_p_given(run.vae, start, z) + log_p_given(run.vae, moved, carried)

        first, second = encoded(run.vae, start), encoded(run.vae, moved)
        both = product(first, second, carry(first.mean, k, n) - first.mean)
        found.append(
            encoder_bound(
                [both, first],
                log_density,
                num_samples=num_samples,
                values=start.numel(),
                rng=step_rng(seed, number, stream=3),
                prior_log_variance=start.new_zeros(len(k), 1),
            )
        )
    return joined(found)


def _device_of(run: SavedVAE) -> torch.device:
    return next(run.vae.parameters()).device


def _check_frames(run: SavedVAE, frames: Tensor, name: str, count: int | None) -> None:
    """Raise InputError unless these are `count` images for each of some items, or any number, that the run takes."""
    shape = tuple(run.vae.image_shape)
    each = count or "P"
    wrong = frames.ndim != 5 or frames.shape[1] not in (count, frames.shape[1] if count is None else count)
    if wrong or tuple(frames.shape[2:]) != shape or 0 in frames.shape[:2]:
        raise InputError(f"{name} must be images (N, {each}, {', '.join(map(str, shape))}), got {tuple(frames.shape)}")
    if run.vae.likelihood != "gaussian":
        check_pixels(frames, name)


def _check_kinds(
    run: SavedVAE, frames: Tensor, potential: Tensor, directions: Tensor | None, steps: int | None = None
) -> None:
    """Raise InputError unless potentials and directions fit the run and the frames.

    Args:
        steps: the number of steps for each of which there may be a potential.
    """
    count, width = transformations_of(run, directions), run.config.latent_dim
    if steps and potential.ndim == 2:
        _check_numbers(potential, "potential", (len(frames), steps), 0, count - 1)
    else:
        _check_numbers(potential, "potential", (len(frames),), 0, count - 1)
    if directions is not None and directions.shape != (count, width):
        raise InputError(f"directions must have shape ({count}, {width}), got {tuple(directions.shape)}")


def _check_numbers(numbers: Tensor, name: str, shape: tuple[int, ...], low: int, high: int) -> None:
    """Raise InputError unless these are whole numbers of this shape from `low` to `high`."""
    if numbers.dtype != torch.long or numbers.shape != shape:
        raise InputError(f"{name} must be a long tensor of shape {shape}, got {numbers.dtype} {tuple(numbers.shape)}")
    if int(numbers.min()) < low or int(numbers.max()) > high:
        raise InputError(f"{name} must lie in {low}..{high}")

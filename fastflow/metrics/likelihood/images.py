"""The likelihood of images, each under a latent of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.core.checks import check_pixels
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.generators.likelihoods import check_likelihood
from fastflow.metrics.likelihood.chains import Chain, Images
from fastflow.metrics.likelihood.encoder_bound import encoder_bound
from fastflow.metrics.likelihood.measuring import Proposal, SamplingMethod, check_sampling, fitted_estimate
from fastflow.metrics.likelihood.models import ITEMS, LatentModel, encoded, log_p_given
from fastflow.metrics.likelihood.result import LogLikelihood, joined, summary


@torch.no_grad()
def log_likelihood(
    model: LatentModel,
    x: Tensor,
    num_samples: int = 100,
    seed: int = 0,
    *,
    prior_variance: float | Tensor = 1.0,
    proposal: Proposal = "fitted",
    method: SamplingMethod = "importance",
) -> LogLikelihood:
    """Estimate log p(x) = log E p(x | z) over the prior of z, by importance sampling: see `LogLikelihood`.

    The estimate's expectation is a lower bound that rises with the number of samples and tends to log p(x). How tight
    it is depends on the proposal. By default, a normal distribution is fitted to each datum's posterior: Gauss-Newton
    steps with a line search lead to its highest point, and natural gradient steps then fit centre and precision. Six
    of eight samples are drawn from a Student's t distribution of that shape, one from the encoder's, and one from the
    prior. All are weighed by the density of this mixture (the balance heuristic of Veach and Guibas, SIGGRAPH 1995). So
    a bad encoder costs an eighth of the samples at most. The fit's own draws have no part in the estimate.

    Use held-out data: on training data the likelihood is too high.

    Args:
        model: see `LatentModel`; its likelihood must be the one that it was trained with.
        x: the data (N, ...), as the model encodes them.
        num_samples: the number of samples of each datum.
        seed: the seed of the samples, which also depend on each datum's place in x.
        prior_variance: the variance v of the prior N(0, v I): one number, or one for each datum (N,), as for a prior
            that diffuses with time.
        proposal: "encoder" is the bound of Burda et al. (ICLR 2016), log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x),
            with the encoder's q. It needs less time, and is loose where the encoder is bad. With one sample, it is the
            evidence lower bound.
        method: "annealed" is annealed importance sampling (Neal, 2001): each sample moves from the fitted distribution
            to the posterior by Hamiltonian Monte Carlo, in 40 moves. It takes a few hundred times as long, and checks
            the others.

    Raises:
        InputError: the model returns other shapes, or values that aren't finite; or x is empty.

    Warns where the effective sample size is too small.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a tensor of floating-point numbers (N, ...), N at least 1, got {got}")
    check_sampling(num_samples, seed, proposal, method)
    likelihood = getattr(model, "likelihood", None)
    check_likelihood(likelihood)
    if likelihood != "gaussian":  # which data of any range may have
        check_pixels(x, "x")
    variance = torch.as_tensor(prior_variance).to(x)
    if variance.shape not in ((), (len(x),)) or not bool((variance > 0).all() & variance.isfinite().all()):
        raise InputError(f"prior_variance must be a number above 0, or one for each of the {len(x)} data")
    found = []
    for number, rows in enumerate(torch.arange(len(x)).split(ITEMS)):
        part, spread, rng = x[rows], variance.expand(len(x))[rows][:, None], step_rng(seed, number, stream=3)
        if proposal == "fitted":
            places = rows.new_zeros((len(rows), 1), device=x.device)
            chain = Chain(Images(model, part[:, None]), places, spread.sqrt(), steps=0)
            found.append(fitted_estimate(chain, num_samples, method, rng))
            continue

        def log_density(z: Tensor, part: Tensor = part) -> Tensor:
            return log_p_given(model, part, z)

        found.append(
            encoder_bound(
                [encoded(model, part)],
                log_density,
                num_samples=num_samples,
                values=part.numel(),
                rng=rng,
                prior_log_variance=spread.log(),
            )
        )
    return summary(joined(found), num_samples)

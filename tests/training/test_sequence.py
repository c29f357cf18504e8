"""The objective "sequence": its terms and gradients, closed forms that bound it, its runs and its rivals."""

import json
import math

import pytest
import torch
from support.moving import Bars, small_config, small_task, small_vae
from support.runs import saved
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.engine.pde import residual
from fastflow.training.distributed import ProcessGroup
from fastflow.training.sequence import SequenceTraining

RNG = torch.Generator().manual_seed(0)
RIVALS = ("independent", "walk", "ar1", "straight", "affine")
KINDS = (*RIVALS, "flow")
WITHOUT_REGULARIZERS = {"pde_weight": 0.0, "jacobian_weight": 0.0}


def task_of(**changes):
    return small_task(objective="sequence", **changes)


def in_double(task, step=3):
    """The task and its batch in float64, its parameters drawn at random."""
    task.module.double()
    for parameter in task.module.parameters():
        nn.init.normal_(parameter, std=0.4, generator=RNG)
    batch = task.draw(step)
    names = ("images", "last", "noise", "weights")
    return batch._replace(**{name: getattr(batch, name).double() for name in names})


# The objective, sample by sample


def velocity(bank, companion, z, t, k):
    """The gradient of a potential by plain autograd, and its companion's velocity."""
    if not z.requires_grad:
        z = z.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(bank.jet(z, t, k).u.sum(), z, create_graph=True)
    if companion is None:
        return gradient
    (turning,) = torch.autograd.grad(companion.bank.jet(z, t, k).u.sum(), z, create_graph=True)
    return gradient + companion.velocity(turning, z, k)


def expected_step(task, z, k, n):
    """The mean (1, D) after z, as the documentation has it."""
    config, transition = task.config, task.learned.transition
    match config.transition:
        case "independent":
            return torch.zeros_like(z)
        case "walk":
            return z
        case "ar1":
            return torch.sigmoid(transition.logit[k]) * z
        case "straight":
            return z + transition.displacement[k]
        case "affine":
            return z + (transition.matrix[k[0]] @ z[0])[None] + transition.displacement[k]
    bank, _, companion = task.learned.potentials
    for step in range(config.frame_steps * n, config.frame_steps * (n + 1)):
        first = velocity(bank, companion, z, config.dt * step, k)
        if config.method == "euler":
            z = z + config.dt * first
        else:
            second = velocity(bank, companion, z + config.dt * first, config.dt * (step + 1), k)
            z = z + config.dt * (first + second) / 2
    return z


def expected_deviation(task, k, n, jump):
    transition, kind = task.learned.transition, task.config.transition
    if kind == "independent":
        return torch.ones(1, 3).double()
    if kind == "ar1":
        return (1 - torch.sigmoid(transition.logit[k]) ** (2 * (n if jump else 1))).sqrt()
    log_std = transition.noise.log_std[k]
    return (log_std[:, n - 1] if jump else log_std).exp()


def expected_terms(task, batch):
    """The bound's terms for the transformations that the batch has, in float64."""
    config, vae = task.config, task.learned.vae
    terms = dict.fromkeys(("reconstruction", "start_divergence", "step_divergence", "initial"), 0.0)
    size, pairs = len(batch.place), config.frames == "pairs"
    for b in range(size):
        images, k, place = batch.images[b], batch.transformation[b : b + 1], int(batch.place[b])
        mean, log_variance = vae.encode(images)
        if task.learned.refinement is not None and not bool(batch.alone[b]):
            changes = task.learned.refinement(images[None])
            mean, log_variance = (
                torch.cat((x[:1] + change, x[1:])) for x, change in zip((mean, log_variance), changes, strict=True)
            )
        posterior = Normal(mean, (0.5 * log_variance).exp())
        z = [posterior.mean[:1] + posterior.stddev[:1] * batch.noise[b, :1]]
        terms["start_divergence"] += kl_divergence(
            Normal(posterior.mean[0], posterior.stddev[0]), Normal(torch.zeros(3).double(), torch.ones(3).double())
        ).sum()
        for i in range(1, len(images)):
            numbers = range(place) if pairs else [i - 1]
            after = z[-1]
            for n in numbers:
                after = expected_step(task, after, k, n)
            if config.later_latents == "moved":
                z.append(after)
                continue
            own = Normal(posterior.mean[i : i + 1], posterior.stddev[i : i + 1])
            around = Normal(after, expected_deviation(task, k, place, pairs).expand_as(after))
            terms["step_divergence"] += kl_divergence(own, around).sum()
            z.append(own.mean + own.stddev * batch.noise[b, i : i + 1])
        for latent, image in zip(z, images, strict=True):
            given = Bernoulli(logits=vae.decode(latent)[0], validate_args=False)
            terms["reconstruction"] -= given.log_prob(image).sum()
        if task.learned.potentials is not None:
            bank, _, companion = task.learned.potentials
            terms["initial"] += velocity(bank, companion, z[0], 0.0, k).square().sum()
    return {name: value / size for name, value in terms.items()}


OBJECTIVES = {
    **{kind: {"transition": kind} for kind in KINDS},
    **{f"{kind}-pairs": {"transition": kind, "frames": "pairs"} for kind in KINDS},
    "moved": {"later_latents": "moved", "companion": True},
    "moved-pairs": {"later_latents": "moved", "frames": "pairs", "transition": "affine"},
    "companion": {"companion": True, "dt": 0.5},
    "heun": {"method": "heun", "companion": True},
    "two-steps": {"frame_steps": 2, "path_steps": 6, "beta": 2.0},
    "all": {"start_posterior": "all"},
    "all-pairs": {"start_posterior": "all", "frames": "pairs"},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", OBJECTIVES.values(), ids=OBJECTIVES)
def test_terms_and_gradients_are_the_documented_ones(changes):
    """The likelihood's bound against torch.distributions, its gradients against plain autograd, in float64."""
    task = task_of(batch_size=6, **WITHOUT_REGULARIZERS, **changes)
    batch = in_double(task)
    loss, logged = task.losses(batch)
    with ff.use_backend("reference"):
        expected = expected_terms(task, batch)
        names = ("reconstruction", "start_divergence", "step_divergence")
        for name in names:
            torch.testing.assert_close(logged[name], torch.as_tensor(expected[name]).double().detach(), msg=name)
        bound = expected["reconstruction"] + task.config.beta * sum(expected[name] for name in names[1:])
        total = bound + (expected["initial"] if task.config.flows else 0)
        torch.testing.assert_close(loss.detach(), total.detach())
        torch.testing.assert_close(logged["elbo"], -sum(expected[name] for name in names).detach())
        parameters = [p for p in task.module.parameters() if p.requires_grad]
        options = {"allow_unused": True, "materialize_grads": True}
        expected_gradients = torch.autograd.grad(total, parameters, **options)
    gradients = torch.autograd.grad(loss, parameters, **options)
    for (name, _), gradient, wanted in zip(task.module.named_parameters(), gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, msg=name)


@pytest.mark.parametrize("frames", ["path", "pairs"])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_regularizers_are_those_of_discovery(frames, method):
    """The equation's residual where steps begin, and the reward for the change of a step at `place`."""
    task = task_of(frames=frames, method=method, residual="square", jacobian="square")
    batch = in_double(task)
    loss, logged = task.losses(batch)
    vae, (bank, pde, _) = task.learned.vae, task.learned.potentials
    mean, log_variance = vae.encode(batch.images.flatten(0, 1))
    z = (mean + (0.5 * log_variance).exp() * batch.noise.flatten(0, 1)).unflatten(0, batch.images.shape[:2])
    k, rows = batch.transformation, torch.arange(12)
    begun = z[:, :-1] if frames == "path" else ff.flow(bank, z[:, 0], k, steps=3, method=method)[:, :-1]
    times = torch.arange(3.0).double()[:, None].expand(-1, 12)
    residuals = [residual(pde, bank.jet(z, t, k), z, t, k) for z, t in zip(begun.unbind(1), times, strict=True)]
    torch.testing.assert_close(logged["pde"], torch.stack(residuals).square().mean().detach())
    at = begun[rows, batch.place - 1]
    moved = task.learned.transition.mean(at, k, batch.place - 1)
    _, change = torch.func.jvp(vae.images, (at,), (moved - at,))
    torch.testing.assert_close(logged["jacobian"], -change.flatten(1).square().sum(1).mean().detach())
    bound = sum(logged[name] for name in ("reconstruction", "start_divergence", "step_divergence"))
    total = bound + sum(task.config.weight(name, 3) * logged[name] for name in ("pde", "initial", "jacobian"))
    torch.testing.assert_close(loss.detach(), total, rtol=1e-6, atol=0)


def test_independent_latents_are_single_images():
    """The plain VAE is nested: the bound of a sequence is the sum of its images' bounds, which know no sequence."""
    for changes in ({"transition": "independent"}, {"flow_weight": 0.0}):
        task = task_of(**changes)
        batch = task.draw(2)
        vae = task.learned.vae
        bound = 0.0
        for image, noise in zip(batch.images.unbind(1), batch.noise.unbind(1), strict=True):
            mean, log_variance = vae.encode(image)
            z = mean + (0.5 * log_variance).exp() * noise
            prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
            divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), prior).sum(1)
            bound += (vae.log_density(vae.decode(z), image) - divergence).mean()
        loss, logged = task.losses(batch)
        torch.testing.assert_close(logged["elbo"], bound.detach(), rtol=1e-6, atol=0)
        assert float(loss.detach()) == -float(logged["elbo"])
        assert set(task.learned.modules()) == {"vae"}


def test_all_kinds_see_the_same_images_from_the_same_weights():
    tasks = [task_of(transition=kind) for kind in KINDS]
    for task in tasks[1:]:
        for name in ("images", "transformation", "place", "noise"):
            assert torch.equal(getattr(task.draw(4), name), getattr(tasks[0].draw(4), name))
        for one, other in zip(task.learned.vae.parameters(), tasks[0].learned.vae.parameters(), strict=True):
            assert torch.equal(one, other)


def test_batches_hold_whole_paths_or_pairs():
    task = task_of(frame_steps=2, path_steps=6)
    batch = task.draw(5)
    assert batch.images.shape == (12, 4, 1, 6, 6)
    assert torch.equal(batch.images[:, -1], batch.last)
    assert torch.bincount(batch.transformation).tolist() == [6, 6]
    pairs = task_of(frames="pairs", supervision="weak").draw(5)
    assert pairs.images.shape == (12, 2, 1, 6, 6)
    ends = pairs.place == 3
    assert 0 < int(ends.sum()) < 12
    assert torch.equal(pairs.images[ends, 1], pairs.last[ends])
    parts = [task_of(group=ProcessGroup(rank, 3)).draw(3) for rank in range(3)]
    whole = task_of().draw(3)
    for name in ("images", "last", "transformation", "place", "noise", "alone"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


# Linear-Gaussian models, whose likelihood is known


class LinearVAE(nn.Module):
    """x = w z + noise, coordinate by coordinate, with any normal posterior that is linear in x."""

    noise_std = torch.tensor(0.7, dtype=torch.float64)

    def __init__(self, exact):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, generator=RNG, dtype=torch.float64))
        noise = float(self.noise_std) ** 2
        precision = 1 + self.weight.detach() ** 2 / noise
        self.slope = self.weight.detach() / noise / precision if exact else torch.randn(3, generator=RNG).double()
        self.log_variance = -precision.log() if exact else torch.randn(3, generator=RNG).double()

    def encode(self, images):
        mean = self.slope * images.flatten(1)
        return mean, self.log_variance.expand_as(mean)

    def decode(self, z):
        return self.weight * z

    def log_density(self, parameters, images):
        return Normal(parameters, self.noise_std).log_prob(images.flatten(1)).sum(1)

    def images(self, z):
        return self.decode(z)


def linear_task(exact=False, **changes):
    """A task on a linear model, and a batch of one sequence with noise at the points of an exact cubature."""
    task = task_of(batch_size=6, pde_weight=0.0, **changes)
    vae = LinearVAE(exact)
    task.learned = task.learned._replace(vae=vae)
    task.learned.transition.double()
    for parameter in task.learned.transition.parameters():
        nn.init.normal_(parameter, std=0.3, generator=RNG)
    frames = task.draw(1).noise.shape[1]
    corners = math.sqrt(3) * torch.cat((torch.eye(3), -torch.eye(3))).double()  # exact for second moments
    images = torch.randn(1, frames, 3, generator=RNG, dtype=torch.float64).expand(6, -1, -1)
    batch = task.draw(1)._replace(
        images=images,
        last=images[:, -1],
        transformation=torch.ones(6, dtype=torch.long),
        place=torch.full((6,), 2),
        noise=corners[:, None].expand(-1, frames, -1),
        alone=torch.zeros(6, dtype=torch.bool),
        weights=torch.ones(4).double(),
    )
    return task, batch


def latent_prior(task, k, pairs):
    """Mean (F D,) and covariance of all latents of a sequence under transformation k: linear maps of white noise."""
    transition, moved = task.learned.transition, task.config.later_latents == "moved"
    frames, width = (2 if pairs else 4), 3
    mean, covariance = torch.zeros(frames * width).double(), torch.zeros(frames * width, frames * width).double()
    covariance[:width, :width] = torch.eye(width)
    each = torch.tensor([k])
    zero = torch.zeros(1, width).double()
    for frame in range(1, frames):
        here, before = slice(width * frame, width * (frame + 1)), slice(width * (frame - 1), width * frame)
        if pairs:
            step = lambda z: transition.jump(z, each.expand(len(z)), torch.full((len(z),), 2))  # noqa: E731
            log_std = None if moved else transition.jump_log_std(each, torch.tensor([2]))
        else:
            step = lambda z: transition.mean(z, each.expand(len(z)), torch.zeros(len(z)).long())  # noqa: E731
            log_std = None if moved else transition.log_std(each, torch.tensor([0]))
        matrix = (step(torch.eye(width).double()) - step(zero)).T
        mean[here] = matrix @ mean[before] + step(zero)[0]
        covariance[here] = matrix @ covariance[before]
        covariance[:, here] = covariance[here].T
        covariance[here, here] = matrix @ covariance[before, before] @ matrix.T
        if log_std is not None:
            covariance[here, here] += torch.diag((2 * log_std[0]).exp().double())
    return mean, covariance


@torch.no_grad()
def log_likelihood(task, batch, k=1):
    """The log-density of the images given k, in closed form."""
    vae = task.learned.vae
    mean, covariance = latent_prior(task, k, task.config.frames == "pairs")
    weight = vae.weight.repeat(len(mean) // 3)
    noise = vae.noise_std**2 * torch.eye(len(mean)).double()
    law = MultivariateNormal(weight * mean, weight[:, None] * covariance * weight + noise)
    return law.log_prob(batch.images[0].flatten())


@pytest.mark.slow
@pytest.mark.parametrize("frames", ["path", "pairs"])
@pytest.mark.parametrize("kind", RIVALS)
def test_bound_is_below_the_likelihood(kind, frames):
    for later in ("inferred",) if kind in ("independent", "ar1") else ("inferred", "moved"):
        for _ in range(3):
            task, batch = linear_task(transition=kind, frames=frames, later_latents=later)
            bound, value = task.losses(batch).logged["elbo"], log_likelihood(task, batch)
            assert float(bound) < float(value)


@pytest.mark.parametrize("frames", ["path", "pairs"])
def test_bound_is_the_likelihood_for_the_posterior_itself(frames):
    """Of independent latents, whose posterior is the product of the images' own."""
    task, batch = linear_task(exact=True, transition="independent", frames=frames)
    torch.testing.assert_close(task.losses(batch).logged["elbo"], log_likelihood(task, batch))


@pytest.mark.parametrize("frames", ["path", "pairs"])
@pytest.mark.parametrize("kind", ["walk", "straight", "affine"])
def test_bound_of_one_latent_is_the_likelihood_for_the_posterior_given_all_images(kind, frames):
    task, batch = linear_task(transition=kind, frames=frames, later_latents="moved", start_posterior="all")
    transition, vae = task.learned.transition, task.learned.vae
    if kind == "affine":  # so that the posterior has no correlations
        transition.matrix.data = torch.diag_embed(transition.matrix.data.diagonal(dim1=1, dim2=2))
    each, one = torch.tensor([1]), torch.eye(3).double()
    steps = transition.path(torch.zeros(1, 3).double(), each, 3)[0]  # (T + 1, D)
    slopes = transition.path(one, each.expand(3), 3).diagonal(dim1=0, dim2=2) - steps  # (T + 1, D)
    places = [0, 2] if frames == "pairs" else range(4)
    slopes, shifts = (vae.weight * x[places] for x in (slopes, steps))
    variance = vae.noise_std**2
    precision = 1 + (slopes**2).sum(0) / variance
    mean = (slopes * (batch.images - shifts)).sum(1) / variance / precision  # (B, D)

    def refinement(images):
        first, log_variance = vae.encode(images[:, 0])
        return mean - first, -precision.log() - log_variance

    task.learned = task.learned._replace(refinement=refinement)
    bound = task.losses(batch).logged["elbo"]
    torch.testing.assert_close(bound, log_likelihood(task, batch))
    alone = task.losses(batch._replace(alone=torch.ones(6, dtype=torch.bool))).logged["elbo"]
    assert float(alone) < float(bound)


def test_weak_bound_is_below_the_likelihood_of_all_transformations():
    for later in ("inferred", "moved"):
        task, batch = linear_task(transition="affine", supervision="weak", later_latents=later)
        task.learned = task.learned._replace(inference=lambda first, last: torch.zeros(6, 2).double())
        mixed = torch.stack([log_likelihood(task, batch, k) for k in (0, 1)]).logsumexp(0) - math.log(2)
        assert float(task.losses(batch).logged["elbo"]) < float(mixed)


# Weak supervision


@pytest.mark.slow
@pytest.mark.parametrize("later", ["inferred", "moved"])
@pytest.mark.parametrize("kind", ["flow", "affine"])
def test_weak_bound_is_the_exact_mean_over_the_transformations(kind, later):
    """Its gradient too: what the images' own bounds give, each under its transformation, mixed in proportion."""
    weak = task_of(transition=kind, supervision="weak", later_latents=later, initial_weight=0.0, **WITHOUT_REGULARIZERS)
    full = task_of(transition=kind, later_latents=later, initial_weight=0.0, **WITHOUT_REGULARIZERS)
    batch = in_double(weak)
    full.module.double().load_state_dict(
        {name: value for name, value in weak.module.state_dict().items() if not name.startswith("inference")}
    )
    loss, found = weak.losses(batch)
    each = torch.stack([_each_loss(full, batch, k) for k in (0, 1)], 1)
    expected = math.log(2) - (-each).logsumexp(1)
    torch.testing.assert_close(found["elbo"], -expected.mean().detach())
    torch.testing.assert_close(loss.detach(), (expected.mean() + found["inference"]).detach())
    names = [name for name in full.module.state_dict() if name != "kept.images"]
    gradients, wanted = (
        torch.autograd.grad(value, [task.module.get_parameter(name) for name in names], materialize_grads=True,
                            allow_unused=True)
        for task, value in ((weak, loss), (full, expected.mean()))
    )  # fmt: skip
    for name, gradient, other in zip(names, gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, msg=name)


def _each_loss(task, batch, k):
    """Minus the bound of each sample under transformation k."""
    found = []
    for b in range(len(batch.place)):
        one = batch._replace(
            **{name: getattr(batch, name)[b : b + 1] for name in ("images", "last", "place", "noise", "alone")},
            transformation=torch.tensor([k]),
        )
        found.append(task.losses(one).loss)
    return torch.stack(found)


def test_inference_learns_the_probabilities_of_the_bound():
    """The classifier's cross-entropy with them, whose gradient reaches the classifier alone."""
    task = task_of(supervision="weak")
    logged = task.losses(task.draw(2)).logged
    assert float(logged["inference"]) >= math.log(2) - float(logged["assignment"]) - 1e-6  # Gibbs' inequality
    expected = sum(float(logged[name]) for name in ("reconstruction", "start_divergence", "step_divergence"))
    assert float(logged["elbo"]) == pytest.approx(-expected - float(logged["assignment"]), rel=1e-6)


def test_a_high_temperature_takes_all_transformations_alike():
    task = task_of(supervision="weak", assignment_weight=1e6)
    warm, cold = (small.losses(small.draw(2)).logged for small in (task, task_of(supervision="weak")))
    assert float(warm["assignment"]) < 1e-5 < float(cold["assignment"])


@pytest.mark.slow
def test_weak_supervision_finds_the_transformations_of_digits(tmp_path):
    settings = {"latent_dim": 8, "widths": (64,), "hidden": (16,), "batch_size": 24, "path_steps": 2, "steps": 500}
    config = ff.VAEConfig(
        data="digits", transformations=("rotation", "scale"), supervision="weak", learning_rate=4e-3, seed=1,
        out_activation="identity", **settings, **WITHOUT_REGULARIZERS, initial_weight=0.0,
    )  # fmt: skip
    run = ff.train_vae(config, out=tmp_path / "run", progress=False)
    test = ff.datasets.load("digits", split="test", transformations=config.transformations)
    rows, k = torch.arange(len(test)).repeat(2), torch.arange(2).repeat_interleave(len(test))
    images = test.frames(rows, k, torch.tensor([[0.0, 1.0]]).repeat(len(rows), 1))
    agreement = (run.learned.inference(images[:, 0], images[:, 1]).argmax(1) == k).float().mean()
    assert max(agreement, 1 - agreement) > 0.95  # which is called which is free


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sequence") / "run"
    return small_vae(folder, objective="sequence", companion=True, frame_steps=3, path_steps=6)


def test_run_gives_its_transition(trained):
    transition = trained.transition
    assert transition.bank is trained.bank
    k, zero = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.long)
    z = trained.generator.starts(2)
    torch.testing.assert_close(transition.path(z, k, 2), trained.traverse(z, k).latents[:, ::3])
    assert not torch.equal(transition.log_std(k, zero), torch.full((2, 3), math.log(0.5)))  # it is learned
    loaded = ff.load_run(trained.folder)
    assert torch.equal(loaded.transition.log_std(k, zero), transition.log_std(k, zero))
    assert torch.equal(loaded.traverse(z, 1).images, trained.traverse(z, 1).images)
    assert not any(parameter.requires_grad for parameter in loaded.transition.parameters())


def test_paper_runs_have_the_flow_as_transition(tmp_path):
    run = small_vae(tmp_path / "run", steps=1)
    z, k = run.generator.starts(3), torch.tensor([0, 1, 0])
    assert torch.equal(run.transition.path(z, k, 3), run.traverse(z, k).latents)
    assert run.transition.log_std(k, k) is run.transition.jump_log_std(k, k + 1) is None
    plain = small_vae(tmp_path / "plain", steps=1, flow_weight=0.0)
    assert torch.equal(plain.transition.mean(z, k, k), torch.zeros_like(z))


@pytest.mark.slow
def test_evaluation_and_report_take_it(trained):
    assert trained.evaluate(24, progress=False)["training_steps"] == 6
    page = trained.report(24, progress=False).read_text()
    assert "Reconstruction over training" in page
    assert "slide" in page


@pytest.mark.parametrize("kind", RIVALS)
def test_rivals_say_that_they_have_no_potentials(tmp_path, kind):
    run = small_vae(tmp_path / "run", objective="sequence", transition=kind, steps=1)
    loaded = ff.load_run(tmp_path / "run")
    for use in (
        lambda: run.bank,
        lambda: loaded.traverse(run.generator.starts(1), 0),
        lambda: run.evaluate(24),
        lambda: run.report(),
    ):
        with pytest.raises(InputError, match=f"has no potentials: its VAE was trained with transition {kind}$"):
            use()
    z, k = run.generator.starts(4), torch.tensor([0, 1, 0, 1])
    assert torch.equal(loaded.transition.path(z, k, 3), run.transition.path(z, k, 3))
    assert "0 potentials" in repr(loaded)


RESUMED = {
    "flow": {"supervision": "weak", "ema": 0.5, "likelihood": "gaussian", "companion": True, "frame_steps": 3},
    "moved": {"later_latents": "moved", "frames": "pairs", "method": "heun"},
    "affine": {"transition": "affine", "frames": "pairs", "start_posterior": "all", "supervision": "weak"},
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_same_seed_gives_the_same_bits_and_resuming_does(tmp_path, changes):
    changes = {"objective": "sequence", "path_steps": 3, **changes}
    small_vae(tmp_path / "whole", **changes)
    small_vae(tmp_path / "resumed", steps=3, **changes)
    loaded = small_vae(tmp_path / "resumed", options={"resume": True}, **changes)
    assert saved(tmp_path / "whole", 6) == saved(tmp_path / "resumed", 6)
    again = ff.load_run(tmp_path / "whole")
    for name, module in loaded.learned.modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, again.learned.modules()[name].state_dict()[key])


NEW = ("objective", "companion_affine", "transition", "frames", "frame_steps", "later_latents", "start_posterior")


@pytest.mark.slow
def test_runs_older_than_the_objective_have_that_of_the_paper(tmp_path):
    small_vae(tmp_path / "whole")
    small_vae(tmp_path / "old", steps=3)
    file = tmp_path / "old" / "config.json"
    record = json.loads(file.read_text())
    del record["digest"]
    for name in NEW:
        del record["config"][name]
    file.write_text(json.dumps(record))
    assert ff.load_run(tmp_path / "old").config.objective == "paper"
    # The command that began it goes on with it, whatever its defaults are now.
    run = small_vae(tmp_path / "old", objective="sequence", companion=True, options={"resume": True})
    assert run.config == small_config(transformations=("slide", "fade"), num_potentials=2, companion_affine=False)
    assert saved(tmp_path / "old", 6) == saved(tmp_path / "whole", 6)


def test_runs_older_than_the_companions_affine_part_have_none(tmp_path):
    small_vae(tmp_path / "old", objective="sequence", companion=True, companion_affine=False)
    file = tmp_path / "old" / "config.json"
    record = json.loads(file.read_text())
    del record["config"]["companion_affine"], record["digest"]
    file.write_text(json.dumps(record))
    assert ff.load_run(tmp_path / "old").companion.matrix is None
    run = small_vae(tmp_path / "old", objective="sequence", companion=True, steps=7, options={"resume": True})
    assert (run.step, run.config.objective, run.companion.matrix) == (7, "sequence", None)


def test_new_runs_are_not_resumed_by_another_objective(tmp_path):
    small_vae(tmp_path / "run", steps=3)
    with pytest.raises(InputError, match="objective was 'paper' and is now 'sequence'"):
        small_vae(tmp_path / "run", objective="sequence", options={"resume": True})


@pytest.mark.slow
def test_training_learns_the_flows(tmp_path):
    """After some hundred steps the flow leads where the images do."""
    settings = {"steps": 300, "batch_size": 24, "learning_rate": 5e-3, "log_every": 50}
    run = small_vae(tmp_path / "run", objective="sequence", companion=True, out_activation="identity", **settings)
    rows, k = torch.arange(24).repeat(2), torch.arange(2).repeat_interleave(24)
    images = Bars().frames(rows, k, torch.linspace(0, 1, 4).repeat(48, 1))
    path = run.traverse(run.vae.encode(images[:, 0])[0], k).images
    assert (path - images).abs().mean() < 0.6 * (images[:, :1] - images).abs().mean()


# What is refused


REFUSED = {
    "matching": ({"matching_weight": 2.0}, "matching_weight must be left out with objective sequence, which"),
    "diffusion": ({"prior": "diffusion"}, "prior must be left out with objective sequence, which doesn't have it; it"),
    "schedule": ({"moved_schedule": ((0, 1.0),)}, "it needs objective paper"),
    "walk": ({"objective": "paper", "transition": "walk"}, "transition must be left out with objective paper"),
    "moved": ({"objective": "paper", "later_latents": "moved"}, "it needs objective sequence"),
    "assignment": ({"assignment_schedule": ((0, 2.0), (9, 0.0))}, "factors of assignment_schedule must be above 0"),
    "line": ({"latent_dim": 1, "companion": True}, "companion must be off with latent_dim 1"),
    "steps": ({"frame_steps": 2}, "path_steps must be a multiple of frame_steps, 2, got 3"),
    "ar1": ({"transition": "ar1", "later_latents": "moved"}, "later_latents must be inferred with transition ar1"),
    "plain": ({"flow_weight": 0.0, "later_latents": "moved"}, "later_latents must be inferred with flow_weight 0"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        small_config(**{"objective": "sequence", **changes})


def test_sequences_are_the_default():
    assert ff.VAEConfig().objective == "sequence"
    assert all(config.objective == "sequence" for config in ff.VAE_PRESETS.values())
    assert isinstance(task_of(), SequenceTraining)

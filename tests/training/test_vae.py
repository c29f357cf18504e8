"""A VAE's training: its objective against a plain one, its runs, and what it refuses."""

import json
import math

import pytest
import torch
from support.moving import Bars, small_config, small_task, small_vae
from support.runs import metrics, saved

import fastflow as ff
from fastflow.core.errors import InputError, TrainingError
from fastflow.training.distributed import ProcessGroup
from fastflow.training.vae import VAETraining, gumbel_softmax
from fastflow.training.vae_config import FLOW_TERMS, VAEConfig

RNG = torch.Generator().manual_seed(0)


def expected_terms(task, batch):
    """The objective as the documentation has it, in float64 and sample by sample."""
    vae, (bank, _, _), _, prior, *_ = task.learned
    config, normal = task.config, torch.distributions.Normal
    terms = dict.fromkeys(("start", "moved", "transport", "matching", "initial", "jacobian"), 0.0)
    size = len(batch.place)
    for b in range(size):
        images, k, place = batch.images[b], batch.transformation[b : b + 1], int(batch.place[b])

        def given(z, x):
            logits = vae.decode(z[None])[0]
            return torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(x).sum()

        posteriors = []
        for image in (images[0], images[1]):
            mean, log_variance = vae.encode(image[None])
            posteriors.append(normal(mean[0], (0.5 * log_variance[0]).exp()))
        spread = 1.0 if prior is None else 1 + 2 * float(prior.log_diffusion.detach().exp()) * config.dt * place
        moved_prior = normal(torch.zeros(3), torch.full((3,), math.sqrt(spread)))
        z0, z1 = (q.mean + q.stddev * batch.noise[i, b] for i, q in enumerate(posteriors))
        start_divergence = torch.distributions.kl_divergence(posteriors[0], normal(torch.zeros(3), torch.ones(3)))
        terms["start"] += config.beta * start_divergence.sum() - given(z0, images[0])
        moved_divergence = torch.distributions.kl_divergence(posteriors[1], moved_prior)
        terms["moved"] += config.beta * moved_divergence.sum() - given(z1, images[1])
        path = [z0]
        lost = 0.0
        for step in range(place):
            jet = bank.jet(path[-1][None], config.dt * step, k)
            path.append(path[-1] + config.dt * jet.grad[0])
            lost += config.dt * jet.laplacian[0]
        terms["transport"] -= given(path[-1], images[1])
        if prior is not None:
            log_posterior = posteriors[0].log_prob(z0).sum() - lost
            terms["transport"] += config.beta * (log_posterior - moved_prior.log_prob(path[-1]).sum())
        terms["matching"] += (path[-1] - posteriors[1].mean).square().sum()
        terms["initial"] += bank.jet(z0[None], 0.0, k).grad.square().sum()
        _, change = torch.func.jvp(lambda z: vae.images(z[None]), (path[-2],), (path[-1] - path[-2],))
        terms["jacobian"] -= change.square().mean().log()
    return {name: value / size for name, value in terms.items()}


@pytest.mark.parametrize("changes", [{}, {"prior": "diffusion", "beta": 2.0, "dt": 0.5}], ids=["normal", "diffusion"])
def test_terms_are_the_documented_ones(changes):
    task = small_task(**changes)
    task.module.double()
    for parameter in task.module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=RNG)
    batch = task.draw(3)
    batch = batch._replace(**{name: getattr(batch, name).double() for name in ("images", "noise", "weights")})
    loss, logged = task.losses(batch)
    expected = expected_terms(task, batch)
    for name, value in expected.items():
        torch.testing.assert_close(logged[name], value.detach(), msg=name)
    # The residual is held to its definition in the tests of discovery, which has the same.
    total = sum(task.config.weight(name, 3) * logged[name] for name in task.config.terms if name in logged)
    torch.testing.assert_close(loss.detach(), total, rtol=1e-6, atol=0)


def test_evidence_lower_bound_is_logged_without_beta():
    logged = small_task(beta=3.0).losses(small_task().draw(1)).logged
    plain = small_task(beta=1.0).losses(small_task().draw(1)).logged
    torch.testing.assert_close(logged["elbo"], plain["elbo"])
    torch.testing.assert_close(plain["elbo"], -0.5 * (plain["start"] + plain["moved"]))


def test_plain_vae_is_the_same_without_flows():
    """The same first weights, the same images and noise, and the same two terms: all that differs are the flows."""
    with_flows, plain = small_task(), small_task(flow_weight=0.0)
    vae = {name: value for name, value in with_flows.module.state_dict().items() if name.startswith(("vae", "kept"))}
    assert vae.keys() == plain.module.state_dict().keys()
    assert all(torch.equal(value, plain.module.state_dict()[name]) for name, value in vae.items())
    losses = [task.losses(task.draw(2)).logged for task in (with_flows, plain)]
    assert torch.equal(losses[0]["start"], losses[1]["start"])
    assert torch.equal(losses[0]["moved"], losses[1]["moved"])
    assert not set(FLOW_TERMS) & set(losses[1])


def test_flow_weight_is_a_factor_of_all_that_flows_bring():
    config = small_config(flow_weight=0.5, flow_schedule=((0, 0.0), (10, 1.0)), matching_weight=4.0)
    assert config.weight("matching", 5) == 1.0
    assert config.weight("transport", 10) == 0.5
    assert config.weight("moved", 0) == 1.0


def test_step_draws_moved_images_of_all_transformations():
    task = small_task(supervision="weak")
    batch = task.draw(5)
    assert batch.images.shape == (12, 3, 1, 6, 6)
    assert torch.equal(batch.images[:, :2], small_task().draw(5).images)
    assert torch.bincount(batch.transformation).tolist() == [6, 6]
    places = torch.cat([task.draw(step).place for step in range(40)])
    assert sorted(set(places.tolist())) == [1, 2, 3]
    last = batch.place == 3
    assert torch.equal(batch.images[last, 1], batch.images[last, 2])
    assert torch.equal(batch.noise, task.draw(5).noise)
    assert not torch.equal(batch.noise, task.draw(6).noise)


def test_parts_of_a_batch_are_the_batch():
    whole = small_task().draw(3)
    parts = [small_task(group=ProcessGroup(rank, 3)).draw(3) for rank in range(3)]
    for name, dim in (("images", 0), ("transformation", 0), ("place", 0), ("noise", 1), ("uniform", 0)):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts], dim), getattr(whole, name))


LIKELIHOODS = ("bernoulli", "gaussian", "discretized-logistic")


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihoods_train_everything(likelihood):
    task = small_task(likelihood=likelihood, prior="diffusion", supervision="weak", companion=True)
    losses = task.losses(task.draw(1))
    losses.loss.backward()
    missing = [name for name, p in task.module.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    # At rest a wave's u doesn't matter by itself, and the classifier's last bias moves all logits at once: not these.
    assert [name for name in missing if not name.endswith("out_bias")] == []
    assert ("noise_std" in losses.logged) == (likelihood != "bernoulli")


@pytest.mark.slow
def test_learned_noise_becomes_the_size_of_the_error(tmp_path):
    slower = {"learning_rate": 1e-2, "learning_rate_schedule": ((600, 1.0), (1000, 0.1))}
    run = small_vae(tmp_path / "run", likelihood="gaussian", steps=1000, flow_weight=0.0, **slower)
    rows, k = torch.arange(24).repeat(2), torch.arange(2).repeat_interleave(24)
    images = Bars().frames(rows, k, torch.rand(48, 1, generator=RNG))[:, 0]
    mean, log_variance = run.vae.encode(images)
    z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=RNG)
    error = (run.vae.images(z) - images).square().mean().sqrt()
    assert 0.7 < float(error / run.vae.noise_std) < 1.4


def test_convolutions_train(tmp_path):
    run = small_vae(tmp_path / "run", network="conv", widths=(4,))
    assert run.vae.images(torch.zeros(2, 3)).shape == (2, 1, 6, 6)


@pytest.mark.parametrize("residual", ["normalized", "square"])
def test_row_sums_take_the_place_of_the_laplacian(residual):
    task = small_task(laplacian="row_sum", residual=residual)
    batch = task.draw(1)
    vae, (bank, pde, _), *_ = task.learned
    mean, log_variance = vae.encode(batch.images[:, 0])
    path = ff.flow(bank, mean + (0.5 * log_variance).exp() * batch.noise[0], batch.transformation, steps=3)
    jets = [bank.jet(path[:, t], float(t), batch.transformation, laplacian="row_sum") for t in range(3)]
    speed = pde.c.float()[batch.transformation][:, None]
    terms = [(jet.u_tt[:, None].expand(-1, 3), -(speed**2) * jet.laplacian) for jet in jets]
    squares = torch.stack([(a + b).square().mean(1) for a, b in terms])  # (T, B)
    if residual == "square":
        expected = squares.mean()
    else:
        scale = torch.stack([(a.square() + b.square()).mean(1) for a, b in terms])
        own = [batch.transformation == k for k in (0, 1)]
        expected = torch.stack([squares[:, rows].sum() / scale[:, rows].sum() for rows in own]).mean()
    torch.testing.assert_close(task.losses(batch).logged["pde"], expected.detach())


# Weak supervision


def test_inferred_transformation_is_one_with_a_gradient_of_all():
    log_probability = torch.log_softmax(torch.randn(2000, 3, generator=RNG), 1).requires_grad_()
    choice = gumbel_softmax(log_probability, torch.rand(2000, 3, generator=RNG), 0.7)
    assert torch.equal(choice.detach().round(), choice.detach().round().clamp(0, 1))
    torch.testing.assert_close(choice.detach().sum(1), torch.ones(2000))
    choice[:, 0].sum().backward()
    assert (log_probability.grad != 0).any(0).all()


def test_draws_have_the_posterior_frequencies():
    probability = torch.tensor([0.6, 0.3, 0.1])
    choice = gumbel_softmax(probability.log().expand(20_000, 3), torch.rand(20_000, 3, generator=RNG), 1.0)
    torch.testing.assert_close(choice.mean(0), probability, atol=0.02, rtol=0)


def test_sure_inference_is_full_supervision():
    """Where the inference says what the truth is, the weak objective's terms are the supervised ones."""
    weak, full = small_task(supervision="weak"), small_task()
    batch = weak.draw(4)
    truth = torch.nn.functional.one_hot(batch.transformation, 2).float()
    weak.learned.inference.forward = lambda first, last: (truth + 1e-30).log()
    terms, expected = weak.losses(batch).logged, full.losses(batch).logged
    for name in ("start", "moved", "transport", "matching", "initial", "jacobian"):
        torch.testing.assert_close(terms[name], expected[name], msg=name)
    torch.testing.assert_close(terms["assignment"], torch.tensor(math.log(2)))


@pytest.mark.slow
def test_weak_supervision_finds_the_transformations(tmp_path):
    # A seed that finds them soon; from others it takes three times as many steps.
    settings = {"hidden": (16,), "steps": 350, "batch_size": 24, "learning_rate": 4e-3, "seed": 1}
    run = small_vae(tmp_path / "run", supervision="weak", **settings)
    rows, k = torch.arange(24).repeat(2), torch.arange(2).repeat_interleave(24)
    images = Bars().frames(rows, k, torch.tensor([[0.0, 1.0]]).repeat(48, 1))
    named = run.learned.inference(images[:, 0], images[:, 1]).argmax(1)
    agreement = (named == k).float().mean()
    assert max(agreement, 1 - agreement) > 0.9  # which is called which is free


# Runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "run"
    return small_vae(folder)


def test_run_has_what_a_run_has(trained):
    assert trained.bank.num_potentials == 2
    assert trained.config.transformations == trained.transformations == ("slide", "fade")
    z0 = trained.generator.starts(4)
    assert torch.equal(z0, trained.generator.starts(4))
    traversal = trained.traverse(z0, "fade")
    assert traversal.images.shape == (4, 4, 1, 6, 6)
    torch.testing.assert_close(traversal.latents, ff.flow(trained.bank, z0, 1, steps=3))
    record = json.loads((trained.folder / "config.json").read_text())
    assert (record["kind"], record["data"]["name"], record["data"]["images"]) == ("train-vae", "bars", 24)


@pytest.mark.parametrize(
    "changed", [{"note": None}, {"name": ["bars"]}, {"image_shape": [1, 6]}, {"kept": -1}], ids=str
)
def test_a_record_of_the_data_that_is_damaged_is_no_run(trained, changed, tmp_path):
    record = json.loads((trained.folder / "config.json").read_text())
    record["data"].update(changed)
    del record["digest"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="isn't a run"):
        small_vae(tmp_path / "run", options={"resume": True})


@pytest.mark.slow
def test_loaded_run_is_the_trained_one(trained):
    loaded = ff.load_run(trained.folder)
    assert (type(loaded), loaded.config, loaded.step) == (ff.VAERun, trained.config, 6)
    z0 = trained.generator.starts(3)
    assert torch.equal(loaded.generator.starts(3), z0)
    assert torch.equal(loaded.traverse(z0, 0).images, trained.traverse(z0, 0).images)
    assert not any(p.requires_grad for p in loaded.vae.parameters())
    images = Bars().frames(torch.arange(6), torch.zeros(6).long(), torch.zeros(6, 1))[:, 0]
    bounds = [ff.metrics.log_likelihood(run.vae, images, num_samples=5).mean for run in (loaded, trained)]
    assert bounds[0] == bounds[1]


@pytest.mark.slow
def test_same_seed_gives_the_same_bits_and_resuming_does(tmp_path):
    changes = {"supervision": "weak", "prior": "diffusion", "ema": 0.5, "likelihood": "gaussian"}
    small_vae(tmp_path / "whole", **changes)
    small_vae(tmp_path / "again", **changes)
    small_vae(tmp_path / "resumed", steps=3, **changes)
    loaded = small_vae(tmp_path / "resumed", options={"resume": True}, **changes)
    other = small_vae(tmp_path / "other", seed=1, **changes)
    assert saved(tmp_path / "whole", 6) == saved(tmp_path / "again", 6) == saved(tmp_path / "resumed", 6)
    assert saved(tmp_path / "whole", 6) != saved(other.folder, 6)
    averaged = ff.load_run(tmp_path / "whole")
    assert all(
        torch.equal(value, averaged.learned.modules()[name].state_dict()[key])
        for name, module in loaded.learned.modules().items()
        for key, value in module.state_dict().items()
    )


@pytest.mark.slow
def test_evaluation_and_report_take_it(trained):
    assert trained.evaluate(24, progress=False)["training_steps"] == 6
    page = trained.report(24, progress=False).read_text()
    assert "ff.train_vae(run.config" in page
    assert "slide" in page


def test_plain_vae_has_no_potentials(tmp_path):
    run = small_vae(tmp_path / "run", flow_weight=0.0)
    assert "0 potentials" in repr(run)
    for use in (lambda: run.bank, lambda: run.traverse(run.generator.starts(1), 0), lambda: run.report()):
        with pytest.raises(InputError, match="has no potentials: its VAE was trained with flow_weight 0"):
            use()
    assert not (tmp_path / "run" / "names.json").exists()
    assert "0 potentials" in repr(ff.load_run(tmp_path / "run"))


def test_people_name_potentials_for_good(tmp_path):
    run = small_vae(tmp_path / "run", steps=3)
    run.name(0, "down")
    small_vae(tmp_path / "run", options={"resume": True})
    assert ff.load_run(tmp_path / "run").names == {0: "down", 1: "fade"}


@pytest.mark.slow
def test_training_learns_the_flows(learned_bars):
    """After some hundred steps the flow leads where the images do, and the bound has risen."""
    run = learned_bars
    rows, k = torch.arange(24).repeat(2), torch.arange(2).repeat_interleave(24)
    images = Bars().frames(rows, k, torch.linspace(0, 1, 4).repeat(48, 1))
    z0 = run.vae.encode(images[:, 0])[0]
    transported = (run.traverse(z0, k).images - images).abs().mean()
    stays = (images[:, :1] - images).abs().mean()
    assert transported < 0.5 * stays
    lines = metrics(run.folder)
    assert lines[-1]["elbo"] > lines[0]["elbo"] + 1


# What is refused


REFUSED = {
    "transformations": (
        {"transformations": ("turn",)},
        "must be those of the data set, slide, fade, or be left out, got turn",
    ),
    "count": ({"num_potentials": 3}, r"num_potentials must be 2, one for each transformation \(slide, fade\), got 3"),
    "conv": ({"network": "conv", "widths": (4, 4)}, "network conv with 2 widths doesn't fit bars: image_shape must be"),
    "flow": ({"flow_weight": -1.0}, "flow_weight must be 0 or above, got -1.0"),
    "widths": ({"widths": ()}, "widths must name one width or more"),
    "likelihood": ({"likelihood": "poisson"}, "likelihood must be one of bernoulli, gaussian, discretized-logistic"),
    "diffusion": ({"diffusion": 0.0}, "diffusion must be above 0"),
    "length": ({"prior": "diffusion", "step_length": 0.1}, "prior must be normal with a step_length"),
    "row-sums": ({"prior": "diffusion", "laplacian": "row_sum"}, "prior must be normal with laplacian row_sum"),
    "row-sums-pde": ({"laplacian": "row_sum", "pde": "porous-medium"}, "laplacian must be exact for pde porous-medium"),
    "schedule": ({"flow_schedule": ((5, 1.0), (2, 1.0))}, "flow_schedule must name its steps in rising order"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        small_vae(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_other_runs_are_not_resumed(tmp_path):
    small_vae(tmp_path / "run", steps=3)

    class Others(Bars):
        def frames(self, *request):
            return 1 - super().frames(*request)

    with pytest.raises(InputError, match="was trained on other data than bars: resume with the data"):
        small_vae(tmp_path / "run", data=Others(), options={"resume": True})
    with pytest.raises(InputError, match=r"beta was 1\.0 and is now 2\.0; resume with the same configuration"):
        small_vae(tmp_path / "run", beta=2.0, options={"resume": True})
    generator = ff.generators.load("digits-vae")
    with pytest.raises(InputError, match="by discover: it is a run of train-vae"):
        ff.discover(generator, out=tmp_path / "run", resume=True, progress=False)
    with pytest.raises(InputError, match="has its own generator, the VAE: leave out generator"):
        ff.load_run(tmp_path / "run", generator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images[:, :, 0], r"must give float32 images of shape \(4, 2, 1, 6, 6\), got"),
        (lambda images: images.double(), "must give float32 images"),
        (lambda images: images + 1, r"must give images in \[0, 1\]"),
        (lambda images: images / 0, r"must give images in \[0, 1\]"),
        (lambda images: images.numpy()[99], "data set bars failed: IndexError"),
    ],
    ids=["shape", "dtype", "range", "nan", "fails"],
)
def test_data_that_are_no_images_are_refused(tmp_path, change, message):
    class Wrong(Bars):
        def frames(self, *request):
            return change(super().frames(*request))

    with pytest.raises(InputError, match=message):
        small_vae(tmp_path / "run", data=Wrong())


def test_divergence_names_step_and_term(tmp_path, monkeypatch):
    plain = VAETraining.losses

    def losses(task, batch):
        found = plain(task, batch)
        if found.logged["elbo"] != first:
            found.logged["transport"] = torch.tensor(float("nan"))
        return found

    first = plain(small_task(), small_task().draw(1)).logged["elbo"]
    monkeypatch.setattr(VAETraining, "losses", losses)
    with pytest.raises(TrainingError, match="stopped at step 2: transport is no longer finite"):
        small_vae(tmp_path / "run")


def test_config_must_be_of_a_vae(tmp_path):
    with pytest.raises(InputError, match="config must be a VAEConfig, got DiscoverConfig"):
        ff.train_vae(ff.DiscoverConfig(), out=tmp_path / "run")


def test_presets_are_of_their_command():
    assert ff.preset("vae-mnist", VAEConfig) == ff.VAE_PRESETS["vae-mnist"]
    assert ff.preset("vae-mnist") == ff.PRESETS["vae-mnist"]
    with pytest.raises(InputError, match="preset must be one of vae-digits, vae-mnist, vae-dsprites, got 'stylegan2'"):
        ff.preset("stylegan2", VAEConfig)

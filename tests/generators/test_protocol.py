"""What a generator may have besides a map: a map to W, classes, a range; and what replaces a missing forward mode."""

import warnings

import numpy as np
import pytest
import torch
from support.runs import WEIGHT, metrics, sigmoid_generator, sigmoid_images, small_config, small_run
from torch import nn

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import from_callable, load
from fastflow.generators.change import generator_change
from fastflow.latents.traversal import traverse
from fastflow.metrics.evaluation import evaluate
from fastflow.training.discover import Discovery

# No forward mode


class Square(torch.autograd.Function):
    """An operator of somebody's own, with a backward and no jvp."""

    @staticmethod
    def forward(x):
        return x.sigmoid()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, gradient):
        (output,) = ctx.saved_tensors
        return gradient * output * (1 - output)


def opaque_images(z):
    return Square.apply(z @ WEIGHT.to(z)).unflatten(1, (1, 6, 6))


def test_generator_without_forward_mode_says_so_once():
    generator = from_callable(opaque_images, 4)
    with pytest.warns(UserWarning, match=r"forward-mode.*failed .*central finite differences") as told:
        assert not generator.forward_mode
    (message,) = [str(warning.message) for warning in told if "finite differences" in str(warning.message)]
    assert "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not generator.forward_mode
    assert sigmoid_generator().forward_mode


def test_finite_differences_give_the_rate_of_change_and_its_gradients():
    """To the direction; with respect to z a difference's gradient would be noise wherever the generator has corners."""
    z, direction = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float32, 2e-3), (torch.float64, 1e-7)):
        found = {}
        for decode, forward_mode in ((opaque_images, False), (sigmoid_generator().decode, True)):
            leaves = [tensor.to(dtype).requires_grad_() for tensor in (z, 0.1 * direction)]
            images, change = generator_change(decode, *leaves, forward_mode=forward_mode)
            (gradient,) = torch.autograd.grad(change.square().sum(), leaves[1:], retain_graph=True)
            (through_images,) = torch.autograd.grad(images.square().sum(), leaves[:1])
            found[forward_mode] = [images, change, gradient, through_images]
        for value, expected in zip(found[False], found[True], strict=True):
            error = (value - expected).norm() / expected.norm()
            assert error < tolerance, (dtype, error)


def test_finite_differences_of_a_network_with_corners():
    vae = load("digits-vae")
    z, direction = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    _, expected = generator_change(vae.decode, z, direction)
    _, change = generator_change(vae.decode, z, direction, forward_mode=False)
    errors = (change - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert errors.mean() < 3e-3


def test_images_that_depend_on_the_rest_of_the_batch_are_refused():
    """A network that is left to normalise over the batch, where nobody can see it to switch it to evaluation."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.BatchNorm1d(32), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (2, 4, 4))
    )
    with pytest.raises(InputError, match=r"whatever others are beside them, .* \.eval\(\)"):
        from_callable(lambda z: net(z), 6)
    from_callable(net, 6)


def test_run_of_other_classes_is_not_resumed(tmp_path):
    def conditioned(classes):
        return from_callable(lambda z, labels: sigmoid_generator().decode(z) * (1 - labels.view(-1, 1, 1, 1) / 9), 4,
                             classes=classes)  # fmt: skip

    small_run(tmp_path / "run", conditioned([0, 1]))
    with pytest.raises(InputError, match="was trained on another generator"):
        small_run(tmp_path / "run", conditioned([0, 4]), steps=9, resume=True)
    assert small_run(tmp_path / "run", conditioned([0, 1]), steps=9, resume=True).step == 9


def test_finite_differences_of_a_resting_potential_are_zero():
    z = torch.randn(2, 4)
    _, change = generator_change(opaque_images, z, torch.zeros(2, 4), forward_mode=False)
    assert torch.equal(change, torch.zeros(2, 1, 6, 6))


def test_generator_without_forward_mode_trains_as_one_that_has_it(tmp_path):
    with pytest.warns(UserWarning, match="central finite differences"):
        small_run(tmp_path / "opaque", from_callable(opaque_images, 4))
    small_run(tmp_path / "exact")
    for line, expected in zip(metrics(tmp_path / "opaque"), metrics(tmp_path / "exact"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert line["jacobian"] == pytest.approx(expected["jacobian"], abs=1e-2)


def test_attention_has_a_forward_mode():
    attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def decode(z):
        x = z.unflatten(1, (3, 4))
        return nn.functional.scaled_dot_product_attention(x, x, attention(x, x, x)[0]).sigmoid()[:, None]

    generator = from_callable(decode, 12, dtype=torch.float32)
    assert generator.forward_mode
    z, direction = torch.randn(2, 3, 12)
    _, change = generator_change(decode, z, direction)
    _, expected = generator_change(decode, z, direction, forward_mode=False)
    assert (change - expected).norm() < 1e-2 * expected.norm()


# A map to W


def test_latents_are_drawn_through_the_mapping():
    mapping = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Dropout(0.5))
    generator = sigmoid_generator(mapping=mapping, mapping_dim=3)
    assert not mapping.training
    assert not any(parameter.requires_grad for parameter in mapping.parameters())
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
    w = generator.sample(6, seed=5)
    torch.testing.assert_close(w, mapping(z))
    assert not w.requires_grad
    assert w.shape == (6, generator.latent_dim)
    assert generator.double().sample(2).dtype == torch.float64


def test_discovery_in_w(tmp_path):
    mapping = nn.Linear(3, 4)
    run = small_run(tmp_path / "run", sigmoid_generator(mapping=mapping, mapping_dim=3))
    assert run.bank.dim == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping_dim": 3}, "mapping_dim is the width of a mapping's inputs: give both, or neither"),
        ({"mapping": "mlp"}, "mapping must be callable"),
        ({"mapping": lambda z: z, "mapping_dim": 0}, "mapping_dim must be a whole number of at least 1, got 0"),
        ({"mapping": lambda z: z, "mapping_dim": 3}, r"mapping must give latents \(2, 4\), got \(2, 3\)"),
        ({"mapping": lambda z: [z]}, r"mapping must give latents \(2, 4\), got list"),
    ],
)
def test_mapping_is_checked(options, message):
    with pytest.raises(InputError, match=message):
        sigmoid_generator(**options)


# Classes


def striped(z, labels):
    """Images of class 0, 1 or 2, which differ in one row."""
    images = (z @ WEIGHT.to(z)).unflatten(1, (1, 6, 6)).sigmoid()
    mark = torch.eye(6, device=z.device, dtype=z.dtype)[labels][:, None, :, None]
    return 0.5 * images + 0.5 * mark


def classes_of(images):
    return images.mean(-1).argmax(-1)[..., 0]


def test_classes_are_drawn_for_every_sample_and_kept_along_its_path(tmp_path, monkeypatch):
    seen = []

    def watched(z, labels):
        seen.append(labels.clone())
        return striped(z, labels)

    task = Discovery(small_run(tmp_path / "run", from_callable(striped, 4, classes=(0, 2))).config, generator := (
        from_callable(watched, 4, classes=(0, 2))
    ))  # fmt: skip
    generator.forward_mode  # noqa: B018, looked at first, since it decodes as well
    seen.clear()
    task.losses(task.draw(1))
    assert set(seen[0].tolist()) == {0, 2}
    assert all(torch.equal(labels, seen[0]) for labels in seen)  # at both ends of a step


def test_images_without_a_named_class_are_of_the_first():
    generator = from_callable(striped, 4, classes=(2, 0))
    z = generator.sample(3)
    assert classes_of(generator.decode(z)).tolist() == [2, 2, 2]
    assert classes_of(generator.decode(z, torch.tensor([1, 0, 2]))).tolist() == [1, 0, 2]
    assert torch.equal(generator(z), generator.decode(z))


def test_traversals_and_evaluation_draw_classes(tmp_path):
    run = small_run(tmp_path / "run", from_callable(striped, 4, classes=(0, 2)))
    z0 = run.generator.sample(3)
    traversal = run.traverse(z0, 0, labels=torch.tensor([2, 0, 2]))
    assert classes_of(traversal.images[:, :, :]).unique(dim=1)[:, 0].tolist() == [2, 0, 2]
    assert (classes_of(run.traverse(z0, 0).images) == 0).all()

    drawn = []
    decode = run.generator.function
    run.generator.function = lambda z, labels: drawn.append(labels) or decode(z, labels)
    evaluate(run, 60, progress=False)
    assert set(torch.cat(drawn).tolist()) == {0, 2}


LABELS = {
    "numbers": ([0, 2], r"must be a tensor of whole numbers of shape \(2,\), got list"),
    "shape": (torch.tensor([0]), r"of shape \(2,\), got torch.int64 \(1,\)"),
    "dtype": (torch.tensor([0.0, 2.0]), r"of shape \(2,\), got torch.float32 \(2,\)"),
    "flags": (torch.tensor([True, False]), "got torch.bool"),
    "class": (torch.tensor([0, 1]), "labels must be among the generator's classes, 0, 2; got 1"),
}


@pytest.mark.parametrize(("labels", "message"), LABELS.values(), ids=LABELS)
def test_labels_of_a_traversal_are_checked(labels, message):
    generator = from_callable(striped, 4, classes=(0, 2))
    bank = PotentialBank(3, 4, (8,))
    with pytest.raises(InputError, match=message):
        traverse(bank, generator, generator.sample(2), 0, 2, small_config(), labels=labels)
    short = torch.tensor([0, 2], dtype=torch.int16)
    assert len(traverse(bank, generator, generator.sample(2), 0, 2, small_config(), labels=short).images) == 2


@pytest.mark.parametrize("sample", [lambda n, rng: np.zeros((n, 4)), lambda n, rng: torch.zeros(n, 3)])
def test_latents_that_are_no_tensor_of_their_shape_are_refused(sample):
    with pytest.raises(InputError, match=r"sample must give latents as a tensor \(2, 4\), got (ndarray|\(2, 3\))"):
        from_callable(sigmoid_images, 4, sample=sample)


def test_labels_of_a_generator_without_classes_are_refused():
    generator = sigmoid_generator()
    assert generator.draw_labels(3, torch.Generator()) is None
    with pytest.raises(InputError, match="labels are for a generator with classes"):
        generator.decode(generator.sample(2), torch.zeros(2, dtype=torch.long))


def test_unconditional_training_draws_no_classes():
    rng, other = (torch.Generator().manual_seed(0) for _ in range(2))
    sigmoid_generator().draw_labels(10, rng)
    assert torch.equal(torch.rand(3, generator=rng), torch.rand(3, generator=other))


@pytest.mark.parametrize("classes", [(), (-1,), (0.5,), 3, "cat", (True,)], ids=str)
def test_classes_are_checked(classes):
    with pytest.raises(InputError, match="classes must be one or more whole numbers of at least 0"):
        from_callable(striped, 4, classes=classes)


# The images' range


def test_images_far_outside_their_range_are_refused():
    with pytest.raises(InputError, match=r"images span .* far outside value_range \(0, 1\): say what they span"):
        from_callable(lambda z: 255 * sigmoid_generator()(z), 4)
    assert from_callable(lambda z: 255 * sigmoid_generator()(z), 4, value_range=(0, 255)).outside == 0


BRIGHT = """
def decode(z):
    return z.tanh().reshape(-1, 1, 2, 2)
"""


def test_pixels_that_will_be_clipped_are_pointed_out(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(BRIGHT)
    small = ["--num-potentials", "2", "--steps", "1", "--batch-size", "4", "--hidden", "4", "--path-steps", "2"]
    arguments = ["--generator", f"{tmp_path}/mine.py:decode", "--latent-dim", "4", "--out", str(tmp_path / "run")]
    main(["discover", *arguments, *small])
    assert "pixels lie outside its value_range (0, 1) and will be clipped" in capsys.readouterr().err

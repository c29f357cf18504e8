"""What a generator may have besides a map: a map to W, classes, and a range of values."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from support.runs import WEIGHT, sigmoid_generator, sigmoid_images, small_run
from torch import nn

import fastflow as ff
from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.engine.integration import Integration
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import from_callable
from fastflow.latents.traversal import traverse
from fastflow.metrics.evaluation import evaluate
from fastflow.training.discover import Discovery


def test_images_that_depend_on_the_rest_of_the_batch_are_refused():
    """A network that is left to normalise over the batch, where nobody can see it to switch it to evaluation."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 32), torch.nn.BatchNorm1d(32), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (2, 4, 4))
    )
    with pytest.raises(InputError, match=r"in any batch, .* \.eval\(\)"):
        from_callable(lambda z: net(z), 6)
    from_callable(net, 6)


@pytest.mark.slow
def test_run_of_other_classes_is_not_resumed(tmp_path):
    def conditioned(classes):
        return from_callable(lambda z, labels: sigmoid_generator().decode(z) * (1 - labels.view(-1, 1, 1, 1) / 9), 4,
                             classes=classes)  # fmt: skip

    small_run(tmp_path / "run", conditioned([0, 1]))
    with pytest.raises(InputError, match="was trained on another generator"):
        small_run(tmp_path / "run", conditioned([0, 4]), steps=9, resume=True)
    assert small_run(tmp_path / "run", conditioned([0, 1]), steps=9, resume=True).step == 9


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

    def recorded(z, labels):
        seen.append(labels.clone())
        return striped(z, labels)

    task = Discovery(small_run(tmp_path / "run", from_callable(striped, 4, classes=(0, 2))).config, generator := (
        from_callable(recorded, 4, classes=(0, 2))
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


@pytest.mark.slow
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
        traverse(bank, generator, generator.sample(2), 0, 2, integration=Integration(), labels=labels)
    short = torch.tensor([0, 2], dtype=torch.int16)
    assert (
        len(traverse(bank, generator, generator.sample(2), 0, 2, integration=Integration(), labels=short).images) == 2
    )


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
    with pytest.raises(InputError, match=r"images span .* far outside value_range \(0, 1\): give the range"):
        from_callable(lambda z: 255 * sigmoid_generator()(z), 4)
    assert from_callable(lambda z: 255 * sigmoid_generator()(z), 4, value_range=(0, 255)).outside == 0


BRIGHT = """
def decode(z):
    return z.tanh().reshape(-1, 1, 2, 2)
"""


@pytest.mark.filterwarnings("default:the generator's images span")
def test_pixels_that_will_be_clipped_are_pointed_out(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(BRIGHT)
    small = ["--num-potentials", "2", "--steps", "1", "--batch-size", "4", "--hidden", "4", "--path-steps", "2"]
    arguments = ["--generator", f"{tmp_path}/mine.py:decode", "--latent-dim", "4", "--out", str(tmp_path / "run")]
    main(["discover", *arguments, *small])
    assert "pixels lie outside its value_range (0, 1) and are clipped" in capsys.readouterr().err


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@pytest.mark.slow
def test_commands_do_as_usual_whatever_the_defaults_and_the_mode(tmp_path):
    """On a machine of one device: the meta device stands for another one."""
    images = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = small_run(tmp_path / "expected")
    latents = ff.invert(expected.generator, images, steps=3, progress=False).latents
    contexts = {
        "device": torch.device("meta"),
        "inference": torch.inference_mode(),
        "dtype": default_dtype(torch.float64),
    }
    for name, context in contexts.items():
        with context:
            run = small_run(tmp_path / name, expected.generator)
            found = ff.invert(run.generator, images, steps=3, progress=False).latents
        assert torch.equal(found, latents)
        for key, value in expected.bank.state_dict().items():
            assert torch.equal(run.bank.state_dict()[key], value), (name, key)


def test_a_module_made_in_inference_mode_can_be_learned_on():
    with torch.inference_mode():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
        before = module(torch.ones(3, 4))
        generator = from_callable(module.eval(), 4)
    z = generator.sample(2).requires_grad_()
    generator(z).sum().backward()
    assert bool((z.grad != 0).any())
    module.train()
    torch.testing.assert_close(module(torch.ones(3, 4)), before.clone())

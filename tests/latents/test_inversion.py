"""Real images in a generator's latent space, by encoder and by optimization, and how they are made to fit."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.runs import sigmoid_generator

import fastflow as ff
from fastflow.core.errors import InputError
from fastflow.latents.inversion import fitting_images


@pytest.fixture(scope="module")
def digits():
    return ff.generators.load("digits-vae")


def test_encoder_is_used_where_there_is_one(digits):
    images = digits.held_out_images[:3]
    found = ff.invert(digits, images)
    assert found.method == "encoder"
    assert torch.equal(found.latents, digits.vae.encode(images)[0])
    expected = (digits.decode(found.latents) - images).abs().mean((1, 2, 3))
    torch.testing.assert_close(found.error, expected)
    assert (found.names, found.note) == (["image 0", "image 1", "image 2"], "")


def test_optimization_finds_the_latents_that_drew_the_images():
    generator = sigmoid_generator(dtype=torch.float64)
    z = generator.sample(3, seed=7)
    found = ff.invert(generator, generator.decode(z), prior=0.0, steps=200, restarts=2, progress=False)
    assert found.method == "optimization"
    torch.testing.assert_close(found.latents, z, rtol=1e-2, atol=1e-2)
    assert found.error.max() < 2e-3
    again = ff.invert(generator, generator.decode(z), prior=0.0, steps=200, restarts=2, progress=False)
    assert torch.equal(again.latents, found.latents)


def test_optimization_has_gradients_where_the_caller_has_none():
    generator = sigmoid_generator()
    with torch.no_grad():
        found = ff.invert(generator, generator.decode(generator.sample(1, seed=7)), steps=2, progress=False)
    assert found.method == "optimization"
    assert not found.latents.requires_grad


def test_optimization_comes_closer_than_the_encoder_and_the_prior_holds_it_back(digits):
    images = digits.held_out_images[:3]
    encoded = ff.invert(digits, images)
    free, held = (
        ff.invert(digits, images, method="optimization", prior=prior, steps=100, progress=False) for prior in (0.0, 0.1)
    )
    assert free.error.mean() < encoded.error.mean()
    assert held.latents.norm() < encoded.latents.norm() < free.latents.norm()


def test_images_outside_zero_to_one_are_inverted_on_the_scale_that_they_have():
    def signed(z):
        return 2 * torch.sigmoid(z.view(-1, 1, 2, 2)) - 1

    generator = ff.generators.from_callable(signed, 4, value_range=(-1.0, 1.0))
    images = torch.full((1, 1, 2, 2), 0.75)
    found = ff.invert(generator, images, prior=0.0, progress=False)
    torch.testing.assert_close(generator.decode(found.latents), torch.full((1, 1, 2, 2), 0.5), rtol=0, atol=0.01)


def test_classes_are_kept():
    def shaded(z, labels):
        return torch.sigmoid(z)[:, :, None, None] * labels.view(-1, 1, 1, 1)

    generator = ff.generators.from_callable(shaded, 1, classes=[0, 1])
    images = torch.full((2, 1, 1, 1), 0.3)
    found = ff.invert(generator, images, labels=torch.tensor([0, 1]), prior=0.0, progress=False)
    torch.testing.assert_close(found.error, torch.tensor([0.3, 0.0]), rtol=0, atol=0.01)


def test_images_are_made_to_fit(digits, tmp_path):
    wide = np.zeros((40, 80, 3), dtype=np.uint8)
    wide[:, 20:60] = (255, 0, 0)  # the middle square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(np.full((8, 8), 51, dtype=np.uint8)).save(tmp_path / "fits.png")
    images, names, note = fitting_images(digits, tmp_path)
    assert names == ["fits.png", "wide.png"]
    torch.testing.assert_close(images[0], torch.full((1, 8, 8), 0.2))
    torch.testing.assert_close(images[1], torch.full((1, 8, 8), 0.299))
    assert note == "1 of 2 images were made to fit the generator's 1 x 8 x 8: wide.png has 3 x 40 x 80"


def test_grey_images_are_given_channels():
    generator = ff.generators.from_callable(lambda z: torch.sigmoid(z).view(-1, 3, 1, 2), 6)
    images, _, _ = fitting_images(generator, torch.full((1, 1, 5, 4), 0.5))
    torch.testing.assert_close(images, torch.full((1, 3, 1, 2), 0.5))


def test_encoder_of_ones_own(digits):
    generator = ff.generators.from_callable(digits.vae.decode, 8, encode=digits.vae.encode)
    images = digits.held_out_images[:2]
    assert torch.equal(ff.invert(generator, images).latents, digits.encode(images))


def test_vae_runs_encode_with_their_own(tmp_path):
    config = ff.VAEConfig(steps=2, batch_size=4, latent_dim=3, widths=(8,), flow_weight=0.0)
    run = ff.train_vae(config, out=tmp_path / "vae", progress=False)
    images = torch.rand(2, *run.generator.image_shape)
    found = ff.invert(run.generator, images)
    assert found.method == "encoder"
    assert torch.equal(found.latents, run.vae.encode(images)[0])


REFUSED = {
    "range": ({"images": torch.full((1, 1, 8, 8), 2.0)}, "images must be uint8, or floats in"),
    "shape": ({"images": torch.zeros(8, 8)}, r"images must have shape \(N, C, H, W\), got \(8, 8\)"),
    "channels": ({"images": torch.zeros(1, 2, 8, 8)}, "images of 2 channels can't be converted to the generator's 1"),
    "none": ({"images": []}, "images must be at least one file"),
    "missing": ({"images": "nowhere.png"}, "image 'nowhere.png' doesn't exist: expected an image file"),
    "pipe": ({"images": "/dev/null"}, "image '/dev/null' isn't a file: expected an image file"),
    "method": ({"method": "magic"}, "method must be encoder or optimization, got 'magic'"),
    "steps": ({"method": "optimization", "steps": 0}, "steps must be a whole number of at least 1, got 0"),
    "restarts": ({"method": "optimization", "restarts": 0}, "restarts must be a whole number of at least 1, got 0"),
    "prior": ({"method": "optimization", "prior": -1.0}, r"prior must be a number of at least 0, got -1\.0"),
    "seed": ({"method": "optimization", "seed": -1}, "seed must be a whole number"),
    "labels": ({"labels": torch.tensor([0])}, "labels are for a generator with classes"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_arguments(digits, options, message):
    with pytest.raises(InputError, match=message):
        ff.invert(digits, **{"images": torch.zeros(1, 1, 8, 8), "progress": False, **options})


def test_folder_without_images_is_named(digits, tmp_path):
    with pytest.raises(InputError, match="has no images: expected files ending in"):
        ff.invert(digits, tmp_path)


def test_generator_without_encoder_or_gradient():
    generator = ff.generators.from_callable(lambda z: torch.sigmoid(z.detach()).view(-1, 1, 2, 2), 4)
    with pytest.raises(InputError, match="no gradient passes through the generator"):
        ff.invert(generator, torch.zeros(1, 1, 2, 2), progress=False)
    with pytest.raises(InputError, match="this generator has no encoder"):
        ff.invert(generator, torch.zeros(1, 1, 2, 2), method="encoder")


@pytest.mark.parametrize("encode", [3, lambda x: x], ids=["no-callable", "wrong-shape"])
def test_encoder_that_can_not_be_used(digits, encode):
    with pytest.raises(InputError, match=r"encode must (be callable|give finite latents \(1, 8\))"):
        ff.generators.from_callable(digits.vae.decode, 8, encode=encode).encode(torch.zeros(1, 1, 8, 8))


def test_folders_are_read_without_what_an_operating_system_leaves(tmp_path):
    generator = sigmoid_generator()
    for name in ("b.png", "a.png"):
        Image.new("RGBA", (6, 6), (255, 255, 255, 102)).save(tmp_path / name)
    for name in ("._a.png", ".DS_Store", "Thumbs.db", ".hidden.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    images, names, _ = fitting_images(generator, tmp_path)
    assert names == ["a.png", "b.png"]
    torch.testing.assert_close(images, torch.full((2, 1, 6, 6), 102 / 255))


def test_tensors_of_another_range_are_refused_with_their_range():
    with pytest.raises(InputError, match=r"in \[0, 1\], got torch.float32 from -1 to 1: scale them first"):
        fitting_images(sigmoid_generator(), torch.linspace(-1, 1, 36).view(1, 1, 6, 6))
    with pytest.warns(UserWarning, match="hold 0 and 1 only"):
        fitting_images(sigmoid_generator(), torch.eye(6, dtype=torch.uint8)[None, None])

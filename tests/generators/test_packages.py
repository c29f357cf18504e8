"""Generators of other packages, on their real classes with small random weights, and on one's real weights."""

import sys
import types
from importlib import import_module
from importlib.util import find_spec
from unittest import mock

import pytest
import torch
from support.runs import metrics, small_run
from torch.nn import functional

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import autoencoder_kl, biggan, encode_kl, from_stylegan2_pytorch, stylegan2
from fastflow.generators.biggan import truncated_normal
from fastflow.generators.change import generator_change
from fastflow.runs.loading import load_run


def check_generator(generator, tmp_path):
    """What every generator must do: decode each image on its own, know its rate of change, and be learned on."""
    z = generator.sample(3, seed=1)
    images = generator.decode(z)
    assert images.shape == (3, *generator.image_shape)
    torch.testing.assert_close(generator.decode(z[1:2]), images[1:2], rtol=1e-4, atol=1e-5)

    assert generator.forward_mode
    double, direction = generator.double(), generator.sample(3, seed=2).double()
    z = z.double()
    _, change = generator_change(double.decode, z, direction)
    difference = (double.decode(z + 1e-6 * direction) - double.decode(z - 1e-6 * direction)) / 2e-6
    torch.testing.assert_close(change, difference, rtol=1e-4, atol=1e-5)
    assert change.abs().max() > 1e-4

    run = small_run(tmp_path / "run", generator.float(), steps=4)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [2, 4]
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in metrics(tmp_path / "run"))
    traversal = run.traverse(generator.sample(2), potential=1)
    assert traversal.images.shape == (2, 4, *generator.image_shape)


# BigGAN


@pytest.fixture(scope="module")
def biggan_package():
    return pytest.importorskip("pytorch_pretrained_biggan", reason="needs pytorch-pretrained-biggan: fastflow[biggan]")


def small_biggan(package):
    torch.manual_seed(0)
    layers = [(True, 16, 8), (True, 8, 4), (False, 4, 2), (False, 2, 1)]
    config = package.BigGANConfig(
        output_dim=16, z_dim=8, class_embed_dim=8, channel_width=4, num_classes=5, layers=layers,
        attention_layer_position=2,
    )  # fmt: skip
    model = package.BigGAN(config)
    for name, parameter in model.named_parameters():  # the last normalisation's are left as they lie in memory
        if name.startswith("generator.bn."):
            torch.nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
    with torch.no_grad():
        for _ in range(10):  # spectral normalisation learns its norms in training
            model(torch.randn(8, 8), torch.eye(5)[:1].expand(8, -1), 1.0)
    return model.eval()


@pytest.mark.slow
def test_biggan(biggan_package, tmp_path):
    generator = biggan(small_biggan(biggan_package), classes=(1, 3), truncation=0.5)
    assert (generator.latent_dim, generator.image_shape, generator.classes) == (8, (3, 16, 16), (1, 3))
    check_generator(generator, tmp_path)


@pytest.mark.slow
def test_biggan_classes_and_truncation_reach_the_model(biggan_package):
    model = small_biggan(biggan_package)
    generator = biggan(model, classes=(1, 3), truncation=0.5)
    z = generator.sample(4)
    labels = torch.tensor([3, 1, 3, 1])
    expected = model(z, functional.one_hot(labels, 5).float(), 0.5)
    torch.testing.assert_close(generator.decode(z, labels), expected)
    torch.testing.assert_close(generator.conditioned(labels)(z), expected)
    torch.testing.assert_close(generator.decode(z)[1::2], expected[1::2])  # of the first class, where none is named
    assert not torch.allclose(generator.decode(z)[0], expected[0])

    drawn = generator.draw_labels(200, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 3}
    assert 60 < int((drawn == 1).sum()) < 140
    assert generator.sample(4000).abs().max() <= 1.0  # half of two standard deviations


def test_truncated_normal_is_a_normal_between_two_deviations():
    z = truncated_normal(1000, 100, torch.Generator().manual_seed(0))
    assert z.abs().max() <= 2
    assert abs(float(z.mean())) < 0.01
    assert float(z.std()) == pytest.approx(0.8796, abs=0.005)  # of a normal cut off at 2


@pytest.mark.slow
def test_biggan_from_its_folder(biggan_package, tmp_path):
    model = small_biggan(biggan_package)
    folder = tmp_path / "biggan"
    folder.mkdir()
    (folder / "config.json").write_text(model.config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    generator = generators.load(f"biggan:{folder},classes=3+1,truncation=0.5")
    assert generator.name == f"biggan:{folder},classes=3+1,truncation=0.5"
    z = generator.sample(2)
    expected = model(z, functional.one_hot(torch.tensor([3, 3]), 5).float(), 0.5)
    torch.testing.assert_close(generator.decode(z), expected)

    small_run(tmp_path / "run", generator, steps=2)
    assert load_run(tmp_path / "run").generator.classes == (3, 1)  # found again by its name

    state = model.state_dict()
    del state["generator.gen_z.bias"]
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin' lacks 'generator.gen_z.bias'"):
        generators.load(f"biggan:{folder}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": (5,)}, r"classes must lie in 0\.\.4, got 5"),
        ({"classes": ()}, "classes must be one or more whole numbers"),
        ({"classes": (-1,)}, "classes must be one or more whole numbers"),
        ({"truncation": 0.0}, r"truncation must lie in \(0, 1\], got 0.0"),
    ],
)
def test_biggan_refuses(biggan_package, options, message):
    with pytest.raises(InputError, match=message):
        biggan(small_biggan(biggan_package), **{"classes": (1,), **options})


# StyleGAN2


class Absent(types.ModuleType):
    """Stands in for what stylegan2-pytorch imports for its training loop, where that isn't installed."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return mock.MagicMock()


@pytest.fixture(scope="module")
def stylegan2_package():
    for name in ("stylegan2_pytorch", "einops", "kornia"):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}: fastflow[stylegan2]")
    trained_with = ("aim", "fire", "torchvision", "torchvision.transforms", "vector_quantize_pytorch")
    absent = {name: Absent(name) for name in trained_with if find_spec(name.partition(".")[0]) is None}
    # The package insists on a GPU when it is imported; its networks don't.
    with mock.patch.dict(sys.modules, absent), mock.patch("torch.cuda.is_available", return_value=True):
        package = import_module("stylegan2_pytorch.stylegan2_pytorch")
    return package


def small_stylegan2(package):
    torch.manual_seed(0)
    mapping, synthesis = package.StyleVectorizer(12, 2, lr_mul=1), package.Generator(16, 12, network_capacity=2)
    with torch.no_grad():
        for block in synthesis.blocks:
            block.to_rgb.conv.weight.mul_(0.2)  # towards the range of trained images
    return mapping.eval(), synthesis.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("space", "width"), [("z", 12), ("w", 12), ("w+", 36)])
def test_stylegan2(stylegan2_package, tmp_path, space, width):
    generator = from_stylegan2_pytorch(*small_stylegan2(stylegan2_package), space=space)
    assert (generator.latent_dim, generator.image_shape) == (width, (3, 16, 16))
    check_generator(generator, tmp_path)


def test_stylegan2_spaces_draw_the_same_images(stylegan2_package):
    mapping, synthesis = small_stylegan2(stylegan2_package)
    by_z, by_w, by_layer = (from_stylegan2_pytorch(mapping, synthesis, space=space) for space in ("z", "w", "w+"))
    images = by_z.decode(by_z.sample(3))
    torch.testing.assert_close(by_w.decode(by_w.sample(3)), images)
    torch.testing.assert_close(by_layer.decode(by_layer.sample(3)), images)
    noise = torch.rand(1, 16, 16, 1, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    styles = mapping(by_z.sample(3))[:, None].expand(-1, 3, -1)
    torch.testing.assert_close(synthesis(styles, noise), images)
    # Each layer's style is a part of the latent of its own.
    z = by_layer.sample(1)
    for layer in range(3):
        moved = z.clone()
        moved[:, 12 * layer : 12 * (layer + 1)] += 1
        assert (by_layer.decode(moved) - by_layer.decode(z)).abs().max() > 1e-4


def test_stylegan2_truncation_draws_styles_towards_their_mean(stylegan2_package):
    mapping, synthesis = small_stylegan2(stylegan2_package)
    full, half = (from_stylegan2_pytorch(mapping, synthesis, truncation=psi) for psi in (1.0, 0.5))
    w, drawn = full.sample(500), half.sample(500)
    mean = 2 * drawn - w
    torch.testing.assert_close(mean, mean[:1].expand(500, -1), rtol=0, atol=1e-5)
    torch.testing.assert_close(mean[0], w.mean(0), rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "s"}, "space must be one of z, w, w[+], got 's'"),
        ({"truncation": 1.5}, r"truncation must lie in \(0, 1\], got 1.5"),
        ({"w_dim": 3}, r"mapping must give styles \(B, 3\) or \(B, layers, 3\), got \(2, 4\)"),
    ],
)
def test_stylegan2_refuses(options, message):
    arguments = {"z_dim": 4, "w_dim": 4, "num_layers": 2, **options}
    with pytest.raises(InputError, match=message):
        stylegan2(torch.nn.Linear(4, 4), lambda w: w.sigmoid()[:, None], **arguments)


def test_stylegan2_mapping_may_give_a_style_for_every_layer():
    linear = torch.nn.Linear(4, 4)

    def mapping(z):
        return linear(z)[:, None].expand(-1, 2, -1)

    options = {"z_dim": 4, "w_dim": 4, "num_layers": 2, "value_range": (0, 1)}
    generator = stylegan2(mapping, lambda w: w.sigmoid()[:, None], **options)
    assert generator.image_shape == (1, 2, 4)
    torch.testing.assert_close(
        generator.sample(3), linear(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    )


# AutoencoderKL


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="needs diffusers: fastflow[diffusers]", exc_type=ImportError)


def small_autoencoder(diffusers):
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=2,
    ).eval()  # fmt: skip


@pytest.mark.slow
def test_autoencoder_kl(diffusers, tmp_path):
    generator = autoencoder_kl(small_autoencoder(diffusers), size=16)
    assert (generator.latent_dim, generator.image_shape) == (2 * 8 * 8, (3, 16, 16))
    check_generator(generator, tmp_path)


def test_autoencoder_kl_decodes_what_it_encodes(diffusers):
    model = small_autoencoder(diffusers)
    generator = autoencoder_kl(model, size=16)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = model(images).sample  # the posterior's mode, decoded, without any scaling
    torch.testing.assert_close(generator.decode(encode_kl(model, images)), expected, rtol=1e-4, atol=1e-5)


def test_autoencoder_kl_from_its_folder(diffusers, tmp_path):
    model = small_autoencoder(diffusers)
    model.save_pretrained(tmp_path / "vae")
    generator = generators.load(f"autoencoder-kl:{tmp_path / 'vae'},size=16")
    z = generator.sample(2)
    expected = autoencoder_kl(model, 16).decode(z)
    torch.testing.assert_close(generator.decode(z), expected)
    assert generators.load(generator.name).image_shape == (3, 16, 16)
    with pytest.raises(InputError, match="size must be a multiple of 2"):
        generators.load(f"autoencoder-kl:{tmp_path / 'vae'},size=15")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model.bin' doesn't exist"):
        generators.load(f"autoencoder-kl:{tmp_path / 'vae'}")


# Faces


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gan_face_generate") is None, reason="needs gan-face-generate: fastflow[faces]")
def test_faces(tmp_path):
    generator = generators.load("faces")
    assert (generator.name, generator.latent_dim, generator.image_shape) == ("faces", 100, (3, 64, 64))
    images = generator.decode(generator.sample(64))
    # Trained: faces of many tones before many grounds, and alike in the middle rows.
    assert -1 <= images.min() < -0.95
    assert 0.9 < images.max() <= 1
    across = images.mean((1, 2, 3)).std()
    assert across > 0.1
    check_generator(generator, tmp_path)


@pytest.mark.skipif(find_spec("gan_face_generate") is None, reason="needs gan-face-generate: fastflow[faces]")
def test_faces_are_those_of_the_packages_own_network():
    file = next(iter(find_spec("gan_face_generate").submodule_search_locations))
    source = import_module("gan_face_generate.models")
    network = source.Generator(1, 3, 100, 64).eval()
    network.load_state_dict(torch.load(f"{file}/weights.tar", weights_only=True, map_location="cpu")["netG_state_dict"])
    generator = generators.load("faces")
    z = generator.sample(3)
    with torch.no_grad():
        torch.testing.assert_close(generator.decode(z), network(z[:, :, None, None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        ("gan_face_generate", "faces", r"needs the package gan-face-generate: pip install 'fastflow\[faces\]'"),
        ("pytorch_pretrained_biggan", "biggan:x", r"needs the package pytorch_pretrained_biggan: .*fastflow\[biggan\]"),
        ("diffusers", "autoencoder-kl:x", r"needs the package diffusers: pip install 'fastflow\[diffusers\]'"),
    ],
)
def test_absent_package_is_named_with_its_extra(monkeypatch, module, spec, message):
    monkeypatch.setattr("fastflow.generators.dcgan.find_spec", lambda name: None)

    def import_nothing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("fastflow.core.plugins.import_module", import_nothing)
    with pytest.raises(InputError, match=message) as error:
        generators.load(spec)
    assert "\n" not in str(error.value)


def test_package_that_cannot_be_imported_says_why(monkeypatch):
    def fail(name):
        raise AssertionError("needs a GPU")

    monkeypatch.setattr("fastflow.core.plugins.import_module", fail)
    with pytest.raises(InputError, match="whose import failed: AssertionError: needs a GPU"):
        generators.load("biggan:x")

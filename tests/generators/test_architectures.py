"""Generators from files: state dicts of known architectures, archives, and what is refused by name."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.pretrained import MNIST_VAE, needs_mnist
from support.runs import small_run
from torch import nn

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import DCGAN, MLPVAE, SNGAN, SNGAN32, SNGAN64, ConvVAE
from fastflow.generators.state_dicts import read_state_dict
from fastflow.runs.loading import load_run


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def settled(net):
    """The net with statistics of normalisation that are its own, unlike those of another one."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


def renamed(state, change):
    return {change(key): value for key, value in state.items()}


# The names and shapes of files that others publish, written out from theirs.
SNGAN_KEYS = {
    "model.0.weight", "model.0.bias",
    *(f"model.2.{name}.{kind}" for name in ("conv1", "conv2", "model.3", "model.6") for kind in ("weight", "bias")),
    *(
        f"model.2.model.{place}.{kind}"
        for place in (0, 4)
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("widths", "channels", "size", "last"), [(SNGAN32, 1, 32, 7), (SNGAN64, 3, 64, 8)], ids=["32", "64"]
)
def test_sngan_has_the_published_names_and_shapes(widths, channels, size, last):
    state = SNGAN(widths, 128, channels).state_dict()
    assert set(state) >= SNGAN_KEYS
    assert state["model.0.weight"].shape == (16 * widths[0], 128)
    assert state["model.2.conv1.weight"].shape == (widths[1], widths[0], 3, 3)
    assert f"model.{last - 2}.running_mean" in state
    assert state[f"model.{last}.weight"].shape == (channels, widths[-1], 3, 3)
    assert ("model.2.bypass.1.weight" in state) == (size == 64)  # a convolution only where the width changes
    assert not any(int(key.split(".")[1]) > last for key in state)


SMALL_NETS = {
    "sngan-32": (lambda: SNGAN((8, 8, 8, 8), 6, 1), "sngan", (1, 32, 32)),
    "sngan-64": (lambda: SNGAN((16, 8, 4, 4, 2), 6), "sngan", (3, 64, 64)),
    "sngan-48": (lambda: SNGAN((8, 4, 4, 2), 6, base=6), "sngan", (3, 48, 48)),
    "dcgan": (lambda: DCGAN((16, 16, 8, 8), 6), "dcgan", (3, 64, 64)),
    "dcgan-bias": (lambda: DCGAN((8, 4), 6, 1, bias=True), "dcgan", (1, 16, 16)),
    "mlp-vae": (lambda: MLPVAE((1, 6, 6), 6, (10, 8)), "mlp-vae", (1, 6, 6)),
    "mlp-vae-colour": (lambda: MLPVAE((3, 6, 6), 6, (10,)), "mlp-vae", (3, 6, 6)),
    "conv-vae": (lambda: ConvVAE((1, 28, 28), 6, (4, 8)), "conv-vae", (1, 28, 28)),
    "conv-vae-colour": (lambda: ConvVAE((3, 16, 16), 6, (4, 8, 8)), "conv-vae", (3, 16, 16)),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "kind", "image_shape"), SMALL_NETS.values(), ids=SMALL_NETS)
def test_state_dict_is_loaded_and_found_again(tmp_path, make, kind, image_shape):
    net = settled(make())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    generator = generators.load(f"{kind}:{tmp_path}/net.pth")
    assert (generator.latent_dim, generator.image_shape) == (6, image_shape)
    assert generator.value_range == ((0, 1) if "vae" in kind else (-1, 1))
    z = generator.sample(3)
    with torch.no_grad():
        expected = net.decode(z) if hasattr(net, "decode") else net(z)
    torch.testing.assert_close(generator.decode(z), expected)

    assert generator.forward_mode
    _, change = torch.func.jvp(generator.decode, (z,), (torch.ones_like(z),))
    assert change.abs().max() > 0
    small_run(tmp_path / "run", generator, steps=2)
    assert torch.equal(load_run(tmp_path / "run").generator.decode(z), generator.decode(z))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sngan", "dcgan", "conv-vae"])
def test_wrappers_and_containers_do_not_matter(tmp_path, kind):
    make = {"sngan": SMALL_NETS["sngan-64"], "dcgan": SMALL_NETS["dcgan"], "conv-vae": SMALL_NETS["conv-vae"]}[kind][0]
    net = settled(make())
    state = net.state_dict()
    z = torch.randn(2, 6)
    with torch.no_grad():
        expected = net.decode(z) if hasattr(net, "decode") else net(z)
    first = next(iter(state)).partition(".")[0] + "."
    versions = {
        "wrapped": renamed(state, lambda key: f"module.G.{key}"),
        "beside-others": {**renamed(state, lambda key: f"G.{key}"), "D.weight": torch.zeros(3)},
        "in-a-checkpoint": {"epoch": 3, "netG_state_dict": state, "netD_state_dict": {"x": torch.zeros(1)}},
        "averaged-first": {"generator": renamed(state, lambda key: f"x{key}"), "g_ema": state},
    }
    if kind != "conv-vae":
        versions["bare"] = renamed(state, lambda key: key.removeprefix(first))
    for name, version in versions.items():
        torch.save(version, tmp_path / f"{name}.pth")
        generator = generators.load(f"{kind}:{tmp_path}/{name}.pth")
        torch.testing.assert_close(generator.decode(z), expected, msg=name)


def test_safetensors_are_read_too(tmp_path):
    net = settled(DCGAN((4, 2), 6))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    generator = generators.load(f"dcgan:{tmp_path}/net.safetensors")
    z = generator.sample(2)
    torch.testing.assert_close(generator.decode(z), net(z).detach())


# Somebody else's VAE


@needs_mnist
def test_pretrained_mnist_vae_by_the_names_of_its_layers(tmp_path):
    generator = generators.load(f"mlp-vae:{MNIST_VAE},layers=fc3+fc4")
    assert (generator.latent_dim, generator.image_shape) == (20, (1, 28, 28))
    images = generator.decode(generator.sample(200))
    assert 0.05 < images.mean() < 0.25  # white strokes on black
    run = small_run(tmp_path / "run", generator, steps=4)
    assert load_run(tmp_path / "run").generator.name == generator.name
    assert run.traverse(generator.sample(2), 0).images.shape == (2, 4, 1, 28, 28)


@needs_mnist
def test_pretrained_mnist_vae_in_its_authors_own_terms(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from fastflow.generators import from_callable\n"
        "def make():\n"
        f"    w = torch.load({str(MNIST_VAE)!r}, weights_only=True)\n"
        "    def layer(x, name): return torch.nn.functional.linear(x, w[f'{name}.weight'], w[f'{name}.bias'])\n"
        "    def decode(z): return layer(layer(z, 'fc3').relu(), 'fc4').sigmoid().view(-1, 1, 28, 28)\n"
        "    return from_callable(decode, 20)\n"
    )
    generator = generators.load(f"{tmp_path}/mine.py:make")
    z = generator.sample(4)
    by_names = generators.load(f"mlp-vae:{MNIST_VAE},layers=fc3+fc4")
    torch.testing.assert_close(generator.decode(z), by_names.decode(z))


# Archives


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 12), nn.Dropout(0.5), nn.BatchNorm1d(12))

    def forward(self, z):
        return torch.tanh(self.layers(z)).view(-1, 3, 2, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "traced", "exported"])
def test_archive(tmp_path, kind):
    net = Net()
    z = torch.randn(5, 4)
    if kind == "torchscript":
        file = tmp_path / "net.pt"
        torch.jit.script(net).save(file)  # in training mode, as it may be
    elif kind == "traced":
        file = tmp_path / "net.ts"
        torch.jit.trace(net.eval(), z).save(file)
    else:
        file = tmp_path / "net.pt2"
        batch = torch.export.Dim("batch", min=1)
        torch.export.save(torch.export.export(net.eval(), (z,), dynamic_shapes=({0: batch},)), file)
    generator = generators.load(f"{file},latent_dim=4,range=-1:1")
    assert (generator.latent_dim, generator.image_shape, generator.value_range) == (4, (3, 2, 2), (-1, 1))
    with torch.no_grad():
        torch.testing.assert_close(generator.decode(z), net.eval()(z))

    assert generator.forward_mode
    expected = torch.func.jvp(net, (z,), (torch.ones_like(z),))[1]
    torch.testing.assert_close(torch.func.jvp(generator.decode, (z,), (torch.ones_like(z),))[1], expected)
    small_run(tmp_path / "run", generator, steps=3)
    assert torch.equal(load_run(tmp_path / "run").generator.decode(z), generator.decode(z))
    assert generators.load(str(file), 4).value_range == (0, 1)


# What is refused


class Holder:
    """An object that a pickle would make."""


def damaged(state, key, value=None):
    state = dict(state)
    if value is None:
        del state[key]
    else:
        state[key] = value
    return state


SMALL_SNGAN = SNGAN((4, 4, 2), 6).state_dict()
SMALL_DCGAN = DCGAN((4, 2), 6).state_dict()
SMALL_MLP = MLPVAE((1, 3, 3), 6, (8,)).state_dict()

REFUSED = {
    "missing-first": ("sngan", damaged(SMALL_SNGAN, "model.0.weight"), "SNGAN generator: it lacks 'model.0.weight'"),
    "missing-block": ("sngan", SMALL_DCGAN, "isn't the state dict of an SNGAN generator: it lacks '2.conv1.weight'"),
    "missing-inner": (
        "sngan", damaged(SMALL_SNGAN, "model.2.model.0.running_var"),
        "lacks 'model.2.model.0.running_var': it is the state dict of another network",
    ),
    "missing-two": (
        "sngan", damaged(damaged(SMALL_SNGAN, "model.2.conv2.bias"), "model.2.model.0.bias"), "and 1 more: it is",
    ),
    "unexpected": ("sngan", damaged(SMALL_SNGAN, "model.9.weight", torch.ones(1)), "unexpected key 'model.9.weight'"),
    "shape": (
        "sngan", damaged(SMALL_SNGAN, "model.3.conv2.weight", torch.ones(2, 2, 1, 1)),
        "'model.3.conv2.weight' has shape (2, 2, 1, 1), expected (2, 2, 3, 3)",
    ),
    "not-finite": (
        "sngan", damaged(SMALL_SNGAN, "model.0.bias", torch.full((64,), torch.nan)), "'model.0.bias' holds NaN",
    ),
    "dcgan-of-another": ("dcgan", SMALL_MLP, "isn't the state dict of a DCGAN generator: it lacks the convolution"),
    "dcgan-missing": ("dcgan", damaged(SMALL_DCGAN, "main.1.running_mean"), "lacks 'main.1.running_mean'"),
    "mlp-no-decoder": ("mlp-vae", SMALL_DCGAN, "has no key with 'decoder' in its name: name the decoder's layers"),
    "mlp-chain": (
        "mlp-vae", damaged(SMALL_MLP, "decoder.2.weight", torch.ones(9, 5)), "'decoder.2.weight' has shape (9, 5), exp",
    ),
    "mlp-layers": ("mlp-vae:,layers=fc3+fc4", SMALL_MLP, "lacks 'fc3.weight'"),
    "mlp-shape": ("mlp-vae:,shape=1x4x4", SMALL_MLP, "images of 9 values, which shape 1x4x4 doesn't"),
    "conv-of-another": ("conv-vae", SMALL_MLP, "isn't the state dict of a ConvVAE: it lacks 'decoder.start.weight'"),
    "objects": ("sngan", {"net": Holder()}, "holds more than weights, which could run code and isn't loaded"),
    "no-tensors": ("sngan", {"epoch": 3, "loss": 0.1}, "holds no state dict, a dict from names to tensors; got 'epo"),
    "a-tensor": ("sngan", torch.ones(3), "holds no state dict, a dict from names to tensors; got Tensor"),
    "unknown-option": ("sngan:,size=64", SMALL_SNGAN, "sngan has no option 'size'; it has final, range"),
    "bad-option": ("mlp-vae:,shape=28", SMALL_MLP, "option shape must look like shape=1x28x28, got 'shape=28'"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "state", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_weights_are_refused(tmp_path, kind, state, message):
    torch.save(state, tmp_path / "net.pth")
    kind, _, options = kind.partition(":")
    with pytest.raises(InputError) as error:
        generators.load(f"{kind}:{tmp_path}/net.pth{options}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "net.pth", "doesn't exist"),
        (b"", "net.pth", "can't be read as a file that torch.save wrote"),
        (b"not weights at all", "net.pth", "can't be read as a file|holds more than weights"),
        (b"root:x:0:0:root:/root:/bin/bash", "net.pth", "can't be read as a file that torch.save wrote"),
        (b"PK\x05\x06" + b"\xff" * 16 + b"\0\0", "net.pth", "can't be read as a file that torch.save wrote"),
        (b"not weights at all", "net.safetensors", "can't be read"),
    ],
    ids=["absent", "empty", "text", "table", "broken-zip", "text-safetensors"],
)
def test_wrong_files_are_refused(tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        generators.load(f"dcgan:{tmp_path}/{name}")
    assert "\n" not in str(error.value)
    if name.endswith("pth"):
        with pytest.raises(
            InputError, match=r"doesn't exist|can't be read as a program of torch.jit.save or torch.exp"
        ):
            generators.load(str(tmp_path / name), 4)


def test_a_pickle_that_would_run_code_does_not(tmp_path, monkeypatch):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model.0.weight": Bomb()}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="could run code and isn't loaded"):
        generators.load(f"sngan:{tmp_path}/net.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_programs_and_weights_are_not_taken_for_each_other(tmp_path):
    torch.jit.trace(Net().eval(), torch.randn(2, 4)).save(tmp_path / "program.pt")
    with pytest.raises(InputError, match="is a TorchScript program, not a state dict: name it alone"):
        generators.load(f"sngan:{tmp_path}/program.pt")
    torch.save(SMALL_SNGAN, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"can't be read as a program.*architecture before it, as in sngan:weights.pt"):
        generators.load(f"{tmp_path}/weights.pt", 6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_archive_must_say_how_wide_its_latents_are(tmp_path):
    torch.jit.trace(Net().eval(), torch.randn(2, 4)).save(tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"doesn't say how wide its latents are: .*net.pt,latent_dim=N or --l"):
        generators.load(f"{tmp_path}/net.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("readme", "nothing")
    with pytest.raises(InputError, match="can't be read as a program"):
        generators.load(f"{tmp_path}/zip.pt", 3)


def test_failed_loading_leaves_the_module_as_it_was(tmp_path):
    from fastflow.generators.state_dicts import load_weights

    net = DCGAN((4, 2), 6)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.save(damaged(renamed(SMALL_DCGAN, str), "main.6.weight"), tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"lacks 'main\.6\.weight'"):
        load_weights(net, read_state_dict(tmp_path / "net.pth"), "file")
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("shape", "widths"), [((1, 28, 20), (4,)), ((1, 30, 30), (4, 4)), ((1, 2, 2), (4, 4)), ((1, 8, 8), ())], ids=str
)
def test_conv_vae_refuses_images_it_cannot_halve(shape, widths):
    with pytest.raises(InputError, match="image_shape must be"):
        ConvVAE(shape, 4, widths)


def test_conv_vae_encodes_what_it_decodes_to():
    vae = ConvVAE((3, 16, 16), 5, (4, 8))
    mean, log_variance = vae.encode(vae.decode(torch.randn(2, 5)))
    assert mean.shape == log_variance.shape == (2, 5)

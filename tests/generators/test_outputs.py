"""What a generator may return besides one tensor of grey or colour images, and what is said of its images."""

import sys
import warnings
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from support.runs import small_config, small_run
from torch import Tensor, nn

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import from_callable
from fastflow.generators.vae import MLPVAE, LikelihoodVAE, LikelihoodVAEGenerator
from fastflow.training.discover import Discovery, check_task

WEIGHT = torch.randn(4, 5 * 6 * 7, generator=torch.Generator().manual_seed(0))


def images_of(z, channels=3):
    return torch.sigmoid(z @ WEIGHT[:, : channels * 42].to(z)).unflatten(1, (channels, 6, 7))


@dataclass
class Output:
    sample: Tensor
    mean: float = 0.5


Named = namedtuple("Named", "latents, sample")

OUTPUTS = {
    "dict": (lambda z: {"latents": z, "sample": images_of(z)}, "sample", "dict with 'latents', 'sample'"),
    "dict-by-place": (lambda z: {"latents": z, "sample": images_of(z)}, 1, "dict with 'latents', 'sample'"),
    "dataclass": (lambda z: Output(images_of(z)), "sample", "Output with 'sample', 'mean'"),
    "object": (lambda z: SimpleNamespace(sample=images_of(z)), "sample", "SimpleNamespace with 'sample'"),
    "named-tuple": (lambda z: Named(z, images_of(z)), "sample", "Named with 'latents', 'sample'"),
    "tuple": (lambda z: (z, images_of(z)), 1, "tuple with 0, 1"),
    "list-from-its-end": (lambda z: [z, images_of(z)], -1, "list with 0, 1"),
}


@pytest.mark.parametrize(("decode", "output", "words"), OUTPUTS.values(), ids=OUTPUTS)
def test_images_are_asked_for_by_name_or_place(decode, output, words):
    generator = from_callable(decode, 4, output=output)
    z = generator.sample(3)
    assert torch.equal(generator(z), images_of(z))
    _, change = torch.func.jvp(generator.decode, (z,), (torch.ones_like(z),))
    assert bool((change != 0).any())
    with pytest.raises(InputError) as error:
        from_callable(decode, 4)
    place = 1 if "0, 1" in words else "sample"
    assert f"got {words}: say which one holds the images, as output={place!r}, or" in str(error.value)
    assert f"FILE.py:FUNCTION,output={place}" in str(error.value)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("images", "output 'images' isn't there: it returned dict with 'latents', 'sample', 'nested'"),
        (5, "output 5 isn't there"),
        ("latents", r"images \(2, C, H, W\), got \(2, 4\)"),
        (1.5, "output must be a name, such as 'sample', or a place, such as 0, got 1.5"),
        (True, "output must be a name"),
        ("nested", r"got as its output 'nested' dict with 'sample': return one tensor"),
    ],
)
def test_outputs_that_are_not_there(output, message):
    with pytest.raises(InputError, match=message):
        from_callable(lambda z: {"latents": z, "sample": images_of(z), "nested": {"sample": z}}, 4, output=output)
    with pytest.raises(InputError, match=r"isn't there: it returned a tensor \(2, 3, 6, 7\); leave output out"):
        from_callable(images_of, 4, output="sample")


SEVERAL = """
import torch
WEIGHT = torch.randn(4, 36, generator=torch.Generator().manual_seed(0))

def decode(z):
    return {"sample": (z @ WEIGHT.to(z)).tanh().unflatten(1, (1, 6, 6))}

def make():
    from fastflow.generators import from_callable
    return from_callable(decode, 4, output="sample", value_range=(-1, 1))
"""


def test_functions_take_options_and_are_found_again(tmp_path):
    (tmp_path / "mine.py").write_text(SEVERAL)
    spec = f"{tmp_path}/mine.py:decode,output=sample,range=-1:1,latent_dim=4"
    generator = generators.load(spec)
    assert (generator.name, generator.value_range, generator.image_shape) == (spec, (-1.0, 1.0), (1, 6, 6))
    assert torch.equal(generators.load(generator.name)(torch.ones(2, 4)), generator(torch.ones(2, 4)))
    with pytest.raises(InputError, match=r"made already, so that range can't be changed: give it to ff.gen"):
        generators.load(f"{tmp_path}/mine.py:make,range=0:1")
    with pytest.raises(InputError, match="a function has no option 'size'; it has latent_dim, range, output"):
        generators.load(f"{tmp_path}/mine.py:decode,size=3")


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 36)

    def forward(self, z):
        return z, torch.sigmoid(4 * self.layer(z)).view(-1, 1, 6, 6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_archives_take_an_output(tmp_path):
    torch.jit.trace(Several().eval(), torch.randn(2, 4)).save(tmp_path / "net.pt")
    assert generators.load(f"{tmp_path}/net.pt,latent_dim=4,output=1").image_shape == (1, 6, 6)
    assert generators.archive(tmp_path / "net.pt", 4, output=1).image_shape == (1, 6, 6)
    with pytest.raises(InputError, match="got tuple with 0, 1: say which one holds the images, as output=1"):
        generators.load(f"{tmp_path}/net.pt", 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_images_are_widened(dtype):
    generator = from_callable(lambda z: images_of(z).to(dtype), 4)
    z = generator.sample(2)
    assert torch.equal(generator(z), images_of(z).to(dtype).float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_of_another_dtype_than_the_latents_can_be_learned_on(dtype):
    generator = from_callable(lambda z: images_of(z).to(dtype), 4)
    assert generator(generator.sample(2)).dtype == torch.float32
    task = Discovery(small_config(), generator)
    check_task(task)
    assert bool(task.losses(task.draw(1)).loss.isfinite())


SHAPES = {
    "channels-last": (
        lambda x: x.permute(0, 2, 3, 1),
        r"got \(2, 6, 7, 3\), whose channels seem to be last: return im",
    ),
    "no-channels": (lambda x: x[:, 0], r"got \(2, 6, 7\): for grey ones, add the channel's axis, as images\[:, None\]"),
    "flat": (lambda x: x.flatten(1), r"got \(2, 126\): reshape them, as images.reshape\(-1, C, H, W\)"),
    "video": (lambda x: x[:, :, None], r"got \(2, 3, 1, 6, 7\): a video has an axis too many"),
    "numpy": (lambda x: x.numpy(), "got ndarray: return torch's tensors, so that gradients pass"),
    "empty": (lambda x: x[..., :0], r"got \(2, 3, 6, 0\)"),
    "sparse": (lambda x: x.to_sparse(), "got a tensor of layout torch.sparse_coo: return a dense one"),
    "without values": (lambda x: x.to("meta"), "got a tensor without values, on the device meta"),
    "complex": (lambda x: x.to(torch.complex64), "got torch.complex64: take their real part"),
    "no tensors": (lambda x: {"a": {"sample": x}}, "got dict with 'a': return one tensor"),
    "exit": (lambda x: sys.exit("no license"), "the generator failed on latents .*: no license"),
    "8-bit": (lambda x: (255 * x).byte(), "got torch.uint8: gradients don't pass integers"),
}


@pytest.mark.parametrize(("change", "message"), SHAPES.values(), ids=SHAPES)
def test_other_layouts_are_refused_with_their_mending(change, message):
    with pytest.raises(InputError, match=message):
        from_callable(lambda z: change(images_of(z)), 4)


# Drawing


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (1, lambda x: x),
        (2, lambda x: x[..., :1, :, :]),
        (3, lambda x: x),
        (4, lambda x: x[..., :3, :, :] * x[..., 3:, :, :]),
        (5, lambda x: x[..., :3, :, :]),
    ],
)
def test_images_are_drawn_as_grey_or_colour(channels, expected):
    generator = from_callable(lambda z: 2 * images_of(z, channels) - 1, 4, value_range=(-1, 1))
    images = generator(generator.sample(6)).unflatten(0, (2, 3))
    torch.testing.assert_close(generator.drawn(images), 2 * expected((images + 1) / 2) - 1)
    torch.testing.assert_close(generator.pictured((images + 1) / 2), expected((images + 1) / 2))
    if channels in (1, 3):
        assert generator.drawn(images) is images


def test_a_function_draws_images_of_any_channels(tmp_path):
    generator = from_callable(lambda z: images_of(z, 5), 4, picture=lambda x: x.mean(1, keepdim=True))
    images = generator(generator.sample(2))
    torch.testing.assert_close(generator.drawn(images), images.mean(1, keepdim=True))
    for picture, message in [
        (lambda x: x, r"picture must return floats .* for two images, got torch.float32 \(2, 5"),
        (lambda x: x[:, 9], "picture failed on images .2, 5, 6, 7.: index 9"),
        ("first", "picture must be callable"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            from_callable(lambda z: images_of(z, 5), 4, picture=picture)


@pytest.mark.slow
def test_runs_of_four_channels_are_drawn(tmp_path):
    from fastflow.report import write_traversals

    run = small_run(tmp_path / "run", from_callable(lambda z: images_of(z, 4), 4))
    write_traversals(run, tmp_path / "out", starts=2)
    with Image.open(tmp_path / "out/potential-00.png") as strip:
        assert strip.getpixel((strip.width // 2, strip.height // 3)) is not None
    (tmp_path / "out/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
    write_traversals(run, tmp_path / "out", starts=2, overwrite=True)
    with pytest.raises(InputError, match="holds traversals already"):
        write_traversals(run, tmp_path / "out", starts=2)


# What is said of images before anything is trained


def told(make):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
    return [str(warning.message) for warning in caught]


def signed(z):
    return 2 * images_of(z) - 1


@pytest.mark.parametrize(
    ("decode", "value_range", "message"),
    [
        pytest.param(signed, (0, 1), "of their pixels lie outside its value_range (0, 1)", id="signed-as-unit"),
        pytest.param(images_of, (-1, 1), "half of its value_range (-1, 1) or less", id="unit-as-signed"),
        pytest.param(lambda z: signed(z).sigmoid(), (0, 1), "last activation the right one", id="sigmoid-of-tanh"),
        pytest.param(lambda z: images_of(z, 2), (0, 1), "have 2 channels, and pictures show the first one", id="two"),
        pytest.param(lambda z: images_of(z, 4), (0, 1), "show them as red, green, blue and opacity", id="four"),
        pytest.param(
            lambda z: images_of(z, 5), (0, 1), "have 5 channels, and pictures show the first three", id="five"
        ),
    ],
)
def test_images_of_another_range_are_told_of(decode, value_range, message):
    (line,) = told(lambda: from_callable(decode, 4, value_range=value_range))
    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize(("decode", "value_range"), [(images_of, (0, 1)), (signed, (-1, 1))])
def test_nothing_is_told_of_images_that_fill_their_range(decode, value_range):
    assert told(lambda: from_callable(decode, 4, value_range=value_range)) == []


def test_nothing_is_told_of_a_vae_that_has_learned_little():
    """Its means are known to be sigmoids."""
    vae = LikelihoodVAE(MLPVAE((1, 6, 6), 4, (8,)), "bernoulli")
    assert told(lambda: LikelihoodVAEGenerator(vae, torch.zeros(2, 1, 6, 6, dtype=torch.uint8))) == []


def test_a_few_dim_images_are_no_narrow_range():
    """Two samples may be dark by chance: further ones are looked at before anything is said."""
    dim = from_callable(lambda z: images_of(z), 4).sample(2)

    def decode(z):
        dark = (z[:, None] == dim.to(z)).all(2).any(1)
        return torch.where(dark[:, None, None, None], 0.1 * images_of(z), images_of(z))

    assert told(lambda: from_callable(decode, 4)) == []


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_last_activation_of_a_decoder_can_be_said(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 16))
    nn.init.normal_(net[2].weight, std=2)
    state = {f"decoder.{key}": value for key, value in net.state_dict().items()}
    torch.save(state, tmp_path / "gan.pt")
    z = torch.randn(3, 4)
    logits = net(z).unflatten(1, (1, 4, 4))
    with pytest.warns(UserWarning, match="has no encoder.*say which activation it is, final=sigmoid, final=tanh"):
        generator = generators.load(f"mlp-vae:{tmp_path}/gan.pt")
    torch.testing.assert_close(generator(z), logits.sigmoid())
    tanh = generators.load(f"mlp-vae:{tmp_path}/gan.pt,final=tanh")
    assert tanh.value_range == (-1.0, 1.0)
    torch.testing.assert_close(tanh(z), logits.tanh())
    plain = generators.load(f"mlp-vae:{tmp_path}/gan.pt,final=none,range=-30:30")
    assert plain.value_range == (-30.0, 30.0)
    torch.testing.assert_close(plain(z), logits)
    with pytest.raises(InputError, match="option final must look like final=tanh, got 'final=relu'"):
        generators.load(f"mlp-vae:{tmp_path}/gan.pt,final=relu")
    torch.save({**state, "encoder.0.weight": torch.zeros(8, 16)}, tmp_path / "vae.pt")
    assert told(lambda: generators.load(f"mlp-vae:{tmp_path}/vae.pt")) == []


def test_convolutional_decoders_take_a_last_activation(tmp_path):
    vae = generators.ConvVAE((1, 8, 8), 3, (4,))
    torch.save(vae.state_dict(), tmp_path / "vae.pt")
    z = torch.randn(2, 3)
    generator = generators.load(f"conv-vae:{tmp_path}/vae.pt,final=tanh")
    torch.testing.assert_close(generator(z), vae.logits(z).tanh())
    assert generator.value_range == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("kind", "net"), [("dcgan", generators.DCGAN((4, 3), 5)), ("sngan", generators.SNGAN((4, 3), 5))]
)
def test_gans_take_a_last_activation(tmp_path, kind, net):
    torch.save(net.state_dict(), tmp_path / "gan.pt")
    z = torch.randn(2, 5)
    usual = generators.load(f"{kind}:{tmp_path}/gan.pt")
    generator = generators.load(f"{kind}:{tmp_path}/gan.pt,final=sigmoid")
    torch.testing.assert_close(generator(z).logit(), usual(z).atanh())
    assert (usual.value_range, generator.value_range) == ((-1.0, 1.0), (0.0, 1.0))


# Names that nearly fit, and files that are no weights


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("dgcan:g.pt", "unknown kind 'dgcan' in 'dgcan:g.pt': did you mean dcgan:g.pt? If not, expected digits-vae"),
        ("SNGAN:g.pth", "did you mean sngan:g.pth?"),
        ("mlp_vae:g.pt", "did you mean mlp-vae:g.pt?"),
        ("dgcan:g.safetensors", "unknown generator 'dgcan:g.safetensors': did you mean dcgan:g.safetensors?"),
        ("digit-vae", "unknown generator 'digit-vae': did you mean digits-vae?"),
        ("g.py", "unknown generator 'g.py': did you mean g.py:FUNCTION?"),
        ("g.safetensors", "unknown generator 'g.safetensors': did you mean KIND:g.safetensors?"),
        ("sngan", "unknown generator 'sngan': did you mean sngan:PATH?"),
        ("sngan:", "sngan must be followed by its weights' file or folder, as in sngan:PATH"),
        ("xyzzy:g.pt", "unknown kind 'xyzzy' in 'xyzzy:g.pt': expected digits-vae"),
    ],
)
def test_near_misses_are_pointed_out(tmp_path, monkeypatch, spec, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.pt").write_bytes(b"")
    with pytest.raises(InputError) as error:
        generators.load(spec)
    assert words in str(error.value)


WRONG = {
    "page": (b"<!DOCTYPE html><title>Quota exceeded</title>", "it is a web page, 'Quota exceeded': download the file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "it is a pointer of Git LFS"),
    "empty": (b"", "it is empty"),
    "cut off": (b"PK\3\4" + bytes(99), "it begins as an archive and is cut off or damaged"),
}


@pytest.mark.parametrize(("content", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("spec", ["dcgan:{}.pt", "{}.pt", "{}.pt,latent_dim=4", "dcgan:{}.safetensors"])
def test_files_that_are_no_weights_are_called_what_they_are(tmp_path, content, words, spec):
    for suffix in (".pt", ".safetensors"):
        (tmp_path / f"net{suffix}").write_bytes(content)
    with pytest.raises(InputError) as error:
        generators.load(spec.format(tmp_path / "net"))
    assert words in str(error.value)
    assert "could run code" not in str(error.value)


def test_a_state_dict_is_not_asked_for_its_width(tmp_path):
    """Its width wouldn't help: the advice is what works."""
    torch.save(nn.Linear(4, 4).state_dict(), tmp_path / "net.pt")
    for spec in ("net.pt", "net.pt,latent_dim=4"):
        with pytest.raises(InputError, match=r"can't be read as a program.*if it holds a state dict.*sngan:net.pt"):
            generators.load(f"{tmp_path}/{spec}")
    torch.export.save(torch.export.export(nn.Linear(4, 4), (torch.zeros(2, 4),)), tmp_path / "net.pt2")
    with pytest.raises(InputError, match=r"it is a program of torch.export: name it alone"):
        generators.load(f"dcgan:{tmp_path}/net.pt2")
    with pytest.raises(InputError, match="is a folder"):
        generators.load(f"dcgan:{tmp_path}")

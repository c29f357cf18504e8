"""Loading generators by name and from files, and what is refused."""

import json

import pytest
import torch

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import DigitsVAE, Generator
from fastflow.generators.identity import describe, draws_alike
from fastflow.generators.loading import load_spec, recorded_spec
from fastflow.generators.specs import Spec


def write(folder, text, name="mine.py"):
    (folder / name).write_text(text)
    return folder / name


FACTORY = """
import torch
from fastflow.generators import from_callable

def make(scale=2.0):
    return from_callable(lambda z: torch.sigmoid(scale * z).reshape(-1, 1, 2, 2), 4, value_range=(-1, 1))
"""
MAP = """
def decode(z):
    return z.sigmoid().reshape(-1, 1, 2, 2)
"""
MODULE = """
from torch import nn

decoder = nn.Sequential(nn.Linear(4, 12), nn.Sigmoid(), nn.Unflatten(1, (3, 2, 2)))
"""
INSTANCE = (
    FACTORY
    + """
ready = make()
"""
)
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from pixels import to_image

@dataclass
class Decoder:
    gain: float = 2.0

    def __call__(self, z):
        return to_image(self.gain * z)

decode = Decoder()
"""


def test_bundled_generator_by_name(digits):
    assert isinstance(digits, DigitsVAE)
    assert (digits.name, digits.latent_dim, digits.image_shape) == ("digits-vae", 8, (1, 8, 8))
    images = digits.decode(digits.sample(16))
    assert images.shape == (16, 1, 8, 8)
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize(
    ("text", "function", "latent_dim", "image_shape"),
    [
        pytest.param(FACTORY, "make", None, (1, 2, 2), id="factory"),
        pytest.param(FACTORY, "make", 4, (1, 2, 2), id="factory-with-its-width"),
        pytest.param(INSTANCE, "ready", None, (1, 2, 2), id="generator"),
        pytest.param(MAP, "decode", 4, (1, 2, 2), id="map"),
        pytest.param(MODULE, "decoder", 4, (3, 2, 2), id="module"),
    ],
)
def test_load_from_file(tmp_path, text, function, latent_dim, image_shape):
    file = write(tmp_path, text)
    generator = generators.load(f"{file}:{function}", latent_dim)
    assert isinstance(generator, Generator)
    assert (generator.latent_dim, generator.image_shape) == (4, image_shape)
    # The name finds it again, from any working directory.
    again = generators.load(generator.name, generator.latent_dim)
    z = generator.sample(2)
    if function != "decoder":  # whose weights are drawn when the file is read
        assert torch.equal(generator(z), again(z))


def test_file_may_import_its_neighbours_and_define_dataclasses(tmp_path):
    write(tmp_path, "def to_image(z):\n    return z.sigmoid().reshape(-1, 1, 2, 2)\n", "pixels.py")
    file = write(tmp_path, DATACLASS)
    assert generators.load(f"{file}:decode", 4).image_shape == (1, 2, 2)


def test_relative_file_is_named_by_its_whole_path(tmp_path, monkeypatch):
    write(tmp_path, MAP)
    monkeypatch.chdir(tmp_path)
    assert generators.load("mine.py:decode", 4).name == f"{tmp_path}/mine.py:decode"


@pytest.mark.parametrize(
    ("text", "spec", "latent_dim", "message"),
    [
        pytest.param("", "nonsense", None, r"unknown generator 'nonsense'.*digits-vae.*FILE\.py:FUNCTION", id="name"),
        pytest.param("", "mine.txt:decode", None, "unknown generator", id="not-python"),
        pytest.param("", "mine.py", None, "unknown generator", id="no-function-named"),
        pytest.param("", "absent.py:decode", None, "'absent.py' doesn't exist", id="no-file"),
        pytest.param("def decode(", "mine.py:decode", 4, "'mine.py' failed: SyntaxError", id="syntax"),
        pytest.param("1 / 0", "mine.py:decode", 4, "'mine.py' failed: ZeroDivisionError", id="raises"),
        pytest.param("raise SystemExit(0)", "mine.py:decode", 4, "'mine.py' failed: SystemExit", id="exits"),
        pytest.param(MAP, "mine.py:other", 4, "mine.py has no function 'other'", id="no-function"),
        pytest.param("decode = 3", "mine.py:decode", 4, "mine.py has no function 'decode'", id="no-callable"),
        pytest.param(MAP, "mine.py:decode", None, "--latent-dim N", id="width-missing"),
        pytest.param(MAP, "mine.py:decode", 5, "failed on latents of shape .2, 5.", id="width-wrong"),
        pytest.param(FACTORY, "mine.py:make", 5, "has latents of width 4, not 5", id="width-of-another"),
        pytest.param("def make(): return 3", "mine.py:make", None, "returned int, expected a", id="no-generator"),
        pytest.param("def make(): open('weights')", "mine.py:make", None, "FileNotFoundError", id="factory-raises"),
    ],
)
def test_load_refuses(tmp_path, monkeypatch, text, spec, latent_dim, message):
    write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        generators.load(spec, latent_dim)
    assert "\n" not in str(error.value)


def test_bundled_generator_has_its_own_width():
    with pytest.raises(InputError, match="digits-vae has latents of width 8, not 5"):
        generators.load("digits-vae", 5)


# Specs: what a name says, as data

ODD = "lr=0.1,bs=64/a,size=32: b=c"


@pytest.fixture
def odd_folder(tmp_path):
    """A folder whose path has commas, colons, spaces and equals signs, even an option's name."""
    folder = tmp_path / ODD
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", ["g.pt", "g,latent_dim=3.pt", "mlp-vae:g.pt"])
def test_weights_in_an_oddly_named_folder_are_found_again(odd_folder, name, monkeypatch):
    torch.save(generators.DCGAN(widths=(8, 4), latent_dim=6, channels=3).state_dict(), odd_folder / name)
    monkeypatch.chdir(odd_folder)
    generator = generators.load(f"dcgan:{name}")
    assert generator.spec == Spec("dcgan", str(odd_folder / name))
    monkeypatch.chdir("/")
    for again in (
        generators.load(generator.name),  # as it is typed
        load_spec(recorded_spec(json.loads(json.dumps(describe(generator))))),  # as it is recorded
    ):
        assert again.spec == generator.spec
        assert draws_alike(describe(generator), again)


def test_options_follow_an_oddly_named_path(odd_folder):
    torch.save(generators.MLPVAE((1, 4, 4), 3, (5,)).state_dict(), odd_folder / "vae.pt")
    generator = generators.load(f"mlp-vae:{odd_folder}/vae.pt,shape=1x2x8")
    assert generator.spec == Spec("mlp-vae", str(odd_folder / "vae.pt"), options={"shape": "1x2x8"})
    assert generator.image_shape == (1, 2, 8)
    assert generators.load(generator.name).spec == generator.spec


def test_a_function_in_an_oddly_named_folder_is_found_again(odd_folder):
    for file in (odd_folder / "mine.py", odd_folder / "net.pt,x=1.py"):
        file.write_text(MAP)
        generator = generators.load(f"{file}:decode", 4)
        assert generator.spec == Spec("function", str(file), "decode")
        assert generators.load(generator.name, 4).spec == generator.spec


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_an_archive_in_an_oddly_named_folder_is_found_again(odd_folder):
    torch.jit.save(torch.jit.script(torch.nn.Unflatten(1, (1, 2, 2))), odd_folder / "net.pt")
    generator = generators.load(f"{odd_folder}/net.pt,latent_dim=4,range=-9:9")
    assert generator.spec == Spec("archive", str(odd_folder / "net.pt"), "", {"latent_dim": "4", "range": "-9:9"})
    assert generators.load(generator.name).spec == generator.spec


@pytest.mark.parametrize(
    "damage",
    [
        {"spec": None},
        {"spec": "dcgan:g.pt"},
        {"spec": {"kind": "digits-vae"}},
        {"spec": {"kind": "digits-vae", "path": 3, "function": "", "options": {}}},
        {"spec": {"kind": "digits-vae", "path": "", "function": "", "options": [1]}},
        {"spec": {"kind": "function", "path": "a.py", "function": "b.py:c", "options": {}}},
        {"spec": {"kind": "dcgan", "path": "/g.pt", "function": "", "options": {}}},
    ],
)
def test_a_description_without_a_spec_of_its_name_is_read_by_its_name(damage):
    assert recorded_spec({"name": "digits-vae", **damage}) == Spec("digits-vae")


@pytest.mark.parametrize("name", [None, 3, "my-gan", "sngan", "", "x\0.py:make", "sngan:\0", "x" * 5000])
def test_names_of_no_form_have_no_spec(name):
    assert recorded_spec({"name": name, "spec": None}) is None

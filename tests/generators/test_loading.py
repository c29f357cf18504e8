"""Loading generators by name and from files, and what is refused."""

import pytest
import torch

from fastflow import generators
from fastflow.core.errors import InputError
from fastflow.generators import DigitsVAE, Generator


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

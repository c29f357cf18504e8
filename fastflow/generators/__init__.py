"""Generators, which map latents to images. `load` one by name or file, or wrap a callable of your own."""

from fastflow.generators.archives import archive
from fastflow.generators.autoencoder_kl import autoencoder_kl, encode_kl
from fastflow.generators.base import Generator, from_callable
from fastflow.generators.biggan import biggan
from fastflow.generators.dcgan import DCGAN, faces
from fastflow.generators.digits import DigitsVAE
from fastflow.generators.loading import load
from fastflow.generators.sngan import SNGAN, SNGAN32, SNGAN64
from fastflow.generators.stylegan2 import from_stylegan2_pytorch, stylegan2
from fastflow.generators.vae import MLPVAE, ConvVAE

__all__ = [
    "DCGAN",
    "MLPVAE",
    "SNGAN",
    "SNGAN32",
    "SNGAN64",
    "ConvVAE",
    "DigitsVAE",
    "Generator",
    "archive",
    "autoencoder_kl",
    "biggan",
    "encode_kl",
    "faces",
    "from_callable",
    "from_stylegan2_pytorch",
    "load",
    "stylegan2",
]

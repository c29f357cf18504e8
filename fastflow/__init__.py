"""Latent traversals as flows of learned potentials."""

from importlib.metadata import version

__version__ = version("fastflow")

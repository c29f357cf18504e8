"""Fixtures that many tests share."""

import shutil

import pytest
from support.runs import small_run

from fastflow import generators


@pytest.fixture(scope="session")
def _digits_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    small_run(folder, generators.load("digits-vae"))
    return folder


@pytest.fixture
def digits_folder(_digits_folder, tmp_path):
    """A folder of its own with a small finished run on the digits VAE."""
    return shutil.copytree(_digits_folder, tmp_path / "run")

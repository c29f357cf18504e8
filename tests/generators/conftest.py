import pytest

from fastflow import generators


@pytest.fixture(scope="module")
def digits():
    return generators.load("digits-vae")

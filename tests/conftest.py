"""Fixtures that many tests share."""

import os
import shutil

import pytest
import torch
from support.moving import small_vae
from support.runs import small_run

from fastflow import generators

if not torch.cuda.is_available():
    # Kernels are interpreted. Triton reads this when it is imported, which happens as soon as tests are collected.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config):
    # pytest-xdist would begin with the files that have the most tests, which are seldom those that take the longest.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config, items):
    """Files with slow tests come first, so that no process is left with a long one when the others have ended.

    And of every so many tests one, where FASTFLOW_TEST_SHARD is "3/8": the fourth of eight runs beside each other.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    shard = os.environ.get("FASTFLOW_TEST_SHARD")
    if shard:
        this, count = map(int, shard.split("/"))
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % count != this])
        items[:] = items[this::count]


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def _own_state(tmp_path_factory):
    """What tests remember for their user isn't written to the state of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def _same_threads():
    """A test that changes the number of threads, as the benchmarks do, changes it for itself alone."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _digits_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    small_run(folder, generators.load("digits-vae"), options={"guide": ()})
    return folder


@pytest.fixture
def digits_folder(_digits_folder, tmp_path):
    """A folder of its own with a small finished run on the digits VAE."""
    return shutil.copytree(_digits_folder, tmp_path / "run")


@pytest.fixture(scope="session")
def learned_bars(tmp_path_factory):
    """A VAE whose flows have learned how the bars of support/moving.py move; no test may change it."""
    folder = tmp_path_factory.mktemp("learned") / "run"
    return small_vae(folder, steps=300, batch_size=24, learning_rate=5e-3, log_every=50)

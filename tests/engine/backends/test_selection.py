"""Who computes what on which device: cards that are too old, networks that are too wide, tensors in the wrong place."""

from types import SimpleNamespace

import pytest
import torch
from support.networks import random_mlp
from support.processes import in_forks

import fastflow as ff
from fastflow.cli import info
from fastflow.cli.main import main
from fastflow.core.errors import BackendError, InputError
from fastflow.engine.backends import selection as backends

ON_GPU = SimpleNamespace(device=torch.device("cuda", 0))  # all that a choice looks at of a tensor


@pytest.fixture
def card(monkeypatch):
    """A pretended device of some compute capability, beside a Triton that doesn't interpret."""

    def pretend(major, minor):
        properties = SimpleNamespace(major=major, minor=minor)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(backends, "TRITON_INSTALLED", True)
        monkeypatch.setattr(backends, "_interpreting", lambda: False)

    return pretend


@pytest.mark.slow
def test_an_instruction_set_that_is_not_there_is_an_error_in_one_line():
    call = "ff.PotentialBank(1, 2).jet(torch.zeros(1, 2), 0.0, 0)"
    program = f"""
os.environ["FASTFLOW_ISA"] = ISA
import fastflow as ff
from fastflow.cli.main import main
main(["info"])
with ff.use_backend("reference"):
    {call}
try:
    {call}
    print("computed")
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}")
"""
    absent, there = in_forks(*(f"import os, torch\nISA = {isa!r}{program}" for isa in ("avx1024", "baseline")))
    assert "native instruction set in use: baseline\n" in there
    assert there.splitlines()[-1] == "computed"
    reason = "FASTFLOW_ISA is 'avx1024', which is not an instruction set of this build"
    assert f"backend native: missing, {reason}" in absent
    assert absent.splitlines()[-1].startswith(f"BackendError: backend 'native' can't be used: {reason}")


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)], ids=str)
def test_kernels_take_what_they_can(card, capability):
    card(*capability)
    assert ff.backends()["triton"] is None
    assert backends.backend_for(ON_GPU, random_mlp(2, 3, (512,), 1)) == "triton"


def test_a_card_that_is_too_old_falls_back_and_says_so(card):
    card(7, 5)
    reason = "the Triton kernels need compute capability 8.0, cuda:0 has 7.5"
    assert ff.backends()["triton"] == reason
    with pytest.warns(UserWarning, match=f"plain PyTorch, which is slower: {reason}"):
        assert backends.backend_for(ON_GPU, random_mlp(2, 3, (5,), 1)) == "reference"
    with pytest.raises(BackendError, match=reason), ff.use_backend("triton"):
        pass


@pytest.mark.parametrize(
    ("dim", "hidden", "reason"),
    [
        (513, (5,), "take widths and dimensions up to 512, got 513"),
        (3, (5, 1000), "take widths and dimensions up to 512, got 1000"),
        (3, (4,) * 9, "take up to 8 hidden layers, got 9"),
    ],
)
def test_a_network_that_is_too_large_falls_back_and_says_so(card, dim, hidden, reason):
    card(9, 0)
    mlp = random_mlp(1, dim, hidden, 1)
    with pytest.warns(UserWarning, match=reason):
        assert backends.backend_for(ON_GPU, mlp) == "reference"
    with ff.use_backend("triton"), pytest.raises(BackendError, match=f"can't compute this: .* {reason}; use ff"):
        backends.backend_for(ON_GPU, mlp)


def test_backends_refuse_each_others_devices(card):
    card(9, 0)
    mlp = random_mlp(1, 3, (5,), 1)
    with ff.use_backend("triton"), pytest.raises(BackendError, match="the latents are on the CPU"):
        backends.backend_for(torch.zeros(1), mlp)
    if ff.backends()["native"] is None:
        with (
            ff.use_backend("native"),
            pytest.raises(BackendError, match="computes on the CPU, the latents are"),
        ):
            backends.backend_for(ON_GPU, mlp)


def test_tensors_in_the_wrong_place_are_named():
    bank = ff.PotentialBank(2, 3, (5,))
    z = torch.zeros(4, 3)
    with pytest.raises(InputError, match="z must be on the parameters' device cpu, got meta: move one of them"):
        bank.jet(z.to("meta"), 0.0, 0)
    with pytest.raises(InputError, match="index must be on the latents' device cpu, got meta"):
        bank.jet(z, 0.0, torch.zeros(4, dtype=torch.long, device="meta"))


def test_products_beside_the_kernels_are_never_in_tf32():
    triton = pytest.importorskip("fastflow.engine.backends.triton", reason="triton is for Linux alone")
    matmul = torch.backends.cuda.matmul

    class Seen:
        def __matmul__(self, other):
            return matmul.fp32_precision

    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        assert triton._product(Seen(), Seen()) == "ieee"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_a_full_device_ends_with_one_line(monkeypatch, capsys):
    message = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB.\nAnd so on"

    def run(self):
        raise torch.OutOfMemoryError(message)

    monkeypatch.setattr(info.Info, "run", run)
    with pytest.raises(SystemExit) as exit_:
        main(["info"])
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert said == "fastflow: error: CUDA out of memory; take a smaller --batch-size, or --device cpu\n"

"""Weights in files that somebody else made: what isn't a plain state dict is refused in one line, at once."""

import pytest
import torch
from safetensors.torch import save_file

from fastflow.core.errors import InputError
from fastflow.generators.state_dicts import read_state_dict

WEIGHT = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_plain_weights_are_read(tmp_path, dtype, suffix):
    file, state = tmp_path / f"w{suffix}", {"a.weight": WEIGHT.to(dtype)}
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    assert torch.equal(read_state_dict(file)["a.weight"], state["a.weight"])


STRANGE = {
    "meta": (lambda: WEIGHT.to("meta"), "on meta"),
    "sparse": (lambda: WEIGHT.to_sparse(), "torch.sparse_coo"),
    "complex": (lambda: WEIGHT.to(torch.complex64), "torch.complex64"),
    "eight bits": (lambda: WEIGHT.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
    "nested": (lambda: torch.nested.nested_tensor([WEIGHT, WEIGHT]), "a nested tensor"),
}


@pytest.mark.parametrize(("make", "kind"), STRANGE.values(), ids=STRANGE)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_other_tensors_are_refused(tmp_path, make, kind):
    torch.save({"a.weight": make()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"holds 'a.weight' as .*{kind}.*: expected a dense tensor of real numbers"):
        read_state_dict(tmp_path / "w.pt")


def test_eight_bits_are_refused_in_safetensors_too(tmp_path):
    save_file({"a.weight": WEIGHT.to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="expected a dense tensor of real numbers"):
        read_state_dict(tmp_path / "w.safetensors")


def test_weights_lie_a_few_dicts_deep_at_most(tmp_path):
    file = tmp_path / "w.pt"
    torch.save({"state_dict": {"model": {"a.weight": WEIGHT}}}, file)
    assert list(read_state_dict(file)) == ["a.weight"]
    round_about = {}
    round_about["model"] = round_about
    many = {"x": 1}
    for _ in range(40):
        many = dict.fromkeys(("g_ema", "G_ema", "generator", "netG", "model"), many)
    for found in (round_about, many):
        torch.save(found, file)
        with pytest.raises(InputError, match="holds no state dict"):
            read_state_dict(file)

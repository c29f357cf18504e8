"""Digests of folders and of single records: whatever changes is noticed."""

import json
from hashlib import sha256

import pytest
import torch
from torch import nn

from fastflow.core.digests import read_digests, read_whole, sealed, state_digest, unsealed, write_digests
from fastflow.core.errors import InputError
from fastflow.core.files import read_sealed, write_sealed

RECORD = {"steps": 3, "rate": 1e-05, "widths": [8, 8], "name": "Löwe", "of": {"a": None, "b": True}, "free": {"x": 1.5}}


def flipped(data):
    """Copies of some bytes, with one bit changed in each byte in turn."""
    for place in range(len(data)):
        copy = bytearray(data)
        copy[place] ^= 1 << place % 8
        yield bytes(copy)


def test_record_is_read_as_it_was_written(tmp_path):
    written = write_sealed(tmp_path / "a.json", RECORD)
    assert json.loads((tmp_path / "a.json").read_text()) == written
    assert list(written) == [*RECORD, "digest"]
    assert read_sealed(tmp_path / "a.json") == RECORD


def test_each_flipped_bit_of_a_record_is_refused_or_means_nothing(tmp_path):
    file = tmp_path / "a.json"
    write_sealed(file, RECORD)
    refused = 0
    whole = file.read_bytes()
    for data in flipped(whole):
        file.write_bytes(data)
        try:
            found = read_sealed(file)
        except InputError as error:
            refused += str(file) in str(error) and "\n" not in str(error)
        else:
            assert found == RECORD
    assert refused > 0.99 * len(whole)  # the others write the same number or letter in another way


def test_entries_that_are_left_out_may_change_and_no_others(tmp_path):
    file = tmp_path / "a.json"
    record = sealed(RECORD, without=("free",))
    assert unsealed({**record, "free": "other"}, file, without=("free",)) == {**RECORD, "free": "other"}
    with pytest.raises(InputError, match=r'has changed since .*remove its entry "digest" if you changed it yourself'):
        unsealed({**record, "steps": 4}, file, without=("free",))
    with pytest.raises(InputError, match="has changed since"):
        unsealed({**record, "more": 1}, file, without=("free",))
    with pytest.raises(InputError, match="has changed since"):
        unsealed({**RECORD, "digesu": record["digest"]}, file, without=("free",))


def test_same_findings_have_the_same_digest_however_long_they_took():
    one, other = (sealed({**RECORD, "seconds": seconds})["digest"] for seconds in (1.5, 2.5))
    assert one == other != sealed({**RECORD, "steps": 4, "seconds": 1.5})["digest"]


def test_record_without_a_digest_is_taken_as_it_is(tmp_path):
    """Earlier versions wrote none, and neither do people."""
    (tmp_path / "a.json").write_text(json.dumps(RECORD))
    assert read_sealed(tmp_path / "a.json") == RECORD
    (tmp_path / "a.json").write_text("[3]")
    with pytest.raises(InputError, match="must hold a JSON object, got a list"):
        read_sealed(tmp_path / "a.json")


def test_list_names_what_it_was_written_for(tmp_path):
    assert read_digests(tmp_path) is None
    (tmp_path / "a").write_bytes(b"abc")
    digests = {"a": sha256(b"abc").hexdigest(), "b c": sha256(b"").hexdigest()}
    write_digests(tmp_path, digests)
    assert read_digests(tmp_path) == digests
    assert read_whole(tmp_path / "a", digests) == (b"abc", digests["a"])
    with pytest.raises(InputError, match="has changed since it was written"):
        read_whole(tmp_path / "a", {"b": digests["a"]})


@pytest.mark.parametrize("keep", [0, 1, 66, 140])
def test_list_that_was_cut_off_is_refused(tmp_path, keep):
    write_digests(tmp_path, {"a": "0" * 64, "b": "1" * 64})
    file = tmp_path / "digests.sha256"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"digests\.sha256' can't be read: it has changed"):
        read_digests(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_digest_of_weights_follows_names_types_shapes_and_values(dtype):
    module = nn.Linear(3, 2, dtype=dtype)
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    same = state_digest([state])
    assert same == state_digest([module.state_dict()])
    # A tensor of one element may have any stride.
    assert state_digest([{"a": torch.zeros(1, dtype=dtype)}]) == state_digest(
        [{"a": torch.zeros((), dtype=dtype).expand(1)}]
    )
    others = [
        {**state, "bias": -state["bias"]},
        {**state, "bias": state["bias"][:1]},
        {**state, "bias": state["bias"].to(torch.float16)},
        {"more": state["weight"], "bias": state["bias"]},
        {"weight": state["weight"].reshape(2, 3, 1), "bias": state["bias"]},
    ]
    assert len({same, *(state_digest([other]) for other in others)}) == 6

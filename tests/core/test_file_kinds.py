"""What files really are, whatever their names say."""

import io
import pickle
import re
import zipfile

import pytest
import torch
from safetensors.torch import save

from fastflow.core.file_kinds import what_it_is


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return stream.getvalue()


def torch_file(**options):
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream, **options)
    return stream.getvalue()


PAGE = b"<!DOCTYPE html><html><head><title>Google Drive -\n Quota &amp; exceeded</title>"
KINDS = {
    "empty": (b"", "it is empty"),
    "zeros": (bytes(500), "nothing but zeros"),
    "page": (PAGE, "it is a web page, 'Google Drive - Quota & exceeded': download the file itself"),
    "page-with-mark": (b"\xef\xbb\xbf\n<!-- saved --><HTML lang=en>", "it is a web page: download"),
    "page-xml": (b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', "it is a web page"),
    "page-utf-16": ("<html><body>Sorry".encode("utf-16"), "it is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "pointer of Git LFS.*git lfs pull"),
    "json": (b'{"error": "not found"}', 'it is a text that begins with \'{"error"'),
    "text": ("größe\nzwei".encode(), "it is a text that begins with 'größe'"),
    "gzip": (b"\x1f\x8b\x08\x00", "compressed by gzip: unpack"),
    "tar": (b"a".ljust(257, b"\0") + b"ustar\0" + bytes(250), "it is a tar archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "image": (b"\x89PNG\r\n\x1a\n", "it is an image"),
    "appledouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "what macOS notes about another file"),
    "zip": (zipped("a.txt", "b/c.bin"), r"zip archive of other things \(a.txt, b/c.bin\): unpack"),
    "npz": (zipped("z.npy"), "archive of NumPy's arrays"),
    "exported": (zipped("net/archive_format", "net/data.pkl"), "program of torch.export"),
    "torchscript": (zipped("net/code/a.py", "net/data.pkl"), "program of TorchScript"),
    "cut": (torch_file()[:300], "cut off or damaged: download"),
    "safetensors": (save({"a": torch.zeros(3)}), "ends in .safetensors"),
    "index": (b'{\n "metadata": {"total_size": 9},\n "weight_map": {"a": "1.safetensors"}}', "index of weights"),
    "pickle": (pickle.dumps({"a": [1.0]}), "it is a pickle that torch.save didn't write"),
    "old-pickle": (pickle.dumps({"a": [1.0]}, 2), "it is a pickle that torch.save didn't write"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x051.9.0:", "a model in ONNX"),
    "lite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "gguf": (b"GGUF\3\0\0\0", "GGUF"),
    "windows": (b"MZ\x90\0", "program for Windows"),
    "weights": (torch_file(), None),
    "old-weights": (torch_file(_use_new_zipfile_serialization=False), None),
    "noise": (bytes(range(1, 256)) * 3, None),
}


@pytest.mark.parametrize(("content", "words"), KINDS.values(), ids=KINDS)
def test_kind_of_a_file(tmp_path, content, words):
    file = tmp_path / "net.pt"
    file.write_bytes(content)
    found = what_it_is(file)
    if words is None:
        assert found is None
    else:
        assert re.search(words, found)
        assert "\n" not in found


def test_kinds_that_are_called_safetensors(tmp_path):
    file = tmp_path / "net.safetensors"
    for content in (torch_file(), torch_file(_use_new_zipfile_serialization=False)):
        file.write_bytes(content)
        assert what_it_is(file) == "it is a file of torch.save: give it a name that ends in .pt"
    file.write_bytes(save({"a": torch.zeros(3)})[:-5])
    assert what_it_is(file) is None


def test_a_file_that_cannot_be_read_is_not_known(tmp_path):
    assert what_it_is(tmp_path) is None
    assert what_it_is(tmp_path / "absent") is None

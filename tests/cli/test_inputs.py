"""What commands that load a run refuse: other folders, damaged checkpoints, bad latents."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.commands import fails
from support.runs import contents, options

DISCOVER = ("discover", "--generator", "digits-vae", "--out", "out")


@pytest.mark.parametrize("command", ["traverse", "evaluate", "report"])
def test_width_needs_a_generator(digits_folder, capsys, command):
    assert "--latent-dim is the width" in fails(capsys, command, digits_folder, "--latent-dim", "8")


@pytest.mark.parametrize("command", ["traverse", "evaluate", "report", "serve"])
@pytest.mark.parametrize("kind", ["absent", "empty", "file", "foreign", "cut-off"])
def test_folder_that_is_no_run(tmp_path, capsys, command, kind):
    folder = tmp_path / "cwd" / "thing"
    if kind == "file":
        folder.write_text("hello")
    elif kind != "absent":
        folder.mkdir()
    if kind == "foreign":
        (folder / "config.json").write_text('{"model_type": "bert"}')
    if kind == "cut-off":
        (folder / "config.json").write_text('{"kind": "disc')
    before = contents(tmp_path / "cwd")
    message = fails(capsys, command, "thing")
    assert ("isn't JSON" if kind == "cut-off" else "'thing' isn't a run") in message
    assert contents(tmp_path / "cwd") == before


def nan_weights(file):
    save_file({"bank.out_bias": torch.tensor([0.0, float("nan"), 0.0])}, file)


def foreign_weights(file):
    save_file({"decoder.weight": torch.zeros(3)}, file)


DAMAGES = {
    "cut-off": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "can't be read"),
    "empty": (lambda file: file.write_bytes(b""), "can't be read"),
    "random": (lambda file: file.write_bytes(bytes(range(256)) * 4), "can't be read"),
    "missing": (lambda file: file.unlink(), "is missing"),
    "nan": (nan_weights, "can't be read: it has changed since it was written"),
    "foreign": (foreign_weights, "can't be read: it has changed since it was written"),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["traverse", "evaluate", "report", "serve", "resume"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_checkpoints(digits_folder, capsys, command, damage, message):
    damage(digits_folder / "checkpoints" / "step-000006" / "weights.safetensors")
    before = contents(digits_folder)
    arguments = [command, digits_folder]
    if command == "resume":
        arguments = [*DISCOVER[:3], "--out", digits_folder, *options(steps=9), "--resume"]
    said = fails(capsys, *arguments)
    assert message in said
    assert "step-000006" in said
    assert contents(digits_folder) == before


def header(text):
    """A file that ends after NumPy's magic and a header that NumPy reads as Python."""
    head = text.encode()
    return lambda folder: (folder / "z.npy").write_bytes(b"\x93NUMPY\1\0" + len(head).to_bytes(2, "little") + head)


def save_latents(name, array, renamed=None):
    def save(folder):
        np.save(folder / name, np.asarray(array))
        (folder / name).rename(folder / (renamed or name))

    return save


def archive_by(folder, method, name="z.npz", content=b""):
    with zipfile.ZipFile(folder / name, "w", method) as archive:
        archive.writestr("z.npy", content or array_bytes())
    return folder / name


def array_bytes():
    stream = io.BytesIO()
    np.save(stream, np.zeros((2, 8), np.float32))
    return stream.getvalue()


def lying_archive(folder):
    """An archive whose array promises more rows than the archive's directory says it has bytes for."""
    archive_by(folder, zipfile.ZIP_DEFLATED, content=array_bytes().replace(b"(2, 8), }       ", b"(10000000, 8), }"))


LATENTS = {
    "absent": ("no.npy", lambda folder: None, "can't be read"),
    "kind": ("z.csv", lambda folder: (folder / "z.csv").write_text("1,2"), "must be a .npy, .npz or .safetensors file"),
    "missing": ("z.npy", lambda folder: None, "z.npy' can't be read: it doesn't exist"),
    "pipe": (
        "z.safetensors",
        lambda folder: os.mkfifo(folder / "z.safetensors"),
        "z.safetensors' can't be read: it isn't a file",
    ),
    "empty-file": ("z.npy", lambda folder: (folder / "z.npy").touch(), "can't be read"),
    "text": ("z.npy", lambda folder: (folder / "z.npy").write_text("hello"), "can't be read"),
    "cut-off": ("z.safetensors", lambda folder: (folder / "z.safetensors").write_bytes(b"\x08\0\0"), "can't be read"),
    "two-arrays": (
        "z.safetensors",
        lambda folder: save_file({"a": torch.zeros(2, 8), "b": torch.zeros(2, 8)}, folder / "z.safetensors"),
        "can't be read as one array",
    ),
    "no-archive": ("z.npz", lambda folder: (folder / "z.npz").write_text("hello"), "can't be read"),
    "cut-off-archive": ("z.npz", lambda folder: (folder / "z.npz").write_bytes(b"PK\x03\x04"), "can't be read"),
    "two-in-archive": (
        "z.npz",
        lambda folder: np.savez(folder / "z.npz", a=np.zeros((2, 8)), b=np.zeros((2, 8))),
        "can't be read as one array",
    ),
    "nan": ("z.npy", save_latents("z.npy", [[float("nan")] * 8]), "hold NaN or infinity"),
    "infinite": ("z.npy", save_latents("z.npy", [[float("inf")] * 8]), "hold NaN or infinity"),
    "too-large": ("z.npy", save_latents("z.npy", [[1e300] * 8]), "NaN or infinity"),
    "width": ("z.npy", save_latents("z.npy", np.zeros((2, 7))), "must have shape (N, 8), got (2, 7)"),
    "no-rows": ("z.npy", save_latents("z.npy", np.zeros((0, 8))), "must have shape (N, 8), got (0, 8)"),
    "one-row": ("z.npy", save_latents("z.npy", np.zeros(8)), "must have shape (N, 8), got (8,)"),
    "complex": ("z.npy", save_latents("z.npy", np.zeros((2, 8), complex)), "must be real numbers"),
    "strings": ("z.npy", save_latents("z.npy", [["a"] * 8]), "can't be read"),
    "header-cut-off": ("z.npy", header("{'descr': '<f8', 'shape': (2, 8"), "can't be read as one array"),
    "header-no-type": ("z.npy", header("{'descr': (), 'fortran_order': False, 'shape': (2, 8)}"), "can't be read"),
    "huge": (
        "z.npy",
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (80000000000000, 8)}"),
        "can't be read",
    ),
    "bomb": (
        "z.npz",
        lambda folder: np.savez_compressed(folder / "z.npz", np.zeros((70_000_000 // 32, 8), np.float32)),
        "bytes and promises 70000128, more than the 67108864 that are read of such a file",
    ),
    "lying-directory": ("z.npz", lying_archive, "promises (10000000, 8) of float32, more than the"),
    "another-method": (
        "z.npz",
        lambda folder: archive_by(folder, zipfile.ZIP_LZMA),
        "another method than np.savez uses",
    ),
    "array-as-archive": ("z.npz", save_latents("z.npy", np.zeros((2, 8)), "z.npz"), "can't be read"),
    "archive-as-array": ("z.npy", lambda folder: archive_by(folder, zipfile.ZIP_STORED, "z.npy"), "can't be read"),
    "objects": ("z.npy", save_latents("z.npy", np.array([[None] * 8])), "can't be read"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write", "message"), LATENTS.values(), ids=LATENTS)
def test_bad_latents(digits_folder, tmp_path, capsys, name, write, message):
    write(tmp_path / "cwd")
    assert message in fails(capsys, "traverse", digits_folder, "--latents", name, "--out", "out")
    assert not (tmp_path / "cwd" / "out").exists()
    assert not (digits_folder / "traversals").exists()

"""Data sets by name: digits and folders of IDX files, their splits, and the frames that they give."""

import gzip
from pathlib import Path

import pytest
import torch
from support.idx import write_pair

from fastflow import InputError, datasets
from fastflow.datasets.idx import read_pair
from fastflow.generators import load as load_generator

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
needs_mnist = pytest.mark.skipif(
    not (MNIST / "t10k-images-idx3-ubyte.gz").is_file(),
    reason="needs MNIST's test files, t10k-*.gz, in ../shared/data/mnist, seen from the checkout",
)


@pytest.fixture
def folder(tmp_path):
    write_pair(tmp_path, "train", 30, seed=1)
    write_pair(tmp_path, "t10k", 20, seed=2)
    return tmp_path


def request(data, batch=5, places=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(data), (batch,), generator=rng)
    return (
        rows,
        torch.randint(len(data.transformations), (batch,), generator=rng),
        torch.rand(batch, places, generator=rng),
    )


def test_digits_are_split_as_the_bundled_generator_was():
    train, test = (datasets.load("digits", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (1438, 359)
    assert train.transformations == ("rotation", "scale", "hue")
    assert train.image_shape == (3, 8, 8)
    assert isinstance(test, datasets.ImageSequences)
    assert torch.equal(test.images, load_generator("digits-vae").held_out_images)
    assert test.note == "digits of scikit-learn; the test split is 359 of 1797, drawn with seed 0"


def test_digits_name_the_extra_that_they_need(monkeypatch):
    def import_nothing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="sklearn")

    monkeypatch.setattr("fastflow.core.plugins.import_module", import_nothing)
    with pytest.raises(
        InputError, match=r"data set digits needs the package sklearn: pip install 'fastflow\[metrics\]'"
    ):
        datasets.load("digits")


def test_frames_are_the_transformations_of_the_images():
    data = datasets.load("digits", transformations=("rotation", "scale+translation-x"))
    assert isinstance(data, datasets.ImageSequences)
    rows, transformation, place = request(data)
    frames = data.frames(rows, transformation, place)
    assert frames.shape == (5, 3, *data.image_shape)
    assert frames.dtype == torch.float32
    assert 0 <= float(frames.min()) <= float(frames.max()) <= 1
    expected = datasets.transform(data.images[rows], data.transformations, transformation, place)
    torch.testing.assert_close(frames, expected)
    assert torch.equal(frames, data.frames(rows, transformation, place))


def test_frames_can_be_differentiated_in_place():
    data = datasets.load("digits")
    rows, transformation, place = request(data)
    data.frames(rows, transformation, place.requires_grad_()).square().sum().backward()
    assert place.grad is not None
    assert bool((place.grad != 0).all())


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "transformations"), [("digits", ("rotation+scale", "hue")), ("dsprites", None)])
def test_frames_on_a_gpu_are_those_of_the_cpu(name, transformations):
    data = datasets.load(name, transformations=transformations)
    asked = request(data)
    here, there = data.frames(*asked), data.frames(*(x.cuda() for x in asked))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("compressed", "mark"), [(True, "-"), (False, "-"), (True, "."), (False, ".")])
def test_four_files_are_two_splits(tmp_path, compressed, mark):
    write_pair(tmp_path, "train", 30, compressed=compressed, mark=mark, seed=1)
    write_pair(tmp_path, "t10k", 20, compressed=compressed, mark=mark, seed=2)
    train, test = (datasets.load("mnist", tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (30, 20)
    assert test.image_shape == (3, 7, 5)
    assert test.note == f"20 images of '{tmp_path}', the files of the test split"


@pytest.mark.parametrize("stem", ["train", "t10k"])
def test_two_files_are_split_and_say_so(tmp_path, stem):
    write_pair(tmp_path, stem, 40)
    train, test = (datasets.mnist(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (34, 6)
    assert (
        train.note
        == f"34 of 40 images of '{tmp_path}', drawn with seed 0 for the train split: it has only {stem} files"
    )
    assert (
        test.note == f"6 of 40 images of '{tmp_path}', drawn with seed 0 for the test split: it has only {stem} files"
    )
    whole = read_pair(*(tmp_path / f"{stem}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")))
    assert not torch.equal(test.images, whole.images[-6:])  # drawn, not the end of an ordered file
    assert test.labels is not None
    assert train.labels is not None
    both = torch.cat([train.images, test.images])
    assert len(both.unique(dim=0)) == 40


def test_one_image_cannot_be_split(tmp_path):
    write_pair(tmp_path, "t10k", 1)
    for split in ("train", "test"):
        with pytest.raises(InputError, match="at least 2 images, so that one can be held out; there are 1"):
            datasets.load("mnist", tmp_path, split)


@needs_mnist
def test_mnist_itself():
    train, test = (datasets.load("mnist", MNIST, split, ("rotation", "scale")) for split in ("train", "test"))
    assert (len(train), len(test)) == (8500, 1500)
    assert train.image_shape == test.image_shape == (1, 28, 28)
    assert isinstance(test, datasets.ImageSequences)
    assert test.labels is not None
    assert test.labels.unique().tolist() == list(range(10))
    rows, transformation, place = request(test, batch=16)
    start = test.frames(rows, transformation, torch.zeros_like(place))[:, 0]
    assert torch.equal(start, test.images[rows] / 255)
    assert 0.1 < float(start.mean()) < 0.2


def test_folder_without_files_says_what_was_expected(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="has no IDX files: expected train-images-idx3-ubyte and train-labels"):
            datasets.load("mnist", folder)


@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_half_a_pair_is_named(folder, kind):
    (folder / f"t10k-{kind}-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"has t10k-.*-ubyte.gz but not the (images|labels) that belong to it"):
        datasets.load("mnist", folder)


def test_damaged_file_is_named(folder):
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"no images"))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz' starts with the bytes 6e 6f 20 69, expected"):
        datasets.load("mnist", folder)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: datasets.load("celeba"), "data set must be one of digits, dsprites, mnist, .*, got 'celeba'"),
        (lambda: datasets.load("mnist"), "data set mnist needs the folder of its files: name it as root"),
        (lambda: datasets.load("digits", split="valid"), "split must be 'train' or 'test', got 'valid'"),
        (
            lambda: datasets.load("digits", transformations=()),
            r"must be a tuple with at least one name",
        ),
        (lambda: datasets.load("digits", transformations=("twist",)), "'twist' has a part 'twist': it must be one of"),
        (lambda: datasets.load("digits", transformations=("scale", "scale")), "transformations must differ"),
    ],
)
def test_what_cannot_be_loaded_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(2, 2, dtype=torch.long)}, r"rows must be a long tensor of shape \(2,\), got .*\(2, 2\)"),
        ({"rows": torch.zeros(2)}, r"rows must be a long tensor of shape \(2,\), got torch.float32"),
        ({"rows": torch.tensor([0, 30])}, r"rows must lie in 0\.\.29, got values from 0 to 30"),
        ({"transformation": torch.tensor([-1, 0])}, r"transformation must lie in 0\.\.2, got values from -1 to 0"),
        ({"transformation": torch.zeros(3, dtype=torch.long)}, r"transformation must be a long tensor of shape \(2,\)"),
        ({"place": torch.zeros(2)}, r"place must be a float tensor of shape \(2, P\), got torch.float32 \(2,\)"),
        ({"place": torch.tensor([[0.0], [1.1]])}, r"place must lie in \[0, 1\]"),
        ({"place": torch.tensor([[0.0], [float("nan")]])}, r"place must lie in \[0, 1\]"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(folder, change, message):
    good = {"rows": torch.zeros(2, dtype=torch.long), "transformation": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(InputError, match=message):
        datasets.load("mnist", folder).frames(**{**good, "place": torch.zeros(2, 1), **change})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 8, 8), "at least one image"),
        (torch.zeros(2, 8, 8), r"shape \(N, C, H, W\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int32), "images must be uint8 or floats"),
        (torch.full((2, 1, 8, 8), 255.0), r"images must lie in \[0, 1\]"),
        (torch.zeros(2, 2, 8, 8), "images must have 1 or 3 channels for a hue, got 2"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images, message):
    with pytest.raises(InputError, match=message):
        datasets.ImageSequences(images)

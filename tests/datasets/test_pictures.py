"""Image files and folders of them: what is read, and what is refused."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.memory import extra_memory

from fastflow import InputError, datasets
from fastflow.datasets.pictures import image_files, read_picture, read_whole_picture


def picture(width=12, height=12, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def saved(folder, name="a.png", image=None, **options):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    (picture() if image is None else image).save(file, **options)
    return file


def png(width, height, content=b""):
    """A PNG file of grey bits whose header promises this size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_pixels_come_as_they_were_saved(tmp_path, suffix):
    read = read_picture(saved(tmp_path, f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {})), 12)
    assert read.dtype == torch.uint8
    np.testing.assert_array_equal(read.permute(1, 2, 0).numpy(), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
@pytest.mark.parametrize("color", [True, False])
def test_every_mode_of_eight_bits_is_read(tmp_path, mode, color):
    suffix = "tiff" if mode == "CMYK" else "png"
    read = read_picture(saved(tmp_path, f"a.{suffix}", picture().convert(mode)), 6, color=color)
    assert read.shape == (3 if color else 1, 6, 6)


def test_palette_with_transparency_is_read_without_a_warning(tmp_path):
    file = saved(tmp_path, image=picture().convert("P"), transparency=bytes(range(256)))
    assert read_picture(file, 12).shape == (3, 12, 12)


def clear(mode, alpha, seed):
    """A picture of one colour whose left half has this opacity, and whose hidden right half holds noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    noise[:, :2] = (200, 100, 50)
    opacity = np.zeros((4, 4), np.uint8)
    opacity[:, :2] = alpha
    image = Image.fromarray(np.dstack((noise, opacity)))
    if mode == "LA":
        return Image.merge("LA", (image.getchannel("R"), image.getchannel("A")))
    return image


@pytest.mark.parametrize("alpha", [255, 128, 0])
@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGBA", "png", {}),
        ("RGBA", "webp", {"lossless": True, "exact": True}),
        ("RGBA", "tiff", {}),
        ("LA", "png", {}),
    ],
)
def test_transparent_pixels_show_black(tmp_path, mode, suffix, options, alpha):
    color = (200, 200, 200) if mode == "LA" else (200, 100, 50)
    shown = [round(level * alpha / 255) for level in color]
    expected = torch.tensor(shown, dtype=torch.uint8)[:, None, None].expand(3, 4, 4).clone()
    expected[:, :, 2:] = 0
    for seed in (1, 2):
        file = saved(tmp_path, f"a.{suffix}", clear(mode, alpha, seed), **options)
        assert torch.equal(read_picture(file, 4), expected)
        whole = read_whole_picture(file)
        assert torch.equal(whole, expected[:1] if mode == "LA" else expected)
    grey = read_picture(file, 4, color=False)
    luma = 0.299 * shown[0] + 0.587 * shown[1] + 0.114 * shown[2]
    assert (grey[0, :, 2:] == 0).all()
    assert (grey[0, :, :2] - luma).abs().max() <= 1


@pytest.mark.parametrize("mode", ["RGBa", "PA"])
def test_transparency_of_modes_that_few_files_have(mode):
    from fastflow.datasets.pictures import _on_background

    image = clear("RGBA", 128, 1)
    if mode == "PA":
        opacity, image = image.getchannel("A"), image.convert("RGB").convert("P").convert("PA")
        image.putalpha(opacity)
    else:
        image = image.convert(mode)
    flat = np.asarray(_on_background(image).convert("RGB")).astype(int)
    assert (flat[:, 2:] == 0).all()
    assert abs(flat[0, 0, 0] - 100) <= 13  # a palette's colours are coarse


def test_one_transparent_colour_of_a_palette_or_without_one(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([250, 10, 10, 200, 100, 50] + [0] * 762)
    palette.paste(1, (0, 0, 2, 4))
    grey = Image.new("L", (4, 4), 90)
    grey.paste(200, (0, 0, 2, 4))
    color = Image.new("RGB", (4, 4), (1, 2, 3))
    color.paste((200, 100, 50), (0, 0, 2, 4))
    cases = [
        (saved(tmp_path, "a.png", palette, transparency=0), (200, 100, 50)),
        (saved(tmp_path, "b.png", palette, transparency=bytes([0, 128])), (100, 50, 25)),
        (saved(tmp_path, "c.gif", palette, transparency=0), (200, 100, 50)),
        (saved(tmp_path, "d.png", grey, transparency=90), (200, 200, 200)),
        (saved(tmp_path, "e.png", color, transparency=(1, 2, 3)), (200, 100, 50)),
    ]
    for file, left in cases:
        read = read_picture(file, 4)
        assert read[:, 0, 0].tolist() == list(left), file.name
        assert read[:, 0, 3].tolist() == [0, 0, 0], file.name


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_grey_of_few_bits(tmp_path, bits):
    """Pillow scales the pixels to 8 bits, and leaves the number of the transparent grey as it is in the file."""
    most = 2**bits - 1
    row = {1: 0b01000000, 2: 0b01111111, 4: 0x1F}[bits]  # the first pixels: the transparent level 1 or 0, then others
    transparent = 0 if bits == 1 else 1
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(bytes([0, row]))),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
             for kind, data in chunks]  # fmt: skip
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    second = {1: 1, 2: 3, 4: 15}[bits]
    assert read_whole_picture(file).flatten().tolist() == [0, second * 255 // most]


def test_middle_square_is_resized_by_means(tmp_path):
    image = picture(width=20, height=8)
    read = read_picture(saved(tmp_path, image=image), 4)
    means = np.asarray(image)[:, 6:14].reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(read.permute(1, 2, 0).numpy(), means, atol=1)


def test_orientation_of_a_camera_is_heeded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    read = read_picture(saved(tmp_path, "a.png", exif=exif), 12)
    np.testing.assert_array_equal(read.permute(1, 2, 0).numpy(), np.asarray(picture())[::-1, ::-1])


def broken(folder, name):
    file = saved(folder)
    content = file.read_bytes()
    middle = len(content) // 2
    file.write_bytes(
        {
            "empty": b"",
            "text": b"these are no pixels\n" * 20,
            "cut off": content[:middle],
            "cut within its header": content[:20],
            "a flipped bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "no pixels": png(12, 12),
            "another format": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        }[name]
    )
    return file


BROKEN = ["empty", "text", "cut off", "cut within its header", "a flipped bit", "no pixels", "another format"]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_picture_is_one_line_with_its_name(tmp_path, name):
    with pytest.raises(InputError, match=r"^'.*a.png' isn't an image, or is damaged: ") as error:
        read_picture(broken(tmp_path, name), 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("suffix", "share"), [("jpg", 0.5), ("webp", 0.5), ("bmp", 0.5), ("gif", 0.3), ("tiff", 0.5)])
def test_other_formats_cut_off_are_refused(tmp_path, suffix, share):
    file = saved(tmp_path, f"a.{suffix}", picture(64, 64))
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=f"a.{suffix}' isn't an image, or is damaged"):
        read_picture(file, 8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (9_000, 9_000, "promises 9000 x 9000 pixels, more than a file of its size holds"),
        (12_000, 12_000, "isn't an image, or is damaged: Image size .* exceeds limit"),
        (10**6, 10**6, "isn't an image, or is damaged: Image size .* exceeds limit"),
    ],
)
def test_a_promise_of_pixels_takes_no_memory(tmp_path, width, height, message):
    file = tmp_path / "a.png"
    file.write_bytes(png(width, height, zlib.compress(bytes(100))))

    def read():
        with pytest.raises(InputError, match=message):
            read_picture(file, 8)

    read()
    assert extra_memory(read) < 10 << 20


def test_sixteen_bits_are_refused(tmp_path):
    image = Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10) * 600)
    with pytest.raises(InputError, match="has more than 8 bits per channel: convert it to 8 bits"):
        read_picture(saved(tmp_path, image=image), 10)


def test_folder_is_read_with_the_folders_below_it(tmp_path):
    names = [f"{folder}/{i}.{suffix}" for i in range(10) for folder, suffix in (("a", "png"), ("b/c", "PNG"))]
    for seed, name in enumerate(names):
        saved(tmp_path, name, picture(seed=seed))
    (tmp_path / "labels.txt").write_text("which is no image, and isn't read as one")
    train, test = (datasets.load("images", tmp_path, split, size=12) for split in ("train", "test"))
    assert (len(train), len(test)) == (17, 3)
    assert train.image_shape == (3, 12, 12)
    assert test.note == f"images of '{tmp_path}'; the test split is 3 of 20, drawn with seed 0"
    assert isinstance(train, datasets.ImageSequences)
    assert isinstance(test, datasets.ImageSequences)
    found = torch.cat([train.images, test.images])
    expected = {np.asarray(picture(seed=seed)).tobytes() for seed in range(20)}
    assert {image.permute(1, 2, 0).numpy().tobytes() for image in found} == expected


def test_folder_in_grey_is_coloured_by_its_hue_alone(tmp_path):
    for seed in range(3):
        saved(tmp_path, f"{seed}.png", picture(seed=seed))
    grey = datasets.load("images", tmp_path, transformations=("rotation",), size=6, color=False)
    assert grey.image_shape == (1, 6, 6)
    assert datasets.load("images", tmp_path, size=6, color=False).image_shape == (3, 6, 6)


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_file_of_a_folder_is_named(tmp_path, name):
    for seed in range(4):
        saved(tmp_path, f"{seed}.png", picture(seed=seed))
    broken(tmp_path, name)
    with pytest.raises(InputError, match=r"a\.png' isn't an image"):
        [datasets.load("images", tmp_path, split) for split in ("train", "test")]


def test_folders_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no images: expected files ending in \.png, "):
        datasets.load("images", tmp_path)
    saved(tmp_path)
    with pytest.raises(InputError, match="needs at least 2 images, so that one can be held out; there are 1"):
        datasets.load("images", tmp_path)
    with pytest.raises(InputError, match="size must be a whole number of at least 1, got 0"):
        datasets.load("images", tmp_path, size=0)
    with pytest.raises(
        InputError, match="data set mnist takes no size, which is for images, dsprites, falcor3d, isaac3d"
    ):
        datasets.load("mnist", tmp_path, size=8)


def test_what_an_operating_system_leaves_is_not_read(tmp_path):
    photos = [
        saved(tmp_path / "photos", name, picture(seed=seed)) for seed, name in enumerate(["b.png", "a.JPG", "c.gif"])
    ]
    for name in ("._a.JPG", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png", "__MACOSX/._b.png", "@eaDir/b.png",
                 ".thumbnails/a.png", "notes.txt"):  # fmt: skip
        file = tmp_path / "photos" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / "photos" / "folder.png").mkdir()
    assert image_files(tmp_path / "photos") == sorted(photos)
    saved(tmp_path / "photos", "below/d.png")
    assert len(image_files(tmp_path / "photos", below=True)) == 4
    train, test = (datasets.load("images", tmp_path / "photos", split, size=4) for split in ("train", "test"))
    assert len(train) + len(test) == 4
    with pytest.raises(InputError, match="holds what macOS notes about another file"):
        read_picture(tmp_path / "photos" / "._a.JPG", 4)


def test_a_folder_may_itself_be_hidden(tmp_path):
    file = saved(tmp_path / ".data", "a.png")
    assert image_files(tmp_path / ".data") == [file]
    file.unlink()
    with pytest.raises(InputError, match="has no images: expected files ending in"):
        image_files(tmp_path / ".data")

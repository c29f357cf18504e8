"""The grid of all potentials, and traversals as MP4."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.pictures.grids import save_grid
from fastflow.pictures.strips import side_by_side
from fastflow.pictures.videos import save_mp4


def constant_images(values, channels=1, size=8):
    """Images of one brightness each."""
    values = np.asarray(values, dtype=np.float32)
    return np.broadcast_to(values[..., None, None, None], (*values.shape, channels, size, size)).copy()


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_grid_has_every_image_in_its_place_on_one_scale(tmp_path, kind):
    values = np.linspace(0, 1, 2 * 3 * 2).reshape(2, 3, 2)
    file = save_grid(
        kind(constant_images(values)), tmp_path / "grid.png", rows=["0", "1 turn"], columns=["-1", "start"]
    )
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    opaque = pixels[..., 3] == 255
    # Images are runs of opaque columns in the middle of a row; labels are narrower than any image.
    left = 0
    places = []
    middle = opaque[pixels.shape[0] - 40]
    while left < len(middle):
        right = left
        while right < len(middle) and middle[right]:
            right += 1
        if right - left >= 64:
            places += [left, left + 64 + 3] if right - left > 64 else [left]
        left = max(right, left + 1)
    assert len(places) == 6
    for row in range(2):
        y = pixels.shape[0] - 40 - (1 - row) * (64 + 3)
        for column, x in enumerate(places):
            assert abs(int(pixels[y, x + 32, 0]) - round(255 * values[row, column // 2, column % 2])) <= 1


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((1, 1, 1, 8, 8), ["0"], ["start"]), ((2, 1, 1, 1, 8, 8), ["0"], ["start"]), ((1, 1, 2, 1, 8, 8), ["0"], ["a"])],
    ids=["axes", "rows", "columns"],
)
def test_refused_grids(tmp_path, shape, rows, columns):
    with pytest.raises(InputError, match="labels for rows"):
        save_grid(np.zeros(shape), tmp_path / "grid.png", rows=rows, columns=columns)
    assert not list(tmp_path.iterdir())


def test_animation_of_many_starts_has_several_rows():
    values = np.linspace(0, 1, 30)[:, None].repeat(2, 1)
    (sheet, _) = side_by_side(constant_images(values), (0.0, 1.0), 8)
    assert sheet.shape == (3 * 10 - 2, 12 * 10 - 2, 1)
    for number, value in enumerate(values[:, 0]):
        top, left = number // 12 * 10, number % 12 * 10
        assert (sheet[top : top + 8, left : left + 8] == round(255 * value)).all()


def frames_of(file, height, width):
    """What ffmpeg says of a video, and its frames."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    words = [ffmpeg, "-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    result = subprocess.run(words, capture_output=True, check=True, timeout=60)
    return result.stderr.decode(), np.frombuffer(result.stdout, np.uint8).reshape(-1, height, width, 3)


def test_mp4_shows_the_way_there_and_back(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    values = np.array([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1]])
    file = save_mp4(constant_images(values, size=9), tmp_path / "path.mp4", value_range=(0, 1))
    about, frames = frames_of(file, 126, 2 * 126 + 2)
    assert "Video: h264" in about
    assert "8 fps" in about
    assert len(frames) == 4
    for frame, column in zip(frames, (0, 1, 2, 1), strict=True):
        assert abs(frame[20:100, 20:100].mean() - 255 * values[0, column]) < 3
        assert abs(frame[20:100, -100:-20].mean() - 255 * values[1, column]) < 3


def test_mp4_without_its_package_says_how_to_get_it(digits_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(SystemExit):
        main(["traverse", str(digits_folder), "--mp4"])
    assert capsys.readouterr().err == (
        "fastflow: error: an MP4 needs the package imageio_ffmpeg: pip install 'fastflow[video]'\n"
    )
    assert not (digits_folder / "traversals").exists()


@pytest.mark.parametrize("rate", [0, 241, float("nan")])
def test_refused_frame_rates(tmp_path, rate):
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(InputError, match="cannot be shown"):
        save_mp4(np.zeros((1, 2, 1, 8, 8)), tmp_path / "path.mp4", frames_per_second=rate)
    assert not list(tmp_path.iterdir())


def test_traverse_writes_a_grid_and_videos_of_ones_own_images(digits_folder, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    Image.fromarray(np.full((8, 8), 60, np.uint8)).save(tmp_path / "grey.png")
    out = tmp_path / "out"
    main(["traverse", str(digits_folder), "--out", str(out), "--images", str(tmp_path / "grey.png"), "--mp4"])
    assert "grey.png" in capsys.readouterr().out
    assert {"grid.png", "inverted.png", "landscapes.json", "potential-02.mp4"} <= {f.name for f in out.iterdir()}
    _, frames = frames_of(out / "potential-02.mp4", 128, 128)
    assert len(frames) == 6

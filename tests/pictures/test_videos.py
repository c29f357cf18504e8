"""Traversals as MP4: what ffmpeg reads from the files is what was written."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.pictures import constant_images

from fastflow.cli.main import main
from fastflow.core.errors import InputError
from fastflow.pictures.videos import save_mp4


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


@pytest.mark.slow
def test_traverse_writes_a_grid_and_videos_of_ones_own_images(digits_folder, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    Image.fromarray(np.full((8, 8), 60, np.uint8)).save(tmp_path / "grey.png")
    out = tmp_path / "out"
    main(["traverse", str(digits_folder), "--out", str(out), "--images", str(tmp_path / "grey.png"), "--mp4"])
    assert "grey.png" in capsys.readouterr().out
    assert {"grid.png", "inverted.png", "landscapes.json", "potential-02.mp4"} <= {f.name for f in out.iterdir()}
    _, frames = frames_of(out / "potential-02.mp4", 128, 128)
    assert len(frames) == 6

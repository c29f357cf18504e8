"""Videos: traversals as MP4, for talks and for places that don't show GIFs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastflow.core.errors import InputError
from fastflow.core.files import replacing
from fastflow.core.plugins import first_line, imported
from fastflow.pictures.strips import Images, side_by_side

_CELL = 128  # the longer side in pixels to which small images are enlarged; MP4 packs them well


def check_video() -> Any:
    """Return the package that encodes videos, or raise InputError if it isn't installed."""
    return imported("imageio_ffmpeg", "video", "an MP4")


def save_mp4(
    images: Images,
    file: str | os.PathLike[str],
    *,
    value_range: tuple[float, float] | None = None,
    frames_per_second: float = 8,
    image_size: int | None = None,
) -> Path:
    """Save paths of images as an MP4 (H.264, which every browser plays), with the frames of `save_gif`.

    Args:
        images: as in `save_gif`.
        file: where the MP4 goes; its folder is made if it is missing.
        value_range: as in `save_gif`.
        frames_per_second: the steps shown per second, at most 240.
        image_size: as in `save_gif`, but 128 by default.

    Returns:
        The path written. The file appears whole or not at all.

    Raises:
        InputError: as `save_gif`; or the package imageio-ffmpeg isn't installed, or its ffmpeg failed.
        OSError: the file cannot be written.
    """
    package = check_video()
    if not 0 < frames_per_second <= 240:
        raise InputError(f"frames_per_second={frames_per_second} cannot be shown: expected above 0 and at most 240")
    sheets = side_by_side(images, value_range, _CELL if image_size is None else image_size)
    sheets = np.broadcast_to(sheets, (*sheets.shape[:3], 3))
    # H.264 halves the resolution of colours, so both sides must be even.
    odd = [(0, 0), (0, sheets.shape[1] % 2), (0, sheets.shape[2] % 2), (0, 0)]
    sheets = np.pad(sheets, odd, mode="edge")
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        writer = package.write_frames(
            str(temporary),
            (sheets.shape[2], sheets.shape[1]),
            fps=frames_per_second,
            codec="libx264",
            quality=8,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-f", "mp4", "-movflags", "+faststart"],  # the temporary name doesn't show the format
        )
        try:
            writer.send(None)
            for sheet in [*sheets, *sheets[-2:0:-1]]:
                writer.send(np.ascontiguousarray(sheet).tobytes())
            writer.close()
        except (OSError, RuntimeError, StopIteration) as error:
            raise InputError(f"ffmpeg couldn't write {str(path)!r}: {first_line(error)}") from error
        if not temporary.is_file() or not temporary.stat().st_size:
            raise InputError(f"ffmpeg wrote nothing to {str(path)!r}: is the picture too large for a video?")
    return path

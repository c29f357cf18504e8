"""Drawings that the page is sent: their size is checked before a pixel is decoded."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from support.memory import extra_memory

pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")

from fastflow.app.actions import _drawn_pixels
from fastflow.core.errors import InputError


def uri(image, kind="PNG"):
    stream = io.BytesIO()
    image.save(stream, kind)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def test_a_drawing_is_what_the_pen_covered():
    covered = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    white = np.full((256, 256, 3), 255, np.uint8)
    drawn = _drawn_pixels(uri(Image.fromarray(np.dstack((white, covered)))))
    assert np.array_equal(drawn, covered)


@pytest.mark.parametrize(
    ("drawing", "message"),
    [
        (None, "isn't a PNG image"),
        ("", "isn't a PNG image"),
        ("data:image/png;base64,", "isn't a PNG image"),
        ("data:image/png;base64,\u20ac", "isn't a PNG image"),
        ("data:text/html;base64,AAAA", "isn't a PNG image"),
        (uri(Image.new("RGBA", (256, 256)))[:-300], "isn't a PNG image"),
        (uri(Image.new("RGB", (256, 256)), "GIF"), "isn't a PNG image"),
        (uri(Image.new("RGBA", (257, 256))), "must have 256 x 256 pixels, got 257 x 256"),
    ],
    ids=["none", "empty", "no-image", "letters", "text", "cut-off", "gif", "wide"],
)
def test_other_drawings_are_refused_in_one_line(drawing, message):
    with pytest.raises(InputError, match=message) as error:
        _drawn_pixels(drawing)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_drawing_that_promises_a_lot_takes_no_memory():
    large = uri(Image.new("1", (9_000, 9_000)))
    assert len(large) < 1 << 20

    def refuse():
        with pytest.raises(InputError, match="got 9000 x 9000"):
            _drawn_pixels(large)

    refuse()
    assert extra_memory(refuse) < 10 << 20

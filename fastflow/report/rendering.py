"""The making of pages: templates, embedded pictures, and tables of settings."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from fastflow.core.errors import InputError
from fastflow.core.files import replacing

LARGEST_PICTURE = 1 << 28
"""The most bytes that are read of a picture to show it on a page."""

_TEMPLATES = Path(__file__).parent / "templates"
_MEDIA_TYPES = {"PNG": "image/png", "GIF": "image/gif"}


def write_page(template: str, view: Mapping[str, Any], file: Path) -> Path:
    """Write a page from one of the templates, whole or not at all, and return its path.

    Args:
        template: the name of a file in templates/.
        view: everything that the template shows.
        file: where the page goes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(view)
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return file


def data_uri(data: bytes, kind: str) -> str:
    """A picture as the URI that embeds it in a page.

    Args:
        data: the bytes of the file.
        kind: "PNG" or "GIF".
    """
    return f"data:{_MEDIA_TYPES[kind]};base64,{base64.b64encode(data).decode('ascii')}"


def picture_size(data: bytes, kind: str) -> tuple[int, int]:
    """The width and height of a picture, of which no pixel is decoded.

    Args:
        data: the bytes of the file.
        kind: "PNG" or "GIF".

    Raises:
        InputError: it isn't such a picture, or is too large. The message goes on after the picture's name.
    """
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as picture:
            return picture.size
    except Image.DecompressionBombError as error:
        raise InputError("is too large to be shown") from error
    except Exception as error:  # the errors of Pillow's readers have no common type
        raise InputError(f"is not a {kind} image") from error


def settings_rows(tree: object, prefix: str = "", leave_out: str = "") -> list[tuple[str, str]]:
    """The (name, text) rows of an object of settings but for one; nested objects have dotted names.

    Args:
        tree: the object.
        prefix: what the names begin with.
        leave_out: the name of the setting that has no row.
    """
    if not isinstance(tree, Mapping):
        return []
    rows = []
    for key, value in tree.items():
        if key == leave_out:
            continue
        if isinstance(value, Mapping) and value:
            rows += settings_rows(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", text_of(value)))
    return rows


def text_of(value: object) -> str:
    """A setting's value as text; long lists are cut short."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        if len(value) > 12:
            return f"{', '.join(map(text_of, value[:4]))}, … ({len(value)} values)"
        return ", ".join(map(text_of, value)) or "none"
    return str(value)

"""Films as HTML: all frames of a path, of which the page shows one, above a strip of all of them."""

from __future__ import annotations

import base64
import io
from html import escape

from PIL import Image

from fastflow.app.scenes import Film, Scene, picture

_THUMBNAIL = 64  # pixels of a thumbnail's longer side; smaller images stay as they are


def scene_html(scene: Scene, step: int) -> str:
    """The films of a scene side by side, each showing its frame at a step."""
    films = scene.films
    note = f'<p class="ff-note">{escape(scene.note)}</p>' if scene.note else ""
    return f'<div class="ff-scene" data-films="{len(films)}">{"".join(_film_html(f, step) for f in films)}</div>{note}'


def step_words(step: int) -> str:
    """The name of a step on the page."""
    return "start" if not step else f"{'+' if step > 0 else '−'}{abs(step)}"


def _film_html(film: Film, step: int) -> str:
    """A film with its title, its frames, and its strip of thumbnails."""
    title = escape(film.title)
    frames, strip = [], []
    for k, image in zip(film.steps, film.images, strict=True):
        frame = picture(image)
        small = frame.copy()
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        beyond = not film.ends[0] <= film.middle + k <= film.ends[1]
        state = f'data-step="{k}"{" data-on" if k == step else ""}'
        frames.append(f'<img class="ff-frame" {state} src="{_uri(frame)}" alt="{title}, step {step_words(k)}">')
        place = f"{' data-start' if not k else ''}{' data-beyond' if beyond else ''}"
        strip.append(f'<img {state}{place} src="{_uri(small)}" alt="">')
    # Small images show their pixels as squares; larger ones, such as photographs, look better smooth.
    crisp = " ff-crisp" if max(film.images.shape[-2:]) <= _THUMBNAIL else ""
    facts = f"{film.change:.4f} pixel change per step" + (f"; {film.leaving}" if film.leaving else "")
    return (
        f'<figure class="ff-film{crisp}"><figcaption><b>{title}</b> <output class="ff-step">{step_words(step)}</output>'
        f'<small>{facts}</small></figcaption><div class="ff-stage">{"".join(frames)}'
        f'</div><div class="ff-strip" aria-hidden="true">{"".join(strip)}</div></figure>'
    )


def _uri(shown: Image.Image) -> str:
    """The URI that embeds a picture."""
    stream = io.BytesIO()
    shown.save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"

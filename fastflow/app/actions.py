"""The actions of the page: each takes the values of some widgets, and returns new values for others."""

from __future__ import annotations

import base64
import io
import random
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
from PIL import Image

from fastflow.app.explorer import Explorer
from fastflow.app.films import scene_html
from fastflow.app.scenes import Scene, Start
from fastflow.app.widgets import CANVAS, MIX
from fastflow.core.errors import InputError
from fastflow.saved.edits import Edit

_DRAWN = "data:image/png;base64,"
_LARGEST_NUMBER = 9999  # of the numbers that "Another" draws: short enough to be remembered

Controls = tuple[Any, ...]
"""The values of `Widgets.controls`: potential, reach, baseline, its direction, and every potential's weight."""


class Actions:
    """The actions of a run's page.

    An action returns values for the widgets to which `fastflow.app.page.build_page` binds it, in their order. It raises
    InputError, ConvergenceError or OSError for what can't be done.

    Args:
        explorer: the run.
        files: the folder below which files are saved.
    """

    def __init__(self, explorer: Explorer, files: Path) -> None:
        self._explorer = explorer
        self._files = files

    def open(self, kind: str, number: int, label: int | None, *controls: Any) -> list[Any]:
        """Show potential 0 on a page that has just loaded."""
        problem = ""
        try:
            self._explorer.refresh()
        except (InputError, OSError) as error:
            problem = alert_html(error)
        *view, _ = self._view(self._start(kind, number, label), None, (0, *controls[1:]))
        return [*self._names(0), self._explorer.names().get(0, ""), *view, problem]

    def choose(self, scene: Scene, step: int, *controls: Any) -> list[Any]:
        """Show the potential that was chosen."""
        # A choice may come twice, the second time when somebody is typing a name already.
        again = scene.mix == {controls[0]: 1.0}
        name = gr.skip() if again else self._explorer.names().get(controls[0], "")
        return [name, *self._view(scene.start, scene.before, controls, scene, step)]

    def redraw(self, scene: Scene, step: int, *controls: Any) -> list[Any]:
        """Show the film again after a control was changed."""
        return self._view(scene.start, scene.before, controls, scene, step)

    def mix(self, scene: Scene, step: int, *controls: Any) -> list[Any]:
        """Show a mix of potentials after a weight was changed."""
        return [MIX, "", *self._view(scene.start, scene.before, (MIX, *controls[1:]), scene, step)]

    def begin(self, kind: str, number: int, label: int | None, *controls: Any) -> list[Any]:
        """Begin at the start that was chosen."""
        return self._view(self._start(kind, number, label), None, controls)

    def begin_at_another(self, kind: str, label: int | None, *controls: Any) -> list[Any]:
        """Begin at a start with a random number."""
        number = random.randint(0, _LARGEST_NUMBER)
        return [number, *self._view(self._start(kind, number, label), None, controls)]

    def begin_at_drawing(self, drawing: str, label: int | None, *controls: Any) -> list[Any]:
        """Begin at the latent of a drawing."""
        return self._view(self._explorer.from_drawing(_drawn_pixels(drawing), label), None, controls)

    def go_on(self, scene: Scene, step: int, *controls: Any) -> list[Any]:
        """Make what is shown the start of the next film."""
        if not step:
            raise InputError("move the slider first: there is nothing to go on from yet")
        return self._view(scene.start, self._explorer.edit(scene, int(step)), controls)

    def undo(self, scene: Scene, *controls: Any) -> list[Any]:
        """Undo the last `go_on`."""
        if scene.before is None:
            raise InputError("there is nothing to undo")
        return self._view(scene.start, self._explorer.undone(scene.before), controls)

    def rename(self, scene: Scene, step: int, name: str, *controls: Any) -> list[Any]:
        """Give the chosen potential a name."""
        if controls[0] == MIX:
            raise InputError("a mix has no name: choose one potential")
        self._explorer.name(controls[0], name or "")
        return [*self._names(controls[0]), *self._view(scene.start, scene.before, controls, scene, step)]

    def save(self, scene: Scene, step: int) -> list[Any]:
        """Make files of what is shown."""
        folder = Path(tempfile.mkdtemp(dir=self._files))
        return [[str(file) for file in self._explorer.save(scene, int(step or 0), folder)], ""]

    def lines(self, scene: Scene | None, step: int) -> str:
        """The lines of Python that make what is shown, or a comment that says why there are none."""
        try:
            return "" if scene is None else self._explorer.lines(scene, int(step or 0))
        except InputError as error:
            return f"# {error}"

    def _start(self, kind: str, number: int, label: int | None) -> Start:
        """The real image or sample with this number."""
        return (self._explorer.held_out if kind == "real" else self._explorer.sample)(number, label)

    def _names(self, chosen: int) -> list[Any]:
        """Values for `Widgets.named`: the potentials' present names, with one of them chosen."""
        choices = self._explorer.choices()
        labels = [gr.Slider(label=f"Weight of {words}") for words, _ in choices]
        return [gr.Dropdown([*choices, ("a mix of several", MIX)], value=chosen), *labels]

    def _view(
        self, start: Start, before: Edit | None, controls: Controls, old: Scene | None = None, step: int = 0
    ) -> list[Any]:
        """Values for `Widgets.view`: the scene from a start by the present controls.

        Args:
            start: the start.
            before: the edit that was applied to it.
            controls: the values of the controls.
            old: the scene that the new one replaces.
            step: the step that was shown of the old scene, and is shown of the new one if it has it.
        """
        chosen, reach, baseline, direction, *weights = controls
        if chosen is None:
            raise InputError("choose a potential first")
        mix = dict(enumerate(weights)) if chosen == MIX else {int(chosen): 1.0}
        scene = self._explorer.show(start, before, mix, reach, baseline=baseline or None, number=direction)
        steps = scene.film.steps
        step = min(max(int(step or 0), steps[0]), steps[-1])
        # A slider that may stay as it is isn't changed, because somebody may be dragging it.
        stays = old is not None and old.film.steps == steps
        slider = gr.skip() if stays else gr.Slider(minimum=steps[0], maximum=steps[-1], value=step)
        return [scene, scene_html(scene, step), slider, _done_html(scene), ""]


def alert_html(error: Exception) -> str:
    """An error as the page shows it."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return f'<div class="ff-alert" role="alert">{escape(text)}</div>'


def _done_html(scene: Scene) -> str:
    """The start of a scene, and the edit that was applied to it, in words."""
    edit = "" if scene.before is None else f", {scene.before}"
    return f'<p class="ff-done">From {escape(scene.start.words + edit)}.</p>'


def _drawn_pixels(uri: str) -> npt.NDArray[np.uint8]:
    """The drawing on the canvas, (H, W): how much of each pixel the pen covered.

    Raises:
        InputError: it isn't a PNG of the canvas's size, which is compared before a pixel is decoded.
    """
    try:
        stream = io.BytesIO(base64.b64decode((uri or "").removeprefix(_DRAWN), validate=True))
        with Image.open(stream, formats=["PNG"]) as canvas:
            if canvas.size != (CANVAS, CANVAS):
                raise InputError(
                    f"a drawing must have {CANVAS} x {CANVAS} pixels, got {canvas.width} x {canvas.height}"
                )
            return np.asarray(canvas.convert("RGBA").getchannel("A"))
    except InputError:
        raise
    except Exception as error:  # the errors of Pillow's readers have no common type
        raise InputError("the drawing isn't a PNG image: load the page again, and draw anew") from error

"""The page's widgets, and which action answers which of them."""

from __future__ import annotations

import base64
import io
import random
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
from gradio.themes import Default
from PIL import Image

from fastflow.app.explorer import BASELINES, Explorer, Scene, Start
from fastflow.app.films import scene_html
from fastflow.core.errors import ConvergenceError, InputError
from fastflow.saved.edits import Edit

MIX = -1
"""The potential that is none: a mix of several."""

_HERE = Path(__file__).parent
_CANVAS = 256
_LARGEST_SEED = 9999  # of those that "Another" draws: short enough to be remembered

LOOKS: dict[str, Any] = {
    "theme": Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
    "css": (_HERE / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
}
"""What `gr.mount_gradio_app` has to be told beside the page."""

Controls = tuple[Any, ...]
"""The values of potential, reach, baseline, its number, and every potential's weight."""


def build_page(explorer: Explorer, files: Path) -> gr.Blocks:
    """The page of a run; what it saves goes below the folder `files`."""
    run = explorer.run
    with gr.Blocks(title=f"{run.folder.name} · fastflow", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            f'<header class="ff-head"><h1>{escape(str(run.folder))}</h1><p>{explorer.count} potentials on '
            f"{escape(explorer.generator.name or 'its own generator')}, {run.step} training steps</p></header>"
        )
        alert = gr.HTML()
        seen = gr.State(None)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                with gr.Row(elem_classes="ff-bottom"):
                    potential = gr.Dropdown(label="Potential", scale=3, min_width=180)
                    name = gr.Textbox(
                        label="Its name", placeholder="such as rotation", max_lines=1, scale=2, min_width=140
                    )
                    rename = gr.Button("Save name", scale=1, min_width=120, size="md")
                scene = gr.HTML()
                step = gr.Slider(-1, 1, 0, step=1, label="Time, in steps from the start", buttons=[])
                with gr.Row():
                    go_on = gr.Button("Go on from here", min_width=150, size="md")
                    undo = gr.Button("Undo", min_width=100, size="md")
                done = gr.HTML()
            with gr.Column(scale=3, min_width=300), gr.Tabs():
                with gr.Tab("Start"):
                    kinds = [("a real image", "real"), ("a random sample", "sample")]
                    kind = gr.Radio(
                        kinds if explorer.has_real_images else kinds[1:],
                        value="real" if explorer.has_real_images else "sample",
                        label="Start from",
                    )
                    classes = explorer.generator.classes
                    label = gr.Dropdown(
                        list(classes or []), value=classes[0] if classes else None, label="Class",
                        visible=classes is not None,
                    )  # fmt: skip
                    with gr.Row(elem_classes="ff-bottom"):
                        number = gr.Number(0, label="Number", precision=0, min_width=100)
                        another = gr.Button("Another", min_width=100, size="md")
                    gr.Markdown("Or draw one:")
                    gr.HTML(_pad(explorer), js_on_load="window.fastflow.pad(element)", elem_classes="ff-pad")
                    drawing = gr.Textbox(visible=False)
                    with gr.Row():
                        use = gr.Button("Start from the drawing", min_width=180, size="md")
                        clear = gr.Button("Clear", min_width=80, size="md")
                with gr.Tab("Path"):
                    # Its bounds, as those of other numbers, are the actions' to tell.
                    reach = gr.Number(explorer.reach, label="Steps each way", precision=0)
                    gr.Markdown("Along a mix, each potential's gradient counts by its weight:")
                    weights = [gr.Slider(-2, 2, 0, step=0.1, buttons=[]) for _ in range(explorer.count)]
                with gr.Tab("Compare"):
                    baseline = gr.Dropdown(
                        [("nothing", ""), *((words, key) for key, words in BASELINES.items())],
                        value="", label="Compare with a",
                    )  # fmt: skip
                    which = gr.Number(0, label="Which of them", precision=0)
                    gr.Markdown("Its steps change the pixels as much as the potential's do, in the mean over the film.")
                with gr.Tab("Save"):
                    save = gr.Button("Make files of what is seen", size="md")
                    saved = gr.Files(label="Files", interactive=False)
                    lines = gr.Code(language="python", label="In Python", interactive=False, wrap_lines=True)

        controls = [potential, reach, baseline, which, *weights]
        look = [seen, scene, step, done, lines, alert]
        listed = [potential, *weights]

        def listing(chosen: int) -> list[Any]:
            """The potentials by their present names, one of them chosen."""
            choices = explorer.choices()
            labels = [gr.Slider(label=f"Weight of {words}") for words, _ in choices]
            return [gr.Dropdown([*choices, ("a mix of several", MIX)], value=chosen), *labels]

        def told_in_python(scene: Scene | None, at: int) -> str:
            """The lines that make what is seen, or why there are none."""
            try:
                return "" if scene is None else explorer.lines(scene, int(at or 0))
            except InputError as error:
                return f"# {error}"

        def anew(
            start: Start, before: Edit | None, controls: Controls, old: Scene | None = None, at: int = 0
        ) -> list[Any]:
            """The scene from a start by the present controls; in place of an old one, at the step seen of it."""
            chosen, reach, baseline, which, *weights = controls
            if chosen is None:
                raise InputError("choose a potential first")
            mix = dict(enumerate(weights)) if chosen == MIX else {int(chosen): 1.0}
            new = explorer.show(start, before, mix, reach, baseline or None, which)
            steps = new.film.steps
            at = min(max(int(at or 0), steps[0]), steps[-1])
            # A slider that may stay as it is isn't touched: somebody may be dragging it.
            stays = old is not None and old.film.steps == steps
            slider = gr.skip() if stays else gr.Slider(minimum=steps[0], maximum=steps[-1], value=at)
            return [new, scene_html(new, at), slider, _done(new), told_in_python(new, at), ""]

        def starting(kind: str, number: int, label: int | None) -> Start:
            return (explorer.held_out if kind == "real" else explorer.sample)(number, label)

        def answer(outputs: Sequence[Any]) -> Callable[[Callable[..., list[Any]]], Callable[..., list[Any]]]:
            """Let an action of these outputs, the last of which is the alert, say there what can't be done."""

            def wrap(action: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
                @wraps(action)
                def answered(*values: Any) -> list[Any]:
                    try:
                        return action(*values)
                    except (InputError, ConvergenceError, OSError) as error:
                        return [*(gr.skip() for _ in outputs[1:]), _told(error)]

                return answered

            return wrap

        @answer([*listed, name, *look])
        def opened(kind: str, number: int, label: int | None, *controls: Any) -> list[Any]:
            problem = ""
            try:
                explorer.refresh()
            except (InputError, OSError) as error:
                problem = _told(error)
            *answers, _ = anew(starting(kind, number, label), None, (0, *controls[1:]))
            return [*listing(0), explorer.names().get(0, ""), *answers, problem]

        @answer([name, *look])
        def choose(scene: Scene, at: int, *controls: Any) -> list[Any]:
            # A choice may be told twice, the second time when somebody is typing a name already.
            again = scene.mix == {controls[0]: 1.0}
            known = gr.skip() if again else explorer.names().get(controls[0], "")
            return [known, *anew(scene.start, scene.before, controls, scene, at)]

        @answer(look)
        def redraw(scene: Scene, at: int, *controls: Any) -> list[Any]:
            return anew(scene.start, scene.before, controls, scene, at)

        @answer([potential, name, *look])
        def mix(scene: Scene, at: int, *controls: Any) -> list[Any]:
            return [MIX, "", *anew(scene.start, scene.before, (MIX, *controls[1:]), scene, at)]

        @answer(look)
        def begin(kind: str, number: int, label: int | None, *controls: Any) -> list[Any]:
            return anew(starting(kind, number, label), None, controls)

        @answer([number, *look])
        def begin_another(kind: str, label: int | None, *controls: Any) -> list[Any]:
            number = random.randint(0, _LARGEST_SEED)
            return [number, *anew(starting(kind, number, label), None, controls)]

        @answer(look)
        def begin_drawing(drawing: str, label: int | None, *controls: Any) -> list[Any]:
            return anew(explorer.drawn(_drawn(drawing), label), None, controls)

        @answer(look)
        def chain(scene: Scene, at: int, *controls: Any) -> list[Any]:
            if not at:
                raise InputError("move the slider first: there is nothing to go on from yet")
            return anew(scene.start, explorer.edit(scene, int(at)), controls)

        @answer(look)
        def unchain(scene: Scene, *controls: Any) -> list[Any]:
            if scene.before is None:
                raise InputError("there is nothing to undo")
            return anew(scene.start, explorer.undone(scene.before), controls)

        @answer([*listed, *look])
        def call(scene: Scene, at: int, name: str, *controls: Any) -> list[Any]:
            if controls[0] == MIX:
                raise InputError("a mix has no name: choose one potential")
            explorer.name(controls[0], name)
            return [*listing(controls[0]), *anew(scene.start, scene.before, controls, scene, at)]

        @answer([saved, alert])
        def keep(scene: Scene, at: int) -> list[Any]:
            folder = Path(tempfile.mkdtemp(dir=files))
            return [[str(file) for file in explorer.save(scene, int(at or 0), folder)], ""]

        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
        where = [kind, number, label]
        gr.on([page.load], opened, [*where, *controls], [*listed, name, *look], **quiet)
        gr.on([step.change, scene.change], None, step, js="window.fastflow.show")
        step.change(told_in_python, [seen, step], lines, **quiet)
        potential.input(choose, [seen, step, *controls], [name, *look], **quiet)
        gr.on([baseline.input, which.input, reach.input], redraw, [seen, step, *controls], look, **quiet)
        gr.on([weight.input for weight in weights], mix, [seen, step, *controls], [potential, name, *look], **quiet)
        gr.on([kind.input, number.input, label.input], begin, [*where, *controls], look, **quiet)
        another.click(begin_another, [kind, label, *controls], [number, *look], **quiet)
        busy = {**quiet, "show_progress": "minimal"}  # without an encoder, a drawing takes seconds
        use.click(begin_drawing, [drawing, label, *controls], look, js=_with_drawing(len(controls) + 1), **busy)
        clear.click(None, js="window.fastflow.clear")
        go_on.click(chain, [seen, step, *controls], look, **quiet)
        undo.click(unchain, [seen, *controls], look, **quiet)
        gr.on([rename.click, name.submit], call, [seen, step, name, *controls], [*listed, *look], **quiet)
        save.click(keep, [seen, step], [saved, alert], **quiet)
    return page


def _told(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return f'<div class="ff-alert" role="alert">{escape(text)}</div>'


def _done(scene: Scene) -> str:
    done = "" if scene.before is None else f", {scene.before}"
    return f'<p class="ff-done">From {escape(scene.start.words + done)}.</p>'


def _pad(explorer: Explorer) -> str:
    """A field to draw on, whose line is a bit wider than a pixel of the generator's images."""
    pen = max(1.3 * _CANVAS / max(explorer.generator.image_shape[1:]), _CANVAS / 14)
    return (
        f'<canvas width="{_CANVAS}" height="{_CANVAS}" data-pen="{pen:.0f}" role="img" '
        'aria-label="A field to draw on with mouse, pen or finger"></canvas>'
    )


def _with_drawing(others: int) -> str:
    """The script that puts the drawing in the place of an action's first input."""
    names = ", ".join(f"v{k}" for k in range(others))
    return f"(drawing, {names}) => [window.fastflow.drawing(), {names}]"


def _drawn(uri: str) -> npt.NDArray[np.uint8]:
    """What was drawn on the canvas, (H, W): how much of each pixel the pen covered."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as canvas:
        return np.asarray(canvas.convert("RGBA").getchannel("A"))

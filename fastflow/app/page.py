"""The page of a run: its widgets, and the actions that answer them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Default

from fastflow.app.actions import Actions, alert_html
from fastflow.app.explorer import Explorer
from fastflow.app.widgets import build_widgets
from fastflow.core.errors import ConvergenceError, InputError

_HERE = Path(__file__).parent

LOOKS: dict[str, Any] = {
    "theme": Default(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace")),
    "css": (_HERE / "page.css").read_text(encoding="utf-8"),
    "head": f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
}
"""Further arguments of `gr.mount_gradio_app`, with the page's style and script."""


def build_page(explorer: Explorer, files: Path) -> gr.Blocks:
    """Build the page of a run; the files that it saves go below the folder `files`."""
    title = f"{explorer.run.folder.name} · fastflow"
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        w, actions = build_widgets(explorer), Actions(explorer, files)
        quiet: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}

        def bind(
            triggers: list[Any], action: Callable[..., list[Any]], inputs: list[Any], outputs: list[Any], **options: Any
        ) -> None:
            """Let an action answer these triggers; the last of its outputs is the alert."""
            shows = inputs[0] is w.scene_state
            gr.on(triggers, _with_alert(action, len(outputs), shows), inputs, outputs, **{**quiet, **options})

        bind([page.load], actions.open, [*w.start, *w.controls], [*w.named, w.name, *w.view])
        gr.on([w.step.change, w.scene.change], None, w.step, js="window.fastflow.show")
        # They follow both, as the frames do: an action knows only the step at which a film was asked for.
        gr.on([w.step.change, w.scene.change], actions.lines, [w.scene_state, w.step], w.lines, **quiet)

        scene = [w.scene_state, w.step, *w.controls]
        bind([w.potential.input], actions.choose, scene, [w.name, *w.view])
        bind([w.baseline.input, w.direction.input, w.reach.input], actions.redraw, scene, w.view)
        bind([weight.input for weight in w.weights], actions.mix, scene, [w.potential, w.name, *w.view])
        bind([w.go_on.click], actions.go_on, scene, w.view)
        bind([w.undo.click], actions.undo, [w.scene_state, *w.controls], w.view)

        bind([w.kind.input, w.number.input, w.label.input], actions.begin, [*w.start, *w.controls], w.view)
        bind([w.another.click], actions.begin_at_another, [w.kind, w.label, *w.controls], [w.number, *w.view])
        bind(
            [w.use.click],
            actions.begin_at_drawing,
            [w.drawing, w.label, *w.controls],
            w.view,
            js=_with_drawing(len(w.controls) + 1),
            show_progress="minimal",  # without an encoder, a drawing takes seconds
        )
        w.clear.click(None, js="window.fastflow.clear")

        naming = [w.scene_state, w.step, w.name, *w.controls]
        bind([w.rename.click, w.name.submit], actions.rename, naming, [*w.named, *w.view])
        bind([w.save.click], actions.save, [w.scene_state, w.step], [w.saved, w.alert])
    return page


def _with_alert(action: Callable[..., list[Any]], outputs: int, shows: bool) -> Callable[..., list[Any]]:
    """The action, which shows an error in the last of its outputs, the alert, and leaves the others as they are.

    Args:
        action: the action.
        outputs: the number of its outputs.
        shows: whether its first input is the scene that is shown.
    """

    @wraps(action)
    def answer(*values: Any) -> list[Any]:
        try:
            if shows and values[0] is None:
                raise InputError("the page was away for so long that its film is no longer kept: load it again")
            return action(*values)
        except (InputError, ConvergenceError, OSError) as error:
            return [*(gr.skip() for _ in range(outputs - 1)), alert_html(error)]

    return answer


def _with_drawing(others: int) -> str:
    """The script that puts the drawing in the place of an action's first input."""
    names = ", ".join(f"v{k}" for k in range(others))
    return f"(drawing, {names}) => [window.fastflow.drawing(), {names}]"

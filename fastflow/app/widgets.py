"""The widgets of the page, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from fastflow.app.explorer import BASELINES, Explorer

MIX = -1
"""The choice of the list of potentials that stands for a mix of several."""

CANVAS = 256
"""The side of the field to draw on, in pixels."""


@dataclass
class Widgets:
    """The widgets that actions read or change."""

    alert: gr.HTML
    """What can't be done, and why."""
    scene_state: gr.State
    """The scene that is shown."""
    potential: gr.Dropdown
    name: gr.Textbox
    rename: gr.Button
    scene: gr.HTML
    step: gr.Slider
    go_on: gr.Button
    undo: gr.Button
    done: gr.HTML
    """The start, and the edit that was applied to it."""
    kind: gr.Radio
    label: gr.Dropdown
    number: gr.Number
    another: gr.Button
    drawing: gr.Textbox
    use: gr.Button
    clear: gr.Button
    reach: gr.Number
    weights: list[gr.Slider]
    baseline: gr.Dropdown
    direction: gr.Number
    save: gr.Button
    saved: gr.Files
    lines: gr.Code

    @property
    def controls(self) -> list[gr.Component]:
        """The widgets that say which film is shown: potential, reach, baseline, its direction, and all weights."""
        return [self.potential, self.reach, self.baseline, self.direction, *self.weights]

    @property
    def view(self) -> list[gr.Component]:
        """The widgets that show a scene."""
        return [self.scene_state, self.scene, self.step, self.done, self.alert]

    @property
    def named(self) -> list[gr.Component]:
        """The widgets that show the potentials' names."""
        return [self.potential, *self.weights]

    @property
    def start(self) -> list[gr.Component]:
        """The widgets that say which start is chosen."""
        return [self.kind, self.number, self.label]


def build_widgets(explorer: Explorer) -> Widgets:
    """Lay out the widgets of the page, within gradio's context of a page."""
    run = explorer.run
    gr.HTML(
        f'<header class="ff-head"><h1>{escape(str(run.folder))}</h1><p>{explorer.count} potentials on '
        f"{escape(explorer.generator.name or 'its own generator')}, {run.step} training steps</p></header>"
    )
    found: dict[str, Any] = {"alert": gr.HTML(), "scene_state": gr.State(None)}
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            found |= _scene_column()
        with gr.Column(scale=3, min_width=300), gr.Tabs():
            with gr.Tab("Start"):
                found |= _start_tab(explorer)
            with gr.Tab("Path"):
                found |= _path_tab(explorer)
            with gr.Tab("Compare"):
                found |= _compare_tab()
            with gr.Tab("Save"):
                found |= _save_tab()
    return Widgets(**found)


def _scene_column() -> dict[str, Any]:
    """The potential's list and name, the films, and the slider of their time."""
    with gr.Row(elem_classes="ff-bottom"):
        potential = gr.Dropdown(label="Potential", scale=3, min_width=180)
        name = gr.Textbox(label="Its name", placeholder="such as rotation", max_lines=1, scale=2, min_width=140)
        rename = gr.Button("Save name", scale=1, min_width=120, size="md")
    scene = gr.HTML()
    step = gr.Slider(-1, 1, 0, step=1, label="Time, in steps from the start", buttons=[])
    with gr.Row():
        go_on = gr.Button("Go on from here", min_width=150, size="md")
        undo = gr.Button("Undo", min_width=100, size="md")
    return {
        "potential": potential,
        "name": name,
        "rename": rename,
        "scene": scene,
        "step": step,
        "go_on": go_on,
        "undo": undo,
        "done": gr.HTML(),
    }


def _start_tab(explorer: Explorer) -> dict[str, Any]:
    """The choice of a start: a real image, a sample, or a drawing."""
    kinds = [("a real image", "real"), ("a random sample", "sample")]
    kind = gr.Radio(
        kinds if explorer.has_real_images else kinds[1:],
        value="real" if explorer.has_real_images else "sample",
        label="Start from",
    )
    classes = explorer.generator.classes
    label = gr.Dropdown(
        list(classes or []), value=classes[0] if classes else None, label="Class", visible=classes is not None
    )
    with gr.Row(elem_classes="ff-bottom"):
        number = gr.Number(0, label="Number", precision=0, min_width=100)
        another = gr.Button("Another", min_width=100, size="md")
    gr.Markdown("Or draw one:")
    gr.HTML(_drawing_field(explorer), js_on_load="window.fastflow.pad(element)", elem_classes="ff-pad")
    drawing = gr.Textbox(visible=False)
    with gr.Row():
        use = gr.Button("Start from the drawing", min_width=180, size="md")
        clear = gr.Button("Clear", min_width=80, size="md")
    return {
        "kind": kind,
        "label": label,
        "number": number,
        "another": another,
        "drawing": drawing,
        "use": use,
        "clear": clear,
    }


def _path_tab(explorer: Explorer) -> dict[str, Any]:
    """The length of the path, and the weights of a mix."""
    # Numbers have no bounds here: the actions check them, and say what is wrong.
    reach = gr.Number(explorer.reach, label="Steps each way", precision=0)
    gr.Markdown("Along a mix, each potential's gradient counts by its weight:")
    return {"reach": reach, "weights": [gr.Slider(-2, 2, 0, step=0.1, buttons=[]) for _ in range(explorer.count)]}


def _compare_tab() -> dict[str, Any]:
    """The choice of a baseline to show beside the film."""
    choices = [("nothing", ""), *((words, key) for key, words in BASELINES.items())]
    baseline = gr.Dropdown(choices, value="", label="Compare with a")
    direction = gr.Number(0, label="Which of them", precision=0)
    gr.Markdown("Its steps change the pixels as much as the potential's do, in the mean over the film.")
    return {"baseline": baseline, "direction": direction}


def _save_tab() -> dict[str, Any]:
    """The button that makes files, the files, and the lines of Python."""
    return {
        "save": gr.Button("Make files of what is shown", size="md"),
        "saved": gr.Files(label="Files", interactive=False),
        "lines": gr.Code(language="python", label="In Python", interactive=False, wrap_lines=True),
    }


def _drawing_field(explorer: Explorer) -> str:
    """A field to draw on, whose line is a bit wider than a pixel of the generator's images."""
    pen = max(1.3 * CANVAS / max(explorer.generator.image_shape[1:]), CANVAS / 14)
    return (
        f'<canvas width="{CANVAS}" height="{CANVAS}" data-pen="{pen:.0f}" role="img" '
        'aria-label="A field to draw on with mouse, pen or finger"></canvas>'
    )

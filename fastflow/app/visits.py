"""The visits of the page: what its calls may hold, and that nothing is kept of those that have ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import gradio as gr

from fastflow.core.errors import InputError
from fastflow.core.files import shortened

MOST = 64
"""The most visits that are kept at once; beyond that, the one that was idle for longest is forgotten."""

MOST_CALLS, MOST_CALLS_OF_ALL = 32, 256
"""The most calls of one visit, and of all visits together, that may wait, or whose results nobody has fetched yet."""

_GRACE = 60.0  # seconds for which a visit is kept whose page was closed, or lost its connection


class PageVisits:
    """The visits of a page's sessions. All methods are called in the server's event loop.

    Args:
        blocks: the page.
        grace: the seconds for which a visit is kept whose page was closed, or lost its connection.
        most: the most visits that are kept at once.
    """

    def __init__(self, blocks: gr.Blocks, grace: float = _GRACE, most: int = MOST) -> None:
        self._blocks = blocks
        self._grace, self._most = grace, most
        self._open: dict[str, int] = {}
        self._ends: OrderedDict[str, asyncio.TimerHandle] = OrderedDict()
        self._tasks: set[asyncio.Future[None]] = set()
        blocks.state_session_capacity = 2 * most

    def check(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call of an action with what the page's own calls have.

        Raises:
            InputError: there is no such action, or its widgets can't have these values.
        """
        session, number, values = call["session_hash"], call.get("fn_index"), call.get("data")
        action = self._blocks.fns.get(number) if type(number) is int else None
        if action is None or action.fn is None or not isinstance(values, list) or len(values) != len(action.inputs):
            raise InputError("the request isn't a call that this page makes")
        waiting = self._blocks._queue.pending_event_ids_session
        if len(waiting.get(session, ())) >= MOST_CALLS or sum(map(len, waiting.values())) >= MOST_CALLS_OF_ALL:
            raise InputError("too many calls are waiting: try again in a moment")
        self._touch(session)
        widgets = self._blocks.state_holder[session]
        for widget, value in zip(action.inputs, values, strict=True):
            # A State has no widget: the page sends nothing for it.
            _check_value(widget if isinstance(widget, gr.State) else widgets[widget._id], value)
        trigger = call.get("trigger_id")
        return {
            "data": values,
            "event_data": None,
            "fn_index": number,
            "trigger_id": trigger if type(trigger) is int else None,
            "session_hash": session,
        }

    def begin(self, session: str) -> None:
        """A page is open now."""
        self._open[session] = self._open.get(session, 0) + 1
        self._touch(session)

    def end(self, session: str) -> None:
        """A page was closed, or lost its connection."""
        self._open[session] -= 1
        if not self._open[session]:
            del self._open[session]
        self._touch(session)

    def _touch(self, session: str) -> None:
        """Keep a visit for the time of grace from now on, and forget the idlest one if there are too many."""
        if session in self._ends:
            self._ends.pop(session).cancel()
        self._ends[session] = asyncio.get_running_loop().call_later(self._grace, self._look, session)
        while len(self._ends) > self._most:
            self._ends[oldest := next(iter(self._ends))].cancel()
            self._forget(oldest)

    def _look(self, session: str) -> None:
        """Forget a visit, unless its page is open or something is computed for it."""
        if session in self._open or self._blocks._queue.pending_event_ids_session.get(session):
            self._ends[session] = asyncio.get_running_loop().call_later(self._grace, self._look, session)
        else:
            self._forget(session)

    def _forget(self, session: str) -> None:
        """Forget a visit: its film, its widgets, and the messages that wait for it."""
        del self._ends[session]
        task = asyncio.ensure_future(self._clear(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _clear(self, session: str) -> None:
        queue, states = self._blocks._queue, self._blocks.state_holder
        await queue.clean_events(session_hash=session)
        for kept in (queue.pending_messages_per_session, queue.pending_event_ids_session):
            kept.pop(session, None)
        for kept in (states.session_data, states.time_last_used):
            kept.pop(session, None)


def _check_value(widget: Any, value: Any) -> None:
    """Raise InputError unless a widget can have this value."""
    stateful = isinstance(widget, gr.State)
    kinds = (str,) if _is_text(widget) else (int, float) if _is_number(widget) else (str, int, float)
    fits = value is None or (not stateful and isinstance(value, kinds) and not isinstance(value, bool))
    try:
        if not fits:
            raise TypeError
        if not stateful:
            widget.preprocess(value)
    except Exception as error:  # gradio's error for a value outside the widget's bounds would be printed
        raise InputError(f"{getattr(widget, 'label', None) or 'a widget'} can't be {shortened(value)}") from error


def _is_text(widget: Any) -> bool:
    return isinstance(widget, gr.Textbox)


def _is_number(widget: Any) -> bool:
    return isinstance(widget, gr.Number | gr.Slider)

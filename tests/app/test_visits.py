"""Visits: what a call of the page may hold, and that what they kept is forgotten."""

import asyncio

import pytest

pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")

import gradio as gr

from fastflow.app.visits import PageVisits
from fastflow.core.errors import InputError


def page():
    """A page with one action; gradio makes it in a running event loop, or leaves a loop of its own open."""
    with gr.Blocks() as blocks:
        scene, step, name = gr.State(None), gr.Slider(-4, 4, 0, step=1, label="Time"), gr.Textbox(label="Name")
        kind, number = (
            gr.Radio([("a", "real"), ("b", "sample")], label="Kind"),
            gr.Number(0, label="Number", precision=0),
        )
        name.submit(lambda *values: values[0], [scene, step, name, kind, number], scene)
        name.change(None, None, name, js="() => 'x'")
    blocks.queue()
    return blocks


@pytest.fixture(scope="module")
def blocks():
    async def build():
        return page()

    return asyncio.run(build())


GOOD = [None, 1, "slant", "real", 3]


def call(values, number=0, session="abc"):
    return {"session_hash": session, "fn_index": number, "data": values, "event_data": {"x": 1}, "more": 1}


def checked(blocks, *values, **options):
    async def check():
        return PageVisits(blocks).check(call(*values, **options))

    return asyncio.run(check())


@pytest.mark.slow
def test_a_call_of_the_page_is_passed_on_without_what_the_page_never_sends(blocks):
    found = checked(blocks, GOOD)
    assert found == {"session_hash": "abc", "fn_index": 0, "data": GOOD, "event_data": None, "trigger_id": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([{"path": "/etc/passwd"}, *GOOD[1:]], "can't be"),
        ([None, 5, *GOOD[2:]], "Time can't be 5"),
        ([None, None, *GOOD[2:]], "Time can't be None"),
        ([None, "1", *GOOD[2:]], "Time can't be '1'"),
        ([None, True, *GOOD[2:]], "Time can't be True"),
        ([None, 1, 7, "real", 3], "Name can't be 7"),
        ([None, 1, {"meta": {"_type": "gradio.FileData"}, "url": "http://evil.example"}, "real", 3], "Name can't be"),
        ([None, 1, "slant", "other", 3], "Kind can't be 'other'"),
        ([None, 1, "slant", ["real"], 3], "Kind can't be"),
        ([None, 1, "slant", "real", "x" * 9000], "Number can't be"),
        (GOOD[:4], "isn't a call that this page makes"),
        ("abcde", "isn't a call that this page makes"),
    ],
)
def test_values_that_widgets_cannot_have_are_refused_in_one_line(blocks, values, message):
    with pytest.raises(InputError, match=message) as error:
        checked(blocks, values)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("number", [1, 99, -1, None, True, "0"])
def test_only_actions_of_the_page_are_called(blocks, number):
    with pytest.raises(InputError, match="isn't a call that this page makes"):
        checked(blocks, GOOD if number != 1 else [], number=number)


def kept(blocks):
    """The visits of which something is kept."""
    queue, states = blocks._queue, blocks.state_holder
    return {*states.session_data, *states.time_last_used, *queue.pending_event_ids_session}


@pytest.mark.slow
def test_a_visit_is_forgotten_when_its_page_was_closed_and_not_before():
    async def visit():
        visits = PageVisits(blocks := page(), grace=0.05)
        visits.begin("abc")
        visits.begin("def")
        for session in ("abc", "def", "ghi"):  # the last is no browser's, and has no heartbeat
            visits.check(call(GOOD, session=session))
        await asyncio.sleep(0.3)
        assert kept(blocks) == {"abc", "def"}
        visits.end("abc")
        await asyncio.sleep(0.3)
        assert kept(blocks) == {"def"}

    asyncio.run(visit())


@pytest.mark.slow
def test_a_lost_connection_that_comes_back_forgets_nothing():
    async def visit():
        visits = PageVisits(blocks := page(), grace=0.2)
        visits.begin("abc")
        visits.check(call(GOOD))
        visits.end("abc")
        visits.begin("abc")
        await asyncio.sleep(0.5)
        assert kept(blocks) == {"abc"}

    asyncio.run(visit())


def test_no_more_visits_are_kept_than_the_bound():
    async def visit():
        visits = PageVisits(blocks := page(), most=3)
        for k in range(50):
            visits.check(call(GOOD, session=f"s{k}"))
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert kept(blocks) == {"s47", "s48", "s49"}

    asyncio.run(visit())


@pytest.mark.parametrize(("waiting", "refused"), [(31, False), (32, True), ({str(n): 32 for n in range(8)}, True)])
def test_only_so_many_calls_may_wait(blocks, monkeypatch, waiting, refused):
    waiting = waiting if isinstance(waiting, dict) else {"abc": waiting}
    ids = {session: set(range(count)) for session, count in waiting.items()}
    monkeypatch.setattr(blocks._queue, "pending_event_ids_session", ids)
    if refused:
        with pytest.raises(InputError, match="too many calls are waiting"):
            checked(blocks, GOOD)
    else:
        checked(blocks, GOOD)

"""Connections that send nothing, or half a request, end; those that ask are answered."""

import asyncio

import pytest

pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")

import uvicorn

from fastflow.app import connections


async def answer(scope, receive, send):
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def heard(*sent):
    """What a connection hears that sends some bytes after each other, 0.2 s apart; None if it stays open for 2 s."""
    settings = uvicorn.Config(
        answer, http=connections.Connection, ws="none", lifespan="off", log_level="critical", port=0
    )
    server = uvicorn.Server(settings)
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname()[:2])
    try:
        for part in sent:
            if not reader.at_eof():
                writer.write(part)
                await asyncio.sleep(0.2)
        return await asyncio.wait_for(reader.read(), 2)
    except asyncio.TimeoutError:
        return None
    finally:
        writer.close()
        server.should_exit = True
        await running


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ([], 0),
        ([b"GET / HTTP/1.1\r\n"], 0),
        ([b"GET / HT", b"TP/1.1\r\n", b"Host: a\r\n", b"A: b\r\n", b"C: d\r\n"], 0),  # a bit at a time
        ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], 1),
        ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"], 2),
        ([b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n"], 1),
        ([b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", b"x"], 1),
    ],
    ids=["nothing", "half", "slowly", "whole", "two", "one and a half", "without its body"],
)
def test_a_connection_ends_where_no_request_arrives(monkeypatch, sent, answered):
    monkeypatch.setattr(connections, "PATIENCE", 0.4)
    said = asyncio.run(heard(*sent))
    assert said is not None
    assert said.count(b"200 OK") == answered

"""Which requests get through to the page: those that the page itself makes, and no others."""

import asyncio
import json

import pytest

pytest.importorskip("gradio", reason="needs the extra app: pip install 'fastflow[app]'")

from fastflow.app.guard import LARGEST_BODY, Guard
from fastflow.core.errors import InputError

JOIN = "/gradio_api/queue/join"
CALL = {"session_hash": "abc", "fn_index": 0, "data": []}


class Visits:
    """What the guard told, and what it lets through."""

    def __init__(self):
        self.told = []

    def check(self, call):
        if call["fn_index"] != 0:
            raise InputError("there is no such action")
        return {**call, "event_data": None}

    def begin(self, session):
        self.told.append(("begin", session))

    def end(self, session):
        self.told.append(("end", session))


async def echo(scope, receive, send):
    """An application that answers with the headers and the body that it got."""
    body = (await receive()).get("body", b"") if scope["method"] == "POST" else b""
    assert scope["method"] != "POST" or dict(scope["headers"])[b"content-length"] == str(len(body)).encode()
    got = [(b"got-" + name, value) for name, value in scope["headers"]]
    await send({"type": "http.response.start", "status": 200, "headers": got})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def ask(tmp_path):
    def asked(path="/", method="GET", body=(b"",), address="127.0.0.1", token=None, allowed=(), query="", **headers):
        headers = {"host": "127.0.0.1:7860", **headers}
        pairs = [
            (name.replace("_", "-").encode(), value.encode("latin-1"))
            for name, values in headers.items()
            for value in ([] if values is None else [values] if isinstance(values, str) else values)
        ]
        scope = {"type": "http", "method": method, "path": path, "headers": pairs, "query_string": query.encode()}
        parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
        parts[-1]["more_body"] = False
        sent = []

        async def receive():
            return parts.pop(0)

        async def send(message):
            sent.append(message)

        names = ("machine", "machine.lan") if address == "0.0.0.0" else ("localhost",)
        guard = Guard(echo, (address, 7860), names, allowed, tmp_path, token, asked.visits)
        asyncio.run(guard(scope, receive, send))
        asked.headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return sent[0]["status"], sent[1]["body"].decode()

    asked.visits = Visits()
    return asked


@pytest.mark.parametrize(
    ("address", "host", "passes"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "LOCALHOST:8000", True),  # a port that is forwarded
        ("127.0.0.1", "localhost.", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example:7860", False),
        ("127.0.0.1", "0.0.0.0:7860", False),
        ("127.0.0.1", "192.168.1.4:7860", False),
        ("127.0.0.1", "127.0.0.1@evil.example", False),
        ("127.0.0.1", "127.0.0.1:7860:7860", False),
        ("127.0.0.1", "127.0.0.1:65536", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", None, False),
        ("127.0.0.1", ["127.0.0.1", "evil.example"], False),
        ("127.0.0.1", "page.example.org", True),
        ("0.0.0.0", "192.168.1.4:7860", True),
        ("0.0.0.0", "[fe80::1]:7860", True),
        ("0.0.0.0", "machine.lan:7860", True),
        ("0.0.0.0", "evil.example:7860", False),
        ("192.168.1.4", "192.168.1.4:7860", True),
        ("192.168.1.4", "192.168.1.5:7860", False),
    ],
)
def test_a_request_must_name_what_the_server_listens_on(ask, address, host, passes):
    status, said = ask(address=address, host=host, allowed=("page.example.org",))
    assert (status == 200) == passes
    assert passes or status == 400
    assert passes or "called" in said or "twice" in said


@pytest.mark.parametrize(
    ("forwarded", "passes"),
    [
        ("page.example.org", True),
        ("page.example.org, inner.example", True),
        ("127.0.0.1:7860", True),
        ("evil.example", False),
        ("evil.example, page.example.org", False),
        ("", False),
        (["page.example.org", "evil.example"], False),
    ],
)
def test_a_proxy_may_only_tell_a_host_that_is_allowed(ask, forwarded, passes):
    status, said = ask(x_forwarded_host=forwarded, allowed=("page.example.org",))
    assert status == (200 if passes else 400)
    assert passes or "--allowed-hosts" in said or "twice" in said


def test_no_sender_chooses_the_addresses_that_answers_name(ask):
    ask(
        x_forwarded_proto=["https", "javascript"],
        x_forwarded_prefix="/evil",
        x_forwarded_for="1.2.3.4",
        forwarded="host=evil.example",
        x_gradio_server="http://evil.example",
        x_gradio_user="mcp",
        accept="text/html",
    )
    got = {name: value for name, value in ask.headers.items() if name.startswith("got-")}
    assert got == {"got-host": "127.0.0.1:7860", "got-x-forwarded-proto": "https", "got-accept": "text/html"}


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        ({"origin": "http://127.0.0.1:7860"}, True),
        ({"origin": "http://127.0.0.1:7861"}, False),
        ({"origin": "http://localhost:7860"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://[evil"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://page.example.org"}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors"}, False),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/theme.css"), ("POST", JOIN)])
def test_no_page_of_another_origin_gets_through(ask, headers, passes, method, path):
    body = [json.dumps(CALL).encode()]
    status, said = ask(path, method, body, allowed=("page.example.org",), **headers)
    assert status == (200 if passes else 403)
    assert passes or said == "This request comes from a page of another origin."


def test_a_link_to_the_page_may_be_anywhere_but_no_frame_of_it(ask):
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert ask(**link, sec_fetch_dest="document")[0] == 200
    assert ask(**link, sec_fetch_dest="iframe")[0] == 403
    assert "frame-ancestors 'none'" in ask.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["/docs", "/redoc", "/openapi.json", "/config", "/monitoring", "/gradio_api/upload", "/gradio_api/info",
     "/gradio_api/openapi.json", "/gradio_api/proxy=http://evil.example/", "/gradio_api/run/predict",
     "/gradio_api/call/save", "/gradio_api/runs", "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd",
     "/gradio_api/file=http://evil.example/", "/gradio_api/file=\0", "/gradio_api/heartbeat/../info", "/login",
     f"/assets/{'a' * 1000}"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS"])
def test_there_are_no_other_routes(ask, path, method):
    assert ask(path, method) == (404, "The page has nothing here.")


def test_only_files_of_the_page_are_read(ask, tmp_path):
    assert ask(f"/gradio_api/file={tmp_path}/a/image.png")[0] == 200
    assert ask(f"/gradio_api/file={tmp_path}/../image.png")[0] == 404
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert ask(f"/gradio_api/file={tmp_path}/link")[0] == 404


def test_bodies_are_bounded_and_read_by_the_rules_of_json(ask):
    said = json.dumps({**CALL, "event_data": None})
    assert ask(JOIN, "POST", [json.dumps(CALL).encode()]) == (200, said)
    assert ask(JOIN, "POST", [json.dumps(CALL)[:9].encode(), json.dumps(CALL)[9:].encode()]) == (200, said)
    assert ask(JOIN, "POST", [bytes(LARGEST_BODY // 2)] * 3) == (413, "A request may have 1048576 bytes at most.")
    for body in (
        b"",
        b"{",
        b"[" * 9000,
        b"[1]",
        b'{"session_hash": 1, "session_hash": 2}',
        b'{"session_hash": "../x"}',
    ):
        status, said = ask(JOIN, "POST", [body])
        assert (status, said[:20]) == (400, "This can't be done: ")
    assert "no such action" in ask(JOIN, "POST", [json.dumps({**CALL, "fn_index": 7}).encode()])[1]


def test_a_token_is_asked_for_and_then_kept(ask):
    options = {"address": "0.0.0.0", "token": "secret-token"}
    for path, query in (("/", ""), ("/", "token=wrong"), ("/theme.css", "token=secret-token"), (JOIN, "")):
        assert ask(path, query=query, **options)[0] == 401
    assert ask(query="token=secret-token", **options)[0] == 303
    cookie = ask.headers["set-cookie"]
    assert (ask.headers["location"], cookie) == (
        "/",
        "fastflow-7860=secret-token; Path=/; HttpOnly; SameSite=Lax",
    )
    assert ask(cookie=f"a=b; {cookie.partition(';')[0]}", **options)[0] == 200
    assert ask(cookie="fastflow-7860=secret-toke\xfc", **options)[0] == 401
    assert ask(cookie="fastflow-7861=secret-token", **options)[0] == 401


def test_visits_begin_and_end_with_their_heartbeat(ask):
    ask("/gradio_api/heartbeat/xyz", "HEAD")  # which keeps no connection open
    ask("/gradio_api/heartbeat/abc")
    assert ask.visits.told == [("begin", "abc"), ("end", "abc")]

"""What stands between the network and the page: only the page's own requests get through, and only in sizes it needs.

A browser sends requests to this server for any page that asks it to. So a request must name a host that the server
listens as, which a page that was given this machine's address by its own name server (DNS rebinding) can't do, and must
not come from a page of another origin.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from fastflow.core.errors import InputError
from fastflow.core.files import parse_json

LARGEST_BODY = 1 << 20
"""The most bytes of a request's body; a drawing that can't be compressed takes a third of them."""

_PATIENCE = 30  # seconds that a body may take to arrive
_LONGEST_PATH = 1000
_SESSION = re.compile("[a-z0-9]{1,32}")

# What the page asks for, by method: exact paths, and the beginnings of others.
_READ = {"/", "/favicon.ico", "/theme.css", "/gradio_api/queue/data"}  # browsers ask for the second by themselves
_READ_BELOW = ("/assets/", "/static/", "/gradio_api/heartbeat/", "/gradio_api/file=")
_WRITTEN = {"/gradio_api/queue/join"}

# Nothing from elsewhere is loaded, the page can't be framed, and its address, which may hold the token, isn't told.
_HEADERS = {
    b"content-security-policy": b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; "
    b"form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Visits(Protocol):
    """What the guard tells of the page's visits."""

    def check(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call of an action with what the page's own calls have; raise InputError for any other."""
        ...

    def begin(self, session: str) -> None:
        """A page is open now."""
        ...

    def end(self, session: str) -> None:
        """A page was closed."""
        ...


class Refused(Exception):
    """A request that doesn't get through, with its status and the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """An ASGI application that lets only the page's own requests through to another one.

    Args:
        app: the application.
        address: the address and the port that the server listens on.
        names: the names by which browsers reach that address.
        allowed_hosts: other host names under which browsers may open the page, such as a proxy's.
        files: the folder whose files may be read.
        token: the token that visitors need; None to let everybody in.
        visits: what to tell of the page's visits: that they begin and end.
    """

    def __init__(
        self,
        app: Application,
        address: tuple[str, int],
        names: tuple[str, ...],
        allowed_hosts: tuple[str, ...],
        files: Path,
        token: str | None,
        visits: Visits,
    ) -> None:
        self._app = app
        own, allowed = ({name.lower().strip("[]").rstrip(".") for name in group} for group in (names, allowed_hosts))
        bound = ipaddress.ip_address(address[0].partition("%")[0])  # a link-local one names its interface
        self._hosts, self._allowed = {*own, *allowed, str(bound)}, allowed
        self._any_address = bound.is_unspecified
        if bound.is_loopback or bound.is_unspecified:
            self._hosts |= {"localhost", "127.0.0.1", "::1"}
        self._files = files.resolve()
        self._token, self._cookie = token, f"fastflow-{address[1]}"
        self._visits = visits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            headers = _single(scope["headers"])
            self._check_sender(scope, headers)
            if self._token is not None and not self._knows_token(headers, self._token):
                await self._welcome(scope, send, self._token)
                return
            self._check_path(scope)
            scope = {**scope, "headers": list(_for_the_page(scope["headers"]))}
            if scope["method"] == "POST":
                scope, receive = await self._checked(scope, receive)
        except Refused as refused:
            await _answer(send, refused.status, str(refused))
            return
        _, beats, session = scope["path"].partition("/gradio_api/heartbeat/")
        beats = beats and scope["method"] == "GET"  # which keeps a connection open while the page is
        if beats:
            self._visits.begin(session)
        try:
            await self._app(scope, receive, _with_headers(send))
        finally:
            if beats:
                self._visits.end(session)

    def _check_sender(self, scope: Message, headers: dict[str, str]) -> None:
        """Raise Refused unless a request names this server, and no page of another origin sent it."""
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            raise Refused(
                400, f"This server isn't called {host[:100]!r}: open the address that fastflow serve printed."
            )
        forwarded = headers.get("x-forwarded-host", host).lower().partition(",")[0].strip()  # the outermost proxy's
        if not self._is_ours(forwarded):
            raise Refused(
                400, f"This server isn't called {forwarded[:100]!r}: give its proxy's name as --allowed-hosts."
            )
        origin = headers.get("origin")
        if origin is not None:
            try:
                found = urlsplit(origin.lower())
                ours = found.netloc == host or found.hostname in self._allowed
            except ValueError:  # no address
                ours = False
            if not ours:
                raise Refused(403, "This request comes from a page of another origin.")
        # Browsers say where a request comes from. A link to the page may be anywhere.
        opened = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        link = opened and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if origin is None and headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not link:
            raise Refused(403, "This request comes from a page of another origin.")

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server; its port may be one that is forwarded to this one."""
        found = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+?)\.?)(?::([0-9]{1,5}))?", host)
        if found is None or int(found[3] or 0) > 65535:
            return False
        name = found[1] or found[2]
        return name in self._hosts or (self._any_address and _is_address(name))

    def _knows_token(self, headers: dict[str, str], token: str) -> bool:
        """Whether a request has the token in its cookie."""
        cookies = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        return any(name == self._cookie and _same(value, token) for name, _, value in cookies)

    async def _welcome(self, scope: Message, send: Send, token: str) -> None:
        """Answer a request without the token in a cookie: with that cookie, if the address has the token."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["path"] != "/" or not _same(given[0], token):
            await _answer(send, 401, "This page needs its token: open the whole address that fastflow serve printed.")
            return
        cookie = f"{self._cookie}={token}; Path=/; HttpOnly; SameSite=Lax"
        await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode("latin-1"))])

    def _check_path(self, scope: Message) -> None:
        """Raise Refused unless the page asks for this path."""
        path, method = scope["path"], scope["method"]
        if method == "POST" and path in _WRITTEN:
            return
        known = len(path) <= _LONGEST_PATH and (path in _READ or path.startswith(_READ_BELOW))
        if method not in ("GET", "HEAD") or not known:
            raise Refused(404, "The page has nothing here.")
        name, _, rest = path.removeprefix("/gradio_api/").partition("/")
        if name == "heartbeat" and not _SESSION.fullmatch(rest):
            raise Refused(404, "The page has nothing here.")
        if path.startswith("/gradio_api/file="):
            try:
                inside = Path(path.removeprefix("/gradio_api/file=")).resolve().is_relative_to(self._files)
            except (OSError, ValueError):
                inside = False
            if not inside:
                raise Refused(404, "The page has nothing here.")

    async def _checked(self, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        """A call of an action, with the body that the page would have sent."""
        try:
            body = await asyncio.wait_for(_body(receive), _PATIENCE)
        except asyncio.TimeoutError:
            raise Refused(408, "The request took too long to arrive.") from None
        try:
            call = parse_json(body, "the request")
            if not isinstance(call, dict) or not _SESSION.fullmatch(str(call.get("session_hash"))):
                raise InputError("the request isn't a call that this page makes")
            content = json.dumps(self._visits.check(call)).encode()
        except InputError as error:
            raise Refused(400, f"This can't be done: {error}.") from error
        replaced = (b"content-length", b"content-type", b"transfer-encoding")
        headers = [pair for pair in scope["headers"] if pair[0].lower() not in replaced]
        headers += [(b"content-length", str(len(content)).encode()), (b"content-type", b"application/json")]
        waiting: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        return {**scope, "headers": headers}, again


async def _body(receive: Receive) -> bytes:
    """The body of a request; raise Refused if it is too large, without reading the rest."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "The request ended early.")
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise Refused(413, f"A request may have {LARGEST_BODY} bytes at most.")
        more = message.get("more_body", False)
    return bytes(body)


def _single(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by name; raise Refused for one of those that are checked if it is there twice."""
    headers: dict[str, str] = {}
    for key, value in pairs:
        name = key.decode("latin-1").lower()
        if name in headers and name in ("host", "origin", "x-forwarded-host"):
            raise Refused(400, f"The request has the header {name} twice.")
        headers[name] = f"{headers[name]};{value.decode('latin-1')}" if name in headers else value.decode("latin-1")
    return headers


def _for_the_page(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """The headers that the page may see: of what proxies tell, only the checked host, and whether they encrypt.

    With the others, or with gradio's own, a sender could choose the addresses that the page's answers name.
    """
    for key, value in pairs:
        name = key.lower()
        encrypts = name == b"x-forwarded-proto" and value in (b"http", b"https")
        if name == b"x-forwarded-host" or encrypts or not name.startswith((b"x-", b"forwarded")):
            yield key, value


def _is_address(name: str) -> bool:
    """Whether a host is given by its address, which no name server can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, token: str) -> bool:
    """Whether two tokens are the same; the time that this takes doesn't tell how far they agree."""
    return secrets.compare_digest(given.encode(), token.encode())


def _with_headers(send: Send) -> Send:
    """A `send` that adds the headers by which a browser protects the page."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", []) if pair[0].lower() not in _HEADERS]
            message = {**message, "headers": [*others, *_HEADERS.items()]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, text: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Answer a request with a line of text, and close its connection, since its body may not have been read."""
    body = text.encode("utf-8", "replace")
    plain = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": [*plain, (b"connection", b"close"), *headers]}
    await _with_headers(send)(start)
    await send({"type": "http.response.body", "body": body})

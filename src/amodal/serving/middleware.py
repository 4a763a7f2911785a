"""Middleware: bounds on requests, pages of other sites, and a content security policy."""

from __future__ import annotations

from urllib.parse import urlsplit

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the page changes with the package
}
CHARSETS = ("utf-8", "utf8", "us-ascii")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
MAX_ARRIVING = 64  # requests whose body is being read; a body lies in memory or in a temporary file
MAX_WAITING = 16  # requests that wait for the model, the one at work included
RETRY_AFTER_S = 5


class SecurityMiddleware:
    """Limits request bodies, refuses pages of other sites, restricts the page to its own origin.

    Forms are read as UTF-8 alone: Python has encodings that fail in ways of their own, or give
    halves of surrogate pairs, which nothing can encode again. Bodies without a Content-Length
    header are counted as they arrive. Any page that a user has open may send forms to a server on
    the same machine, and could keep its model at work.

    Args:
        app: the ASGI application.
        limit: of a body, in bytes.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        message = f"larger than {self.limit / 2**20:.0f} MiB; send a smaller image"
        read = 0

        async def counted() -> Message:
            nonlocal read
            part = await receive()
            read += len(part.get("body", b""))
            if read > self.limit:
                raise HTTPException(413, message)
            return part

        async def with_headers(part: Message) -> None:
            if part["type"] == "http.response.start":
                MutableHeaders(scope=part).update(HEADERS)
            await send(part)

        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdigit() and (len(length) > 18 or int(length) > self.limit):
            await JSONResponse({"detail": message}, 413)(scope, receive, with_headers)
            return
        charset = _charset(headers)
        if charset not in CHARSETS:
            refused = f"the form is encoded as {charset}; send it as utf-8"
            await JSONResponse({"detail": refused}, 415)(scope, receive, with_headers)
            return
        if scope["method"] not in SAFE_METHODS and is_cross_site(headers):
            refused = "pages of other sites cannot use this server; open its own page"
            await JSONResponse({"detail": refused}, 403)(scope, receive, with_headers)
            return
        await self.app(scope, counted, with_headers)


def _charset(headers: Headers) -> str:
    """The encoding that a request claims for the fields of its form."""
    _, options = parse_options_header(headers.get("content-type"))
    return options.get(b"charset", b"utf-8").decode("latin-1").lower()


def is_cross_site(headers: Headers) -> bool:
    """Whether a browser sent the request from a page of another origin.

    Browsers send Sec-Fetch-Site to https and to this machine, and Origin with every POST; a page
    can forge neither. Programs that send neither are no browsers.

    Examples:
        >>> is_cross_site(Headers({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}))
        False
        >>> is_cross_site(Headers({"host": "127.0.0.1:8000", "origin": "https://example.org"}))
        True
    """
    sites = headers.getlist("sec-fetch-site")
    if sites:
        return any(site not in ("same-origin", "none") for site in sites)
    return any(not _same_host(origin, headers) for origin in headers.getlist("origin"))


def _same_host(origin: str, headers: Headers) -> bool:
    """Whether an origin is the host of the request; its scheme may be that of a proxy."""
    try:
        own, other = urlsplit(f"//{headers.get('host', '')}"), urlsplit(origin)
        default = {"http": 80, "https": 443}.get(other.scheme)
        same = (own.hostname, own.port or default) == (other.hostname, other.port or default)
    except ValueError:
        return False
    return same and default is not None and other.hostname is not None


class AdmissionMiddleware:
    """Bounds the requests that occupy memory or the model; others are told to come back.

    Requests without a body, such as those of the page, are never refused.

    Args:
        app: the ASGI application.
        arriving: requests whose body is being read.
        waiting: requests that were read, until they are answered.
    """

    def __init__(
        self, app: ASGIApp, *, arriving: int = MAX_ARRIVING, waiting: int = MAX_WAITING
    ) -> None:
        self.app, self.max_arriving, self.max_waiting = app, arriving, waiting
        self.arriving = self.waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self.app(scope, receive, send)
            return
        if self.arriving >= self.max_arriving:
            busy = _busy(self.arriving)
            await JSONResponse({"detail": busy.detail}, 503, busy.headers)(scope, receive, send)
            return
        self.arriving += 1
        arrived = waits = False

        async def admitted() -> Message:
            nonlocal arrived, waits
            part = await receive()
            if arrived or part["type"] != "http.request" or part.get("more_body"):
                return part
            arrived = True
            self.arriving -= 1
            if self.waiting >= self.max_waiting:
                raise _busy(self.waiting)
            self.waiting += 1
            waits = True
            return part

        try:
            await self.app(scope, admitted, send)
        finally:
            self.arriving -= not arrived
            self.waiting -= waits


def _busy(before: int) -> HTTPException:
    return HTTPException(
        503,
        f"the server is busy with {before} requests; try again in {RETRY_AFTER_S} seconds",
        {"Retry-After": str(RETRY_AFTER_S)},
    )

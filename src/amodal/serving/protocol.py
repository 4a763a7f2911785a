"""HTTP of the server, with limits on the time that a connection may take."""

from __future__ import annotations

import asyncio
import json

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S = 20.0  # for a request to arrive, headers and body
RESPONSE_TIMEOUT_S = 30.0  # between looks at whether a response is being read
MAX_CONNECTIONS = (
    256  # open at a time; each takes a file descriptor, of which there are often 1,024
)
MIN_RATE = 10_000  # bytes per second; large requests and responses have as much longer


def http_server(app: ASGIApp) -> uvicorn.Server:
    """A server of an application; Ctrl-C leaves three seconds for the requests at work."""
    config = uvicorn.Config(
        app, http=TimedProtocol, ws="none", log_level="warning", timeout_graceful_shutdown=3
    )
    return uvicorn.Server(config)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes connections whose requests stay half-sent or responses stay unread.

    At most `MAX_CONNECTIONS` are open: another one takes the place of the one that has been idle
    for longest, or is refused where all are at work. A request has `REQUEST_TIMEOUT_S`, and a
    second more for every `MIN_RATE` bytes that came. Uvicorn itself closes connections that are
    idle after a response.
    """

    _timer: asyncio.TimerHandle | None = None  # of the request
    _read_timer: asyncio.TimerHandle | None = None  # of the response
    _began = 0.0  # when the request did
    _received = 0  # bytes since then

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._began = self.loop.time()
        if self._make_room():
            self._watch_request()
        else:
            detail = f"{MAX_CONNECTIONS} connections are open; try again in a few seconds"
            self._refuse("503 Service Unavailable", detail)

    def _make_room(self) -> bool:
        """Whether the connections are few enough, now that the longest idle one may be closed."""
        others = [c for c in self.connections if c is not self and not c.transport.is_closing()]
        if len(others) < MAX_CONNECTIONS:
            return True
        idle = [c for c in others if isinstance(c, TimedProtocol) and c._is_idle()]
        if idle:
            min(idle, key=lambda c: c._began).transport.close()
        return bool(idle)

    def _is_idle(self) -> bool:
        """Whether it has neither a request, not even a part of one, nor a response."""
        done = self.cycle is None or self.cycle.response_complete
        return done and self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._timer, self._read_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._began, self._received = self.loop.time(), 0
        self._received += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        self._watch_request()

    def on_response_complete(self) -> None:
        self._began, self._received = self.loop.time(), 0  # of what was sent in advance
        super().on_response_complete()

    def _watch_request(self) -> None:
        """Set or unset the timer, by whether a part of the request is still to come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        begun = self.conn.trailing_data[0] or self.cycle is None  # else idle after a response
        arriving = self.conn.their_state is h11.SEND_BODY or (
            self.conn.their_state is h11.IDLE and begun
        )
        if arriving and not self.transport.is_closing():
            self._timer = self.loop.call_at(self._deadline(), self._expired)

    def _deadline(self) -> float:
        return self._began + REQUEST_TIMEOUT_S + self._received / MIN_RATE

    def _expired(self) -> None:
        if self.flow.read_paused:  # the application is behind, not the client
            self._began = self.loop.time()
            self._watch_request()
            return
        begun = self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        between = self.cycle is None or self.cycle.response_complete
        if begun and (between or not self.cycle.response_started):
            seconds = f"{REQUEST_TIMEOUT_S:.0f} seconds"
            detail = f"the request was not complete after {seconds}; send it again"
            self._refuse("408 Request Timeout", detail)
        else:
            self.transport.close()

    def _refuse(self, status: str, detail: str) -> None:
        """Answer without the application, and close."""
        body = json.dumps({"detail": detail}).encode()
        lines = (
            f"HTTP/1.1 {status}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_response(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._read_timer is not None:
            self._read_timer.cancel()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._watch_response(self.transport.get_write_buffer_size())

    def _watch_response(self, unread: int) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = self.loop.call_later(RESPONSE_TIMEOUT_S, self._check_response, unread)

    def _check_response(self, before: int) -> None:
        """Drop the connection where less was read than the least rate allows."""
        unread = self.transport.get_write_buffer_size()
        if unread and before - unread < min(before, RESPONSE_TIMEOUT_S * MIN_RATE):
            self.transport.abort()
        elif unread:
            self._watch_response(unread)

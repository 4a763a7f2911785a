"""Time limits on connections, over real sockets."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

pytest.importorskip("uvicorn", reason="needs amodal[serve]")
from amodal.serving import protocol
from amodal.serving.protocol import http_server

TIMEOUT = 0.6
POST = b"POST / HTTP/1.1\r\nhost: a\r\n"


async def application(scope, receive, send):
    """Reads the body and answers with its length, or with as many bytes as the path says."""
    if scope["type"] != "http":
        return
    length = 0
    while True:
        part = await receive()
        if part["type"] == "http.disconnect":
            return
        length += len(part.get("body", b""))
        if not part.get("more_body"):
            break
    wanted = scope["path"].strip("/")
    body = b"x" * int(wanted) if wanted.isdigit() else str(length).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", TIMEOUT)
    monkeypatch.setattr(protocol, "RESPONSE_TIMEOUT_S", TIMEOUT)
    listening = socket.create_server(("127.0.0.1", 0))
    server = http_server(application)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()
    server.should_exit = True
    thread.join(timeout=20)


@contextmanager
def connection(address):
    with socket.create_connection(address, timeout=20) as opened:
        yield opened


def rest(opened):
    """All that the server still sends, and the seconds until it closes the connection."""
    started, received = time.monotonic(), b""
    try:
        while part := opened.recv(1 << 16):
            received += part
    except ConnectionError:
        pass
    return received, time.monotonic() - started


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HT",
        b"POST / HTTP/1.1\r\nhost: a\r\nx-header: hal",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
    ],
)
def test_half_sent_requests_are_closed(address, sent):
    with connection(address) as opened:
        opened.sendall(sent)
        received, seconds = rest(opened)
    assert b"HTTP/1.1 408 Request Timeout" in received
    assert b"send it again" in received
    assert TIMEOUT - 0.2 < seconds < 6


def test_connections_without_a_request_are_closed(address):
    with connection(address) as opened:
        received, seconds = rest(opened)
    assert received == b""
    assert seconds < 6


@pytest.mark.parametrize(
    "start",
    [b"GET / HTTP/1.1\r\nx: ", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"],
)
def test_requests_that_drip_are_closed(address, start):
    with connection(address) as opened:
        opened.sendall(start)
        started = time.monotonic()
        with pytest.raises(ConnectionError):  # noqa: PT012
            while time.monotonic() - started < 10:
                opened.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - started < 6


def test_a_large_request_has_longer_by_its_rate(address, monkeypatch):
    monkeypatch.setattr(protocol, "MIN_RATE", 1_000)
    with connection(address) as opened:
        opened.sendall(
            b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 3000\r\n\r\n"
        )
        for _ in range(15):  # 1.5 seconds
            opened.sendall(b"x" * 200)
            time.sleep(0.1)
        received, _ = rest(opened)
    assert received.endswith(b"3000")


def test_whole_requests_on_one_connection_are_answered(address):
    with connection(address) as opened:
        for pause in (0, 2 * TIMEOUT, 0):
            time.sleep(pause)  # an idle connection is kept for some seconds, by uvicorn
            opened.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n12345")
            received = b""
            while not received.endswith(b"\r\n\r\n5"):
                received += (part := opened.recv(1000))
                assert part


def test_a_response_that_nobody_reads_is_dropped(address):
    with connection(address) as opened:
        opened.sendall(b"GET /50000000 HTTP/1.1\r\nhost: a\r\n\r\n")
        time.sleep(5 * TIMEOUT)
        received, _ = rest(opened)
    assert len(received) < 50_000_000


def test_a_response_that_is_read_slowly_arrives_whole(address):
    with connection(address) as opened:
        opened.sendall(b"GET /12000000 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        received = 0
        while part := opened.recv(1 << 19):
            received += len(part)
            time.sleep(0.05)
    assert received > 12_000_000


ASK = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


def answer(opened):
    opened.sendall(ASK)
    received = b""
    while not received.endswith(b"\r\n\r\n0") and (part := opened.recv(1000)):
        received += part
    return received


def is_closed(opened):
    opened.settimeout(5)
    return opened.recv(1000) == b""


def test_a_connection_beyond_the_limit_takes_the_place_of_the_one_idle_for_longest(
    address, monkeypatch
):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 20)
    with ExitStack() as stack:
        opened = []
        for _ in range(3):
            opened.append(stack.enter_context(connection(address)))
            assert b"200 OK" in answer(opened[-1])
        assert b"200 OK" in answer(opened[0])  # so that the second is idle for longest
        for longest in (1, 2):
            another = stack.enter_context(connection(address))
            assert b"200 OK" in answer(another)
            assert is_closed(opened[longest])
        assert b"200 OK" in answer(opened[0])


def test_a_connection_beyond_the_limit_is_refused_where_all_are_at_work(address, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    monkeypatch.setattr(protocol, "REQUEST_TIMEOUT_S", 20)
    with ExitStack() as stack:
        for _ in range(2):
            half_sent = stack.enter_context(connection(address))
            half_sent.sendall(POST + b"content-length: 10\r\n\r\nhalf")
        time.sleep(0.3)  # it arrives
        received, _ = rest(stack.enter_context(connection(address)))
        assert b"503 Service Unavailable" in received
        assert b"2 connections are open" in received
        half_sent.sendall(b" whole")
        assert b"200 OK" in half_sent.recv(1000)
        assert b"200 OK" in answer(stack.enter_context(connection(address)))

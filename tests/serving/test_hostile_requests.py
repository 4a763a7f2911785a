"""The real server under a limit on memory and a thousand hostile requests.

After its start the process has an address space of 5.8 GiB and 2.2 GiB of private mappings, of
which 1.0 GiB is resident: torch and the threads of LanceDB reserve the rest. Under a RLIMIT_AS of 3
GiB or a RLIMIT_DATA of 2 GiB it cannot start. So RLIMIT_DATA is set once it has started, to as much
more as is missing to 2 GiB of resident memory, and the peak of that is read at the end.
"""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs amodal[serve]")
from crafted_filters import ROWS, Filters, hostile
from crafted_uploads import crafted_uploads, form, part
from small_models import WORDS, embedder, photo

from amodal.search.embed import embed_source
from amodal.search.store import VectorStore

LIMIT = 2 << 30  # bytes of memory
UPLOADS, FILTERS = 1000, 500
CLIENTS = 6
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


class Items:
    """The rows of the random filters, with an image and a text each."""

    name = "items"
    inputs = frozenset({"image", "text"})

    def __len__(self):
        return len(ROWS)

    def __getitem__(self, number):
        row = {name: value for name, value in ROWS[number].items() if value is not None}
        text = [f"a {WORDS[3 + number % 6]} thing"]
        return {"id": str(number), "image": photo(number), "text": text, **row}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    import resource  # not on Windows

    folder = tmp_path_factory.mktemp("hostile")
    model = embedder()
    model.save_pretrained(folder / "run")
    store = VectorStore.create(
        folder / "index", model.dim, fingerprint=model.fingerprint(), model_path=folder / "run"
    )
    store.add(embed_source(model, Items(), thumbnails=True))
    errors = (folder / "errors").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "amodal", "serve", str(folder / "index"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )
    lines = iter(process.stdout.readline, "")
    url = next((found[0] for line in lines if (found := re.search(r"http://\S+", line))), None)
    errors.seek(0)
    assert url is not None, errors.read()
    data = memory(process, "VmData") + LIMIT - memory(process, "VmRSS")
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (data, data))
    yield process, urlsplit(url).netloc, errors
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)


def memory(process, name):
    """Bytes of one line of the process's status."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) * 1024


def send(address, method, path, headers, body):
    """Status and body; a connection that the server closed in the middle of a request is 0."""
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.putrequest(method, path)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            connection.putheader(name, value.encode("utf-8"))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read()
    except (ConnectionError, http.client.BadStatusLine):
        return 0, b""
    finally:
        connection.close()


class Health(threading.Thread):
    """Asks for /health all the time; `seconds` is what each answer took."""

    def __init__(self, address):
        super().__init__()
        self.address, self.seconds, self.statuses = address, [], set()
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(0.05):
            for path in ("/health", "/api/about"):
                started = time.monotonic()
                status, _ = send(self.address, "GET", path, {}, b"")
                if path == "/health":
                    self.seconds.append(time.monotonic() - started)
                self.statuses.add(status)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


def half_sent(address, stop):
    """Connections that never send the rest of their request."""
    host, port = address.split(":")
    opened = []
    while not stop.wait(0.2):
        one = socket.create_connection((host, int(port)))
        head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf"
        one.sendall(head[: random.randint(1, len(head))])
        opened.append(one)
    for one in opened:
        one.close()


def filters(count):
    """A third of them good ones, the others hostile."""
    good = Filters(7)
    found = [good.one(4)[0] for _ in range(count // 3)]
    return found + hostile(8, count - len(found))


def test_hostile_requests_neither_end_nor_block_the_server(server):
    process, address, errors = server
    requests = crafted_uploads(0, UPLOADS)
    for where in filters(FILTERS):
        body = [("text", b"red"), ("k", b"100"), ("where", where.encode("utf-8", "replace"))]
        requests.append(("POST", "/api/search", *form(*[part(*field) for field in body])))
    random.Random(1).shuffle(requests)
    stop = threading.Event()
    dripping = threading.Thread(target=half_sent, args=(address, stop))
    dripping.start()
    started = time.monotonic()
    try:
        with Health(address) as health, ThreadPoolExecutor(CLIENTS) as clients:
            answers = list(clients.map(lambda one: send(address, *one), requests))
    finally:
        stop.set()
        dripping.join()
    seconds = time.monotonic() - started
    assert process.poll() is None, "the server ended"
    failed = [
        (request[:2], request[3][:300], status, body[:300])
        for request, (status, body) in zip(requests, answers, strict=True)
        if status >= 500
    ]
    peak = memory(process, "VmHWM")
    p95 = float(np.quantile(health.seconds, 0.95))
    counts = {s: sum(status == s for status, _ in answers) for s in {s for s, _ in answers}}
    print(
        f"{len(requests)} requests in {seconds:.0f} s: {counts}; peak {peak / 2**20:.0f} MiB; "
        f"/health {len(health.seconds)} times, p50 {np.median(health.seconds) * 1000:.1f} ms, "
        f"p95 {p95 * 1000:.1f} ms, max {max(health.seconds) * 1000:.0f} ms"
    )
    errors.seek(0)
    assert not failed, (failed[:5], errors.read()[-3000:])
    assert counts[200] > FILTERS // 6
    assert counts.get(0, 0) < UPLOADS // 10, "connections closed without an answer"
    assert health.statuses == {200}
    assert p95 < 0.1
    assert peak < LIMIT
    assert json.loads(send(address, "GET", "/health", {}, b"")[1]) == {"status": "ok"}

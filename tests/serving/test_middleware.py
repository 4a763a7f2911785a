"""Requests of other sites, and bounds on the requests at one time."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from itertools import islice

import pytest

pytest.importorskip("fastapi", reason="needs amodal[serve]")
from fastapi.testclient import TestClient
from small_models import photo, png
from starlette.datastructures import Headers

from amodal.serving.app import create_app
from amodal.serving.middleware import MAX_WAITING, AdmissionMiddleware, is_cross_site

IMAGE = png(photo())
OWN = "127.0.0.1:8000"


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, False),  # curl, Python
        ({"origin": f"http://{OWN}"}, False),
        ({"origin": f"https://{OWN}"}, False),  # behind a proxy that speaks TLS
        ({"origin": "http://127.0.0.1:8001"}, True),
        ({"origin": "http://localhost:8000"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": f"http://{OWN}.evil.example"}, True),
        ({"origin": f"http://evil.example/{OWN}"}, True),
        ({"origin": f"http://{OWN}@evil.example"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({"origin": "http://["}, True),
        ({"origin": "http://127.0.0.1:999999"}, True),
        ({"origin": f"file://{OWN}"}, True),
        ({"sec-fetch-site": "same-origin", "origin": f"http://{OWN}"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site", "origin": f"http://{OWN}"}, True),
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "SAME-ORIGIN"}, True),
    ],
)
def test_pages_of_other_origins_are_told_apart(headers, refused):
    assert is_cross_site(Headers({"host": OWN, **headers})) == refused


def test_default_ports_may_be_left_out():
    assert not is_cross_site(Headers({"host": "a.example", "origin": "https://a.example:443"}))
    assert not is_cross_site(Headers({"host": "a.example:80", "origin": "http://A.example"}))
    assert is_cross_site(Headers({"host": "a.example:80", "origin": "https://a.example"}))


def test_a_cross_site_post_is_refused_before_the_model_works(everything):
    class Untouched:
        chat_template = everything.text_generator.chat_template

        def caption(self, *args, **options):
            raise AssertionError("the model was asked")

    app = create_app(replace(everything, text_generator=Untouched()))
    client = TestClient(app, base_url=f"http://{OWN}")
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
        response = client.post("/api/caption", files={"image": IMAGE}, headers=headers)
        assert response.status_code == 403
        assert "other sites" in response.json()["detail"]
        assert "content-security-policy" in response.headers
        assert client.get("/api/about", headers=headers).status_code == 200  # a link may lead here


def test_requests_beyond_the_bound_are_told_to_come_back_and_about_never_waits(everything):
    started, release = threading.Event(), threading.Event()

    class Slow:
        chat_template = everything.text_generator.chat_template

        def caption(self, *args, **options):
            started.set()
            assert release.wait(60)
            return ["done"]

    app = create_app(replace(everything, text_generator=Slow()), hosts=["*"])
    with TestClient(app) as client, ThreadPoolExecutor(MAX_WAITING + 3) as threads:

        def post():
            return client.post("/api/caption", files={"image": IMAGE})

        posts = [threads.submit(post) for _ in range(MAX_WAITING + 3)]
        try:
            refused = [post.result() for post in islice(as_completed(posts, timeout=30), 3)]
            for response in refused:
                assert response.status_code == 503
                assert response.headers["retry-after"] == "5"
                assert "busy with 16 requests" in response.json()["detail"]
            assert started.is_set()
            assert client.get("/health").status_code == 200
            about = client.get("/api/about")
            assert about.json()["index"]["rows"] == {"image": 6, "text": 6}
            assert about.elapsed.total_seconds() < 2
        finally:
            release.set()
        answered = [post.result() for post in posts if post.result().status_code == 200]
        assert [response.json() for response in answered] == [{"caption": "done"}] * MAX_WAITING
        assert post().json() == {"caption": "done"}


def test_about_answers_with_the_last_state_while_the_index_is_held(everything):
    class Held:
        def __init__(self, store):
            self.store, self.free = store, threading.Event()
            self.free.set()

        def counts(self):
            assert self.free.wait(20)
            return self.store.counts()

        @property
        def columns(self):
            return self.store.columns

    store = Held(everything.store)
    with TestClient(create_app(replace(everything, store=store), hosts=["*"])) as client:
        store.free.clear()
        for _ in range(3):
            response = client.get("/api/about")
            assert response.json()["index"]["rows"] == {"image": 6, "text": 6}
            assert response.elapsed.total_seconds() < 2
        store.free.set()


def test_requests_that_still_arrive_are_bounded_and_counted_back():
    """Each request of this application starts another before its own body has arrived."""
    counted, sent = [], []

    async def app(scope, receive, send):
        counted.append(middleware.arriving)
        await receive()
        await middleware(scope, receive, send)
        counted.append(middleware.arriving)

    async def receive():
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(part):
        sent.append(part)

    middleware = AdmissionMiddleware(app, arriving=2)
    scope = {"type": "http", "method": "POST", "path": "/api/search", "headers": []}
    asyncio.run(middleware(scope, receive, send))
    assert counted == [1, 2, 2, 1]
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert (middleware.arriving, middleware.waiting) == (0, 0)


# Encodings of Python that give halves of surrogate pairs, or fail in ways of their own.
@pytest.mark.parametrize(
    ("charset", "text"),
    [("utf-7", b"a dog +2D0-"), ("unicode_escape", rb"a dog \ud83d"), ("undefined", b"a dog")],
)
def test_a_form_in_another_encoding_is_refused(everything, charset, text):
    client = TestClient(create_app(everything), base_url=f"http://{OWN}")
    parts = [
        b'--b\r\ncontent-disposition: form-data; name="question"\r\n\r\n' + text,
        b'--b\r\ncontent-disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + IMAGE,
        b"--b--\r\n",
    ]
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    for path in ("ask", "chat"):
        refused = client.post(f"/api/{path}", content=b"\r\n".join(parts), headers=headers)
        assert refused.status_code == 415
        assert refused.json() == {"detail": f"the form is encoded as {charset}; send it as utf-8"}


@pytest.mark.parametrize("half", [rb"\ud83d", "\ud83d".encode("utf-8", "surrogatepass")])
def test_half_of_a_surrogate_pair_is_no_text(everything, half):
    client = TestClient(create_app(everything), base_url=f"http://{OWN}")
    fields = {"question": "what?", "history": b'[["is it red? ' + half + b'", "yes"]]'}
    answered = client.post("/api/chat", data=fields, files={"image": IMAGE})
    if half.startswith(b"\\"):  # JSON writes it
        assert answered.status_code == 422
        assert "history: expected JSON" in answered.json()["detail"]
    else:  # bytes that are no UTF-8 are read as Latin-1
        assert answered.status_code == 200
    answered = client.post(
        "/api/ask", data={"question": b"is it red? " + half}, files={"image": IMAGE}
    )
    assert answered.status_code == 200

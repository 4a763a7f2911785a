"""The REST interface: what models say comes through whole, and every refusal says why."""

import asyncio
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi", reason="needs amodal[serve]")
from fastapi.testclient import TestClient
from small_models import WORDS, embedder, photo, png, speaker

from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    best_matches,
)
from amodal.serving.app import MAX_FIELDS, MAX_IMAGE, Worker, conversation, create_app
from amodal.serving.images import png_url

IMAGE = png(photo())
LONG = " ".join(WORDS * 2)


@pytest.fixture(scope="module")
def client(everything):
    return TestClient(create_app(everything, hosts=["*"]), raise_server_exceptions=False)


def post(client, path, content=IMAGE, **fields):
    files = {} if content is None else {"image": ("image.png", content)}
    return client.post(path, data=fields, files=files or None)


def talk(client, **fields):
    response = post(client, "/api/chat", **fields)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_it_says_what_it_is(client, everything):
    assert client.get("/health").json() == {"status": "ok"}
    about = client.get("/api/about").json()
    assert about["abilities"] == ["search", "ask", "caption", "chat", "draw"]
    assert about["parameters"] == everything.parameters
    assert about["index"]["rows"] == {"image": 6, "text": 6}
    assert "size" in about["index"]["columns"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/search", "/api/ask", "/api/caption", "/api/chat", "/api/draw"} <= set(paths)
    assert client.get("/docs").status_code == 404


def test_answers_are_those_of_the_model(client, everything):
    model = everything.speaks
    found = post(client, "/api/ask", question=" is there a red star ? ").json()
    assert found["answer"] == model.ask(photo(), "is there a red star ?")
    look = found["look"]
    want = model.attention_map(photo(), "is there a red star ?", found["answer"]).tolist()
    assert (look["side"], look["of"]) == (4, "whole")
    np.testing.assert_allclose(look["shares"], want, atol=1e-6)
    assert found["unknown"] == []
    assert post(client, "/api/ask", question="a zebra ?").json()["unknown"] == ["zebra"]
    drawn = post(client, "/api/draw", None, text="a zebra", seed=0).json()
    assert drawn["unknown"] == ["zebra"]
    said = post(client, "/api/caption").json()["caption"]
    assert said == model.caption([photo()], num_beams=3)[0]


def testconversations_come_word_by_word_and_know_what_was_said(client, everything):
    history = [("is there a star ?", "yes")]
    lines = talk(client, question="what colour ?", history=json.dumps(history))
    want = everything.speaks.chat(photo(), history, "what colour ?")
    assert lines[-1] == {"answer": want, "rounds_read": 1}
    texts = [line["said"] for line in lines[:-1]]
    assert len(texts) > 1
    assert texts[-1] == want
    assert all(len(a) <= len(b) for a, b in pairwise(texts))


def test_rounds_for_which_there_is_no_room_are_left_out_whole(client, everything):
    history = [(f"is there a {word} ?", "no") for word in WORDS[3:9]]
    lines = talk(client, question="what ?", history=json.dumps(history))
    read = lines[-1]["rounds_read"]
    assert 0 < read < len(history)
    assert lines[-1]["answer"] == everything.speaks.chat(photo(), history[-read:], "what ?")


def test_a_failingconversation_says_so_in_its_last_line(everything):
    class Failing:
        turns = everything.speaks.chat_template

        def chat(self, *args, **options):
            raise RuntimeError("out of memory")

    app = create_app(replace(everything, speaks=Failing()), hosts=["*"])
    assert talk(TestClient(app), question="what ?") == [{"error": "out of memory"}]


def test_who_leaves_aconversation_frees_the_model(everything):
    heard = threading.Event()

    class Endless:
        turns = everything.speaks.chat_template

        def chat(self, image, history, question, *, streamer, stopping_criteria):
            ids = torch.tensor([[1]])
            streamer.put(ids)
            while not stopping_criteria(ids, None).all():
                streamer.put(ids)
            heard.set()
            return ""

    async def listen_once():
        lines = conversation(Worker(), Endless(), photo(), [], "what ?")
        assert "said" in json.loads(await anext(lines))
        await lines.aclose()
        assert await asyncio.to_thread(heard.wait, 20)

    asyncio.run(listen_once())


def test_drawing_follows_its_seed(client, everything):
    first = post(client, "/api/draw", None, text="a star", seed=3, count=2).json()["images"]
    again = post(client, "/api/draw", None, text="a star", seed=3, count=2).json()["images"]
    assert first == again
    assert len(first) == 2
    assert first[0] != first[1]
    (alone,) = everything.draws.draw(["a star"], seed=3)
    assert first[0] == png_url(alone)


def test_the_page_draws_as_the_command_does(client):
    page = client.get("/").text
    for name, value in (("guidance", GUIDANCE), ("temperature", TEMPERATURE)):
        (field,) = re.findall(rf'<input [^>]*name="{name}"[^>]*>', page)
        assert f'value="{value:g}"' in field


def test_a_judge_chooses_among_drawings(client, everything):
    refused = post(client, "/api/draw", None, text="a star", candidates=3)
    assert refused.status_code == 422
    assert "--judge" in refused.json()["detail"]
    assert client.get("/api/about").json()["judged"] is False
    reranked = TestClient(
        create_app(replace(everything, reranker=embedder(), texts=("a star",)), hosts=["*"])
    )
    about = reranked.get("/api/about").json()
    assert about["judged"] is True
    assert about["texts"] == ["a star"]
    found = post(reranked, "/api/draw", None, text="a star", seed=3, candidates=5).json()["images"]
    drawn = everything.draws.draw(["a star"] * 5, seed=3)
    (best,) = best_matches(embedder(), ["a star"], [drawn])
    assert found == [png_url(drawn[best])]


def test_words_and_images_find_rows_with_thumbnails(client, everything):
    hits = post(client, "/api/search", None, text="a red thing").json()["hits"]
    vector = everything.embeds.encode(text=["a red thing"])[0]
    want = [hit.id for hit in everything.store.search(vector, 12, modality="image")]
    assert [hit["id"] for hit in hits] == want
    assert {hit["modality"] for hit in hits} == {"image"}
    assert hits[0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert all("ratio" not in hit["metadata"] for hit in hits if hit["id"] == "item-0")
    by_image = post(client, "/api/search", png(photo(2)), modality="image", k=1).json()["hits"]
    assert by_image[0]["id"] == "item-2"
    assert post(client, "/api/search").json()["hits"][0]["modality"] == "text"
    few = post(client, "/api/search", None, text="red", where="size > 3").json()["hits"]
    assert {hit["metadata"]["size"] for hit in few} == {4, 5}


def test_without_an_index_texts_are_compared_with_a_image(everything):
    served = replace(everything, store=None, speaks=None, says=(), draws=None)
    client = TestClient(create_app(served, hosts=["*"]))
    assert client.get("/api/about").json()["abilities"] == ["zero-shot"]
    response = post(client, "/api/zero-shot", labels="a red star\n\n blue circle \na red star")
    ranking = response.json()["ranking"]
    assert {row["text"] for row in ranking} == {"a red star", "blue circle"}
    image = served.embeds.encode(image=[photo()])[0]
    for row in ranking:
        want = float(served.embeds.encode(text=[row["text"]])[0] @ image)
        assert row["score"] == pytest.approx(want, abs=1e-5)
    assert ranking[0]["score"] >= ranking[1]["score"]
    assert "labels" in post(client, "/api/zero-shot", labels=" \n ").json()["detail"]
    assert "zero-shot" in post(client, "/api/ask", question="?").json()["detail"]


@pytest.mark.parametrize(
    ("path", "content", "fields", "status", "message"),
    [
        ("/api/ask", None, {"question": "what ?"}, 422, "image: field required"),
        ("/api/ask", IMAGE, {}, 422, "question: field required"),
        ("/api/ask", IMAGE, {"question": "  "}, 422, "question: is empty"),
        ("/api/ask", IMAGE, {"question": LONG}, 422, "shorten it"),
        ("/api/ask", IMAGE, {"question": "x" * 3000}, 422, "2000 characters"),
        ("/api/ask", b"no image", {"question": "what ?"}, 422, "begins with b'no image'"),
        ("/api/ask", IMAGE[:200], {"question": "what ?"}, 422, "damaged image"),
        ("/api/caption", b"", {}, 422, "empty image"),
        ("/api/caption", b"x" * (MAX_IMAGE + 1), {}, 413, "20 MiB"),
        ("/api/caption", b"x" * (MAX_IMAGE + 2 * MAX_FIELDS), {}, 413, "21 MiB"),
        ("/api/chat", IMAGE, {"question": "what ?", "history": "[1]"}, 422, "history"),
        ("/api/chat", b"nothing", {"question": "what ?"}, 422, "begins with b'nothing'"),
        ("/api/draw", None, {"text": "a " * 30}, 422, "text: has 30 tokens"),
        ("/api/draw", None, {"text": "star", "count": 99}, 422, "count"),
        ("/api/draw", None, {"text": "star", "guidance": "nan"}, 422, "guidance"),
        ("/api/search", None, {"text": " "}, 422, "a text, an image, or both"),
        ("/api/search", None, {"text": "red", "where": "nope = 1"}, 422, "The columns are"),
        ("/api/search", None, {"text": "red", "modality": "audio"}, 422, "it has image, text"),
        ("/api/search", None, {"text": "red", "k": 1000}, 422, "k: "),
        ("/api/nothing", None, {}, 404, "there is no /api/nothing here"),
        ("/health", None, {}, 405, "does not take POST"),
    ],
)
def test_refusals_say_what_is_wrong(client, path, content, fields, status, message):
    response = post(client, path, content, **fields)
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]


def test_a_path_is_no_image(client, tmp_path):
    file = tmp_path / "image.png"
    file.write_bytes(IMAGE)
    response = client.post("/api/caption", data={"image": str(file)})
    assert response.status_code == 422


def test_bodies_of_unknown_length_are_counted(client):
    def body():
        for _ in range(MAX_IMAGE // MAX_FIELDS + 3):
            yield b"x" * MAX_FIELDS

    kind = {"content-type": "multipart/form-data; boundary=b"}
    response = client.post("/api/caption", content=body(), headers=kind)
    assert response.status_code == 413


def test_failures_of_a_model_end_neither_the_server_nor_the_next_request(everything):
    class Failing:
        turns = everything.speaks.chat_template

        def caption(self, *args, **options):
            raise RuntimeError("secret")

    app = create_app(replace(everything, speaks=Failing()), hosts=["*"])
    client = TestClient(app, raise_server_exceptions=False)
    response = post(client, "/api/caption")
    assert response.status_code == 500
    assert "RuntimeError" in response.json()["detail"]
    assert "secret" not in response.text
    assert client.get("/health").status_code == 200


def test_other_names_of_this_machine_are_refused(everything):
    client = TestClient(create_app(everything), base_url="http://evil.example")
    assert client.get("/api/about").status_code == 400
    local = TestClient(create_app(everything), base_url="http://127.0.0.1:8000")
    assert local.get("/api/about").status_code == 200


def test_requests_at_once_are_answered_as_one_after_the_other(client):
    asked = [(png(photo(i)), f"is there a {WORDS[3 + i % 6]} ?") for i in range(8)]

    def answer(one):
        return post(client, "/api/ask", one[0], question=one[1]).json()

    alone = [answer(one) for one in asked]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, asked)) == alone


def test_health_is_answered_while_a_model_works(everything):
    started, release = threading.Event(), threading.Event()

    class Slow:
        turns = everything.speaks.chat_template

        def caption(self, *args, **options):
            started.set()
            assert release.wait(20)
            return ["done"]

    with (
        TestClient(create_app(replace(everything, speaks=Slow()), hosts=["*"])) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        waiting = thread.submit(post, client, "/api/caption")
        assert started.wait(20)
        assert client.get("/health").status_code == 200
        assert not waiting.done()
        release.set()
        assert waiting.result().json() == {"caption": "done"}


def test_examples_are_scenes_with_what_can_be_asked(client):
    found = client.get("/api/examples").json()
    assert len(found) == 6
    for example in found:
        assert example["image"].startswith("data:image/png")
        assert example["caption"]
        assert len(example["questions"]) == 3


def test_the_page_may_load_nothing_from_elsewhere(client):
    response = client.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for name in ("style.css", "main.js", "api.js"):
        assert client.get(f"/page/{name}").status_code == 200
        assert f"{name}" in response.text or name == "api.js"
        assert "http://" not in client.get(f"/page/{name}").text
        assert "https://" not in client.get(f"/page/{name}").text
    assert "https://" not in response.text
    assert client.get("/page/../app.py").status_code == 404


def test_a_cropping_model_says_that_it_saw_the_middle(everything):
    model = speaker()
    model.preprocessors["image"].how = "crop"
    app = create_app(replace(everything, speaks=model), hosts=["*"])
    found = post(TestClient(app), "/api/ask", question="what ?").json()
    assert found["look"]["of"] == "middle"

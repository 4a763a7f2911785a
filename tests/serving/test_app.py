"""The REST interface: responses equal those of the models, and errors explain themselves."""

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
from small_models import WORDS, captioner, embedder, photo, png

from amodal.evaluators.match_threshold import MatchCalibration
from amodal.metrics.match_threshold import MatchCurve
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    best_matches,
)
from amodal.serving.app import MAX_FIELDS, MAX_IMAGE, create_app
from amodal.serving.images import png_url
from amodal.serving.streaming import stream_answer
from amodal.serving.work import Worker

IMAGE = png(photo())
LONG = " ".join(WORDS * 2)


@pytest.fixture(scope="module")
def client(everything):
    return TestClient(create_app(everything, hosts=["*"]), raise_server_exceptions=False)


def post(client, path, content=IMAGE, **fields):
    files = {} if content is None else {"image": ("image.png", content)}
    return client.post(path, data=fields, files=files or None)


def chat(client, **fields):
    response = post(client, "/api/chat", **fields)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_about_describes_the_served_models(client, everything):
    assert client.get("/health").json() == {"status": "ok"}
    about = client.get("/api/about").json()
    assert about["capabilities"] == ["search", "ask", "caption", "chat", "draw"]
    assert about["parameters"] == everything.parameters
    assert about["metrics"] == everything.metrics
    assert about["limits"]["image_bytes"] == MAX_IMAGE
    assert about["index"]["rows"] == {"image": 6, "text": 6}
    assert "size" in about["index"]["columns"]
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/search", "/api/ask", "/api/caption", "/api/chat", "/api/draw"} <= set(paths)
    assert client.get("/docs").status_code == 404


def test_answers_are_those_of_the_model(client, everything):
    model = everything.text_generator
    found = post(client, "/api/ask", question=" is there a red star ? ").json()
    assert found["answer"] == model.ask(photo(), "is there a red star ?")
    attention = found["attention"]
    want = model.attention_map(photo(), "is there a red star ?", found["answer"]).tolist()
    assert (attention["side"], attention["region"]) == (4, "whole")
    np.testing.assert_allclose(attention["weights"], want, atol=1e-6)
    assert found["out_of_vocabulary"] == []
    asked = post(client, "/api/ask", question="a zebra ?").json()
    assert asked["out_of_vocabulary"] == ["zebra"]
    generated = post(client, "/api/draw", None, text="a zebra", seed=0).json()
    assert generated["out_of_vocabulary"] == ["zebra"]
    caption = post(client, "/api/caption").json()["caption"]
    assert caption == model.caption([photo()], num_beams=3)[0]


def test_answers_are_streamed_and_depend_on_the_history(client, everything):
    history = [("is there a star ?", "yes")]
    lines = chat(client, question="what colour ?", history=json.dumps(history))
    want = everything.text_generator.chat(photo(), history, "what colour ?")
    assert lines[-1] == {"answer": want, "history_turns_used": 2}
    texts = [line["text"] for line in lines[:-1]]
    assert len(texts) > 1
    assert texts[-1] == want
    assert all(len(a) <= len(b) for a, b in pairwise(texts))


def test_history_beyond_the_context_is_left_out_pair_by_pair(client, everything):
    history = [(f"is there a {word} ?", "no") for word in WORDS[3:9]]
    lines = chat(client, question="what ?", history=json.dumps(history))
    turns = lines[-1]["history_turns_used"]
    assert turns % 2 == 0
    assert 0 < turns < 2 * len(history)
    recent = history[-turns // 2 :]
    assert lines[-1]["answer"] == everything.text_generator.chat(photo(), recent, "what ?")


def test_a_failure_is_reported_in_the_last_line(everything):
    class Failing:
        chat_template = everything.text_generator.chat_template

        def chat(self, *args, **options):
            raise RuntimeError("out of memory")

    app = create_app(replace(everything, text_generator=Failing()), hosts=["*"])
    assert chat(TestClient(app), question="what ?") == [{"error": "out of memory"}]


def test_a_disconnect_stops_the_model(everything):
    stopped = threading.Event()

    class Endless:
        chat_template = everything.text_generator.chat_template

        def chat(self, image, history, question, *, streamer, stopping_criteria):
            ids = torch.tensor([[1]])
            streamer.put(ids)
            while not stopping_criteria(ids, None).all():
                streamer.put(ids)
            stopped.set()
            return ""

    async def read_one_line():
        lines = stream_answer(Worker(), Endless(), photo(), [], "what ?")
        assert "text" in json.loads(await anext(lines))
        await lines.aclose()
        assert await asyncio.to_thread(stopped.wait, 20)

    asyncio.run(read_one_line())


def test_generated_images_follow_the_seed(client, everything):
    first = post(client, "/api/draw", None, text="a star", seed=3, count=2).json()["images"]
    again = post(client, "/api/draw", None, text="a star", seed=3, count=2).json()["images"]
    assert first == again
    assert len(first) == 2
    assert first[0] != first[1]
    (alone,) = everything.image_generator.generate_images(["a star"], seed=3)
    assert first[0] == png_url(alone)


def test_the_page_has_the_defaults_of_the_command(client):
    page = client.get("/").text
    for name, value in (("guidance", GUIDANCE), ("temperature", TEMPERATURE)):
        (field,) = re.findall(rf'<input [^>]*name="{name}"[^>]*>', page)
        assert f'value="{value:g}"' in field


def test_a_reranker_chooses_among_candidates(client, everything):
    refused = post(client, "/api/draw", None, text="a star", candidates=3)
    assert refused.status_code == 422
    assert "--reranker" in refused.json()["detail"]
    assert client.get("/api/about").json()["has_reranker"] is False
    reranked = TestClient(
        create_app(
            replace(everything, reranker=embedder(), example_prompts=("a star",)), hosts=["*"]
        )
    )
    about = reranked.get("/api/about").json()
    assert about["has_reranker"] is True
    assert about["example_prompts"] == ["a star"]
    found = post(reranked, "/api/draw", None, text="a star", seed=3, candidates=5).json()["images"]
    images = everything.image_generator.generate_images(["a star"] * 5, seed=3)
    (best,) = best_matches(embedder(), ["a star"], [images])
    assert found == [png_url(images[best])]


def test_texts_and_images_find_rows_with_thumbnails(client, everything):
    hits = post(client, "/api/search", None, text="a red thing").json()["hits"]
    vector = everything.embedding_model.encode(text=["a red thing"])[0]
    want = [hit.id for hit in everything.store.search(vector, 12, input="image")]
    assert [hit["id"] for hit in hits] == want
    assert {hit["input"] for hit in hits} == {"image"}
    assert hits[0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert all("ratio" not in hit["metadata"] for hit in hits if hit["id"] == "item-0")
    by_image = post(client, "/api/search", png(photo(2)), input="image", k=1).json()["hits"]
    assert by_image[0]["id"] == "item-2"
    assert post(client, "/api/search").json()["hits"][0]["input"] == "text"
    few = post(client, "/api/search", None, text="red", where="size > 3").json()["hits"]
    assert {hit["metadata"]["size"] for hit in few} == {4, 5}


def test_hits_say_whether_they_are_likely_matches(client, everything):
    plain = post(client, "/api/search", None, text="a red thing").json()
    assert (plain["likely_match"], plain["hits"][0]["match"]) == (None, None)
    assert "no match calibration" in plain["notes"][0]
    refused = post(client, "/api/search", None, text="a red thing", min_precision=0.9)
    assert (refused.status_code, "no precision can be stated" in refused.text) == (422, True)
    # No score is high enough for this curve.
    curve = MatchCurve(
        queries=99,
        gallery=6,
        score=[0.5],
        recall=[1.0],
        wrong=[1.0],
        wrong_low=[0.9],
        wrong_high=[1.1],
        odds_score=[0, 1],
        log_odds=[-60, -10],
        no_match_score=0.8,
        no_match_growth=0,
    )
    calibration = MatchCalibration(
        fingerprint="", source="held-out", curves={"text_to_image": curve}
    )
    calibrated = TestClient(create_app(replace(everything, calibration=calibration), hosts=["*"]))
    found = post(calibrated, "/api/search", None, text="a red thing").json()
    assert found["likely_match"] is False
    assert {hit["match"]["label"] for hit in found["hits"]} == {"weak"}
    assert found["notes"][-1].startswith("no likely match among 6 rows")
    none = post(calibrated, "/api/search", None, text="a red thing", min_precision=0.9).json()
    assert (none["hits"], none["left_out"]) == ([], 6)


def test_without_an_index_labels_are_ranked_for_an_image(everything):
    served = replace(
        everything, store=None, text_generator=None, text_tasks=(), image_generator=None
    )
    client = TestClient(create_app(served, hosts=["*"]))
    assert client.get("/api/about").json()["capabilities"] == ["zero-shot"]
    response = post(client, "/api/zero-shot", labels="a red star\n\n blue circle \na red star")
    ranking = response.json()["ranking"]
    assert {row["text"] for row in ranking} == {"a red star", "blue circle"}
    image = served.embedding_model.encode(image=[photo()])[0]
    for row in ranking:
        want = float(served.embedding_model.encode(text=[row["text"]])[0] @ image)
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
        ("/api/search", None, {"text": " "}, 422, "provide image or text"),
        ("/api/search", None, {"text": "red", "where": "nope = 1"}, 422, "The columns are"),
        ("/api/search", None, {"text": "red", "input": "audio"}, 422, "it has image, text"),
        ("/api/search", None, {"text": "red", "k": 1001}, 422, "k: "),
        ("/api/nothing", None, {}, 404, "there is no /api/nothing here"),
        ("/health", None, {}, 405, "does not take POST"),
    ],
)
def test_errors_name_the_field_and_the_reason(client, path, content, fields, status, message):
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


def test_a_failing_model_does_not_stop_the_server(everything):
    class Failing:
        chat_template = everything.text_generator.chat_template

        def caption(self, *args, **options):
            raise RuntimeError("secret")

    app = create_app(replace(everything, text_generator=Failing()), hosts=["*"])
    client = TestClient(app, raise_server_exceptions=False)
    response = post(client, "/api/caption")
    assert response.status_code == 500
    assert "RuntimeError" in response.json()["detail"]
    assert "secret" not in response.text
    assert client.get("/health").status_code == 200


def test_other_host_names_are_refused(everything):
    client = TestClient(create_app(everything), base_url="http://evil.example")
    assert client.get("/api/about").status_code == 400
    local = TestClient(create_app(everything), base_url="http://127.0.0.1:8000")
    assert local.get("/api/about").status_code == 200


def test_concurrent_requests_give_the_same_answers(client):
    requests = [(png(photo(i)), f"is there a {WORDS[3 + i % 6]} ?") for i in range(8)]

    def answer(one):
        return post(client, "/api/ask", one[0], question=one[1]).json()

    alone = [answer(one) for one in requests]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, requests)) == alone


def test_health_is_answered_while_a_model_works(everything):
    started, release = threading.Event(), threading.Event()

    class Slow:
        chat_template = everything.text_generator.chat_template

        def caption(self, *args, **options):
            started.set()
            assert release.wait(20)
            return ["done"]

    with (
        TestClient(create_app(replace(everything, text_generator=Slow()), hosts=["*"])) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        waiting = thread.submit(post, client, "/api/caption")
        assert started.wait(20)
        assert client.get("/health").status_code == 200
        assert not waiting.done()
        release.set()
        assert waiting.result().json() == {"caption": "done"}


def test_examples_of_an_index_are_its_own_images(everything):
    served = replace(everything, text_generator=None, text_tasks=(), image_generator=None)
    found = TestClient(create_app(served, hosts=["*"])).get("/api/examples").json()
    assert 1 < len(found) <= 6
    assert {example["caption"] for example in found} <= {f"a {word} thing" for word in WORDS}
    assert all(example["image"].startswith("data:image/jpeg") for example in found)
    assert len({example["image"] for example in found}) == len(found)


def test_examples_are_scenes_with_captions_and_questions(client):
    found = client.get("/api/examples").json()
    assert len(found) == 6
    for example in found:
        assert example["image"].startswith("data:image/png")
        assert example["caption"]
        assert len(example["questions"]) == 3


def test_the_page_loads_nothing_from_other_origins(client):
    response = client.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for name in ("style.css", "main.js", "api.js"):
        assert client.get(f"/page/{name}").status_code == 200
        assert f"{name}" in response.text or name == "api.js"
        assert "http://" not in client.get(f"/page/{name}").text
        assert "https://" not in client.get(f"/page/{name}").text
    assert "https://" not in response.text
    assert client.get("/page/../app.py").status_code == 404


def test_a_cropping_model_reports_the_center_crop(everything):
    model = captioner()
    model.preprocessors["image"].resize_mode = "crop"
    app = create_app(replace(everything, text_generator=model), hosts=["*"])
    found = post(TestClient(app), "/api/ask", question="what ?").json()
    assert found["attention"]["region"] == "center_crop"

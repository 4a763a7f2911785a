"""The page in a browser, as a user operates it."""

import io
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="needs amodal[serve]")
pytest.importorskip("uvicorn", reason="needs amodal[serve]")
pytest.importorskip("playwright", reason="needs playwright")
import numpy as np
import soundfile
import uvicorn
from playwright.sync_api import sync_playwright
from small_models import photo, png
from test_media import served_recordings

from amodal.serving.app import create_app

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@contextmanager
def running(served):
    """The address of a running server."""
    config = uvicorn.Config(create_app(served), port=0, log_level="error")
    server, socket = uvicorn.Server(config), config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        socket.close()


@pytest.fixture(scope="module")
def address(everything):
    with running(everything) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    root = hasattr(os, "getuid") and os.getuid() == 0  # Chromium has no sandbox for root
    with sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if root else []
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser, address):
    """The page; a script error or a request to another origin fails the test."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    violations = []
    opened.on("pageerror", lambda error: violations.append(str(error)))
    own = (address, "data:", "blob:")
    opened.on("request", lambda r: r.url.startswith(own) or violations.append(r.url))
    opened.goto(address)
    opened.wait_for_selector("#examples button")
    yield opened
    assert violations == []
    context.close()


def test_there_is_a_tab_for_each_ability(page):
    names = [tab.inner_text() for tab in page.query_selector_all("[role=tab]")]
    assert names == ["Search", "Ask", "Caption", "Chat", "Generate"]
    assert page.title() == "everything · amodal"


def test_a_question_about_an_example_is_answered_with_an_attention_map(page, everything):
    page.click("#tab-ask")
    page.click("#panel-ask button[type=submit]")
    assert "choose an image first" in page.inner_text("#panel-ask .problem")
    page.click("#examples button")
    page.fill("#ask-question", "is there a star ?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-ask .answer")
    assert page.is_visible("#attention-controls")
    alpha = "c => c.getContext('2d').getImageData(5, 5, 1, 1).data[3]"
    assert page.eval_on_selector("#overlay", alpha) > 0
    page.click("#tab-caption")
    assert not page.is_visible("#attention-controls")
    assert page.eval_on_selector("#overlay", alpha) == 0


def test_an_uploaded_image_is_captioned_and_a_broken_one_refused(page, everything):
    page.click("#tab-caption")
    own = {"name": "own.png", "mimeType": "image/png", "buffer": png(photo(3))}
    page.set_input_files("#file", own)
    page.click("#panel-caption button[type=submit]")
    page.wait_for_selector("#panel-caption .answer")
    want = everything.text_generator.caption([photo(3)], num_beams=3)[0]
    assert page.inner_text("#panel-caption .answer") == want
    page.set_input_files("#file", {**own, "buffer": b"nothing"})
    assert page.query_selector("#panel-caption .answer") is None
    page.click("#panel-caption button[type=submit]")
    page.wait_for_selector("#panel-caption .problem:visible")
    assert "begins with b'nothing'" in page.inner_text("#panel-caption .problem")


def test_an_image_can_be_dropped_and_pasted(page):
    give = """(kind) => {
        const pixels = new OffscreenCanvas(4, 4);
        pixels.getContext("2d").fillRect(0, 0, 4, 4);
        return pixels.convertToBlob().then((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], `${kind}.png`, { type: "image/png" }));
            const event = kind === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
            document.getElementById("drop").dispatchEvent(event);
        });
    }"""
    for kind in ("drop", "paste"):
        page.evaluate(give, kind)
        page.wait_for_selector(f"#preview[alt$='{kind}.png']")


def test_a_conversation_continues_until_the_image_changes(page):
    page.click("#tab-chat")
    page.click("#examples button")
    for number, question in enumerate(["what colour ?", "is it red ?"], start=1):
        page.fill("#chat-question", question)
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#conversation .model >> nth={number - 1}")
        page.wait_for_selector("#stop", state="hidden")
    assert page.locator("#conversation .user").all_inner_texts() == ["what colour ?", "is it red ?"]
    assert all(page.locator("#conversation .model").all_inner_texts())
    page.click("#examples li:nth-child(2) button")
    assert page.query_selector("#conversation li") is None


def test_images_are_generated(page):
    page.click("#tab-draw")
    assert not page.is_visible("#image")
    page.fill("#draw-text", "a red star")
    page.click("#panel-draw button[type=submit]")
    page.wait_for_selector("#panel-draw .images img >> nth=3")
    assert not page.is_visible("#panel-draw .note")
    assert not page.is_visible("#draw-candidates")  # there is no reranker
    page.fill("#draw-text", "a red zebra")
    page.click("#panel-draw button[type=submit]")
    page.wait_for_selector("#panel-draw .note:visible")
    assert page.inner_text("#panel-draw .note") == "Out of vocabulary: zebra"
    page.fill("#draw-text", "star " * 30)
    page.click("#panel-draw button[type=submit]")
    page.wait_for_selector("#panel-draw .problem:visible")
    assert "shorten it" in page.inner_text("#panel-draw .problem")


def test_a_search_shows_thumbnails_and_explains_an_invalid_filter(page):
    page.fill("#search-text", "a red thing")
    page.keyboard.press("Enter")
    page.wait_for_selector(".hits img >> nth=5")
    assert "no match calibration" in page.inner_text("#panel-search .notes")
    page.click("#panel-search summary")
    page.fill("#search-where", "nope = 1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#panel-search .problem:visible")
    assert "The columns are" in page.inner_text("#panel-search .problem")


def test_arrow_keys_move_between_tabs_and_every_control_has_a_name(page):
    page.focus("#tab-search")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "tab-ask"
    assert page.is_visible("#panel-ask")
    page.keyboard.press("End")
    assert page.is_visible("#panel-draw")
    nameless = """() => [...document.querySelectorAll("input, textarea, select, button, img")]
        .filter((e) => !(e.labels?.length || e.innerText?.trim() || e.textContent.trim() || e.alt
            || e.querySelector("img[alt]"))).map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []


def test_a_narrow_window_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 390, "height": 800})
    for tab in ("search", "ask", "caption", "chat", "draw"):
        page.click(f"#tab-{tab}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_joint_embedding_ranks_labels(browser, everything):
    served = replace(
        everything, store=None, text_generator=None, text_tasks=(), image_generator=None
    )
    with running(served) as address:
        page = browser.new_page()
        page.goto(address)
        page.click("#examples button")
        page.fill("#labels", "a red star\na blue circle")
        page.click("#panel-zero-shot button[type=submit]")
        page.wait_for_selector(".ranking li >> nth=1")
        page.close()


def test_recordings_are_searched_with_and_played(browser, tmp_path):
    with running(served_recordings(tmp_path)) as address:
        page = browser.new_page()
        page.goto(address)
        page.set_input_files("#search-input-audio", tmp_path / "flac.flac")
        page.click("#panel-search summary")
        page.select_option("#search-return", "audio")
        page.click("#panel-search button[type=submit]")
        player = page.locator(".hits audio").first
        player.wait_for()
        assert page.locator(".hits li").count() == 6
        assert page.locator(".hits .span").count() == 3  # the parts of the long recording
        loaded = """audio => new Promise((done) => {
            audio.onloadedmetadata = () => done(audio.duration);
            audio.load();
        })"""
        assert abs(player.evaluate(loaded) - 0.5) < 0.01
        page.close()


def test_a_recording_of_the_browser_becomes_a_file_that_is_read(browser, tmp_path):
    served = served_recordings(tmp_path)
    with running(served) as address:
        page = browser.new_page()
        page.goto(address)
        content = page.evaluate(
            """async (name) => {
                const { asWav } = await import("/page/record.js");
                const recorded = await fetch(name).then((found) => found.blob());
                return Array.from(new Uint8Array(await asWav(recorded)));
            }""",
            "/api/media?id=ogg&input=audio",
        )
        samples, rate = soundfile.read(io.BytesIO(bytes(content)))
        assert abs(len(samples) / rate - 0.5) < 0.05
        assert np.abs(samples).max() > 0.1
        page.close()

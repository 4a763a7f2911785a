"""The REST interface and the page: what models can do, one call after the other."""

from __future__ import annotations

import asyncio
import json
import math
import mimetypes
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError
from transformers import StoppingCriteriaList

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    generate_best,
)
from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.query import named_values, query_vector, returned_input
from amodal.search.store import Hit, VectorStore
from amodal.serving.images import data_url, examples, png_url
from amodal.serving.served import Draws, Served, Speaks, Turns
from amodal.serving.streaming import Gone, TextSoFar

try:
    from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from amodal.serving.middleware import SecurityMiddleware
except ImportError as error:
    raise ImportError(
        "serving needs fastapi, uvicorn and python-multipart: "
        f"pip install 'amodal[serve]' ({error})"
    ) from None

# A registry of Windows may call scripts plain text, which browsers then do not run.
mimetypes.add_type("text/javascript", ".js")
PAGE = Path(__file__).parent / "page"
MAX_IMAGE = 20 << 20  # bytes of an upload
MAX_FIELDS = 1 << 20  # bytes of everything that comes with it
MAX_CHARACTERS = 2000
MAX_LABELS = 200
MAX_ROUNDS = 200
CAPTION_BEAMS = 3  # as `amodal caption`
LOCAL = ("127.0.0.1", "localhost")

Result = TypeVar("Result")
Image = Annotated[UploadFile, File(description="JPEG, PNG, WEBP, BMP, GIF or TIFF, to 20 MiB.")]
OptionalImage = Annotated[UploadFile | None, File(description="An image to look for.")]
Text = Annotated[str, Form(min_length=1, max_length=MAX_CHARACTERS)]
MaybeText = Annotated[str | None, Form(max_length=MAX_CHARACTERS)]
ROUNDS: TypeAdapter[list[tuple[str, str]]] = TypeAdapter(list[tuple[str, str]])


class Worker:
    """Runs calls of models one after the other, beside the event loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def __call__(self, call: Callable[..., Result], *args: Any, **options: Any) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(call, *args, **options))


def create_app(served: Served, *, hosts: Sequence[str] = LOCAL) -> FastAPI:
    """The application that answers for `served`.

    Args:
        served: what can be done.
        hosts: names under which it may be addressed, "*" for any. A page elsewhere that gives
            itself a name of this machine (DNS rebinding) is refused.
    """
    app = FastAPI(
        title="amodal",
        description=f"{served.kind} {served.name}: {', '.join(served.abilities)}",
        docs_url=None,  # both pages load their scripts from the network
        redoc_url=None,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityMiddleware, limit=MAX_IMAGE + MAX_FIELDS)
    _explain_errors(app, served)
    work = Worker()

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are answered."""
        return {"status": "ok"}

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        """What is served, what it can do, and how well it did."""
        return {
            "name": served.name,
            "kind": served.kind,
            "abilities": served.abilities,
            "parameters": served.parameters,
            "figures": served.figures,
            "texts": served.texts,
            "reranked": served.reranker is not None,
            "limits": {
                "image_bytes": MAX_IMAGE,
                "characters": MAX_CHARACTERS,
                "labels": MAX_LABELS,
            },
            "index": None if served.store is None else await work(_index, served.store),
        }

    @app.get("/api/examples")
    async def example_images() -> list[dict[str, Any]]:
        """Scenes of the built-in world, with what can be said and asked about them."""
        return await asyncio.to_thread(examples)

    if served.embeds is not None and served.store is not None:
        _offer_search(app, work, served.embeds, served.store)
    elif served.embeds is not None:
        _offer_zero_shot(app, work, served.embeds)
    if served.speaks is not None:
        if "ask" in served.says:
            _offer_ask(app, work, served.speaks)
        if "caption" in served.says:
            _offer_caption(app, work, served.speaks)
        if "chat" in served.says:
            _offer_chat(app, work, served.speaks)
    if served.draws is not None:
        _offer_draw(app, work, served.draws, served.reranker)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def _index(store: VectorStore) -> dict[str, Any]:
    return {"rows": store.counts(), "columns": store.columns}


def _offer_search(app: FastAPI, work: Worker, model: EmbeddingModel, store: VectorStore) -> None:
    @app.post("/api/search")
    async def search(
        text: MaybeText = None,
        image: OptionalImage = None,
        k: Annotated[int, Form(ge=1, le=100, description="How many hits.")] = 12,
        where: Annotated[MaybeText, Form(description="SQL condition on the metadata.")] = None,
        input: Annotated[MaybeText, Form(description="Input to return, or all.")] = None,
    ) -> dict[str, Any]:
        """The rows of the index that are most similar to words, an image, or both."""
        asked = (text or "").strip()
        if not asked and image is None:
            raise HTTPException(422, "give a text, an image, or both")

        def find() -> list[dict[str, Any]]:
            by_type: dict[str, Any] = {"text": asked} if asked else {}
            if image is not None:
                by_type["image"] = _pixels(image)
            values = named_values(model, by_type, {})
            wanted = returned_input(input or None, store.counts(), model.types, values)
            hits = store.search(query_vector(model, values), k, where=where or None, input=wanted)
            return [_shown(rank, hit) for rank, hit in enumerate(hits, start=1)]

        return {"hits": await work(find)}


def _offer_zero_shot(app: FastAPI, work: Worker, model: EmbeddingModel) -> None:
    @app.post("/api/zero-shot")
    async def zero_shot(
        image: Image,
        labels: Annotated[str, Form(description="Texts to choose from, one per line.")],
    ) -> dict[str, Any]:
        """Texts by how well they fit an image: the cosine similarity of their embeddings."""
        texts = list(dict.fromkeys(line.strip() for line in labels.splitlines() if line.strip()))
        if not texts:
            raise HTTPException(422, "labels: give at least one text, one per line")
        if len(texts) > MAX_LABELS or max(map(len, texts)) > MAX_CHARACTERS:
            raise HTTPException(
                422, f"labels: at most {MAX_LABELS} texts of {MAX_CHARACTERS} characters"
            )

        def rank() -> list[dict[str, Any]]:
            z = model.encode(image=[_pixels(image)])[0]
            scores = model.encode(text=texts) @ z
            return [{"text": texts[i], "score": float(scores[i])} for i in np.argsort(-scores)]

        return {"ranking": await work(rank)}


def _offer_ask(app: FastAPI, work: Worker, model: Speaks) -> None:
    @app.post("/api/ask")
    async def ask(image: Image, question: Text) -> dict[str, Any]:
        """The answer to a question about an image, and where the model looked for it."""
        asked = _fitting("question", question, model.chat_template.ids, _room(model.chat_template))

        def answer() -> dict[str, Any]:
            pixels = _pixels(image)
            said = model.ask(pixels, asked)
            look = _look(model, pixels, asked, said)
            return {"answer": said, "look": look, "unknown": model.chat_template.unknown(asked)}

        return await work(answer)


def _offer_caption(app: FastAPI, work: Worker, model: Speaks) -> None:
    @app.post("/api/caption")
    async def caption(image: Image) -> dict[str, str]:
        """A description of an image."""

        def describe() -> str:
            return model.caption([_pixels(image)], num_beams=CAPTION_BEAMS)[0]

        return {"caption": await work(describe)}


def _offer_chat(app: FastAPI, work: Worker, model: Speaks) -> None:
    @app.post("/api/chat")
    async def chat(
        image: Image,
        question: Text,
        history: Annotated[
            str, Form(description='Rounds before, as JSON: [["question", "answer"], …].')
        ] = "[]",
    ) -> StreamingResponse:
        """The next answer of a conversation about an image, word by word.

        Lines of JSON: `{"said": …}` with the text so far, and at the end `{"answer": …,
        "rounds_read": …}` with how many rounds before it there was room for, or `{"error": …}`.
        """
        asked = _fitting("question", question, model.chat_template.ids, _room(model.chat_template))
        try:
            before = ROUNDS.validate_json(history)
        except ValidationError:
            raise HTTPException(
                422, 'history: expected JSON such as [["is it red?", "yes"]]'
            ) from None
        rounds = _recent(before[-MAX_ROUNDS:], asked, model.chat_template)
        pixels = await work(_pixels, image)
        return StreamingResponse(
            conversation(work, model, pixels, rounds, asked), media_type="application/x-ndjson"
        )


async def conversation(
    work: Worker, model: Speaks, pixels: np.ndarray, rounds: list[tuple[str, str]], asked: str
) -> AsyncIterator[str]:
    """The lines of `/api/chat` as a model says them; who stops listening stops the model."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    gone = Gone()

    def tell(event: dict[str, Any]) -> None:
        if not gone.left.is_set():
            loop.call_soon_threadsafe(told.put_nowait, event)

    def speak() -> None:
        if gone.left.is_set():
            return
        try:
            answer = model.chat(
                pixels,
                rounds,
                asked,
                streamer=TextSoFar(model.chat_template.text, lambda said: tell({"said": said})),
                stopping_criteria=StoppingCriteriaList([gone]),
            )
        except Exception as failure:  # the response has begun: its last line has to say so
            tell({"error": str(failure) or type(failure).__name__})
            raise
        tell({"answer": answer, "rounds_read": len(rounds)})

    speaking = asyncio.ensure_future(work(speak))
    speaking.add_done_callback(_log_failure)
    try:
        event: dict[str, Any] = {"said": ""}
        while "said" in event:
            event = await told.get()
            yield json.dumps(event, ensure_ascii=False) + "\n"
    finally:
        gone.left.set()


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        task.get_loop().call_exception_handler(
            {"message": "a conversation failed", "exception": task.exception(), "future": task}
        )


def _offer_draw(app: FastAPI, work: Worker, model: Draws, reranker: JointEmbedding | None) -> None:
    @app.post("/api/draw")
    async def draw(
        text: Text,
        guidance: Annotated[
            float, Form(ge=0, le=20, description="How closely to follow.")
        ] = GUIDANCE,
        temperature: Annotated[
            float, Form(ge=0, le=5, description="How freely; 0: likeliest.")
        ] = TEMPERATURE,
        top_k: Annotated[int | None, Form(ge=1, description="Likeliest codes.")] = None,
        seed: Annotated[int | None, Form(ge=0, lt=2**63, description="Repeats an image.")] = None,
        count: Annotated[int, Form(ge=1, le=9, description="How many images.")] = 1,
        candidates: Annotated[
            int, Form(ge=1, le=16, description="Drawn for each; the judge chooses.")
        ] = 1,
    ) -> dict[str, Any]:
        """Images of what a text says, as PNG data URLs."""
        if candidates > 1 and reranker is None:
            raise HTTPException(
                422, "candidates: nothing chooses among them; `amodal serve … --judge RUN` does"
            )
        limit = model.chat_template.max_length - 3  # of two roles and an end
        asked = _fitting("text", text, model.chat_template.ids, limit)

        def paint() -> list[str]:
            images = generate_best(
                model,
                [asked] * count,
                candidates=candidates,
                reranker=reranker,
                guidance=guidance,
                temperature=temperature,
                top_k=top_k,
                seed=seed,
            )
            return [png_url(pixels) for pixels in images]

        return {"images": await work(paint), "unknown": model.chat_template.unknown(asked)}


def _pixels(image: UploadFile) -> np.ndarray:
    data = image.file.read(MAX_IMAGE + 1)
    if len(data) > MAX_IMAGE:
        raise HTTPException(413, f"image: larger than {MAX_IMAGE >> 20} MiB")
    return decode_image(data, "the image")


def _fitting(name: str, text: str, ids: Callable[[str], list[int]], limit: int) -> str:
    """The text without spaces around it, where a model that reads `limit` tokens reads it whole."""
    asked = text.strip()
    if not asked:
        raise HTTPException(422, f"{name}: is empty")
    length = len(ids(asked))
    if length > limit:
        raise HTTPException(
            422, f"{name}: has {length} tokens, this model reads at most {limit}; shorten it"
        )
    return asked


def _room(turns: Turns) -> int:
    """Tokens that a prompt may have; a quarter is kept for the answer, three are for the roles."""
    return turns.max_length - max(1, turns.max_length // 4) - 3


def _recent(rounds: Sequence[tuple[str, str]], asked: str, turns: Turns) -> list[tuple[str, str]]:
    """The last rounds that the model can read before a question; older ones would be cut apart."""
    room = _room(turns) - len(turns.ids(asked))
    kept: list[tuple[str, str]] = []
    for question, answer in reversed(rounds):
        room -= len(turns.ids(question)) + len(turns.ids(answer)) + 4  # two roles, two ends
        if room < 0:
            break
        kept.insert(0, (question, answer))
    return kept


def _look(model: Speaks, pixels: np.ndarray, question: str, answer: str) -> dict[str, Any] | None:
    """Attention on the tokens of an image, row by row; None where they are of no square grid."""
    shares = model.attention_map(pixels, question, answer).tolist()
    side = math.isqrt(len(shares))
    if side * side != len(shares):
        return None
    crop = getattr(model.preprocessors["image"], "how", "squash") == "crop"
    return {"side": side, "shares": shares, "of": "middle" if crop else "whole"}


def _shown(rank: int, hit: Hit) -> dict[str, Any]:
    shown = hit.as_dict()
    shown["metadata"] = {
        name: value
        for name, value in hit.metadata.items()
        if not isinstance(value, float) or math.isfinite(value)  # JSON has no NaN
    }
    thumbnail = None if hit.thumbnail is None else data_url(hit.thumbnail, "image/jpeg")
    return {"rank": rank, **shown, "thumbnail": thumbnail}


def _explain_errors(app: FastAPI, served: Served) -> None:
    """Every failure is `{"detail": …}`, a sentence."""

    def answer(status: int, detail: str) -> JSONResponse:
        return JSONResponse({"detail": detail}, status)

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, failure: AnyHTTPException) -> JSONResponse:
        path = request.url.path
        if failure.status_code == 404:
            done = ", ".join(served.abilities)
            return answer(404, f"there is no {path} here; {served.name} does: {done}")
        if failure.status_code == 405:
            return answer(405, f"{path} does not take {request.method}; see /openapi.json")
        return answer(failure.status_code, str(failure.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, failure: RequestValidationError) -> JSONResponse:
        problems = (
            f"{e['loc'][-1]}: {e['msg'][:1].lower()}{e['msg'][1:]}" for e in failure.errors()
        )
        return answer(422, "; ".join(problems))

    @app.exception_handler(BrokenRecordError)
    async def broken(request: Request, failure: BrokenRecordError) -> JSONResponse:
        return answer(422, f"image: {failure.reason}")

    @app.exception_handler(StoreError)
    async def unusable(request: Request, failure: StoreError) -> JSONResponse:
        return answer(422, str(failure))

    @app.exception_handler(Exception)
    async def failed(request: Request, failure: Exception) -> JSONResponse:
        return answer(
            500, f"the model failed ({type(failure).__name__}); the server's log says why"
        )

"""REST interface and page over the loaded models; requests are processed one at a time."""

from __future__ import annotations

import asyncio
import math
import mimetypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from amodal.data.decode import decode_image
from amodal.data.record import BrokenRecordError
from amodal.evaluators.inputs import query_and_gallery
from amodal.evaluators.match_threshold import MatchCalibration
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    generate_best,
)
from amodal.search.description import StoreError
from amodal.search.embed import EmbeddingModel
from amodal.search.limits import MAX_FILTER, MAX_K
from amodal.search.match import search_matches
from amodal.search.store import Hit, VectorStore
from amodal.serving.images import data_url, indexed_examples, png_url, scene_examples
from amodal.serving.media import media_fields, media_file
from amodal.serving.served import ImageGenerator, ServedModels, TextGenerator, Tokenization
from amodal.serving.streaming import stream_answer
from amodal.serving.work import IndexState, Worker

try:
    from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
    from fastapi.staticfiles import StaticFiles
    from starlette.exceptions import HTTPException as AnyHTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from amodal.serving.fields import form_fields, query_fields, read_values
    from amodal.serving.middleware import AdmissionMiddleware, SecurityMiddleware
except ImportError as error:
    raise ImportError(
        "serving needs fastapi, uvicorn and python-multipart: "
        f"pip install 'amodal[serve]' ({error})"
    ) from None

# The registry of Windows may map .js to text/plain, which browsers refuse to execute.
mimetypes.add_type("text/javascript", ".js")
PAGE = Path(__file__).parent / "page"
MAX_IMAGE = 20 << 20  # bytes of an uploaded image
MAX_FIELDS = 1 << 20  # bytes of the other fields of a request
MAX_CHARACTERS = 2000
MAX_LABELS = 200
MAX_HISTORY = 200  # question–answer pairs
CAPTION_BEAMS = 3  # as `amodal caption`
LOCAL = ("127.0.0.1", "localhost")

Image = Annotated[UploadFile, File(description="JPEG, PNG, WEBP, BMP, GIF or TIFF, to 20 MiB.")]
OptionalImage = Annotated[UploadFile | None, File(description="Query image.")]
Text = Annotated[str, Form(min_length=1, max_length=MAX_CHARACTERS)]
MaybeText = Annotated[str | None, Form(max_length=MAX_CHARACTERS)]
HISTORY: TypeAdapter[list[tuple[str, str]]] = TypeAdapter(list[tuple[str, str]])


def create_app(served: ServedModels, *, hosts: Sequence[str] = LOCAL) -> FastAPI:
    """The FastAPI application of the served models.

    Pages of other origins cannot send it anything. At most 16 requests wait for the model,
    further ones are answered with 503 and Retry-After; `/health` and `/api/about` do not wait.

    Args:
        served: models, index and metadata.
        hosts: accepted Host headers, "*" for any; others are refused (DNS rebinding).

    Examples:
        >>> from amodal.serving.served import ServedModels
        >>> app = create_app(ServedModels(name="empty", kind="nothing"))
        >>> "/api/about" in [route.path for route in app.routes]
        True
    """
    app = FastAPI(
        title="amodal",
        description=f"{served.kind} {served.name}: {', '.join(served.capabilities)}",
        docs_url=None,  # both load their scripts from the network
        redoc_url=None,
    )
    app.add_middleware(AdmissionMiddleware)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(SecurityMiddleware, limit=MAX_IMAGE + MAX_FIELDS)
    _explain_errors(app, served)
    work = Worker()
    index = None if served.store is None else IndexState(served.store)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Liveness check."""
        return {"status": "ok"}

    @app.get("/api/about")
    async def about() -> dict[str, Any]:
        """Name, kind, capabilities and metrics of the served models, and the request limits."""
        return {
            "name": served.name,
            "kind": served.kind,
            "capabilities": served.capabilities,
            "parameters": served.parameters,
            "metrics": served.metrics,
            "inputs": []
            if served.embedding_model is None
            else form_fields(served.embedding_model.types),
            "example_prompts": served.example_prompts,
            "has_reranker": served.reranker is not None,
            "limits": {
                "image_bytes": MAX_IMAGE,
                "characters": MAX_CHARACTERS,
                "labels": MAX_LABELS,
                "hits": MAX_K,
                "filter_characters": MAX_FILTER,
            },
            "index": None if index is None else await index(),
        }

    @app.get("/api/examples")
    async def example_images() -> list[dict[str, Any]]:
        """Example images of the index, else built-in scenes: image, caption and questions."""
        model, store = served.embedding_model, served.store
        if served.capabilities == ("search",) and model is not None and store is not None:
            return await work(indexed_examples, model, store)
        return await asyncio.to_thread(scene_examples)

    if served.embedding_model is not None and served.store is not None:
        _add_search(app, work, served.embedding_model, served.store, served.calibration)
    elif served.embedding_model is not None:
        compared = query_and_gallery(served.embedding_model)
        assert compared is not None  # checked when the run was opened
        _add_zero_shot(app, work, served.embedding_model, compared)
    if served.text_generator is not None:
        if "ask" in served.text_tasks:
            _add_ask(app, work, served.text_generator)
        if "caption" in served.text_tasks:
            _add_caption(app, work, served.text_generator)
        if "chat" in served.text_tasks:
            _add_chat(app, work, served.text_generator)
    if served.image_generator is not None:
        _add_draw(app, work, served.image_generator, served.reranker)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def _add_search(
    app: FastAPI,
    work: Worker,
    model: EmbeddingModel,
    store: VectorStore,
    calibration: MatchCalibration | None,
) -> None:
    @app.post("/api/search")
    async def search(
        request: Request,
        text: MaybeText = None,
        image: OptionalImage = None,
        k: Annotated[int, Form(ge=1, le=MAX_K, description="Number of hits.")] = 12,
        where: Annotated[
            str | None, Form(description="Filter, such as label = 'dog' AND width > 200.")
        ] = None,
        input: Annotated[MaybeText, Form(description="Input to return, or all.")] = None,
        min_precision: Annotated[
            float | None,
            Form(gt=0, lt=1, description="Leave out hits below the score of this precision."),
        ] = None,
    ) -> JSONResponse:
        """Nearest rows of the index to the values of one or more inputs of the model.

        Each hit has a `match` with its label and probability where the run was calibrated on
        held-out data; `likely_match` says whether there is a likely match among them, and
        `notes` has what is to be said about the query and its hits.

        `text` and `image` stand for the input of that type; every input may also be given under
        its own name: files are uploaded, other values are written as on the command line.
        """
        fields = await query_fields(request, model.types, {"text": text, "image": image})
        if not fields:
            raise HTTPException(422, f"provide {' or '.join(model.types)}")

        def find() -> JSONResponse:  # written here, since a thousand thumbnails take a while
            values = read_values(model, fields)
            result = search_matches(
                store,
                model,
                calibration,
                values,
                k,
                where=where or None,
                returned=input or None,
                min_precision=min_precision,
            )
            found = [
                {**_hit_fields(rank, hit), "media": media_fields(hit, model.types)}
                for rank, hit in enumerate(result.hits, start=1)
            ]
            return JSONResponse({**result.as_dict(), "hits": found})

        return await work(find)

    @app.get("/api/media")
    async def media(id: str, input: str, row: int = 0) -> FileResponse:
        """The file of a row of the index, such as a recording; byte ranges are answered."""
        found = await asyncio.to_thread(media_file, store, model.types, id, input, row)
        if found is None:
            raise HTTPException(422, f"{input} {row} of {id[:100]!r} has no file that is there")
        path, mime = found
        return FileResponse(path, media_type=mime)


def _add_zero_shot(
    app: FastAPI, work: Worker, model: EmbeddingModel, compared: tuple[str, str]
) -> None:
    @app.post("/api/zero-shot")
    async def zero_shot(
        request: Request,
        labels: Annotated[str, Form(description="Candidate labels, one per line.")],
    ) -> dict[str, Any]:
        """Labels ranked by the cosine similarity of their embeddings to that of a value.

        The value is uploaded, or written, under the name of its input, such as `image`.
        """
        texts_of, _ = compared
        fields = await query_fields(request, model.types, {})
        fields.pop(texts_of, None)
        if len(fields) != 1:
            others = [name for name in model.types if name != texts_of]
            raise HTTPException(422, f"give a value of {' or '.join(others)}")
        texts = list(dict.fromkeys(line.strip() for line in labels.splitlines() if line.strip()))
        if not texts:
            raise HTTPException(422, "labels: give at least one text, one per line")
        if len(texts) > MAX_LABELS or max(map(len, texts)) > MAX_CHARACTERS:
            raise HTTPException(
                422, f"labels: at most {MAX_LABELS} texts of {MAX_CHARACTERS} characters"
            )

        def rank() -> list[dict[str, Any]]:
            ((name, value),) = read_values(model, fields).items()
            z = model.encode(**{name: [value]})[0]
            scores = model.encode(**{texts_of: texts}) @ z
            return [{"text": texts[i], "score": float(scores[i])} for i in np.argsort(-scores)]

        return {"ranking": await work(rank)}


def _add_ask(app: FastAPI, work: Worker, model: TextGenerator) -> None:
    @app.post("/api/ask")
    async def ask(image: Image, question: Text) -> dict[str, Any]:
        """The answer to a question about an image, with its attention map."""
        template = model.chat_template
        query = _checked("question", question, template.ids, _prompt_length(template))

        def answer() -> dict[str, Any]:
            pixels = _pixels(image)
            text = model.ask(pixels, query)
            return {
                "answer": text,
                "attention": _attention(model, pixels, query, text),
                "out_of_vocabulary": template.unknown(query),
            }

        return await work(answer)


def _add_caption(app: FastAPI, work: Worker, model: TextGenerator) -> None:
    @app.post("/api/caption")
    async def caption(image: Image) -> dict[str, str]:
        """A caption of an image."""

        def generate() -> str:
            return model.caption([_pixels(image)], num_beams=CAPTION_BEAMS)[0]

        return {"caption": await work(generate)}


def _add_chat(app: FastAPI, work: Worker, model: TextGenerator) -> None:
    @app.post("/api/chat")
    async def chat(
        image: Image,
        question: Text,
        history: Annotated[
            str, Form(description='Earlier pairs as JSON: [["question", "answer"], …].')
        ] = "[]",
    ) -> StreamingResponse:
        """The next answer of a conversation about an image, streamed token by token.

        Lines of JSON: `{"text": …}` with the text so far, and at the end `{"answer": …,
        "history_turns_used": …}` with the number of turns of the history (two per pair) that fit
        into the context, or `{"error": …}`.
        """
        template = model.chat_template
        query = _checked("question", question, template.ids, _prompt_length(template))
        try:
            pairs = HISTORY.validate_json(history)
        except ValidationError:
            raise HTTPException(
                422, 'history: expected JSON such as [["is it red?", "yes"]]'
            ) from None
        recent = await work(_recent, pairs[-MAX_HISTORY:], query, template)
        pixels = await work(_pixels, image)
        return StreamingResponse(
            stream_answer(work, model, pixels, recent, query), media_type="application/x-ndjson"
        )


def _add_draw(
    app: FastAPI, work: Worker, model: ImageGenerator, reranker: JointEmbedding | None
) -> None:
    @app.post("/api/draw")
    async def draw(
        text: Text,
        guidance: Annotated[
            float, Form(ge=0, le=20, description="Classifier-free guidance scale.")
        ] = GUIDANCE,
        temperature: Annotated[
            float, Form(ge=0, le=5, description="Softmax temperature; 0 = greedy.")
        ] = TEMPERATURE,
        top_k: Annotated[
            int | None, Form(ge=1, description="Most likely codes to sample from.")
        ] = None,
        seed: Annotated[
            int | None, Form(ge=0, lt=2**63, description="Makes the images reproducible.")
        ] = None,
        count: Annotated[int, Form(ge=1, le=9, description="Number of images.")] = 1,
        candidates: Annotated[
            int, Form(ge=1, le=16, description="Candidates per image; the reranker keeps the best.")
        ] = 1,
    ) -> dict[str, Any]:
        """Images generated from a text, as PNG data URLs."""
        if candidates > 1 and reranker is None:
            raise HTTPException(
                422,
                "candidates: there is no reranker; start the server with "
                "`amodal serve … --reranker RUN`",
            )
        template = model.chat_template
        limit = template.max_length - 3  # for two role tokens and an end token
        caption = _checked("text", text, template.ids, limit)

        def generate() -> list[str]:
            images = generate_best(
                model,
                [caption] * count,
                candidates=candidates,
                reranker=reranker,
                guidance=guidance,
                temperature=temperature,
                top_k=top_k,
                seed=seed,
            )
            return [png_url(pixels) for pixels in images]

        return {"images": await work(generate), "out_of_vocabulary": template.unknown(caption)}


def _pixels(image: UploadFile) -> np.ndarray:
    data = image.file.read(MAX_IMAGE + 1)
    if len(data) > MAX_IMAGE:
        raise HTTPException(413, f"image: larger than {MAX_IMAGE >> 20} MiB")
    return decode_image(data, "the image")


def _checked(name: str, text: str, ids: Callable[[str], list[int]], limit: int) -> str:
    """The stripped text; refused where it is empty or has more than `limit` tokens."""
    stripped = text.strip()
    if not stripped:
        raise HTTPException(422, f"{name}: is empty")
    length = len(ids(stripped))
    if length > limit:
        raise HTTPException(
            422, f"{name}: has {length} tokens, this model reads at most {limit}; shorten it"
        )
    return stripped


def _prompt_length(template: Tokenization) -> int:
    """Longest prompt; a quarter of the context is for the answer, three tokens are for roles."""
    return template.max_length - max(1, template.max_length // 4) - 3


def _recent(
    history: Sequence[tuple[str, str]], question: str, template: Tokenization
) -> list[tuple[str, str]]:
    """The last pairs that fit into the context as a whole, before a question."""
    room = _prompt_length(template) - len(template.ids(question))
    recent: list[tuple[str, str]] = []
    for pair in reversed(history):
        room -= sum(len(template.ids(text)) + 2 for text in pair)  # a role and an end token each
        if room < 0:
            break
        recent.insert(0, pair)
    return recent


def _attention(
    model: TextGenerator, pixels: np.ndarray, question: str, answer: str
) -> dict[str, Any] | None:
    """Attention map on the image region that the model reads; None without a square grid."""
    weights = model.attention_map(pixels, question, answer).tolist()
    side = math.isqrt(len(weights))
    if side * side != len(weights):
        return None
    (prepare,) = (p for p in model.preprocessors.values() if hasattr(p, "resize_mode"))
    region = "center_crop" if prepare.resize_mode == "crop" else "whole"
    return {"side": side, "weights": weights, "region": region}


def _hit_fields(rank: int, hit: Hit) -> dict[str, Any]:
    fields = hit.as_dict()
    fields["metadata"] = {
        name: value
        for name, value in hit.metadata.items()
        if not isinstance(value, float) or math.isfinite(value)  # JSON has no NaN
    }
    thumbnail = None if hit.thumbnail is None else data_url(hit.thumbnail, "image/jpeg")
    return {"rank": rank, **fields, "thumbnail": thumbnail}


def _explain_errors(app: FastAPI, served: ServedModels) -> None:
    """Every error response is `{"detail": …}` with one sentence."""

    def error(status: int, detail: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"detail": detail}, status, headers)

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, failure: AnyHTTPException) -> JSONResponse:
        path = request.url.path
        if failure.status_code == 404:
            capabilities = ", ".join(served.capabilities)
            return error(404, f"there is no {path} here; {served.name} offers: {capabilities}")
        if failure.status_code == 405:
            return error(405, f"{path} does not take {request.method}; see /openapi.json")
        return error(failure.status_code, str(failure.detail), failure.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, failure: RequestValidationError) -> JSONResponse:
        problems = (
            f"{e['loc'][-1]}: {e['msg'][:1].lower()}{e['msg'][1:]}" for e in failure.errors()
        )
        return error(422, "; ".join(problems))

    @app.exception_handler(BrokenRecordError)
    async def broken(request: Request, failure: BrokenRecordError) -> JSONResponse:
        return error(422, f"{failure.origin.removeprefix('the ')}: {failure.reason}")

    @app.exception_handler(StoreError)
    async def unusable(request: Request, failure: StoreError) -> JSONResponse:
        return error(422, str(failure))

    @app.exception_handler(Exception)
    async def failed(request: Request, failure: Exception) -> JSONResponse:
        return error(500, f"the model failed ({type(failure).__name__}); see the server's log")

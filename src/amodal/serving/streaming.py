"""Streaming of generated text, and stopping of a generation whose client has disconnected."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from torch import LongTensor, Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from amodal.serving.served import TextGenerator
from amodal.serving.work import Worker


class PartialTextStreamer(BaseStreamer):
    """Calls back with the whole text so far at every token; later tokens can change its spelling.

    Args:
        text: ids → text, such as `ChatTemplate.text`.
        callback: called with the text, in the thread of the model.

    Examples:
        >>> import torch
        >>> streamer = PartialTextStreamer(lambda ids: " ".join(map(str, ids)), print)
        >>> streamer.put(torch.tensor([[7, 8]]))  # the prompt
        >>> streamer.put(torch.tensor([1]))
        1
        >>> streamer.put(torch.tensor([2]))
        1 2
    """

    def __init__(self, text: Callable[[list[int]], str], callback: Callable[[str], Any]) -> None:
        self.text, self.callback = text, callback
        self.ids: list[int] | None = None  # None until the prompt was received

    def put(self, value: Tensor) -> None:
        if self.ids is None:  # `generate` puts the prompt first
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        self.callback(self.text(self.ids))

    def end(self) -> None:
        """Nothing: `generate` returns the whole text."""


class StopOnDisconnect(StoppingCriteria):
    """Stops the generation for a client that has disconnected.

    Examples:
        >>> import torch
        >>> criterion = StopOnDisconnect()
        >>> criterion.disconnected.set()
        >>> criterion(torch.tensor([[1]]), None).tolist()
        [True]
    """

    def __init__(self) -> None:
        self.disconnected = threading.Event()

    def __call__(self, input_ids: LongTensor, scores: Any, **kwargs: Any) -> Any:
        stopped = input_ids.new_zeros(len(input_ids)).bool()  # type: ignore[operator]
        return stopped.fill_(self.disconnected.is_set())


async def stream_answer(
    work: Worker,
    model: TextGenerator,
    pixels: np.ndarray,
    history: list[tuple[str, str]],
    question: str,
) -> AsyncIterator[str]:
    """Lines of `/api/chat` during generation; closing the iterator stops the model."""
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    stop = StopOnDisconnect()

    def send(event: dict[str, Any]) -> None:
        if not stop.disconnected.is_set():
            loop.call_soon_threadsafe(events.put_nowait, event)

    def generate() -> None:
        if stop.disconnected.is_set():
            return
        template = model.chat_template
        try:
            answer = model.chat(
                pixels,
                history,
                question,
                streamer=PartialTextStreamer(template.text, lambda text: send({"text": text})),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
        except Exception as failure:  # the status was sent: the last line reports the error
            send({"error": str(failure) or type(failure).__name__})
            raise
        send({"answer": answer, "history_turns_used": 2 * len(history)})

    generation = asyncio.ensure_future(work(generate))
    generation.add_done_callback(_log_failure)
    try:
        event: dict[str, Any] = {}
        while not event.keys() & {"answer", "error"}:
            event = await events.get()
            yield json.dumps(event, ensure_ascii=False) + "\n"
    finally:
        stop.disconnected.set()


def _log_failure(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        task.get_loop().call_exception_handler(
            {"message": "a conversation failed", "exception": task.exception(), "future": task}
        )

"""What a model says, word by word, handed from its thread to the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import LongTensor, Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


class TextSoFar(BaseStreamer):
    """Tells the whole text so far at every token, since later tokens can change how it is written.

    Args:
        text: from ids to what a person reads, such as `TurnsPreprocessor.text`.
        tell: called with the text, in the thread of the model.
    """

    def __init__(self, text: Callable[[list[int]], str], tell: Callable[[str], Any]) -> None:
        self.text, self.tell = text, tell
        self.ids: list[int] | None = None  # None until the prompt has come

    def put(self, value: Tensor) -> None:
        if self.ids is None:  # `generate` hands over the prompt first
            self.ids = []
            return
        self.ids += value.flatten().tolist()
        self.tell(self.text(self.ids))

    def end(self) -> None:
        """The answer itself is what `generate` returns."""


class Gone(StoppingCriteria):
    """Stops a model whose listener has left, so that others need not wait for it."""

    def __init__(self) -> None:
        self.left = threading.Event()

    def __call__(self, input_ids: LongTensor, scores: Any, **kwargs: Any) -> Any:
        stopped = input_ids.new_zeros(len(input_ids)).bool()  # type: ignore[operator]
        return stopped.fill_(self.left.is_set())

"""Streaming of generated text, and stopping of a generation whose client has disconnected."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from torch import LongTensor, Tensor
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer


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

"""Streaming of partial text, and stopping after a disconnect."""

import torch
from small_models import captioner, photo
from transformers import StoppingCriteriaList

from amodal.serving.streaming import PartialTextStreamer, StopOnDisconnect


def test_every_token_but_the_prompt_is_streamed():
    texts = []
    streamer = PartialTextStreamer(lambda ids: " ".join(map(str, ids)), texts.append)
    streamer.put(torch.tensor([[9, 9, 9]]))
    streamer.put(torch.tensor([1]))
    streamer.put(torch.tensor([2]))
    streamer.end()
    assert texts == ["1", "1 2"]


def test_a_disconnect_stops_the_model():
    model, stop, texts = captioner(), StopOnDisconnect(), []

    def receive(text):
        texts.append(text)
        if len(texts) == 3:
            stop.disconnected.set()

    model.chat(
        photo(),
        [],
        "what colour ?",
        streamer=PartialTextStreamer(model.chat_template.text, receive),
        stopping_criteria=StoppingCriteriaList([stop]),
    )
    assert len(texts) <= 4  # one token may be in flight

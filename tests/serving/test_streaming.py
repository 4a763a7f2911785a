"""Words come as they are said, and a model stops when nobody listens."""

import torch
from small_models import photo, speaker
from transformers import StoppingCriteriaList

from amodal.serving.streaming import Gone, TextSoFar


def test_the_prompt_is_not_told_and_every_token_is():
    told = []
    streamer = TextSoFar(lambda ids: " ".join(map(str, ids)), told.append)
    streamer.put(torch.tensor([[9, 9, 9]]))
    streamer.put(torch.tensor([1]))
    streamer.put(torch.tensor([2]))
    streamer.end()
    assert told == ["1", "1 2"]


def test_who_leaves_stops_the_model():
    model, gone, told = speaker(), Gone(), []

    def tell(text):
        told.append(text)
        if len(told) == 3:
            gone.left.set()

    model.chat(
        photo(),
        [],
        "what colour ?",
        streamer=TextSoFar(model.chat_template.text, tell),
        stopping_criteria=StoppingCriteriaList([gone]),
    )
    assert len(told) <= 4  # one token may be on its way

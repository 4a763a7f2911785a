"""The share of unknown tokens is counted in training and evaluation, and a large one is noted."""

import pytest

from amodal.data.collate import Collator
from amodal.data.conversation import Turn
from amodal.data.record import BrokenRecordError
from amodal.encoders.text.chat_template import ChatTemplate
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import TrainedTokenizerConfig, train_tokenizer
from amodal.evaluators.vocabulary import (
    truncated_text_shares,
    unknown_token_notes,
    unknown_token_shares,
)
from amodal.modalities.conversation import ConversationInput
from amodal.modalities.text import TextInput


class Rows:
    name, inputs = "rows", frozenset({"text"})

    def __init__(self, *records):
        self.records, self.read = records, []

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.read.append(index)
        if isinstance(self.records[index], Exception):
            raise self.records[index]
        return {"id": str(index), "origin": f"row {index}", **self.records[index]}


def words(*texts):
    return TextPreprocessor(train_tokenizer(texts, 60, model="word"), 16)


def test_the_share_is_that_of_all_captions_of_all_items():
    collator = Collator([TextInput("text", words("a red circle"))])
    source = Rows(
        {"text": ["a red circle", "a star"]},
        BrokenRecordError("row 1", "unreadable"),
        {},
        {"text": "red blue"},
    )
    assert unknown_token_shares(collator, source) == {"text": pytest.approx(2 / 7)}


def test_the_share_of_truncated_texts_counts_every_caption():
    prepare = TextPreprocessor(train_tokenizer(["a b"], 60, model="word"), 5)  # three words fit
    source = Rows({"text": ["a b a", "a b a b"]}, {}, {"text": "a a a a a"})
    collator = Collator([TextInput("text", prepare)])
    assert truncated_text_shares(collator, source) == {"text": pytest.approx(2 / 3)}


def test_a_padded_or_truncated_text_counts_whole_and_special_tokens_do_not():
    prepare = TextPreprocessor(train_tokenizer(["a b"], 60, model="word"), 4, padding="max_length")
    assert prepare.count_unknown(["a b c d e f", "a"]) == (4, 7)
    assert prepare.count_unknown([]) == (0, 0)


def test_a_long_source_is_sampled_evenly():
    source = Rows(*[{"text": "a"}] * 95)
    shares = unknown_token_shares(Collator([TextInput("text", words("a"))]), source, items=10)
    assert (shares, source.read) == ({"text": 0.0}, list(range(0, 95, 10)))


def test_turns_of_conversations_are_counted():
    template = ChatTemplate.fit(TrainedTokenizerConfig(model="word"), ["is it red", "yes"], 16)
    assert template([[[Turn("question", "is it", False)]]])["input_ids"].shape == (1, 3)
    one = ConversationInput("conversation", template, {"vqa": None})
    source = Rows({"question": ["is it blue"], "answer": ["yes"]})
    assert unknown_token_shares(Collator([one]), source) == {"conversation": 0.25}


def test_a_large_share_is_noted_and_a_small_one_is_not():
    (note,) = unknown_token_notes({"text": 0.31, "title": 0.01}, "the validation data")
    assert "31 % of the text tokens of the validation data are out of vocabulary" in note
    assert "model: bpe" in note

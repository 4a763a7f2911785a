"""The multimodal Transformer: caches, padding, packing, beam search, overfitting, likelihoods."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from tiny_transformers import FUSIONS, RECORDS, batch_of, made
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

import amodal
from amodal.data.conversation import Turn, conversations
from amodal.data.record import BrokenRecordError
from amodal.losses.language_modeling import language_modeling_loss
from amodal.models.multimodal_transformer.layers import Memory


def memory_of(model, records=RECORDS, prompts=None):
    return model.fuse(model.encode_inputs(batch_of(model, records)), prompts)


def answers_of(model, records=RECORDS):
    encoded = model.encode_inputs(batch_of(model, records, vqa=None))
    prompts = [turns for r in records for turns in conversations(r, "vqa")]
    rows = torch.arange(len(records)).repeat_interleave(2)
    encoded = Memory(encoded.tokens[rows], encoded.keep[rows])
    return model.generate_text(model.chat_template.prompts(prompts), encoded, do_sample=False)


@pytest.mark.parametrize("unimodal_layers", [0, 1])
def test_cached_decoding_equals_full_decoding(unimodal_layers):
    model = made(unimodal_layers=unimodal_layers)
    memory = memory_of(model, RECORDS[:3])
    ids = torch.randint(0, model.chat_template.vocabulary, (3, 12))
    segment = torch.ones_like(ids)
    segment[1, :4] = 0  # padding on the left, as prompts have it
    whole = model.scores(model.decode(ids, segment, memory))
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    parts = [model.decode(ids[:, :5], segment[:, :5], memory, cache)]
    parts += [
        model.decode(ids[:, at : at + 1], segment[:, : at + 1], memory, cache)
        for at in range(5, 12)
    ]
    stepwise = model.scores(torch.cat(parts, 1))
    there = segment.bool()
    torch.testing.assert_close(stepwise[there], whole[there], rtol=0, atol=1e-5)


@pytest.mark.parametrize("unimodal_layers", [0, 1])
def test_packed_conversations_equal_single_ones(unimodal_layers):
    model = made(unimodal_layers=unimodal_layers)
    whole = model(batch_of(model, RECORDS[:4], vqa=None, caption=None))
    for i, record in enumerate(RECORDS[:4]):
        alone = [t for task in ("vqa", "caption") for t in conversations(record, task)]
        for number, turns in enumerate(alone, start=1):
            tensors = model.chat_template([[turns]])
            memory = memory_of(model, [record])
            hidden = model.decode(tensors["input_ids"], tensors["segment"], memory)
            want = model.scores(hidden[tensors["labels"] >= 0])
            rows = (whole.item == i) & (whole.conversation == number)
            assert torch.equal(whole.labels[rows], tensors["labels"][tensors["labels"] >= 0])
            torch.testing.assert_close(whole.logits[rows], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", ["concat", "co_attention"])
def test_where_the_encoder_reads_the_prompt_each_answer_is_a_row(fusion):
    model = made(fusion=fusion)
    whole = model(batch_of(model, RECORDS[:3], vqa=None, dialogue=None))
    for i, record in enumerate(RECORDS[:3]):
        alone = [t for task in ("vqa", "dialogue") for t in conversations(record, task)]
        for number, turns in enumerate(alone, start=1):
            rows = (whole.item == i) & (whole.conversation == number)
            got = whole.logits[rows]
            start = 0
            for last, turn in enumerate(turns):
                if not turn.target:
                    continue
                context = tuple(one._replace(target=False) for one in turns[:last])
                tensors = model.chat_template([[(*context, turn)]])
                prompts = model.chat_template.prompts([(*context, turn)])
                memory = memory_of(model, [record], prompts)
                hidden = model.decode(tensors["input_ids"], tensors["segment"], memory)
                want = model.scores(hidden[tensors["labels"] >= 0])
                part = got[start : start + len(want)]
                torch.testing.assert_close(part, want, rtol=0, atol=1e-5)
                start += len(want)
            assert start == len(got)


@pytest.mark.parametrize("unimodal_layers", [0, 1])
def test_padding_on_either_side_changes_nothing(unimodal_layers):
    model = made(unimodal_layers=unimodal_layers)
    memory = memory_of(model, RECORDS[:1])
    ids = torch.randint(0, model.chat_template.vocabulary, (1, 6))
    plain = model.decode(ids, torch.ones_like(ids), memory)
    pad = torch.full((1, 3), model.chat_template.pad_id)
    for padded, mask, part in (
        (torch.cat([pad, ids], 1), [0] * 3 + [1] * 6, slice(3, None)),
        (torch.cat([ids, pad], 1), [1] * 6 + [0] * 3, slice(0, 6)),
    ):
        got = model.decode(padded, torch.tensor([mask]), memory)[:, part]
        torch.testing.assert_close(got, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_answers_do_not_depend_on_the_other_rows(fusion):
    model = made(fusion=fusion)
    answers = answers_of(model, RECORDS[:6])
    assert answers == [a for r in RECORDS[:6] for a in answers_of(model, [r])]


def test_an_item_without_an_image_has_an_empty_memory():
    model = made()
    records = [RECORDS[0], {**RECORDS[1], "image": None}]
    output = model(batch_of(model, records))
    assert output.logits.isfinite().all()
    shifted = [RECORDS[5], {**RECORDS[1], "image": None}]
    other = model(batch_of(model, shifted))
    assert torch.equal(other.logits[other.item == 1], output.logits[output.item == 1])
    without = model(batch_of(model, [{**r, "image": None} for r in RECORDS[:2]]))
    torch.testing.assert_close(
        without.logits[without.item == 1], output.logits[output.item == 1], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("unimodal_layers", [0, 1])
def test_beam_search_equals_exhaustive_search(unimodal_layers):
    records = [{**RECORDS[0], "question": ["a ?"], "answer": ["b"], "text": ["a b"], "dialog": []}]
    model = made(records, max_length=12, unimodal_layers=unimodal_layers)
    model.embedding.weight.data.normal_(std=0.8)  # so that no two sequences tie
    template = model.chat_template
    prompts = template.prompts([conversations(records[0], "vqa")[0]])
    memory = memory_of(model, records)
    vocabulary, steps = template.vocabulary, 3

    def log_p(ids):
        whole = torch.cat([prompts["input_ids"], torch.tensor([ids], dtype=torch.int64)], 1)
        hidden = model.decode(whole, torch.ones_like(whole), memory)
        return model.scores(hidden)[0, -1].log_softmax(0).tolist()

    best, found = -math.inf, None
    next_log_p = {(): log_p([])}
    for length in range(1, steps + 1):
        for ids in itertools.product(range(vocabulary), repeat=length):
            if template.end_id in ids[:-1]:
                continue
            if ids[-1] != template.end_id and length < steps:
                next_log_p[ids] = log_p(list(ids))
                continue
            score = sum(next_log_p[ids[:i]][ids[i]] for i in range(length))
            if score > best:
                best, found = score, ids
    output = model.generate(
        input_ids=prompts["input_ids"],
        attention_mask=prompts["attention_mask"],
        memory_tokens=memory.tokens,
        memory_keep=memory.keep,
        cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        num_beams=vocabulary**2,
        max_new_tokens=steps,
        length_penalty=0.0,
        do_sample=False,
        eos_token_id=template.end_id,
        pad_token_id=template.pad_id,
    )[0, prompts["input_ids"].shape[1] :].tolist()
    assert output[: len(found)] == list(found)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_gets_a_gradient_and_is_saved(tmp_path, fusion):
    model = made(fusion=fusion).train()
    output = model(batch_of(model, vqa=None, dialogue=None))
    language_modeling_loss(output.logits, output.labels, output.item).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    model.eval().save_pretrained(tmp_path / "run")
    again = amodal.load(tmp_path / "run", device="cpu")
    assert answers_of(again, RECORDS[:4]) == answers_of(model, RECORDS[:4])
    batch = batch_of(model)
    assert torch.equal(again(batch).logits, model(batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_it_overfits_32_items(fusion):
    model = made(fusion=fusion).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batch_of(model, vqa=None, caption=None, dialogue=None)
    for _ in range(250):
        output = model(batch)
        loss = language_modeling_loss(output.logits, output.labels, output.item)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.01:
            break
    model.eval()
    assert answers_of(model) == [a for r in RECORDS for a in r["answer"]]
    images = [r["image"] for r in RECORDS]
    assert model.caption(images) == [r["text"][0] for r in RECORDS]
    for r in RECORDS[:8]:
        first, second = ((one["question"], one["answer"]) for one in r["dialog"])
        assert model.chat(r["image"], [first], second[0]) == second[1]
        assert model.ask(r["image"], r["question"]) == r["answer"]


def test_sampling_beam_search_and_streaming_are_options():
    from transformers import TextStreamer

    model = made()
    output = model.caption([RECORDS[0]["image"]], num_beams=3, max_new_tokens=5)
    assert isinstance(output[0], str)
    several = model.caption([RECORDS[0]["image"]], do_sample=True, num_return_sequences=3)
    assert len(several) == 3
    streamed = []

    class Streamer(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            streamed.append(text)

    model.caption([RECORDS[0]["image"]], streamer=Streamer(model.chat_template.tokenizer))
    assert streamed


@pytest.mark.parametrize(
    ("fusion", "unimodal_layers"), [*((fusion, 0) for fusion in FUSIONS), ("projection", 1)]
)
def test_an_attention_map_sums_to_one_over_the_image(fusion, unimodal_layers):
    model = made(fusion=fusion, unimodal_layers=unimodal_layers)
    weights = model.attention_map(RECORDS[0]["image"], "what is red ?", "blue")
    assert weights.shape == (16,)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_a_broken_image_is_named():
    with pytest.raises(BrokenRecordError, match=r"nowhere\.png"):
        made().caption(["nowhere.png"])
    with pytest.raises(ValueError, match="list of images"):
        made().caption("a.png")


def test_a_text_longer_than_max_length_is_refused():
    model = made(max_length=8)
    ids = torch.zeros(1, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match="max_length is 8"):
        model.decode(ids, torch.ones_like(ids), None)


def test_the_oldest_turns_are_truncated_first():
    template = made(max_length=8).chat_template
    long = tuple(Turn("question" if i % 2 == 0 else "answer", "red blue", False) for i in range(6))
    row = template.prompts([(*long, Turn("question", "star", False), Turn("answer", "", True))])
    ids = row["input_ids"][0].tolist()
    assert len(ids) == 8
    assert ids[-1] == template.role_ids["answer"]
    assert template.count_truncated([long]) == 1


def test_the_loss_averages_over_tokens_or_conversations():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, generator=g, dtype=torch.float64)
    labels = torch.tensor([1, 2, 3, 4, 6])
    conversation = torch.tensor([0, 0, 0, 1, 1])
    each = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        top = max(row)
        each.append(top + math.log(sum(math.exp(x - top) for x in row)) - row[label])
    got = language_modeling_loss(logits, labels, conversation)
    assert float(got) == pytest.approx(sum(each) / 5, rel=1e-9)
    per = language_modeling_loss(logits, labels, conversation, average_over="conversation")
    assert float(per) == pytest.approx((sum(each[:3]) / 3 + sum(each[3:]) / 2) / 2, rel=1e-9)
    empty = language_modeling_loss(logits[:0].requires_grad_(), labels[:0], conversation[:0])
    assert float(empty.detach()) == 0


def test_generated_text_is_detokenized():
    records = [{**RECORDS[0], "text": ["a medium-sized star, it's (red)!"]}]
    template = made(records).chat_template
    ids = template.ids("a medium-sized star, it's (red)!")
    assert template.text([*ids, template.end_id, *ids]) == "a medium-sized star, it's (red)!"


ANSWERS = [["red", "a red star and blue"], ["yes", "", "no no"], ["is it there ?"]]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("max_cached", [1, 256])
def test_log_likelihoods_equal_those_of_full_sequences(fusion, max_cached, monkeypatch):
    """The model decodes a prompt once; here each candidate is decoded in full."""
    module = "amodal.models.multimodal_transformer.model"
    monkeypatch.setattr(f"{module}.MAX_CACHED_CANDIDATES", max_cached)
    model = made(fusion=fusion, max_length=48)
    questions = [conversations(RECORDS[0], "vqa")[0], conversations(RECORDS[1], "dialogue")[0]]
    questions.append(conversations(RECORDS[2], "vqa")[1])
    encoded = model.encode_inputs(batch_of(model, RECORDS[:3], vqa=None))
    got = model.log_likelihoods(model.chat_template.prompts(questions), encoded, ANSWERS)
    for i, texts in enumerate(ANSWERS):
        for text, value in zip(texts, got[i].tolist(), strict=True):
            before = tuple(turn._replace(target=False) for turn in questions[i][:-1])
            turns = (*before, Turn("answer", text, True))
            batch = batch_of(model, [RECORDS[i]], vqa=None)
            tensors = {**batch.tensors, "conversation": model.chat_template([[turns]])}
            output = model(replace(batch, tensors=tensors))
            log_p = output.logits.double().log_softmax(1)
            want = log_p[torch.arange(len(output.labels)), output.labels].mean()
            assert value == pytest.approx(float(want.detach()), abs=1e-5)


def test_prompts_are_truncated_on_the_left_to_leave_room_for_the_answers():
    model = made(max_length=16)
    # Longer than max_length together with an answer.
    questions = [conversations(RECORDS[1], "dialogue")[0]]
    encoded = model.encode_inputs(batch_of(model, RECORDS[1:2], vqa=None))
    prompts = model.chat_template.prompts(questions)
    (whole,) = model.log_likelihoods(prompts, encoded, [["red red red", "yes"]])
    room = 16 - 4 + 1
    assert prompts["input_ids"].shape[1] > room
    truncated = {name: tensor[:, -room:] for name, tensor in prompts.items()}
    (short,) = model.log_likelihoods(truncated, encoded, [["red red red", "yes"]])
    assert torch.equal(whole, short)
    assert bool(whole.isfinite().all())

"""Answer head: vocabulary, soft targets, independence of the batch, overfitting, reloading."""

import pytest
import torch
from tiny_transformers import RECORDS, made

import amodal
from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.conversation import conversations
from amodal.data.record import sample_rng
from amodal.losses.answer_classification import answer_classification_loss
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.answer_head import ClassifiedAnswers

ANSWERS = ClassifiedAnswers().build_vocabulary(a for r in RECORDS for a in r["answer"])


def batch_of(model, records=RECORDS, **tasks):
    collate = collator_of(model, tasks=tasks or {"vqa": None}, answers=AnswerVocabulary(ANSWERS))
    return collate(records, [sample_rng(0, 0, i) for i in range(len(records))])


def test_the_vocabulary_holds_the_most_frequent_answers():
    config = ClassifiedAnswers(max_answers=2, min_count=2)
    assert config.build_vocabulary(["b", "a", "c", "c", "c", "a", "b", "d"]) == ("c", "a")
    with pytest.raises(ValueError, match="no answer occurs 2 times"):
        config.build_vocabulary(["a", "b"])


def test_soft_targets_are_a_third_per_annotator():
    table = AnswerVocabulary(["a", "b"])([[("a", ["a"] * 9 + ["b"]), None, ("z", [])], []])
    want = [[0, 1, 1 / 3], [-2, 0, 0], [-1, 0, 0]]
    torch.testing.assert_close(table[0], torch.tensor(want))


@pytest.mark.parametrize("fusion", ["projection", "concat", "co_attention"])
def test_answers_in_a_batch_equal_answers_on_their_own(fusion):
    model = made(fusion=fusion, answers=ANSWERS)
    whole = model(batch_of(model, RECORDS[:4], vqa=None, caption=None)).classified
    for logits, item, conversation in zip(
        whole.logits, whole.item, whole.conversation, strict=True
    ):
        record = RECORDS[item]
        encoded = model.encode_inputs(batch_of(model, [record]))
        prompt = model.chat_template.prompts([conversations(record, "vqa")[conversation - 1]])
        torch.testing.assert_close(
            model.answer_scores(prompt, encoded)[0], logits, rtol=0, atol=1e-5
        )


def test_64_answers_are_overfitted_and_survive_a_reload(tmp_path):
    model = made(answers=ANSWERS)
    batch = batch_of(model)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=4e-3, weight_decay=0)
    for step in range(250):
        predictions = model.train()(batch).classified
        optimizer.zero_grad()
        answer_classification_loss(predictions.logits, predictions.targets).backward()
        optimizer.step()
        if step % 10 == 9:
            predictions = model.eval()(batch).classified
            if bool((predictions.logits.argmax(1) == predictions.labels).all()):
                break
    model.eval().save_pretrained(tmp_path)
    again = amodal.load(tmp_path, device="cpu")
    assert again.answer_head.answers == ANSWERS
    assert torch.equal(again(batch).classified.logits, model(batch).classified.logits)
    for record in RECORDS[:4]:
        assert again.ask(record["image"], record["question"]) == record["answer"]

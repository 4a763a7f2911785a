"""Contrastive heads: caption ends, content keys, unimodal captions, missing values, gradients."""

import pytest
import torch
from tiny_transformers import RECORDS, batch_of, made

import amodal
from amodal.losses.info_nce import info_nce_loss
from amodal.losses.language_modeling import language_modeling_loss
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.contrastive_heads import caption_ends, conversation_keys

IMAGES = [r["image"] for r in RECORDS[:6]]
TEXTS = [r["text"][0] for r in RECORDS[:6]]


def test_only_complete_captions_have_an_end():
    ids = torch.tensor([[7, 1, 9, 7, 2, 9, 5, 3, 9, 0], [4, 9, 7, 1, 1, 9, 7, 3, 3, 3]])
    segment = torch.tensor([[1, 1, 1, 2, 2, 2, 3, 3, 3, 0], [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]])
    found = caption_ends(ids, segment, caption=7, end=9)
    assert found.nonzero().tolist() == [[0, 2], [0, 5], [1, 5]]


def test_a_key_depends_on_the_ids_of_a_conversation_alone():
    torch.manual_seed(0)
    texts = [torch.randint(1, 300, (n,)).tolist() for n in (5, 7, 5, 1)]
    texts += [[*texts[0][:4], 299 - texts[0][4] % 7], texts[1][::-1]]
    rows = [[0, 1, 2], [2, 0], [3, 3, 1], [4, 5]]
    ids, segment = torch.zeros(4, 20).long(), torch.zeros(4, 20).long()
    ends, kinds = [], []
    for i, row in enumerate(rows):
        at = 0
        for number, kind in enumerate(row, start=1):
            length = len(texts[kind])
            ids[i, at : at + length] = torch.tensor(texts[kind])
            segment[i, at : at + length] = number
            at += length
            ends.append((i, at - 1))
            kinds.append(kind)
    keys = conversation_keys(ids, segment)
    found = [int(keys[i, j]) for i, j in ends]
    for a, one in zip(kinds, found, strict=True):
        for b, other in zip(kinds, found, strict=True):
            assert (one == other) == (a == b)


def test_equal_captions_of_two_images_have_equal_keys():
    model = made(unimodal_layers=1)
    records = [RECORDS[0], {**RECORDS[1], "text": RECORDS[0]["text"]}, RECORDS[2]]
    text = model(batch_of(model, records, vqa=None, caption=1)).embedded["text"]
    assert text.content[0] == text.content[1]
    assert text.content[0] != text.content[2]


def test_forward_and_encode_agree_and_rows_have_unit_length():
    model = made(unimodal_layers=1)
    found = model(batch_of(model, RECORDS[:6], vqa=None, caption=None)).embedded
    for name, values in (("image", IMAGES), ("text", TEXTS)):
        alone = torch.cat([model.encode(**{name: [v]}, output="torch") for v in values])
        torch.testing.assert_close(alone, model.encode(**{name: values}, output="torch"))
        torch.testing.assert_close(found[name].z, alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.norm(dim=1), torch.ones(6))
    assert torch.equal(found["image"].item, found["text"].item)


def test_the_embedding_of_a_caption_does_not_depend_on_the_image():
    model = made(unimodal_layers=1)
    other = [{**r, "image": RECORDS[9]["image"]} for r in RECORDS[:4]]
    a, b = (model(batch_of(model, rows, caption=None)) for rows in (RECORDS[:4], other))
    assert torch.equal(a.embedded["text"].z, b.embedded["text"].z)
    assert not torch.allclose(a.logits, b.logits)


def test_a_missing_image_and_a_missing_caption_are_left_out():
    model = made(unimodal_layers=1)
    records = [{**RECORDS[0], "image": None}, {**RECORDS[1], "text": []}, RECORDS[2]]
    batch = batch_of(model, records, vqa=None, caption=None)
    found = model(batch).embedded
    assert torch.equal(found["image"].item, batch.item[1:])
    assert torch.equal(found["text"].item, batch.item[[0, 2]])


def test_every_parameter_gets_a_gradient_and_is_saved(tmp_path):
    model = made(unimodal_layers=1).train()
    output = model(batch_of(model, vqa=None, caption=None))
    z = {name: rows.z for name, rows in output.embedded.items()}
    loss = language_modeling_loss(output.logits, output.labels, output.item)
    (loss + info_nce_loss(z["image"], z["text"], torch.tensor(2.0))).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    model.eval().save_pretrained(tmp_path / "run")
    again = amodal.load(tmp_path / "run", device="cpu")
    assert (again.encode(text=TEXTS) == model.encode(text=TEXTS)).all()
    assert (again.encode(image=IMAGES) == model.encode(image=IMAGES)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unimodal_layers": 2}, "leave none that cross-attends"),
        ({"unimodal_layers": 1, "fusion": "concat"}, "needs fusion: projection"),
    ],
)
def test_incompatible_layers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)
    with pytest.raises(ValueError, match="needs an image encoder"):
        TransformerArchitecture(unimodal_layers=1)


def test_a_model_without_contrastive_heads_names_the_recipe_keys():
    with pytest.raises(ValueError, match=r"unimodal_layers: 1"):
        made().encode(text=TEXTS)
    with pytest.raises(ValueError, match="exactly one"):
        made(unimodal_layers=1).encode(text=TEXTS, image=IMAGES)

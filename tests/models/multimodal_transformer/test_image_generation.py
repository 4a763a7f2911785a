"""Drawing: codes stand in their places, caches and neighbours change nothing, captions steer."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

import amodal
from amodal.data.record import sample_rng
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.text.chat_template import IGNORED
from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
from amodal.losses.language_modeling import language_modeling_loss
from amodal.modalities.conversation import ConversationInput
from amodal.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import build_multimodal_transformer
from amodal.models.multimodal_transformer.image_generation import (
    ImageContext,
    ImageSampler,
    Packed,
    best_matches,
)

SIZE, GRID, CODES = 16, 4, 12
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}


def image(left, right):
    found = np.zeros((SIZE, SIZE, 3), np.uint8)
    found[:, : SIZE // 2], found[:, SIZE // 2 :] = COLOURS[left], COLOURS[right]
    return found


RECORDS = [
    {
        "id": f"{a}{b}",
        "origin": f"{a} and {b}",
        "image": image(a, b),
        "text": [f"{a} left of {b}", f"an image in which {b} stands to the right of {a}"],
    }
    for a in COLOURS
    for b in COLOURS
]


def tokenizer():
    """Whose codes are the colours of its patches, as far as an untrained one can tell them."""
    torch.manual_seed(1)
    return ImageTokenizer(
        ImageTokenizerConfig(
            {"size": SIZE, "patch": 4, "widths": [8], "codes": CODES, "code_width": 4, "blocks": 0}
        )
    )


def made(images=None, **options):
    images = images or tokenizer()
    torch.manual_seed(0)
    architecture = TransformerArchitecture(
        **{
            "width": 32,
            "heads": 2,
            "encoder_layers": 0,
            "decoder_layers": 2,
            "max_length": 24,
            "caption_dropout": 0.0,
            "tokenizer": TrainedTokenizerConfig(model="word"),
            **options,
        },
    )
    texts = [text for record in RECORDS for text in record["text"]]
    return build_multimodal_transformer(architecture, texts, image_tokenizer=images).eval()


def batch_of(model, records=RECORDS, captions=None):
    tasks = {"text_to_image": captions}
    conversation = ConversationInput("conversation", model.chat_template, tasks)
    collate = collator_of(model, further=[conversation])
    return collate(records, [sample_rng(0, 0, i) for i in range(len(records))])


def loss_of(model, batch):
    said = model(batch)
    return language_modeling_loss(said.logits, said.labels, said.item * 64 + said.conversation)


def codes_of(model, batch):
    return model.image_tokens.tokenizer.encode(batch.tensors["image"]["pixel_values"])


def filled(model, batch):
    named = batch.tensors["conversation"]
    return model.image_tokens.filled(
        batch, Packed(named["input_ids"], named["segment"], named["labels"])
    )


def test_every_caption_is_followed_by_the_codes_of_its_image():
    model = made()
    batch = batch_of(model)
    codes, packed = codes_of(model, batch), filled(model, batch)
    first = model.image_tokens.first
    for i in range(len(RECORDS)):
        for conversation in (1, 2):
            ids = packed.ids[i][packed.segment[i] == conversation]
            labels = packed.labels[i][packed.segment[i] == conversation]
            assert ids[ids >= first].tolist() == (codes[i] + first).tolist()
            assert labels[labels != IGNORED].tolist() == (codes[i] + first).tolist()
            assert labels[ids == model.chat_template.role_ids["image"]] == codes[i, 0] + first


def test_a_image_that_is_absent_is_not_learned():
    model = made()
    records = [RECORDS[0], {**RECORDS[1], "image": None}]
    packed = filled(model, batch_of(model, records))
    assert bool((packed.labels[0] != IGNORED).any())
    assert bool((packed.labels[1] == IGNORED).all())


def test_hidden_captions_leave_the_images_and_the_other_exchanges_alone():
    model = made(caption_dropout=0.5).train()
    batch = batch_of(model)
    whole = batch.tensors["conversation"]["segment"]
    torch.manual_seed(0)
    packed = filled(model, batch)
    image = packed.ids >= model.image_tokens.first
    assert torch.equal(packed.segment[image], whole[image])
    hidden = (packed.segment == 0) & (whole > 0)
    assert bool(hidden.any())
    for i in range(len(RECORDS)):
        for conversation in (1, 2):
            caption = (whole[i] == conversation) & ~image[i]
            caption &= packed.ids[i] != model.chat_template.role_ids["image"]
            assert hidden[i][caption].all() or not hidden[i][caption].any()
    assert 0.3 < float(hidden.any(1).float().mean()) <= 1
    assert torch.equal(filled(model.eval(), batch).segment, whole)


def test_a_code_is_said_with_those_that_touch_it_from_above_in_view():
    model = made()
    packed = filled(model, batch_of(model, RECORDS[:3]))
    codes = codes_of(model, batch_of(model, RECORDS[:3])) + model.image_tokens.first
    places, above = model.image_tokens.context(packed.ids)
    for i in range(3):
        grid = codes[i].view(GRID, GRID)
        drawn = packed.ids[i] >= model.image_tokens.first
        assert bool((places[i][~drawn] == -1).all())
        assert bool((above[i][~drawn] == -1).all())
        assert places[i][drawn].tolist() == 2 * list(range(GRID**2))
        for found, place in zip(above[i][drawn].tolist(), places[i][drawn].tolist(), strict=True):
            row, column = divmod(place + 1, GRID)
            touching = [(row - 1, column), (row - 1, column - 1), (row - 1, column + 1)]
            assert found == [
                int(grid[r, c]) if 0 <= r < GRID - 1 and 0 <= c < GRID else -1 for r, c in touching
            ]


def test_packed_captions_do_not_read_each_other():
    model = made()
    both = model(batch_of(model, RECORDS[:4]))
    alone = model(batch_of(model, RECORDS[:4], captions=1))
    torch.testing.assert_close(both.logits[both.conversation == 1], alone.logits)


def test_cached_drawing_equals_full_decoding():
    model = made()
    packed = filled(model, batch_of(model, RECORDS[:3], captions=1))
    whole = model.decode(packed.ids, packed.segment, None)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    context = model.image_tokens.context(packed.ids)
    parts = [
        model.decode(
            packed.ids[:, at : at + 1],
            packed.segment[:, : at + 1],
            None,
            cache,
            image_context=ImageContext(*(part[:, at : at + 1] for part in context)),
        )
        for at in range(packed.ids.shape[1])
    ]
    there = packed.segment > 0
    torch.testing.assert_close(torch.cat(parts, 1)[there], whole[there], atol=1e-5, rtol=1e-5)


def test_every_parameter_but_the_tokenizers_learns():
    model = made().train()
    loss_of(model, batch_of(model)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("images.tokenizer."):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name
    assert not model.image_tokens.tokenizer.training


@pytest.fixture(scope="module")
def learned():
    """A model that knows 16 images by heart, with and without their captions."""
    model = made(width=48, caption_dropout=0.2).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    batch = batch_of(model)
    torch.manual_seed(0)
    for _ in range(350):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return model.eval()


def test_images_are_learned_by_heart_and_drawn(learned):
    batch = batch_of(learned)
    true = (
        learned.image_tokens.tokenizer.decode(codes_of(learned, batch)).permute(0, 2, 3, 1).numpy()
    )
    drawn = learned.draw([record["text"][0] for record in RECORDS], temperature=0, guidance=1)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, true, strict=True))
    drawn = learned.draw([record["text"][1] for record in RECORDS], temperature=0, guidance=1)
    assert all(np.array_equal(a, b) for a, b in zip(drawn, true, strict=True))


def test_without_guidance_by_the_caption_images_are_any_of_those_known(learned):
    drawn = learned.draw(["red left of blue"] * 24, guidance=0, seed=0)
    assert len({one.tobytes() for one in drawn}) > 4


def test_a_seed_draws_the_same_whatever_stands_beside_it(learned):
    text = "green left of red"
    (alone,) = learned.draw([text], seed=3, temperature=10)
    among = learned.draw(["white left of white", text, text], seed=3, temperature=10)
    assert np.array_equal(alone, among[1])
    assert not np.array_equal(among[1], among[2])
    assert not np.array_equal(alone, learned.draw([text], seed=4, temperature=10)[0])


def test_samples_follow_the_softmax_of_guided_scores(learned):
    """Against the frequencies that an explicit softmax expects; five standard deviations."""
    count = 4000
    first = learned.image_tokens.first
    prompt = learned.chat_template.prompts(
        [(("caption", "red left of blue", False), ("image", "", True))]
    )["input_ids"]
    told = learned(input_ids=prompt).logits[:, -1]
    start = torch.tensor([[learned.chat_template.role_ids["image"]]])
    free = learned(input_ids=start).logits[:, -1]
    guided = (free + 0.5 * (told - free))[:, first:] / 4.0
    expected = guided.softmax(1)[0].double()
    sampler = ImageSampler(
        learned,
        learned.image_tokens,
        guidance=0.5,
        temperature=4.0,
        top_k=None,
        generators=[torch.Generator().manual_seed(i) for i in range(count)],
    )
    with torch.inference_mode():
        chosen = sampler(start.expand(count, 1), told.expand(count, -1)).argmax(1) - first
    found = torch.bincount(chosen, minlength=CODES).double() / count
    assert bool(((found - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all())


def test_a_reopened_model_draws_the_same(learned, tmp_path):
    learned.save_pretrained(tmp_path)
    opened = amodal.load(tmp_path)
    texts = ["red left of green", "blue left of blue"]
    for a, b in zip(learned.draw(texts, seed=1), opened.draw(texts, seed=1), strict=True):
        assert np.array_equal(a, b)


def test_what_cannot_be_drawn_is_said(learned):
    with pytest.raises(ValueError, match="list of texts"):
        learned.draw("red left of blue")
    with pytest.raises(ValueError, match="temperature"):
        learned.draw(["red"], temperature=-1)
    seeing = build_multimodal_transformer(
        TransformerArchitecture(
            encoders={"image": SmallCNNConfig(size=16, widths=(8, 8), grid=4)}, width=16, heads=2
        ),
        ["red"],
    )
    with pytest.raises(ValueError, match="does not draw"):
        seeing.draw(["red"])
    with pytest.raises(ValueError, match="cannot look"):
        made(
            encoders={"image": SmallCNNConfig(size=16, widths=(8, 8), grid=4)},
            image_tokenizer={"size": 16},
        )


class Reranker:
    """Embeds a colour by its channels."""

    def encode(self, *, text=None, image=None, output):
        if text is not None:
            return torch.tensor([COLOURS[one] for one in text]).float()
        return torch.stack([torch.from_numpy(one).float().mean((0, 1)) for one in image])


def test_the_candidate_nearest_to_the_text_is_chosen():
    candidates = [image("red", "red"), image("blue", "blue"), image("red", "blue")]
    assert best_matches(Reranker(), ["blue", "red"], [candidates, candidates[1:]]) == [1, 1]

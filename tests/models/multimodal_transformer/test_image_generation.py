"""Image generation: code placement, caches, guidance, sampling, seeds, reranking."""

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
from amodal.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import build_multimodal_transformer
from amodal.models.multimodal_transformer.image_generation import (
    ImageContext,
    ImageSampler,
    PackedConversations,
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
    """An untrained image tokenizer with one code per patch."""
    torch.manual_seed(1)
    return ImageTokenizer(
        ImageTokenizerConfig(
            {
                "size": SIZE,
                "patch_size": 4,
                "widths": [8],
                "codebook_size": CODES,
                "codebook_dim": 4,
                "num_res_blocks": 0,
            }
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
    collate = collator_of(model, tasks={"text_to_image": captions})
    return collate(records, [sample_rng(0, 0, i) for i in range(len(records))])


def loss_of(model, batch):
    output = model(batch)
    return language_modeling_loss(
        output.logits, output.labels, output.item * 64 + output.conversation
    )


def codes_of(model, batch):
    return model.image_tokens.tokenizer.encode(batch.tensors["image"]["pixel_values"])


def with_codes(model, batch):
    named = batch.tensors["conversation"]
    return model.image_tokens.insert_codes(
        batch, PackedConversations(named["input_ids"], named["segment"], named["labels"])
    )


def test_every_caption_is_followed_by_the_codes_of_its_image():
    model = made()
    batch = batch_of(model)
    codes, packed = codes_of(model, batch), with_codes(model, batch)
    first = model.image_tokens.first
    for i in range(len(RECORDS)):
        for conversation in (1, 2):
            ids = packed.ids[i][packed.segment[i] == conversation]
            labels = packed.labels[i][packed.segment[i] == conversation]
            assert ids[ids >= first].tolist() == (codes[i] + first).tolist()
            assert labels[labels != IGNORED].tolist() == (codes[i] + first).tolist()
            assert labels[ids == model.chat_template.role_ids["image"]] == codes[i, 0] + first


def test_an_absent_image_is_no_target():
    model = made()
    records = [RECORDS[0], {**RECORDS[1], "image": None}]
    packed = with_codes(model, batch_of(model, records))
    assert bool((packed.labels[0] != IGNORED).any())
    assert bool((packed.labels[1] == IGNORED).all())


def test_masked_captions_leave_images_and_other_conversations_unchanged():
    model = made(caption_dropout=0.5).train()
    batch = batch_of(model)
    whole = batch.tensors["conversation"]["segment"]
    torch.manual_seed(0)
    packed = with_codes(model, batch)
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
    assert torch.equal(with_codes(model.eval(), batch).segment, whole)


def test_the_context_holds_position_and_the_codes_above():
    model = made()
    packed = with_codes(model, batch_of(model, RECORDS[:3]))
    codes = codes_of(model, batch_of(model, RECORDS[:3])) + model.image_tokens.first
    positions, above = model.image_tokens.context(packed.ids)
    for i in range(3):
        grid = codes[i].view(GRID, GRID)
        images = packed.ids[i] >= model.image_tokens.first
        assert bool((positions[i][~images] == -1).all())
        assert bool((above[i][~images] == -1).all())
        assert positions[i][images].tolist() == 2 * list(range(GRID**2))
        for neighbours, position in zip(
            above[i][images].tolist(), positions[i][images].tolist(), strict=True
        ):
            row, column = divmod(position + 1, GRID)
            expected = [(row - 1, column), (row - 1, column - 1), (row - 1, column + 1)]
            assert neighbours == [
                int(grid[r, c]) if 0 <= r < GRID - 1 and 0 <= c < GRID else -1 for r, c in expected
            ]


def test_packed_captions_do_not_attend_to_each_other():
    model = made()
    both = model(batch_of(model, RECORDS[:4]))
    alone = model(batch_of(model, RECORDS[:4], captions=1))
    torch.testing.assert_close(both.logits[both.conversation == 1], alone.logits)


def test_cached_decoding_equals_full_decoding():
    model = made()
    packed = with_codes(model, batch_of(model, RECORDS[:3], captions=1))
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


def test_every_parameter_but_those_of_the_tokenizer_gets_a_gradient():
    model = made().train()
    loss_of(model, batch_of(model)).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("image_tokens.tokenizer."):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.abs().sum() > 0), name
    assert not model.image_tokens.tokenizer.training


@pytest.fixture(scope="module")
def overfitted():
    """A model overfitted to 16 images, with and without their captions."""
    model = made(width=48, caption_dropout=0.2).train()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    batch = batch_of(model)
    torch.manual_seed(0)
    for _ in range(350):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return model.eval()


def test_overfitted_images_are_generated(overfitted):
    batch = batch_of(overfitted)
    true = (
        overfitted.image_tokens.tokenizer.decode(codes_of(overfitted, batch))
        .permute(0, 2, 3, 1)
        .numpy()
    )
    images = overfitted.generate_images(
        [record["text"][0] for record in RECORDS], temperature=0, guidance=1
    )
    assert all(np.array_equal(a, b) for a, b in zip(images, true, strict=True))
    images = overfitted.generate_images(
        [record["text"][1] for record in RECORDS], temperature=0, guidance=1
    )
    assert all(np.array_equal(a, b) for a, b in zip(images, true, strict=True))


def test_without_conditioning_any_of_the_training_images_is_generated(overfitted):
    images = overfitted.generate_images(["red left of blue"] * 24, guidance=0, seed=0)
    assert len({one.tobytes() for one in images}) > 4


def test_a_seed_gives_the_same_image_whatever_the_other_texts(overfitted):
    text = "green left of red"
    (alone,) = overfitted.generate_images([text], seed=3, temperature=10)
    among = overfitted.generate_images(["white left of white", text, text], seed=3, temperature=10)
    assert np.array_equal(alone, among[1])
    assert not np.array_equal(among[1], among[2])
    assert not np.array_equal(alone, overfitted.generate_images([text], seed=4, temperature=10)[0])


def test_samples_follow_the_softmax_of_guided_scores(overfitted):
    """Frequencies against an explicit softmax, within five standard deviations."""
    count = 4000
    first = overfitted.image_tokens.first
    prompt = overfitted.chat_template.prompts(
        [(("caption", "red left of blue", False), ("image", "", True))]
    )["input_ids"]
    conditional = overfitted(input_ids=prompt).logits[:, -1]
    start = torch.tensor([[overfitted.chat_template.role_ids["image"]]])
    unconditional = overfitted(input_ids=start).logits[:, -1]
    guided = (unconditional + 0.5 * (conditional - unconditional))[:, first:] / 4.0
    expected = guided.softmax(1)[0].double()
    sampler = ImageSampler(
        overfitted,
        overfitted.image_tokens,
        guidance=0.5,
        temperature=4.0,
        top_k=None,
        generators=[torch.Generator().manual_seed(i) for i in range(count)],
    )
    with torch.inference_mode():
        sampled = sampler(start.expand(count, 1), conditional.expand(count, -1)).argmax(1) - first
    found = torch.bincount(sampled, minlength=CODES).double() / count
    assert bool(((found - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all())


def test_a_reloaded_model_generates_the_same(overfitted, tmp_path):
    overfitted.save_pretrained(tmp_path)
    opened = amodal.load(tmp_path)
    texts = ["red left of green", "blue left of blue"]
    for a, b in zip(
        overfitted.generate_images(texts, seed=1),
        opened.generate_images(texts, seed=1),
        strict=True,
    ):
        assert np.array_equal(a, b)


def test_invalid_requests_are_refused(overfitted):
    with pytest.raises(ValueError, match="list of texts"):
        overfitted.generate_images("red left of blue")
    with pytest.raises(ValueError, match="temperature"):
        overfitted.generate_images(["red"], temperature=-1)
    captioner = build_multimodal_transformer(
        TransformerArchitecture(
            encoders={"image": SmallCNNConfig(size=16, widths=(8, 8), min_grid_size=4)},
            width=16,
            heads=2,
        ),
        ["red"],
    )
    with pytest.raises(ValueError, match="does not generate images"):
        captioner.generate_images(["red"])
    with pytest.raises(ValueError, match="cannot read them"):
        made(
            encoders={"image": SmallCNNConfig(size=16, widths=(8, 8), min_grid_size=4)},
            image_tokenizer={"size": 16},
        )


class Reranker:
    """A joint embedding of colour names and images by their mean colour."""

    def encode(self, *, text=None, image=None, output):
        if text is not None:
            return torch.tensor([COLOURS[one] for one in text]).float()
        return torch.stack([torch.from_numpy(one).float().mean((0, 1)) for one in image])


def test_the_candidate_most_similar_to_the_text_is_chosen():
    candidates = [image("red", "red"), image("blue", "blue"), image("red", "blue")]
    assert best_matches(Reranker(), ["blue", "red"], [candidates, candidates[1:]]) == [1, 1]

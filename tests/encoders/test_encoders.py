"""Every encoder: offline, masked exactly, rebuilt bit-equally, and frozen where it is told."""

import pytest
import torch
import torchvision
from pydantic import TypeAdapter, ValidationError

from amodal.encoders.adaptation import adapt
from amodal.encoders.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from amodal.encoders.pooling import build_pooling
from amodal.encoders.small_cnn import SmallCNNConfig
from amodal.encoders.small_transformer import SmallTransformerConfig
from amodal.encoders.specification import ImageEncoderConfig, TextEncoderConfig
from amodal.encoders.timm_image import TimmConfig
from amodal.encoders.torchvision_image import TorchvisionConfig

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
IMAGES = {
    "small_cnn": SmallCNNConfig(widths=(8, 16), size=32),
    "resnet18": TorchvisionConfig(name="resnet18", weights=None, size=32),
    "mobilenet": TorchvisionConfig(name="mobilenet_v3_small", weights=None, size=32),
    "swin": TorchvisionConfig(name="swin_t", weights=None, size=32),
    "vit_b_16": TorchvisionConfig(name="vit_b_16", weights=None, size=32),
    "timm cnn": TimmConfig(name="resnet10t", weights=False, size=32),
    "timm vit": TimmConfig(name="vit_tiny_patch16_224", weights=False, size=32),
    "hf vit": HuggingFaceImageConfig(
        architecture={"model_type": "vit", "image_size": 32, "patch_size": 8, **TINY}
    ),
    "hf resnet": HuggingFaceImageConfig(
        architecture={
            "model_type": "resnet",
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
        },
        size=32,
    ),
}
TEXTS = {
    "small_transformer": SmallTransformerConfig(width=16, layers=2, heads=2, vocab_size=50),
    "bert": HuggingFaceTextConfig(architecture={"model_type": "bert", **TINY}, vocab_size=50),
    "roberta": HuggingFaceTextConfig(architecture={"model_type": "roberta", **TINY}, vocab_size=50),
    "gpt2": HuggingFaceTextConfig(
        architecture={"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2}, vocab_size=50
    ),
    "t5": HuggingFaceTextConfig(
        architecture={
            "model_type": "t5",
            "d_model": 16,
            "num_layers": 2,
            "num_heads": 2,
            "d_kv": 8,
            "d_ff": 32,
        },
        vocab_size=50,
    ),
}
IMAGE_UNION, TEXT_UNION = TypeAdapter(ImageEncoderConfig), TypeAdapter(TextEncoderConfig)


def ids(batch=2, length=6):
    tokens = torch.randint(5, 50, (batch, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.mark.parametrize("config", IMAGES.values(), ids=IMAGES.keys())
def test_pictures_become_tokens_and_a_rebuild_is_bit_equal(config):
    torch.manual_seed(0)
    encoder = config.build(pretrained=False).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens, keep = encoder(pixel_values=x)
    assert tokens.shape[0] == 2
    assert tokens.shape[2] == encoder.width
    assert keep is None
    pooled = build_pooling(config.pooling or encoder.pooling, encoder.width)(tokens, keep)
    assert pooled.shape == (2, encoder.width)
    saved = IMAGE_UNION.validate_json(IMAGE_UNION.dump_json(encoder.config))
    again = saved.build(pretrained=False).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(pixel_values=x)[0], tokens)


@pytest.mark.parametrize("config", TEXTS.values(), ids=TEXTS.keys())
def test_texts_become_tokens_and_a_rebuild_is_bit_equal(config):
    torch.manual_seed(0)
    encoder = config.build(pretrained=False).eval()
    tokens, keep = encoder(**ids())
    assert tokens.shape == (2, 6, encoder.width)
    assert keep.dtype == torch.bool
    saved = TEXT_UNION.validate_json(TEXT_UNION.dump_json(encoder.config))
    again = saved.build(pretrained=False).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(**ids())[0], tokens)


@pytest.mark.parametrize("config", TEXTS.values(), ids=TEXTS.keys())
def test_padding_changes_nothing(config):
    torch.manual_seed(0)
    encoder = config.build(pretrained=False).eval()
    pooling = build_pooling(encoder.pooling, encoder.width)
    plain = ids()
    padded = {
        "input_ids": torch.nn.functional.pad(plain["input_ids"], (0, 5), value=1),
        "attention_mask": torch.nn.functional.pad(plain["attention_mask"], (0, 5)),
    }
    want, got = pooling(*encoder(**plain)), pooling(*encoder(**padded))
    if "roberta" in str(config.model_dump().get("architecture")):
        # RoBERTa counts positions by padding id; the test pads with that id, 1, on purpose.
        padded["input_ids"][:, 6:] = encoder.model.config.pad_token_id
        got = pooling(*encoder(**padded))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_the_mean_of_resnet_50_tokens_is_its_own_average_pooling():
    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    encoder = TorchvisionConfig(name="resnet50", weights=None, size=64).build().eval()
    own = dict(zip(encoder.state_dict(), model.state_dict().values(), strict=False))
    encoder.load_state_dict(own)
    model.fc = torch.nn.Identity()
    model, encoder = model.double(), encoder.double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    tokens, _ = encoder(pixel_values=x)
    assert tokens.shape == (2, 4, 2048)
    torch.testing.assert_close(tokens.mean(1), model(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", IMAGES.values(), ids=IMAGES.keys())
def test_a_frozen_encoder_gets_no_gradient_and_keeps_its_statistics(config):
    encoder = adapt(config.model_copy(update={"freeze": "all"}).build(pretrained=False)).train()
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    encoder(pixel_values=torch.randn(2, 3, 32, 32))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(before[n], b) for n, b in encoder.named_buffers())


def test_the_first_groups_are_frozen_and_the_rest_learns():
    encoder = adapt(SmallTransformerConfig(width=16, layers=2, vocab_size=50, freeze=1).build())
    assert not any(p.requires_grad for p in encoder.embedding.parameters())
    assert not encoder.position.requires_grad
    assert not any(p.requires_grad for p in encoder.layers[0].parameters())
    assert all(p.requires_grad for p in encoder.layers[1].parameters())


def test_more_frozen_groups_than_there_are_is_refused():
    with pytest.raises(ValueError, match="0 to 2"):
        adapt(SmallTransformerConfig(width=16, layers=2, vocab_size=50, freeze=3).build())


@pytest.mark.parametrize("name", ["bert", "small_transformer"])
def test_low_rank_adapters_are_all_that_learns(name):
    config = TEXTS[name].model_copy(update={"lora": _lora(rank=2)})
    encoder = adapt(config.build(pretrained=False))
    learning = [n for n, p in encoder.named_parameters() if p.requires_grad]
    assert learning
    assert all("lora_" in n for n in learning)
    tokens, _ = encoder(**ids())
    tokens.sum().backward()
    assert all(p.grad is not None for n, p in encoder.named_parameters() if "lora_B" in n)


def _lora(**values):
    from amodal.encoders.config import LoRAConfig

    return LoRAConfig(**values)


def test_adapters_for_layers_that_do_not_exist_are_refused():
    config = TEXTS["bert"].model_copy(update={"lora": _lora(targets=("q_proj",))})
    with pytest.raises(ValueError, match=r"no layer matches q_proj.*query"):
        adapt(config.build(pretrained=False))


def test_frozen_batch_norm_stays_asleep():
    config = SmallCNNConfig(widths=(8, 16), size=32, batch_norm="frozen")
    encoder = adapt(config.build()).train()
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)


@pytest.mark.parametrize(
    "config",
    [
        IMAGES["small_cnn"],
        IMAGES["resnet18"],
        IMAGES["timm vit"],
        TEXTS["small_transformer"],
        TEXTS["bert"],
    ],
    ids=["small_cnn", "resnet18", "timm vit", "small_transformer", "bert"],
)
def test_gradient_checkpointing_gives_the_same_gradient(config):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = config.model_copy(update={"gradient_checkpointing": checkpointing}).build(False)
        encoder.train()
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        torch.manual_seed(1)
        inputs = (
            ids()
            if "vocab_size" in type(config).model_fields
            else {"pixel_values": torch.randn(2, 3, 32, 32)}
        )
        encoder(**inputs)[0].square().mean().backward()
        found.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "torchvision", "name": "resnet51"}, "no classifier 'resnet51'"),
        ({"kind": "huggingface"}, "give `name`"),
        ({"kind": "huggingface", "architecture": {"layers": 2}}, "model_type"),
        ({"kind": "small_cnn", "colour": "red"}, "colour"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        IMAGE_UNION.validate_python(values)


def test_missing_weights_say_how_to_give_a_file(tmp_path):
    absent = str(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        TorchvisionConfig(name="resnet18", weights=absent).build()
    with pytest.raises(ValueError, match="local folder"):
        HuggingFaceTextConfig(name=str(tmp_path)).build()

"""Every encoder: offline, masked exactly, rebuilt bit-equally, and frozen where it is told."""

import pytest
import torch
import torchvision
from pydantic import TypeAdapter, ValidationError

from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.image.timm import TimmConfig
from amodal.encoders.image.torchvision import TorchvisionConfig
from amodal.encoders.pooling import build_pooling
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.modalities.specification import EncoderSpecification

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
UNION = TypeAdapter(EncoderSpecification)


def ids(batch=2, length=6):
    tokens = torch.randint(5, 50, (batch, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.mark.parametrize("config", IMAGES.values(), ids=IMAGES.keys())
def test_images_become_tokens_and_a_rebuild_is_bit_equal(config):
    torch.manual_seed(0)
    encoder = config.build(pretrained=False).eval()
    x = torch.randn(2, 3, 32, 32)
    tokens, keep = encoder(pixel_values=x)
    assert tokens.shape[0] == 2
    assert tokens.shape[2] == encoder.width
    assert keep is None
    pooled = build_pooling(config.pooling or encoder.pooling, encoder.width)(tokens, keep)
    assert pooled.shape == (2, encoder.width)
    saved = UNION.validate_json(UNION.dump_json(encoder.config))
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
    saved = UNION.validate_json(UNION.dump_json(encoder.config))
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
    encoder = apply_fine_tuning(
        config.model_copy(update={"freeze": "all"}).build(pretrained=False)
    ).train()
    before = {n: b.clone() for n, b in encoder.named_buffers()}
    encoder(pixel_values=torch.randn(2, 3, 32, 32))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(before[n], b) for n, b in encoder.named_buffers())


def test_the_first_groups_are_frozen_and_the_rest_learns():
    encoder = apply_fine_tuning(
        SmallTransformerConfig(width=16, layers=2, vocab_size=50, freeze=1).build()
    )
    assert not any(p.requires_grad for p in encoder.embedding.parameters())
    assert not encoder.position.requires_grad
    assert not any(p.requires_grad for p in encoder.layers[0].parameters())
    assert all(p.requires_grad for p in encoder.layers[1].parameters())


def test_more_frozen_groups_than_there_are_is_refused():
    with pytest.raises(ValueError, match="0 to 2"):
        apply_fine_tuning(
            SmallTransformerConfig(width=16, layers=2, vocab_size=50, freeze=3).build()
        )


@pytest.mark.parametrize("name", ["bert", "small_transformer"])
def test_low_rank_adapters_are_all_that_learns(name):
    config = TEXTS[name].model_copy(update={"lora": _lora(rank=2)})
    encoder = apply_fine_tuning(config.build(pretrained=False))
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
        apply_fine_tuning(config.build(pretrained=False))


def test_frozen_batch_norm_stays_in_evaluation_mode():
    config = SmallCNNConfig(widths=(8, 16), size=32, batch_norm="frozen")
    encoder = apply_fine_tuning(config.build()).train()
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
        ({"type": "image", "kind": "torchvision", "name": "resnet51"}, "no classifier 'resnet51'"),
        ({"type": "text", "kind": "huggingface"}, "give `name`"),
        ({"type": "text", "kind": "huggingface", "architecture": {"layers": 2}}, "model_type"),
        ({"type": "image", "kind": "small_cnn", "colour": "red"}, "colour"),
    ],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        UNION.validate_python(values)


def test_missing_weights_say_how_to_give_a_file(tmp_path):
    absent = str(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        TorchvisionConfig(name="resnet18", weights=absent).build()
    with pytest.raises(ValueError, match="local folder"):
        HuggingFaceTextConfig(name=str(tmp_path)).build()


POOLED = {  # classifier -> the module whose input is the pooled vector
    "densenet121": "classifier",
    "regnet_y_400mf": "fc",
    "shufflenet_v2_x0_5": "fc",
    "mnasnet0_5": "classifier",
    "mobilenet_v2": "classifier",
    "swin_t": "head",
    "resnet18": "fc",
    "vit_b_16": "heads",
}


@pytest.mark.parametrize("name", POOLED)
def test_pooled_tokens_are_what_the_classifier_reads(name):
    torch.manual_seed(0)
    options = {"image_size": 64} if name.startswith("vit") else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    encoder = TorchvisionConfig(name=name, weights=None, size=64).build().eval()
    # Same numbers for parameters and statistics of the trunk; only the head is left over.
    encoder.load_state_dict(
        dict(zip(encoder.state_dict(), model.state_dict().values(), strict=False))
    )
    read = []
    getattr(model, POOLED[name]).register_forward_pre_hook(lambda m, args: read.append(args[0]))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model(x)
        pooled = build_pooling(encoder.pooling, encoder.width)(*encoder(pixel_values=x))
    torch.testing.assert_close(pooled, read[0], rtol=1e-5, atol=1e-5)


def test_positions_of_a_vit_are_stretched_to_the_images(tmp_path):
    from safetensors.torch import save_file

    model = torchvision.models.vit_b_32(weights=None, image_size=64)
    path = str(tmp_path / "vit.safetensors")
    save_file(model.state_dict(), path)
    same = TorchvisionConfig(name="vit_b_32", weights=path, size=64).build()
    old = model.encoder.pos_embedding
    assert torch.equal(same.transformer.encoder.pos_embedding, old)
    larger = TorchvisionConfig(name="vit_b_32", weights=path, size=96).build()
    new = larger.transformer.encoder.pos_embedding
    assert new.shape == (1, 10, 768)
    assert torch.equal(new[:, 0], old[:, 0])
    torch.testing.assert_close(new[:, [1, 3, 7, 9]], old[:, 1:])  # corners stay where they are


def test_weights_of_another_model_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "wrong.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="do not fit resnet18"):
        TorchvisionConfig(name="resnet18", weights=str(path)).build()
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(ValueError, match="not a safetensors file"):
        TorchvisionConfig(name="resnet18", weights=str(path)).build()


EVERY = {
    **IMAGES,
    **TEXTS,
    "hf siglip": HuggingFaceImageConfig(
        architecture={
            "model_type": "siglip_vision_model",
            "image_size": 32,
            "patch_size": 8,
            **TINY,
        }
    ),
    "hf convnext": HuggingFaceImageConfig(
        architecture={
            "model_type": "convnext",
            "num_stages": 2,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
        },
        size=32,
    ),
    "timm convnext": TimmConfig(name="convnext_atto", weights=False, size=32),
    "timm mobilenet": TimmConfig(name="mobilenetv3_small_050", weights=False, size=32),
    "opt": HuggingFaceTextConfig(
        architecture={"model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16, **TINY},
        vocab_size=50,
    ),
}


def inputs_of(encoder):
    if "vocab_size" in type(encoder.config).model_fields:
        return ids()
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


@pytest.mark.parametrize("options", [{}, {"freeze": 1}, {"lora": {"rank": 2}}], ids=str)
@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
def test_all_that_learns_gets_a_gradient(config, options):
    torch.manual_seed(0)
    config = type(config)(**{**config.model_dump(), **options})
    encoder = apply_fine_tuning(config.build(pretrained=False)).train()
    encoder(**inputs_of(encoder))[0].square().sum().backward()
    learning = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert learning
    assert {n for n, p in encoder.named_parameters() if p.grad is not None} == learning
    if "lora" in options:
        assert all("lora_" in n for n in learning)


@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY.keys())
def test_the_stem_and_so_many_layers_are_frozen_with_their_statistics(config):
    encoder = config.build(pretrained=False)
    groups = encoder.layer_groups()
    assert len(groups) >= 2
    assert groups[0]
    inside = [{id(p) for m in g for p in parameters_of(m)} for g in groups]
    assert sum(map(len, inside)) == len(set().union(*inside))  # no parameter in two groups
    first = [p for g in groups[:2] for m in g for p in parameters_of(m)]
    later = [p for g in groups[2:] for m in g for p in parameters_of(m) if p.requires_grad]
    encoder = type(config).model_validate({**config.model_dump(), "freeze": 1}).build(False)
    apply_fine_tuning(encoder).train()
    stilled = encoder.layer_groups()
    assert sum(p.requires_grad for g in stilled[:2] for m in g for p in parameters_of(m)) == 0
    assert sum(p.requires_grad for g in stilled[2:] for m in g for p in parameters_of(m)) == len(
        later
    )
    assert first
    norms = [
        b
        for g in stilled[:2]
        for m in g
        if isinstance(m, torch.nn.Module)
        for b in m.modules()
        if isinstance(b, torch.nn.BatchNorm2d)
    ]
    assert not any(b.training for b in norms)


def parameters_of(part):
    return [part] if isinstance(part, torch.nn.Parameter) else list(part.parameters())


@pytest.mark.parametrize("kind", ["gpt2", "resnet18", "vit_b_16", "small_cnn"])
def test_low_rank_adapters_start_at_nothing_and_are_rebuilt(kind):
    torch.manual_seed(0)
    plain = EVERY[kind].build(pretrained=False).eval()
    config = type(EVERY[kind])(**{**EVERY[kind].model_dump(), "lora": {"rank": 2}})
    encoder = apply_fine_tuning(config.build(pretrained=False)).eval()
    base = {n.replace(".base_layer", ""): p for n, p in encoder.state_dict().items()}
    own = plain.state_dict()
    assert set(own) <= set(base)
    plain.load_state_dict({n: base[n] for n in own})
    x = inputs_of(encoder)
    torch.testing.assert_close(encoder(**x)[0], plain(**x)[0], rtol=1e-5, atol=1e-5)
    for name, p in encoder.named_parameters():
        if "lora_B" in name:
            p.data.normal_()
    moved = encoder(**x)[0]
    assert not torch.allclose(moved, plain(**x)[0], atol=1e-3)
    again = apply_fine_tuning(encoder.config.build(pretrained=False)).eval()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(**x)[0], moved)


def test_checkpointing_counts_the_statistics_of_a_batch_once():
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = SmallCNNConfig(widths=(8, 16), size=32, gradient_checkpointing=checkpointing)
        encoder = config.build().train()
        encoder(pixel_values=torch.randn(4, 3, 32, 32))[0].square().mean().backward()
        found.append(dict(encoder.named_buffers()))
    assert found[0]
    for name, plain in found[0].items():
        assert torch.equal(found[1][name], plain), name


def test_true_is_no_number_of_layers():
    for wrong in (True, -1, 1.5, "some"):
        with pytest.raises(ValidationError):
            SmallCNNConfig(freeze=wrong)


def test_a_trained_tokenizer_and_its_special_ids_fit_every_text_model():
    from amodal.encoders.text.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a red circle"] * 3, 50)
    for name in ("bert", "roberta"):
        model = TEXTS[name].build(pretrained=False).model
        assert model.config.pad_token_id == tokenizer.pad_token_id
    position = TEXTS["roberta"].build(pretrained=False).model.embeddings
    assert position.word_embeddings.padding_idx == tokenizer.pad_token_id


def test_pretrained_weights_refuse_a_foreign_tokenizer():
    with pytest.raises(ValidationError, match="their own tokenizer"):
        HuggingFaceTextConfig(name="bert-base-uncased", tokenizer={"kind": "trained"})


def test_texts_longer_than_the_positions_are_refused():
    short = {"model_type": "bert", "max_position_embeddings": 16, **TINY}
    with pytest.raises(ValueError, match="max_length: 64; bert has positions for 16"):
        HuggingFaceTextConfig(architecture=short, vocab_size=50).build()
    roberta = {"model_type": "roberta", "max_position_embeddings": 17, **TINY}
    config = HuggingFaceTextConfig(architecture=roberta, vocab_size=50, max_length=16)
    tokens, _ = config.build()(**ids(length=16))  # sixteen real tokens reach the last position
    assert tokens.isfinite().all()
    with pytest.raises(ValueError, match="positions for 16"):
        config.model_copy(update={"max_length": 17}).build()
    with pytest.raises(ValueError, match="max_length is 8"):
        SmallTransformerConfig(width=16, vocab_size=50, max_length=8).build()(**ids(length=9))


def test_a_folder_is_loaded_in_float32_and_rebuilt_without_it(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(vocab_size=50, **TINY)).to(torch.bfloat16).save_pretrained(tmp_path)
    config = HuggingFaceTextConfig(name=str(tmp_path))
    encoder = config.build().eval()
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    with pytest.raises(ValueError, match="`architecture` is needed"):
        config.build(pretrained=False)
    random = HuggingFaceTextConfig(architecture=str(tmp_path), vocab_size=40).build()
    assert random.width == encoder.width
    assert random.model.config.vocab_size == 40
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").unlink()
    again = UNION.validate_json(UNION.dump_json(encoder.config)).build(pretrained=False)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again.eval()(**ids())[0], encoder(**ids())[0])


def test_the_small_network_has_no_strided_pointwise_convolution():
    # Its backward pass overruns the heap in oneDNN where channels are few; see `ResidualBlock`.
    built = SmallCNNConfig(widths=(8, 12, 16), size=32).build()
    kernels = [m for m in built.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels) == 7
    assert not [m for m in kernels if m.kernel_size == (1, 1) and m.stride != (1, 1)]


def test_half_precision_attention_on_a_cpu_is_that_of_single_precision():
    torch.manual_seed(0)
    encoder = TEXTS["small_transformer"].build().eval()
    exact, _ = encoder(**ids())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = encoder(**ids())
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    assert encoder.double()(**ids())[0].dtype == torch.float64

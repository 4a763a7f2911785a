"""Hugging Face audio encoders with tiny random weights: exact masks, reload, freezing."""

import numpy as np
import pytest
import torch

from amodal.data.record import DataError
from amodal.encoders.audio.feature_extraction import FeatureExtraction
from amodal.encoders.audio.huggingface import HuggingFaceAudioConfig
from amodal.encoders.audio.preprocessing import AudioPreprocessor
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, JointEmbedding, build_joint_embedding
from amodal.training.recipe import parse_recipe

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONVOLUTIONS = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 4, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
ARCHITECTURES = {
    "ast": {"model_type": "audio-spectrogram-transformer", "max_length": 64, **TINY},
    "wav2vec2 base": {"model_type": "wav2vec2", **CONVOLUTIONS, **TINY},
    "wav2vec2 large": {"model_type": "wav2vec2", **CONVOLUTIONS, **STABLE, **TINY},
    "hubert": {"model_type": "hubert", **CONVOLUTIONS, **TINY},
    "wavlm": {"model_type": "wavlm", **CONVOLUTIONS, **STABLE, **TINY},
    "whisper": {
        "model_type": "whisper",
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "num_mel_bins": 16,
        "max_source_positions": 100,
        "vocab_size": 50,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
        "decoder_start_token_id": 1,
    },
    "clap": {
        "model_type": "clap",
        "audio_config": {
            "num_mel_bins": 16,
            "spec_size": 64,
            "patch_embeds_hidden_size": 8,
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "hidden_size": 16,
            "window_size": 4,
            "patch_size": 4,
            "patch_stride": [4, 4],
        },
        "text_config": {"vocab_size": 50, **TINY},
    },
}
BY_MASK = ("wav2vec2 base", "wav2vec2 large", "hubert", "wavlm", "whisper")


@pytest.fixture(params=ARCHITECTURES)
def name(request):
    return request.param


def config_of(name, **options):
    return HuggingFaceAudioConfig(architecture=ARCHITECTURES[name], max_seconds=0.5, **options)


def built(name, **options):
    torch.manual_seed(0)
    return config_of(name, **options).build()


def noises(lengths=(4000, 8000, 30, 5001), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]


def test_the_tokens_of_a_clip_do_not_depend_on_its_batch(name):
    encoder, prepare = built(name).eval(), config_of(name).preprocessor()
    with torch.no_grad():
        together, keep = encoder(**prepare(noises()))
        assert together.shape[2] == encoder.width == 16
        assert (keep is not None) == (name in BY_MASK)
        for i, clip in enumerate(noises()):
            alone, alone_keep = encoder(**prepare([clip]))
            count = alone.shape[1] if keep is None else int(keep[i].sum())
            assert keep is None or count == int(alone_keep.sum()) > 0
            torch.testing.assert_close(together[i, :count], alone[0, :count], atol=2e-5, rtol=0)


def test_every_trained_parameter_gets_a_gradient(name):
    encoder = built(name)
    tokens, _ = encoder(**config_of(name).preprocessor()(noises()))
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    (tokens * weights).sum().backward()
    trained = [(n, p) for n, p in encoder.named_parameters() if p.requires_grad]
    assert len(trained) > 10
    for parameter_name, parameter in trained:
        assert parameter.grad is not None, parameter_name


def test_a_frozen_stem_leaves_the_layers_trained(name):
    encoder = apply_fine_tuning(built(name, freeze=0))
    names = {n for n, p in encoder.named_parameters() if p.requires_grad}
    whole = {n for n, p in built(name).named_parameters() if p.requires_grad}
    assert names
    assert any("embed" in n or "conv" in n for n in whole - names)


def test_a_run_opens_without_the_network_and_embeds_bit_equally(name, tmp_path):
    architecture = Architecture(
        encoders={"audio": config_of(name)}, projection={"kind": "linear", "dim": 8}
    )
    model = build_joint_embedding(architecture).eval()
    rate = model.preprocessors["audio"].sample_rate
    clips = [(clip, rate) for clip in noises()]
    want = model.encode(audio=clips)
    model.save_pretrained(tmp_path)
    again = JointEmbedding.from_pretrained(tmp_path)
    assert np.array_equal(again.encode(audio=clips), want)
    np.testing.assert_allclose(np.linalg.norm(want, axis=1), 1, rtol=1e-5)


def test_long_clips_are_truncated_and_counted():
    prepare = config_of("wav2vec2 base").preprocessor()
    assert prepare.count_truncated(noises((8000, 8001, 9000))) == 2
    assert prepare(noises((9000,)))["input_values"].shape == (1, 8000)
    clap = HuggingFaceAudioConfig(architecture=ARCHITECTURES["clap"]).preprocessor()
    assert clap.longest == clap.extractor.nb_max_samples  # never a random part of a clip
    assert prepare([])["input_values"].shape[0] == 0


def test_masks_of_log_mel_features_are_refused():
    audio = {"kind": "huggingface", "architecture": ARCHITECTURES["hubert"]}
    recipe = parse_recipe(
        {
            "data": {"train": {"kind": "scenes"}},
            "model": {"encoders": {"audio": audio, "text": {"kind": "small_transformer"}}},
            "augment": {"audio": ["time_mask"]},
        },
        "recipe",
    )
    architecture = Architecture(
        encoders={"audio": config_of("hubert")}, projection={"kind": "linear"}
    )
    model = build_joint_embedding(architecture)
    with pytest.raises(DataError, match=r"augment.audio: time_mask .* small_audio_cnn"):
        collator_of(model, steps=recipe.steps())


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"bert: not an audio encoder .* whisper"):
        HuggingFaceAudioConfig(architecture={"model_type": "bert", **TINY}).preprocessor()


def test_preprocessors_of_both_kinds_are_reopened(tmp_path):
    from amodal.modalities.audio import AudioModality

    config_of("whisper").preprocessor().save(tmp_path / "a")
    AudioPreprocessor(8000).save(tmp_path / "b")
    assert isinstance(AudioModality().load(tmp_path / "a"), FeatureExtraction)
    assert isinstance(AudioModality().load(tmp_path / "b"), AudioPreprocessor)

"""Log-mel features against a plain reference, and a network that never sees its padding."""

import copy
import csv
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from amodal.data.decode_audio import decode_audio
from amodal.data.record import sample_rng
from amodal.encoders.audio.masked_norm import MaskedBatchNorm, MaskedGroupNorm, masked_moments
from amodal.encoders.audio.preprocessing import AudioPreprocessor
from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.pooling import build_pooling
from amodal.models.inputs import collator_of

DATA = Path(os.environ.get("AMODAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "fsdd"
SMALL = SmallAudioCNNConfig(sample_rate=8000, n_mels=32, widths=(8, 16, 16), width=24)
LENGTHS = (900, 4000, 79, 2300, 4001)  # samples


def noises(lengths=LENGTHS, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]


def log_mel_by_hand(x, rate, n_mels, window, hop, size, f_min, f_max):
    """Frame by frame, bin by bin, band by band, in float64."""

    def to_mel(f):
        return f / (200 / 3) if f < 1000 else 15 + math.log(f / 1000) * 27 / math.log(6.4)

    def to_hertz(m):
        return m * 200 / 3 if m < 15 else 1000 * math.exp((m - 15) * math.log(6.4) / 27)

    edges = [to_hertz(m) for m in np.linspace(to_mel(f_min), to_mel(f_max), n_mels + 2)]
    x = np.concatenate([np.zeros(size), np.asarray(x, np.float64), np.zeros(size)])
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    rows = []
    for t in range(1 + (len(x) - 2 * size) // hop):
        start = size + t * hop - size // 2 + (size - window) // 2
        power = np.abs(np.fft.rfft(x[start : start + window] * hann, size)) ** 2
        # The phase of the window in its transform does not matter for the power.
        bands = []
        for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, p in enumerate(power):
                f = k * rate / size
                rise, fall = (f - low) / (middle - low), (high - f) / (high - middle)
                total += p * max(0.0, min(rise, fall)) * 2 / (high - low)
            bands.append(total)
        rows.append(bands)
    mel = np.array(rows)
    return np.log(np.maximum(mel, mel.max() * 1e-8))


@pytest.mark.parametrize("rate", [8000, 16000])
def test_features_agree_with_a_float64_reference(rate):
    prepare = AudioPreprocessor(rate, n_mels=24, f_min=50, f_max=3600, normalize="none")
    long, fading = noises((1500, 2400))
    waveforms = [long, fading * np.geomspace(1, 1e-2, len(fading), dtype=np.float32)]
    got = prepare(waveforms)
    for i, x in enumerate(waveforms):
        want = log_mel_by_hand(
            x, rate, 24, prepare.window, prepare.hop, prepare.size, f_min=50, f_max=3600
        )
        kept = got["features"][i][got["keep"][i]].double().numpy()
        assert kept.shape == want.shape
        np.testing.assert_allclose(kept, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", ["clip", "band", "none"])
def test_features_do_not_depend_on_what_they_are_batched_with(normalize):
    prepare = AudioPreprocessor(8000, n_mels=32, normalize=normalize)
    together = prepare(noises())
    for i, x in enumerate(noises()):
        alone = prepare([x])
        count = int(alone["keep"].sum())
        assert count == int(together["keep"][i].sum()) == 1 + len(x) // prepare.hop
        torch.testing.assert_close(
            together["features"][i, :count], alone["features"][0, :count], atol=1e-5, rtol=0
        )
        assert not together["features"][i, count:].any()


def test_normalised_features_do_not_depend_on_loudness():
    for normalize in ("clip", "band"):
        prepare = AudioPreprocessor(8000, n_mels=32, normalize=normalize)
        x = noises((4000,))[0]
        loud, quiet = prepare([x, x * 1e-3])["features"]
        torch.testing.assert_close(loud, quiet, atol=1e-3, rtol=0)
        axes = (0, 1) if normalize == "clip" else 0
        kept = loud[prepare([x])["keep"][0]]
        torch.testing.assert_close(
            kept.mean(axes), torch.zeros_like(kept.mean(axes)), atol=1e-4, rtol=0
        )


def test_silence_and_the_shortest_sound_have_finite_features():
    for normalize in ("clip", "band", "none"):
        prepare = AudioPreprocessor(8000, n_mels=32, normalize=normalize)
        tensors = prepare([np.zeros(4000, np.float32), np.ones(1, np.float32)])
        assert tensors["features"].isfinite().all()
        assert tensors["keep"].sum(1).tolist() == [51, 1]
    assert prepare([])["features"].shape == (0, 1, 32)


def test_long_sounds_are_cut_and_counted():
    prepare = AudioPreprocessor(8000, n_mels=32, max_seconds=0.25)
    waveforms = noises((1999, 2000, 2001, 9000))
    assert prepare.count_truncated(waveforms) == 2
    assert prepare(waveforms)["keep"].sum(1).tolist() == [25, 26, 26, 26]


def test_a_reopened_preprocessor_gives_the_same_tensors(tmp_path):
    prepare = SmallAudioCNNConfig(
        sample_rate=8000, n_mels=32, f_max=3500, normalize="clip", max_seconds=0.3
    ).model_copy(update={"window_ms": 32.0, "hop_ms": 12.5, "f_min": 60.0})
    first = prepare.preprocessor()
    first.save(tmp_path)
    again = AudioPreprocessor.load(tmp_path)
    assert again.sample_rate == 8000
    for name, tensor in first(noises()).items():
        assert torch.equal(again(noises())[name], tensor)


def encoder(norm="batch", **options):
    torch.manual_seed(0)
    net = SMALL.model_copy(update={"norm": norm, **options}).build()
    for layer in net.modules():  # statistics that are not the identity
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("frames_per_token", [1, 4, 8])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_padding_changes_nothing_in_evaluation(norm, frames_per_token, dtype, atol):
    net = encoder(norm, frames_per_token=frames_per_token).eval().to(dtype)
    rng = torch.Generator().manual_seed(1)
    for frames in (1, 2, 3, 5, 8, 13, 30):
        x = torch.randn(1, frames, 32, generator=rng, dtype=dtype)
        alone, alone_keep = net(x, torch.ones(1, frames, dtype=torch.bool))
        count = -(-frames // frames_per_token)
        assert alone.shape == (1, count, 24)
        assert alone_keep.all()
        for more in (1, 2, 7, 40):
            padded = torch.cat([x, torch.full((1, more, 32), float("nan"), dtype=dtype)], dim=1)
            keep = torch.arange(frames + more)[None] < frames
            tokens, token_keep = net(padded, keep)
            assert token_keep.sum() == count
            torch.testing.assert_close(tokens[:, :count], alone, atol=atol, rtol=0)
            assert not tokens[:, count:].any()


def test_the_pooled_sound_does_not_depend_on_its_batch():
    prepare, net = SMALL.preprocessor(), encoder().eval()
    pool = build_pooling(net.pooling, net.width).eval()
    together = pool(*net(**prepare(noises())))
    for i, x in enumerate(noises()):
        alone = pool(*net(**prepare([x])))[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=0)


def masked_case(dtype=torch.float32):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(5, 6, 9, 4, generator=g, dtype=dtype) * 2 + 1
    keep = torch.arange(9) < torch.tensor([9, 1, 4, 0, 7])[:, None]
    return x, keep


def test_masked_batch_norm_equals_torchs_on_the_frames_that_are_kept():
    x, keep = masked_case()
    ours, theirs = MaskedBatchNorm(6), nn.BatchNorm1d(6)
    for layer in (ours, theirs):
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 2, 6))
            layer.bias.copy_(torch.linspace(-1, 1, 6))
    left = x.clone().requires_grad_()
    right = x.permute(0, 2, 3, 1)[keep].flatten(0, 1).requires_grad_()  # (K M, C)
    for training in (True, True, False):
        ours.train(training)
        theirs.train(training)
        got, want = ours(left, keep), theirs(right)
        torch.testing.assert_close(got.permute(0, 2, 3, 1)[keep].flatten(0, 1), want)
        assert not got.permute(0, 2, 3, 1)[~keep].any()
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)
    got.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(left.grad.permute(0, 2, 3, 1)[keep].flatten(0, 1), right.grad)
    assert not left.grad.permute(0, 2, 3, 1)[~keep].any()


def test_masked_batch_norm_takes_batches_without_a_variance():
    layer = MaskedBatchNorm(6)
    x = torch.ones(2, 6, 3, 1)
    for keep in (torch.zeros(2, 3).bool(), torch.eye(2, 3).bool() & torch.eye(2, 3)[:1].bool()):
        assert layer(x, keep).isfinite().all()
    assert layer.num_batches_tracked == 0
    assert torch.equal(layer.running_mean, torch.zeros(6))


def test_masked_group_norm_equals_torchs_on_each_sound_alone():
    x, keep = masked_case()
    layer, plain = MaskedGroupNorm(3, 6), nn.GroupNorm(3, 6)
    got = layer(x, keep)
    for i, count in enumerate(keep.sum(1).tolist()):
        if count:
            torch.testing.assert_close(got[i : i + 1, :, :count], plain(x[i : i + 1, :, :count]))
        assert not got[i, :, count:].any()


def test_moments_are_those_of_the_values_that_are_kept():
    x, keep = masked_case(torch.float64)
    mean, variance = masked_moments(x, keep[:, None, :, None], (0, 2, 3))
    chosen = x.permute(0, 2, 3, 1)[keep].reshape(-1, 6).numpy()
    np.testing.assert_allclose(mean.flatten().numpy(), chosen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance.flatten().numpy(), chosen.var(0), rtol=1e-12)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_gets_a_gradient(norm, checkpointing):
    net = encoder(norm, gradient_checkpointing=checkpointing)
    tokens, _ = net(**SMALL.preprocessor()(noises()))
    (
        tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    ).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_checkpointing_changes_neither_tokens_nor_statistics():
    plain = encoder()
    saved = copy.deepcopy(plain)
    saved.config = saved.config.model_copy(update={"gradient_checkpointing": True})
    tensors = SMALL.preprocessor()(noises())
    for net in (plain, saved):
        net(**tensors)[0].square().sum().backward()
    for (name, a), b in zip(plain.named_buffers(), saved.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    for (name, a), b in zip(plain.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_a_sound_without_frames_is_zeros():
    for norm in ("batch", "group"):
        tokens, keep = encoder(norm)(torch.full((2, 9, 32), float("nan")), torch.zeros(2, 9).bool())
        assert not keep.any()
        assert torch.equal(tokens, torch.zeros_like(tokens))


def test_freezing_stops_the_first_stages():
    net = apply_fine_tuning(encoder(freeze=1))
    frozen = {n.split(".")[0] for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "stem_norm", "stages"}
    assert all(not p.requires_grad for p in net.stages[0].parameters())
    assert all(p.requires_grad for p in net.stages[1].parameters())
    assert not net.train().stem_norm.training
    assert sum(len(list(p.parameters())) for group in net.layer_groups() for p in group) == len(
        list(net.parameters())
    )


@pytest.mark.parametrize(
    "options",
    [
        {"f_max": 5000, "sample_rate": 8000},
        {"f_min": 4000, "sample_rate": 8000},
        {"frames_per_token": 3},
        {"frames_per_token": 32},
        {"n_mels": 40},
        {"width": 0},
        {"unknown": 1},
    ],
)
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ValidationError):
        SmallAudioCNNConfig(**options)


def test_a_batch_has_sounds_and_zeros_where_there_are_none():
    prepare = SMALL.preprocessor()
    a, b = noises((800, 4000))
    records = [
        {"id": "a", "origin": "row 1", "audio": (a, 8000)},
        {"id": "b", "origin": "row 2"},
        {"id": "c", "origin": "row 3", "audio": (np.array([np.nan]), 8000)},
        {"id": "d", "origin": "row 4", "audio": (b, 8000)},
    ]
    batch = collator_of(
        SimpleNamespace(types={"audio": "audio"}, preprocessors={"audio": prepare})
    )(records, [sample_rng(0, 0, i) for i in range(4)])
    assert batch.present["audio"].tolist() == [[True], [False], [True]]
    assert [e.origin for e in batch.broken] == ["row 3"]
    assert batch.truncated == {"audio": 0}
    want = prepare([a, b])
    assert torch.equal(batch.tensors["audio"]["features"][[0, 2]], want["features"])
    assert torch.equal(batch.tensors["audio"]["keep"][[0, 2]], want["keep"])
    assert not batch.tensors["audio"]["keep"][1].any()


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no spoken digits in {DATA}; set AMODAL_DATA")
def test_two_digits_of_one_speaker_are_told_apart_in_seconds():
    pytest.importorskip("soundfile", reason="needs amodal[audio]")
    with (DATA / "labels.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["speaker"] == "theo" and r["digit"] in "06"]
    waveforms = [decode_audio(DATA / "audio" / r["file"], r["file"], 8000) for r in rows]
    digit = torch.tensor([int(r["digit"] == "6") for r in rows])
    test = torch.tensor([int(r["index"]) % 2 == 0 for r in rows])
    torch.manual_seed(0)
    net, prepare = SMALL.build(), SMALL.preprocessor()
    pool, head = build_pooling(net.pooling, net.width), nn.Linear(net.width, 2)
    parts = nn.ModuleList([net, pool, head])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=3e-3)
    tensors = prepare(waveforms)
    train = {name: tensor[~test] for name, tensor in tensors.items()}
    for _ in range(15):
        loss = F.cross_entropy(head(pool(*net(**train))), digit[~test])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts.eval()
    with torch.inference_mode():
        held_out = {name: tensor[test] for name, tensor in tensors.items()}
        right = head(pool(*net(**held_out))).argmax(1) == digit[test]
    assert right.float().mean() >= 0.9  # chance: 0.5, with 50 recordings

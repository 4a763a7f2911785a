"""Hugging Face audio models as encoders: AST, wav2vec 2.0, HuBERT, WavLM, Whisper, CLAP."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoFeatureExtractor, PretrainedConfig

from amodal.encoders.audio.config import AudioConfig
from amodal.encoders.audio.feature_extraction import FeatureExtraction, default_extractor
from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName
from amodal.encoders.fine_tuning import freeze_unused
from amodal.encoders.hub import load_pretrained
from amodal.encoders.huggingface import (
    HuggingFaceConfig,
    build_model,
    enable_checkpointing,
    hidden_width,
    layer_groups,
)


class HuggingFaceAudioConfig(HuggingFaceConfig, AudioConfig):
    """An audio model: AST, wav2vec 2.0, HuBERT, WavLM, data2vec, Whisper's encoder, CLAP's."""

    def build(self, pretrained: bool = True) -> HuggingFaceAudioEncoder:
        """The encoder; `pretrained=False` needs `architecture` and no network."""
        return HuggingFaceAudioEncoder(self, self.model_config_of(), pretrained=pretrained)

    def preprocessor(self) -> FeatureExtraction:
        if self.architecture is None and self.name is not None:
            extractor = load_pretrained(AutoFeatureExtractor, self.name)
        else:
            extractor = default_extractor(self.model_config_of())
        return FeatureExtraction(extractor, self.max_seconds, self.segment_seconds)


class HuggingFaceAudioEncoder(nn.Module):
    """The last hidden state of an audio model, as tokens.

    The tokens of a clip do not depend on the padding of its batch. Models whose first layer
    normalises over time (wav2vec 2.0 base, HuBERT base) cannot leave padding out: they encode clips
    of equal length together, and others one after the other.

    Args:
        config: of this encoder.
        model_config: of the model.
        pretrained: False refuses to load weights.

    Examples:
        >>> import numpy as np
        >>> from amodal.encoders import HuggingFaceAudioConfig
        >>> layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> ast = {"model_type": "audio-spectrogram-transformer", "max_length": 64, **layers}
        >>> config = HuggingFaceAudioConfig(architecture=ast)  # random weights
        >>> tensors = config.preprocessor()([np.ones(8000, np.float32)])
        >>> tokens, _ = config.build().eval()(**tensors)
        >>> tokens.shape  # two class tokens, and 12 x 5 patches
        torch.Size([1, 62, 16])
    """

    def __init__(
        self, config: HuggingFaceAudioConfig, model_config: PretrainedConfig, *, pretrained: bool
    ) -> None:
        super().__init__()
        whole = build_model(config.name, config.architecture is not None, model_config, pretrained)
        update = {"architecture": whole.config.to_dict()}
        model = whole.get_encoder() if whole.config.is_encoder_decoder else whole
        model = getattr(model, "audio_model", model)  # of a dual encoder
        # The models' own masks in training would come on top of the augmentation of a recipe.
        model.config.apply_spec_augment = False
        model.config.layerdrop = 0.0  # a layer left out would have no gradient
        if config.gradient_checkpointing:
            enable_checkpointing(model)
        self.model = model
        self.by_length = getattr(model.config, "feat_extract_norm", None) == "group"
        self.config: EncoderConfig = config.model_copy(update=update)
        self.width = hidden_width(model.config)
        self.pooling: PoolingName = "mean"
        freeze_unused(self, lambda: self(**self._shortest(config))[0])

    def _shortest(self, config: HuggingFaceAudioConfig) -> dict[str, Tensor]:
        prepare = FeatureExtraction(default_extractor(config.model_config_of()), 1.0)
        return prepare([np.zeros(prepare.longest, np.float32)])

    def forward(
        self, attention_mask: Tensor | None = None, **tensors: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The model's tensors → tokens (B, N, D), keep (B, N) bool where clips differ in length."""
        if attention_mask is None:  # spectrograms of one length
            hidden = self.model(**tensors).last_hidden_state
            return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden, None
        lengths = self._token_counts(attention_mask)
        if self.by_length:
            hidden = self._encoded_by_length(tensors["input_values"], attention_mask.sum(dim=1))
        else:
            hidden = self.model(attention_mask=attention_mask, **tensors).last_hidden_state
        keep = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return hidden.masked_fill(~keep.unsqueeze(-1), 0), keep

    def _token_counts(self, mask: Tensor) -> Tensor:
        """(B,) tokens of the clips, at least one each."""
        counted = getattr(self.model, "_get_feat_extract_output_lengths", None)
        samples = mask.sum(dim=1)
        # Whisper's encoder halves the frames.
        counts = counted(samples) if counted is not None else (samples + 1) // 2
        return cast(Tensor, counts).clamp(min=1)

    def _encoded_by_length(self, waveforms: Tensor, samples: Tensor) -> Tensor:
        """(B, N, D) of (B, T) waveforms, zero after the end of each."""
        parts = {
            length: self.model(waveforms[samples == length, :length]).last_hidden_state
            for length in samples.unique().tolist()
        }
        most = max(part.shape[1] for part in parts.values())
        first = next(iter(parts.values()))
        hidden = first.new_zeros(len(waveforms), most, first.shape[-1])
        for length, part in parts.items():
            rows = (samples == length).nonzero()[:, 0]
            padded = nn.functional.pad(part, (0, 0, 0, most - part.shape[1]))
            hidden = hidden.index_copy(0, rows, padded)
        return hidden

    def layer_groups(self) -> LayerGroups:
        """Embeddings, then the layers: what `freeze: n` counts."""
        return layer_groups(self.model)

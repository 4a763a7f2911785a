"""The network of the multimodal Transformer: image tokens and text ids in, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from amodal.data.batch import Batch
from amodal.distributed import batch_statistics
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.text.chat_template import IGNORED, ChatTemplate
from amodal.fusion.cross_attention import CoAttention, CrossAttentionConfig
from amodal.models.frozen_features import FrozenEncoder, tokens_of
from amodal.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from amodal.models.joint_embedding import Embeddings
from amodal.models.multimodal_transformer.answer_head import AnswerHead, AnswerPredictions
from amodal.models.multimodal_transformer.architecture import (
    MultimodalTransformerConfig,
    TransformerArchitecture,
)
from amodal.models.multimodal_transformer.contrastive_heads import (
    ContrastiveHeads,
    caption_ends,
    conversation_keys,
)
from amodal.models.multimodal_transformer.image_generation import (
    ImageContext,
    ImageTokens,
    PackedConversations,
)
from amodal.models.multimodal_transformer.layers import (
    DecoderLayer,
    EncoderLayer,
    Memory,
    segment_mask,
    segment_positions,
)
from amodal.models.multimodal_transformer.packing import unpack_conversations
from amodal.models.run_folder import Preprocessors


class TokenPredictions(NamedTuple):
    """Logits at the target tokens of a batch, concatenated over its rows.

    Args:
        logits: (T, V).
        labels: (T,) int64 target tokens.
        item: (T,) int64 index of the item in the batch.
        conversation: (T,) int64 number of the conversation about the item, from 1 on.
        embedded: embeddings of the images and complete captions of the batch, where the model has
            contrastive heads.
        classified: answers predicted over the answer vocabulary, where the model has an answer
            head; their tokens are no targets.
    """

    logits: Tensor
    labels: Tensor
    item: Tensor
    conversation: Tensor
    embedded: dict[str, Embeddings] | None = None
    classified: AnswerPredictions | None = None


class TransformerNetwork(PreTrainedModel, GenerationMixin):
    """Image encoder → Transformer encoder → causal decoder with cross-attention → token logits.

    records → tensors → encoder (B, N, D) → self-attention (B, N, D) → causal decoder with
    cross-attention (B, L, D) → logits of the next token (B, L, V). Several conversations about one
    item are packed into one row; a segment mask separates them, and they share the image tokens.

    Args:
        config: the architecture.
        preprocessors: `image`, and `conversation` for the text.
        pretrained: load the pretrained weights of the image encoder.

    References:
        Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745 (pre-norm).
        Press & Wolf 2016, arXiv:1608.05859 (output weights are the embeddings).
    """

    config_class = MultimodalTransformerConfig
    config: MultimodalTransformerConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_cache_class = True

    def __init__(
        self,
        config: MultimodalTransformerConfig,
        preprocessors: Preprocessors | None = None,
        *,
        pretrained: bool = False,
    ) -> None:
        super().__init__(config)
        architecture = TransformerArchitecture.model_validate(config.architecture)
        vocabulary = architecture.vocabulary
        if vocabulary is None:
            raise ValueError("vocabulary is unknown; build the model with a tokenizer")
        self.preprocessors = dict(preprocessors or {})
        width = architecture.width
        self.encoders = nn.ModuleDict()
        self.project = nn.ModuleDict()
        self.architecture = architecture
        self.modality = nn.ParameterDict()
        resolved: dict[str, Any] = {}
        for name, specification in architecture.encoders.items():
            encoder = specification.build(pretrained=pretrained)
            resolved[name] = encoder.config
            self.encoders[name] = apply_fine_tuning(encoder)
            self.project[name] = nn.Linear(encoder.width, width)
            self.modality[name] = nn.Parameter(0.02 * torch.randn(width))
        architecture = architecture.model_copy(update={"encoders": resolved})
        self.types = {name: config.type for name, config in resolved.items()}
        if architecture.image_tokenizer is not None:
            self.types["image"] = "image"
        self.types["conversation"] = "conversation"
        self.architecture = architecture
        self.co_attention: CoAttention | None = None
        self.encoder = nn.ModuleList()
        if self.encoders:
            self._build_fusion(architecture)
        image_tokenizer = architecture.image_tokenizer
        self.image_tokens: ImageTokens | None = None
        if image_tokenizer is not None:
            self.image_tokens = ImageTokens(
                ImageTokenizer(ImageTokenizerConfig(image_tokenizer.model_dump(mode="json"))),
                width,
                first=vocabulary,
                start=self.chat_template.role_ids["image"],
                caption_dropout=architecture.caption_dropout,
            )
            vocabulary += image_tokenizer.codebook_size
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(architecture.max_length, width))
        self.decoder = nn.ModuleList(
            DecoderLayer(
                architecture,
                cross_attends=bool(self.encoders) and index >= architecture.unimodal_layers,
            )
            for index in range(architecture.decoder_layers)
        )
        self.contrast = (
            ContrastiveHeads(width, architecture.projection)
            if architecture.unimodal_layers
            else None
        )
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.dropout = nn.Dropout(architecture.dropout)
        self.answer_head = AnswerHead(width, architecture.answers) if architecture.answers else None
        nn.init.normal_(self.embedding.weight, std=0.02)
        config.architecture = architecture.model_dump(mode="json")
        # Attributes that `GenerationMixin.generate` reads.
        config.vocab_size = vocabulary
        config.num_hidden_layers = architecture.decoder_layers
        config.is_encoder_decoder = False

    def _build_fusion(self, architecture: TransformerArchitecture) -> None:
        """Encoder of the image tokens, with or without the prompt."""
        width = architecture.width
        if architecture.fusion == "co_attention":
            co_attention = CrossAttentionConfig(
                dim=width,
                layers=max(1, architecture.encoder_layers),
                heads=architecture.heads,
                dropout=architecture.dropout,
            )
            self.co_attention = CoAttention(co_attention, {"encoded": width, "text": width})
        else:
            self.encoder.extend(
                EncoderLayer(architecture) for _ in range(architecture.encoder_layers)
            )
        if self.conditions_on_prompt:
            self.modality["text"] = nn.Parameter(0.02 * torch.randn(width))
        self.memory_norm = nn.LayerNorm(width)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that have encoders."""
        return tuple(self.encoders)

    @property
    def generates_images(self) -> bool:
        """Whether the vocabulary contains image tokens."""
        return self.image_tokens is not None

    @property
    def chat_template(self) -> ChatTemplate:
        return cast(ChatTemplate, self.preprocessors["conversation"])

    def learning_rate_scales(self) -> dict[str, float]:
        """Prefix of parameter names -> factor on the learning rate."""
        return {
            f"network.encoders.{name}.": config.learning_rate_scale
            for name, config in self.architecture.encoders.items()
        }

    @property
    def conditions_on_prompt(self) -> bool:
        """Whether the encoder reads the prompt together with the image."""
        return self.architecture.fusion != "projection"

    def encode_inputs(self, batch: Batch) -> Memory | None:
        """Encoder tokens of B items, inputs concatenated; None for a model of text alone."""
        tokens, masks = [], []
        for modality in self.encoders:
            x, keep = self._encode_input(modality, batch)
            tokens.append(x)
            masks.append(keep)
        return Memory(torch.cat(tokens, dim=1), torch.cat(masks, dim=1)) if tokens else None

    def fuse(self, encoded: Memory | None, prompts: Mapping[str, Tensor] | None) -> Memory | None:
        """Memory that the decoder cross-attends to.

        Args:
            encoded: tokens of R items, from `encode_inputs`.
            prompts: `input_ids` and `attention_mask`, (R, P), of one prompt per item; unused
                where the fusion is a projection.

        Returns:
            R rows: the tokens of the item, and those of its prompt where the encoder reads it.
        """
        if encoded is None:
            return None
        x, keep = encoded
        if self.conditions_on_prompt:
            assert prompts is not None
            ids, mask = prompts["input_ids"], prompts["attention_mask"].bool()
            position = self.position[segment_positions(mask.long())]
            text = self.dropout(self.embedding(ids) + position + self.modality["text"])
            if self.co_attention is not None:
                tokens, keep = self.co_attention(
                    {"encoded": x, "text": text}, {"encoded": keep, "text": mask}
                )
                return Memory(self.memory_norm(tokens), keep)
            x, keep = torch.cat([x, text], dim=1), torch.cat([keep, mask], dim=1)
        # A row without tokens attends to its padding, so that the softmax is over something.
        mask = (keep | ~keep.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.encoder:
            x = layer(x, mask)
        return Memory(self.memory_norm(x), keep)

    def encoder_of(self, name: str) -> FrozenEncoder:
        """The encoder of an input, all of whose tokens are read."""
        encoder: Any = self.encoders[name]
        return FrozenEncoder(encoder, encoder, encoder.config)

    def _encode_input(self, modality: str, batch: Batch) -> tuple[Tensor, Tensor]:
        present = batch.present[modality][:, 0]
        named = batch.tensors[modality]
        if bool(present.all()):
            tokens, keep = tokens_of(self.encoders[modality], named)
        else:
            # A batch without any image still needs to know how many tokens an image has. Where
            # rows share statistics, those that stand for nothing must not be among them.
            some = bool(present.any()) or bool(batch_statistics(self.encoders[modality]))
            rows = present if some else torch.ones_like(present)
            of_rows = {n: t[rows] for n, t in named.items()}
            row_tokens, keep = tokens_of(self.encoders[modality], of_rows)
            tokens = row_tokens.new_zeros(len(present), *row_tokens.shape[1:])
            tokens[rows] = row_tokens
            if keep is not None:
                row_keep, keep = keep, keep.new_zeros(len(present), keep.shape[1])
                keep[rows] = row_keep
        x = self.project[modality](tokens) + self.modality[modality]
        if keep is None:
            keep = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return self.dropout(x), keep & present[:, None]

    def forward(  # type: ignore[override]
        self,
        batch: Batch | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        memory_tokens: Tensor | None = None,
        memory_keep: Tensor | None = None,
        image_context: ImageContext | None = None,
        **ignored: Any,
    ) -> TokenPredictions | CausalLMOutputWithPast:
        """Logits at the target tokens of a batch, or of the next token during generation.

        Args:
            batch: with a `conversation` input: packed ids, segments and labels; logits are
                computed at target tokens only.
            input_ids: (B, L), instead of a batch.
            attention_mask: (B, past + L), 0 at padding.
            position_ids: (B, L); derived from the mask where left out.
            cache: keys and values of the tokens before.
            memory_tokens: (B, N, D) and memory_keep, (B, N) bool: the memory, from `fuse`.
            image_context: see `decode`.
        """
        if batch is not None:
            return self._token_predictions(batch)
        assert input_ids is not None
        memory = None
        if memory_tokens is not None:
            assert memory_keep is not None
            memory = Memory(memory_tokens, memory_keep)
        past = cache.get_seq_length() if cache is not None else 0
        if attention_mask is None:
            attention_mask = input_ids.new_ones(len(input_ids), past + input_ids.shape[1])
        hidden = self.decode(input_ids, attention_mask, memory, cache, position_ids, image_context)
        return CausalLMOutputWithPast(  # type: ignore[call-arg]
            logits=self.scores(hidden), cache=cache
        )

    def _token_predictions(self, batch: Batch) -> TokenPredictions:
        named = batch.tensors["conversation"]
        ids, segment = named["input_ids"], named["segment"]
        labels = named["labels"].masked_fill(~batch.present["conversation"], IGNORED)
        if self.image_tokens is not None:
            packed = PackedConversations(ids, segment, labels)
            ids, segment, labels = self.image_tokens.insert_codes(batch, packed)
        encoded = self.encode_inputs(batch)
        if not self.conditions_on_prompt:
            memory = self.fuse(encoded, None)
            unimodal = self._decode_unimodal(ids, segment)
            hidden = self._decode_multimodal(unimodal, segment, memory)
            item = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
            classified, labels = self._classify_answers(named, hidden, labels, item, segment)
            embedded = (
                self._contrastive_embeddings(batch, unimodal, memory)
                if self.contrast is not None
                else None
            )
            target = labels != IGNORED
            return TokenPredictions(
                self.scores(hidden[target]),
                labels[target],
                target.nonzero()[:, 0],
                segment[target],
                classified=classified,
                embedded=embedded,
            )
        rows = unpack_conversations(ids, segment, labels, self.chat_template.pad_id)
        if encoded is not None:
            encoded = encoded.select(rows.item)
        prompts = {"input_ids": rows.prompt_ids, "attention_mask": rows.prompt_mask}
        memory = self.fuse(encoded, prompts)
        hidden = self.decode(rows.ids, rows.attention_mask, memory)
        item, conversation = (
            t[:, None].expand_as(rows.ids) for t in (rows.item, rows.conversation)
        )
        classified, labels = self._classify_answers(named, hidden, rows.labels, item, conversation)
        target = labels != IGNORED
        row = target.nonzero()[:, 0]
        return TokenPredictions(
            self.scores(hidden[target]),
            labels[target],
            rows.item[row],
            rows.conversation[row],
            classified=classified,
        )

    def _contrastive_embeddings(
        self, batch: Batch, unimodal: Tensor, memory: Memory | None
    ) -> dict[str, Embeddings]:
        assert self.contrast is not None
        assert memory is not None
        named = batch.tensors["conversation"]
        ends = caption_ends(
            named["input_ids"],
            named["segment"],
            self.chat_template.role_ids["caption"],
            self.chat_template.end_id,
        )
        has_image = memory.keep.any(1)
        row, position = (ends & batch.present["conversation"]).nonzero().unbind(1)
        z = self.contrast.embed_captions(unimodal[row, position])
        keys = conversation_keys(named["input_ids"], named["segment"])
        images = self.contrast.embed_images(memory)[has_image]
        return {
            "image": Embeddings(images, batch.item[has_image], None),
            "text": Embeddings(z, batch.item[row], keys[row, position]),
        }

    def _classify_answers(
        self,
        named: Mapping[str, Tensor],
        hidden: Tensor,
        labels: Tensor,
        item: Tensor,
        conversation: Tensor,
    ) -> tuple[AnswerPredictions | None, Tensor]:
        if self.answer_head is None or "answer_targets" not in named:
            return None, labels
        return self.answer_head.predict(hidden, labels, item, conversation, named["answer_targets"])

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., D) → (..., V) logits; the output weights are the token embeddings."""
        return F.linear(hidden, self._embeddings(), self.bias)

    def _embeddings(self) -> Tensor:
        """(V, D) embeddings of all tokens, text and image codes."""
        learned: Tensor = self.embedding.weight
        return learned if self.image_tokens is None else self.image_tokens.embeddings(learned)

    def decode(
        self,
        ids: Tensor,
        segment: Tensor,
        memory: Memory | None,
        cache: Cache | None = None,
        position_ids: Tensor | None = None,
        image_context: ImageContext | None = None,
    ) -> Tensor:
        """(B, L) ids → (B, L, D) states of the last layer.

        Args:
            segment: (B, past + L) number of the conversation of each token, 0 at padding on either
                side. A token attends to those before it in its own conversation.
            memory: of the B items.
            cache: read and extended.
            position_ids: (B, L) position within the conversation; derived where left out.
            image_context: of a model that generates images; derived from the ids where left out,
                which must then contain every image from its first token on.

        Raises:
            ValueError: a conversation is longer than `max_length`.
        """
        unimodal = self._decode_unimodal(ids, segment, cache, position_ids, image_context)
        return self._decode_multimodal(unimodal, segment, memory, cache)

    def _decode_unimodal(
        self,
        ids: Tensor,
        segment: Tensor,
        cache: Cache | None = None,
        position_ids: Tensor | None = None,
        image_context: ImageContext | None = None,
    ) -> Tensor:
        """(B, L, D) states after the unimodal layers; arguments as of `decode`."""
        length = ids.shape[1]
        if position_ids is None:
            position_ids = segment_positions(segment)[:, -length:]
        if self.image_tokens is not None:
            image_context = image_context or self.image_tokens.context(ids)
            position_ids = position_ids.masked_fill(image_context.positions >= 0, 0)
        limit = len(self.position)
        if position_ids.numel() and int(position_ids.max()) >= limit:
            raise ValueError(f"{int(position_ids.max()) + 1} tokens; max_length is {limit}")
        position, embeddings = self.position[position_ids], self._embeddings()
        if self.image_tokens is not None and image_context is not None:
            grid = self.image_tokens.position_embeddings(image_context, embeddings)
            position = torch.where(image_context.positions[..., None] >= 0, grid, position)
        x: Tensor = self.dropout(F.embedding(ids, embeddings) + position)
        mask = segment_mask(segment, length)
        for index, layer in enumerate(self.decoder[: self.architecture.unimodal_layers]):
            x = layer(x, mask, None, cache, index)
        return x

    def _decode_multimodal(
        self, x: Tensor, segment: Tensor, memory: Memory | None, cache: Cache | None = None
    ) -> Tensor:
        """(B, L, D) unimodal states → (B, L, D) after the layers that cross-attend."""
        mask = segment_mask(segment, x.shape[1])
        first = self.architecture.unimodal_layers
        for index, layer in enumerate(self.decoder[first:], start=first):
            x = layer(x, mask, memory, cache, index)
        return cast(Tensor, self.norm(x))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Arguments of `forward` at each step, with the position of each token in its image."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[no-untyped-call]
        if self.image_tokens is not None:
            length = inputs["input_ids"].shape[1]
            inputs["image_context"] = self.image_tokens.context(input_ids).last(length)
        return inputs

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: every part initializes itself."""

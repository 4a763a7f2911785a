"""The network of the multimodal Transformer: image tokens and text ids in, scores out."""

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
from amodal.encoders.fine_tuning import apply_fine_tuning
from amodal.encoders.text.chat_template import IGNORED, ChatTemplate
from amodal.fusion.cross_attention import CoAttention, CrossAttentionConfig
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
)
from amodal.models.joint_embedding import Embeddings
from amodal.models.multimodal_transformer.answer_head import AnswerHead, Classified
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
    Packed,
)
from amodal.models.multimodal_transformer.layers import (
    DecoderLayer,
    EncoderLayer,
    Memory,
    places,
    segment_mask,
)
from amodal.models.multimodal_transformer.packing import unpack
from amodal.models.run_folder import Preprocessors


class TokenPredictions(NamedTuple):
    """Scores of the tokens that are to be said, of all rows one after the other.

    Args:
        logits: (T, V).
        labels: (T,) int64, the tokens that were said.
        item: (T,) int64 which item of the batch each is said about.
        exchange: (T,) int64 in which exchange about the item, from 1 on.
        embedded: the images and whole captions of the batch, where the model embeds them.
        classified: answers that are chosen from a list instead.
    """

    logits: Tensor
    labels: Tensor
    item: Tensor
    conversation: Tensor
    embedded: dict[str, Embeddings] | None = None
    classified: Classified | None = None


class TransformerNetwork(PreTrainedModel, GenerationMixin):
    """Image tokens → encoder → decoder of text that looks at them.

    records → tensors → encoder (B, N, D) → self-attention (B, N, D) → causal decoder with
    cross-attention (B, L, D) → scores of the next token (B, L, V). Several exchanges about one item
    stand in one row, none reads another, and they share the tokens of its image.

    Args:
        config: the architecture.
        preprocessors: `image`, and `turns` for the text.
        pretrained: load the encoder's pretrained weights.

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
        if architecture.image is not None:
            encoder = architecture.image.build(pretrained=pretrained)
            architecture = architecture.model_copy(update={"image": encoder.config})
            self.encoders["image"] = apply_fine_tuning(encoder)
            self.project["image"] = nn.Linear(encoder.width, width)
            self.modality["image"] = nn.Parameter(0.02 * torch.randn(width))
        self.architecture = architecture
        self.co_attention: CoAttention | None = None
        self.encoder = nn.ModuleList()
        if self.encoders:
            self._build_fusion(architecture)
        drawing = architecture.image_tokenizer
        self.image_tokens: ImageTokens | None = None
        if drawing is not None:
            self.image_tokens = ImageTokens(
                ImageTokenizer(ImageTokenizerConfig(drawing.model_dump(mode="json"))),
                width,
                first=vocabulary,
                start=self.chat_template.role_ids["image"],
                caption_dropout=architecture.caption_dropout,
            )
            vocabulary += drawing.codebook_size
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
        # What `generate` asks of a configuration.
        config.vocab_size = vocabulary
        config.num_hidden_layers = architecture.decoder_layers
        config.is_encoder_decoder = False

    def _build_fusion(self, architecture: TransformerArchitecture) -> None:
        """What mixes the tokens of the modalities before the decoder looks at them."""
        width = architecture.width
        if architecture.fusion == "co_attention":
            looks = CrossAttentionConfig(
                dim=width,
                layers=max(1, architecture.encoder_layers),
                heads=architecture.heads,
                dropout=architecture.dropout,
            )
            self.co_attention = CoAttention(looks, {"encoded": width, "text": width})
        else:
            self.encoder.extend(
                EncoderLayer(architecture) for _ in range(architecture.encoder_layers)
            )
        if self.conditions_on_prompt:
            self.modality["text"] = nn.Parameter(0.02 * torch.randn(width))
        self.memory_norm = nn.LayerNorm(width)

    @property
    def modalities(self) -> tuple[str, ...]:
        return (*self.encoders, "text")

    @property
    def generates_images(self) -> bool:
        """Whether the model says images."""
        return self.image_tokens is not None

    @property
    def chat_template(self) -> ChatTemplate:
        return cast(ChatTemplate, self.preprocessors["conversation"])

    def learning_rate_scales(self) -> dict[str, float]:
        """Prefix of parameter names -> factor on the learning rate."""
        image = self.architecture.image
        return {"network.encoders.image.": image.learning_rate_scale} if image is not None else {}

    @property
    def conditions_on_prompt(self) -> bool:
        """Whether what the decoder looks at depends on what is asked."""
        return self.architecture.fusion != "projection"

    def encode_inputs(self, batch: Batch) -> Memory | None:
        """Tokens of all modalities of the B items side by side; None for a model of text alone."""
        tokens, masks = [], []
        for modality in self.encoders:
            found, keep = self._encoded(modality, batch)
            tokens.append(found)
            masks.append(keep)
        return Memory(torch.cat(tokens, dim=1), torch.cat(masks, dim=1)) if tokens else None

    def fused(self, encoded: Memory | None, prompts: Mapping[str, Tensor] | None) -> Memory | None:
        """What the decoder looks at.

        Args:
            encoded: tokens of R items.
            prompts: `input_ids` and `attention_mask`, (R, L), of what is asked about each; not
                read where the fusion is a projection.

        Returns:
            R rows: the tokens of the item, and where prompts are read, theirs after them.
        """
        if encoded is None:
            return None
        x, keep = encoded
        if self.conditions_on_prompt:
            assert prompts is not None
            ids, read = prompts["input_ids"], prompts["attention_mask"].bool()
            text = self.dropout(
                self.embedding(ids) + self.position[places(read.long())] + self.modality["text"]
            )
            if self.co_attention is not None:
                tokens, mask = self.co_attention(
                    {"encoded": x, "text": text}, {"encoded": keep, "text": read}
                )
                return Memory(self.memory_norm(tokens), mask)
            x, keep = torch.cat([x, text], dim=1), torch.cat([keep, read], dim=1)
        # A row without tokens attends to its padding, so that the softmax is over something.
        mask = (keep | ~keep.any(dim=1, keepdim=True))[:, None, None, :]
        for layer in self.encoder:
            x = layer(x, mask)
        return Memory(self.memory_norm(x), keep)

    def _encoded(self, modality: str, batch: Batch) -> tuple[Tensor, Tensor]:
        present = batch.present[modality][:, 0]
        named = batch.tensors[modality]
        if bool(present.all()):
            tokens, keep = self.encoders[modality](**named)
        else:
            # A batch without a single image still needs to know how many tokens one has.
            chosen = present if bool(present.any()) else torch.ones_like(present)
            some, keep = self.encoders[modality](**{n: t[chosen] for n, t in named.items()})
            tokens = some.new_zeros(len(present), *some.shape[1:])
            tokens[chosen] = some
            if keep is not None:
                whole = keep.new_zeros(len(present), keep.shape[1])
                whole[chosen] = keep
                keep = whole
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
        """Scores of what a batch says, or of the next tokens where `generate` goes on from ids.

        Args:
            batch: with `turns`: packed ids, segments and labels; only scores of what is to be
                said are computed.
            input_ids: (B, L), in the place of a batch.
            attention_mask: (B, past + L), 0 at padding.
            position_ids: (B, L); counted from the mask where left out.
            cache: keys and values of what was read before.
            memory_tokens: (B, N, D) and memory_keep, (B, N) bool: what `fused` returned.
            pictured: see `decode`.
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
            ids, segment, labels = self.image_tokens.filled(batch, Packed(ids, segment, labels))
        encoded = self.encode_inputs(batch)
        if not self.conditions_on_prompt:
            memory = self.fused(encoded, None)
            read = self._read(ids, segment)
            hidden = self._continue(read, segment, memory)
            item = torch.arange(len(ids), device=ids.device)[:, None].expand_as(ids)
            classified, labels = self._classified(named, hidden, labels, item, segment)
            chosen = labels != IGNORED
            return TokenPredictions(
                self.scores(hidden[chosen]),
                labels[chosen],
                chosen.nonzero()[:, 0],
                segment[chosen],
                classified=classified,
                embedded=self._embedded(batch, read, memory) if self.contrast is not None else None,
            )
        rows = unpack(ids, segment, labels, self.chat_template.pad_id)
        memory_rows = (
            None if encoded is None else Memory(encoded.tokens[rows.item], encoded.keep[rows.item])
        )
        memory = self.fused(memory_rows, {"input_ids": rows.prompt, "attention_mask": rows.read})
        hidden = self.decode(rows.ids, rows.mask, memory)
        item, conversation = (
            t[:, None].expand_as(rows.ids) for t in (rows.item, rows.conversation)
        )
        classified, labels = self._classified(named, hidden, rows.labels, item, conversation)
        chosen = labels != IGNORED
        place = chosen.nonzero()[:, 0]
        return TokenPredictions(
            self.scores(hidden[chosen]),
            labels[chosen],
            rows.item[place],
            rows.conversation[place],
            classified=classified,
        )

    def _embedded(self, batch: Batch, read: Tensor, memory: Memory | None) -> dict[str, Embeddings]:
        assert self.contrast is not None
        assert memory is not None
        named = batch.tensors["conversation"]
        ends = caption_ends(
            named["input_ids"],
            named["segment"],
            self.chat_template.role_ids["caption"],
            self.chat_template.end_id,
        )
        there = memory.keep.any(1)
        about = (ends & batch.present["conversation"]).nonzero()
        z = self.contrast.embed_captions(read[about[:, 0], about[:, 1]])
        keys = conversation_keys(named["input_ids"], named["segment"])
        images = self.contrast.embed_images(memory)[there]
        return {
            "image": Embeddings(images, batch.item[there], None),
            "text": Embeddings(z, batch.item[about[:, 0]], keys[about[:, 0], about[:, 1]]),
        }

    def _classified(
        self,
        named: Mapping[str, Tensor],
        hidden: Tensor,
        labels: Tensor,
        item: Tensor,
        conversation: Tensor,
    ) -> tuple[Classified | None, Tensor]:
        if self.answer_head is None or "asked" not in named:
            return None, labels
        return self.answer_head.classified(hidden, labels, item, conversation, named["asked"])

    def scores(self, hidden: Tensor) -> Tensor:
        """(..., D) → (..., V), the embeddings being the output weights."""
        return F.linear(hidden, self._embeddings(), self.bias)

    def _embeddings(self) -> Tensor:
        """(V, D) of every token, text and codes of images."""
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
            segment: (B, past + L) number of the exchange that a token belongs to, 0 at padding on
                either side. A token reads what came before it in its own exchange.
            memory: of the B items.
            cache: read and extended.
            position_ids: (B, L) places within the exchange; counted where left out.
            pictured: of a model that draws; found in the ids where left out, which must then hold
                images from their beginning.
        """
        read = self._read(ids, segment, cache, position_ids, image_context)
        return self._continue(read, segment, memory, cache)

    def _read(
        self,
        ids: Tensor,
        segment: Tensor,
        cache: Cache | None = None,
        position_ids: Tensor | None = None,
        image_context: ImageContext | None = None,
    ) -> Tensor:
        """(B, L, D) after the layers that read the text alone; the arguments are of `decode`."""
        length = ids.shape[1]
        if position_ids is None:
            position_ids = places(segment)[:, -length:]
        if self.image_tokens is not None:
            image_context = image_context or self.image_tokens.context(ids)
            position_ids = position_ids.masked_fill(image_context.places >= 0, 0)
        limit = len(self.position)
        if position_ids.shape[1] and int(position_ids.max()) >= limit:
            raise ValueError(f"{int(position_ids.max()) + 1} tokens; max_length is {limit}")
        position, embeddings = self.position[position_ids], self._embeddings()
        if self.image_tokens is not None and image_context is not None:
            around = self.image_tokens.around(image_context, embeddings)
            position = torch.where(image_context.places[..., None] >= 0, around, position)
        x: Tensor = self.dropout(F.embedding(ids, embeddings) + position)
        mask = segment_mask(segment, length)
        for index, layer in enumerate(self.decoder[: self.architecture.unimodal_layers]):
            x = layer(x, mask, None, cache, index)
        return x

    def _continue(
        self, x: Tensor, segment: Tensor, memory: Memory | None, cache: Cache | None = None
    ) -> Tensor:
        """(B, L, D) of `_read` → (B, L, D) after the layers that look."""
        mask = segment_mask(segment, x.shape[1])
        first = self.architecture.unimodal_layers
        for index, layer in enumerate(self.decoder[first:], start=first):
            x = layer(x, mask, memory, cache, index)
        return cast(Tensor, self.norm(x))

    def prepare_inputs_for_generation(self, input_ids: Tensor, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What `forward` gets at each step: where in its image a token stands is told too."""
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[no-untyped-call]
        if self.image_tokens is not None:
            length = inputs["input_ids"].shape[1]
            inputs["pictured"] = self.image_tokens.context(input_ids).last(length)
        return inputs

    def _init_weights(self, module: nn.Module) -> None:
        """Every part has initialised itself."""

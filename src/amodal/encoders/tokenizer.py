"""Tokenizers: one trained on the user's own captions, or one that comes with a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from amodal.encoders.config import StrictConfig

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
# Chinese and Japanese are written without spaces: each character is a word of its own.
WITHOUT_SPACES = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}]")


class TrainedTokenizerConfig(StrictConfig):
    """A tokenizer trained on the captions of the training source; any language, no hub."""

    kind: Literal["trained"] = "trained"
    vocab_size: int = Field(8000, ge=16)
    model: Literal["bpe", "word"] = "bpe"  # word: frequent words only, the rest is [UNK]
    lowercase: bool = True


class PretrainedTokenizerConfig(StrictConfig):
    """The tokenizer of a hub model or a local folder."""

    kind: Literal["pretrained"] = "pretrained"
    name: str


TokenizerConfig = Annotated[
    TrainedTokenizerConfig | PretrainedTokenizerConfig, Field(discriminator="kind")
]


def build_tokenizer(
    config: TrainedTokenizerConfig | PretrainedTokenizerConfig, texts: Iterable[str] | None
) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe asks for.

    Raises:
        ValueError: a tokenizer is to be trained and there is no text.
    """
    if isinstance(config, PretrainedTokenizerConfig):
        return AutoTokenizer.from_pretrained(config.name)
    if texts is None:
        raise ValueError("a trained tokenizer needs the captions of the training source")
    return train_tokenizer(texts, config.vocab_size, model=config.model, lowercase=config.lowercase)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model: Literal["bpe", "word"] = "bpe",
    lowercase: bool = True,
) -> PreTrainedTokenizerFast:
    """A tokenizer trained on `texts`; the same texts give the same tokenizer.

    Text is normalised to NFKC; a caption becomes [CLS] … [SEP].

    Args:
        texts: the corpus.
        vocab_size: most tokens that it may have, special ones included.
        model: `bpe` splits rare words into pieces (Sennrich et al. 2016, arXiv:1508.07909),
            `word` maps them to [UNK].
        lowercase: whether case is dropped.

    Raises:
        ValueError: the corpus has no word.
    """
    steps: list[normalizers.Normalizer] = [normalizers.NFKC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    kind = models.BPE(unk_token="[UNK]") if model == "bpe" else models.WordLevel(unk_token="[UNK]")
    tokenizer = Tokenizer(kind)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WITHOUT_SPACES, "isolated"),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Metaspace(),
        ]
        if model == "bpe"
        else [
            pre_tokenizers.Split(WITHOUT_SPACES, "isolated"),
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
        ]
    )
    trainer_kind = trainers.BpeTrainer if model == "bpe" else trainers.WordLevelTrainer
    trainer = trainer_kind(vocab_size=vocab_size, special_tokens=list(SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() <= len(SPECIAL):
        raise ValueError("the training source has no words to train a tokenizer on")
    if model == "bpe":
        tokenizer.decoder = decoders.Metaspace()
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        unk_token="[UNK]",
    )

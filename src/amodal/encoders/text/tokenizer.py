"""Tokenizers: one trained on the user's own captions, or one that comes with a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

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
from amodal.encoders.hub import load_named

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
# Chinese and Japanese are written without spaces: each character is a word of its own.
WITHOUT_SPACES = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
# In decoded text there is no space before such a character, nor before closing punctuation.
NO_SPACE_BEFORE = Regex(r"^▁(?=[\p{Han}\p{Hiragana}\p{Katakana}，。、！？；：）》」』.,!?;:)%])")


class TrainedTokenizerConfig(StrictConfig):
    """Tokenizer trained on the texts of the training source; any language, no download."""

    kind: Literal["trained"] = "trained"
    vocab_size: int = Field(8000, ge=16)
    model: Literal["bpe", "word"] = "bpe"  # word: the most frequent words, others are [UNK]
    lowercase: bool = True


class PretrainedTokenizerConfig(StrictConfig):
    """Tokenizer of a hub model or a local folder."""

    kind: Literal["pretrained"] = "pretrained"
    name: str


TokenizerConfig = Annotated[
    TrainedTokenizerConfig | PretrainedTokenizerConfig, Field(discriminator="kind")
]


def build_tokenizer(
    config: TrainedTokenizerConfig | PretrainedTokenizerConfig,
    texts: Iterable[str] | None,
    special: Sequence[str] = SPECIAL,
) -> PreTrainedTokenizerBase:
    """Tokenizer of a configuration, trained or pretrained.

    Args:
        config: of the tokenizer.
        texts: the training corpus, for a trained one.
        special: its special tokens, in the order of their ids.

    Raises:
        ValueError: there is no text to train on, or no tokenizer of that name.

    Examples:
        >>> from amodal.encoders import TrainedTokenizerConfig, build_tokenizer
        >>> config = TrainedTokenizerConfig(model="word", vocab_size=20)
        >>> tokenizer = build_tokenizer(config, texts=["a red circle", "a blue square"])
        >>> tokenizer.tokenize("a red triangle")
        ['a', 'red', '[UNK]']
    """
    if isinstance(config, PretrainedTokenizerConfig):
        return load_named(AutoTokenizer.from_pretrained, config.name, "tokenizer")
    if texts is None:
        raise ValueError("a trained tokenizer needs the captions of the training source")
    return train_tokenizer(
        texts, config.vocab_size, model=config.model, lowercase=config.lowercase, special=special
    )


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    model: Literal["bpe", "word"] = "bpe",
    lowercase: bool = True,
    special: Sequence[str] = SPECIAL,
) -> PreTrainedTokenizerFast:
    """Tokenizer trained on `texts`; the same texts give the same tokenizer.

    Text is normalised to NFKC; a text becomes [CLS] … [SEP].

    Args:
        texts: the corpus.
        vocab_size: largest number of tokens, special ones included.
        model: `bpe` splits rare words into pieces (Sennrich et al. 2016, arXiv:1508.07909),
            `word` maps them to [UNK].
        lowercase: whether text is lowercased.
        special: [PAD], [CLS], [SEP], [MASK] and [UNK], in the order of their ids.

    Raises:
        ValueError: the corpus has no word.

    Examples:
        >>> from amodal.encoders import train_tokenizer
        >>> tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=60)
        >>> ids = tokenizer("A red square")["input_ids"]
        >>> tokenizer.decode(ids, skip_special_tokens=True)
        'a red square'
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
    options: dict[str, Any] = {"special_tokens": list(special), "show_progress": False}
    trainer: Any
    if model == "bpe":
        # Without a limit every character of the corpus is added, even beyond `vocab_size`.
        options["limit_alphabet"] = vocab_size - len(special)
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, **options)
    else:
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, **options)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() <= len(special):
        raise ValueError("the training source has no text to train a tokenizer on")
    if model == "bpe":
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(NO_SPACE_BEFORE, ""), decoders.Metaspace()]
        )
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

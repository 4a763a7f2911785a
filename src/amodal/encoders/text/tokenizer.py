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
from amodal.encoders.hub import load_pretrained

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
# Chinese and Japanese are written without spaces: each character is a word of its own.
WITHOUT_SPACES = Regex(r"[\p{Han}\p{Hiragana}\p{Katakana}]")
# The scripts of South East Asia are written without spaces, and only a dictionary could tell their
# words apart. A word of its own is a cluster that every reader would call one: a vowel that is
# written before its consonant, the consonant with those stacked below it and all marks, and the
# vowels that follow it. tokenizer.json holds the rule, so that a run always splits alike.
SOUTH_EAST_ASIAN = "".join(
    rf"\p{{{script}}}"
    for script in (
        *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
        *("Ahom", "Balinese", "Javanese"),
    )
)
CLUSTER = Regex(
    r"[\u0E40-\u0E44\u0EC0-\u0EC4\uAAB5\uAAB6\uAAB9\uAABB\uAABC]?"  # vowels that come first
    rf"[{SOUTH_EAST_ASIAN}&&\p{{L}}]"
    r"(?:[\u17D2\u1039\u1A60\u1B44\uA9C0]"  # signs that stack the next consonant
    rf"[{SOUTH_EAST_ASIAN}&&\p{{L}}]|[{SOUTH_EAST_ASIAN}&&\p{{M}}])*"
    r"[\u0E30\u0E32\u0E45\u0EB0\u0EB2]*"  # vowels that are letters and come last
)
# In decoded text there is no space before such a character, nor before closing punctuation.
NO_SPACE_BEFORE = Regex(r"^▁(?=[\p{Han}\p{Hiragana}\p{Katakana}，。、！？；：）》」』.,!?;:)%])")
# Before any other word there is one.
SPACE_BEFORE = Regex(
    rf"^(?![\p{{Han}}\p{{Hiragana}}\p{{Katakana}}{SOUTH_EAST_ASIAN}，。、！？；：）》」』])"
)


class TrainedTokenizerConfig(StrictConfig):
    """Tokenizer trained on the texts of the training source; any language, no download."""

    kind: Literal["trained"] = "trained"
    vocab_size: int = Field(8000, ge=16)  # tokens at most
    # word: the most frequent words, others are [UNK]; `train_tokenizer` says what a word is
    model: Literal["bpe", "word"] = "bpe"
    lowercase: bool = True  # upper case is read as lower case


class PretrainedTokenizerConfig(StrictConfig):
    """Tokenizer of a hub model or a local folder."""

    kind: Literal["pretrained"] = "pretrained"
    name: str  # on the hub, or a local folder


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
        return load_pretrained(AutoTokenizer, config.name, "tokenizer")
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
            `word` maps them to [UNK]. In scripts without spaces its words are the characters
            (Chinese, Japanese) or clusters of a consonant and its vowels (Thai, Lao, Khmer,
            Burmese).
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
            pre_tokenizers.Split(CLUSTER, "isolated"),
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
    else:
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(SPACE_BEFORE, " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
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


def count_unknown(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> tuple[int, int]:
    """Tokens of the texts that the vocabulary lacks, and all their tokens, special ones left out.

    Examples:
        >>> from amodal.encoders import train_tokenizer
        >>> from amodal.encoders.text.tokenizer import count_unknown
        >>> tokenizer = train_tokenizer(["a red circle", "a blue square"], 60, model="word")
        >>> count_unknown(tokenizer, ["a red triangle", "a star"])
        (2, 5)
    """
    if not texts:
        return 0, 0
    rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids = [i for row in rows["input_ids"] for i in row]
    return sum(i == tokenizer.unk_token_id for i in ids), len(ids)


def unknown_words(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[str], int]:
    """Out-of-vocabulary words of a text, as written, each once; and the number of its words.

    Words are what the tokenizer splits a text into before it looks for tokens, punctuation left
    out.

    Examples:
        >>> from amodal.encoders import train_tokenizer
        >>> from amodal.encoders.text.tokenizer import unknown_words
        >>> tokenizer = train_tokenizer(["a red circle", "a blue square"], 60, model="word")
        >>> unknown_words(tokenizer, "a red Zebra, a xylophon")
        (['Zebra', 'xylophon'], 5)
    """
    if not tokenizer.is_fast:
        return [], len(text.split())
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    spans: dict[int, tuple[int, int]] = {}  # word -> where it is in the text
    unknown: set[int] = set()
    for word, i, (start, end) in zip(
        encoded.word_ids(), encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        if word is None:
            continue
        before = spans.get(word, (start, end))
        spans[word] = (min(before[0], start), max(before[1], end))
        if i == tokenizer.unk_token_id:
            unknown.add(word)
    written = {word: text[start:end].strip() for word, (start, end) in spans.items()}
    words = {word: part for word, part in written.items() if any(map(str.isalnum, part))}
    return list(dict.fromkeys(words[word] for word in words if word in unknown)), len(words)

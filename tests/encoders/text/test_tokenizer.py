"""Tokenizers of one's own captions: read back, repeatable, never larger than asked."""

import unicodedata

import pytest

from amodal.encoders.text.tokenizer import (
    PretrainedTokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
    train_tokenizer,
)

ENGLISH = [
    "a red circle above a blue square, near a green star.",
    "two big squares; one small star!",
]
CHINESE = ["一个红色的圆形在蓝色方形的上面。", "两个大的绿色三角形，一个小星星"]
KOREAN = ["파란 사각형 위에 빨간 원"]
ARABIC = ["دائرة حمراء فوق مربع أزرق"]


@pytest.mark.parametrize("text", ENGLISH + CHINESE + KOREAN + ARABIC)
def test_captions_are_read_back(text):
    tokenizer = train_tokenizer(ENGLISH + CHINESE + KOREAN + ARABIC, 400)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    want = unicodedata.normalize("NFKC", text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == want


@pytest.mark.parametrize("model", ["bpe", "word"])
def test_the_same_captions_give_the_same_tokenizer(model):
    first = train_tokenizer(ENGLISH + CHINESE, 120, model=model)
    second = train_tokenizer(iter(ENGLISH + CHINESE), 120, model=model)
    assert first.get_vocab() == second.get_vocab()


@pytest.mark.parametrize("model", ["bpe", "word"])
def test_the_vocabulary_is_never_larger_than_asked(model):
    many = ["".join(chr(0x4E00 + i) for i in range(k, k + 10)) for k in range(0, 1000, 10)]
    assert len(train_tokenizer(many, 100, model=model)) <= 100


def test_width_case_and_composition_do_not_matter():
    tokenizer = train_tokenizer(ENGLISH, 200)
    plain = tokenizer("red circle")["input_ids"]
    assert tokenizer("ＲＥＤ　Circle")["input_ids"] == plain


def test_case_is_kept_where_asked():
    tokenizer = train_tokenizer(["Red red"], 60, lowercase=False)
    assert tokenizer("Red")["input_ids"] != tokenizer("red")["input_ids"]


def test_chinese_is_split_into_characters():
    tokenizer = train_tokenizer(CHINESE, 200, model="word")
    assert len(tokenizer("红色的圆形")["input_ids"]) == 5 + 2


def test_characters_that_were_never_seen_are_unknown_and_no_error():
    tokenizer = train_tokenizer(ENGLISH, 200)
    assert tokenizer.unk_token_id in tokenizer("鸡 🐔 \x00")["input_ids"]


def test_special_tokens_have_the_ids_of_their_order():
    order = ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]")
    tokenizer = train_tokenizer(ENGLISH, 200, special=order)
    assert tokenizer.convert_tokens_to_ids(list(order)) == [0, 1, 2, 3, 4]
    ids = tokenizer("a red circle")["input_ids"]
    assert (ids[0], ids[-1], tokenizer.pad_token_id) == (3, 4, 0)


def test_a_corpus_without_words_is_refused():
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(["", "  "], 100)
    with pytest.raises(ValueError, match="captions"):
        build_tokenizer(TrainedTokenizerConfig(), None)


def test_a_missing_tokenizer_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"its tokenizer cannot be loaded.*kind: trained"):
        build_tokenizer(PretrainedTokenizerConfig(name=str(tmp_path)), None)

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


WITHOUT_SPACES = {  # a word, and a new caption of known parts
    "Thai": (["แมวสีดำบ้าน", "เด็กบนเกาะ", "สุนัขสีขาว"], "สุนัขสีดำบนบ้าน"),
    "Lao": (["ແມວສີດຳ", "ເດັກນ້ອຍຫຼິ້ນນ້ຳ"], "ເດັກສີດຳ"),
    "Khmer": (["ក្មេងប្រុសម្នាក់", "ឆ្មាខ្មៅ"], "ក្មេងខ្មៅ"),
    "Burmese": (["ကလေးငယ်တစ်ယောက်", "ကြောင်နက်"], "ကလေးနက်"),
    "Javanese": (["ꦲꦏ꧀ꦱꦫ", "ꦗꦮ"], "ꦗꦮꦲꦏ꧀ꦱꦫ"),
}


@pytest.mark.parametrize("script", WITHOUT_SPACES)
def test_new_captions_in_a_script_without_spaces_are_not_unknown_words(script):
    captions, new = WITHOUT_SPACES[script]
    tokenizer = train_tokenizer(captions, 200, model="word")
    ids = tokenizer(new)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert len(ids) > 4
    assert tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFKC", new)


def test_clusters_keep_vowels_stacked_consonants_and_marks_together():
    captions = ["น้ำ เกาะ แมว", "ក្មេង", "ကြောင်", "ນ້ຳ"]
    tokens = train_tokenizer(captions, 200, model="word").tokenize(" ".join(captions))
    normal = [unicodedata.normalize("NFKC", t) for t in ("น้ำ", "เกาะ", "แม", "ว")]
    assert tokens[:4] == normal
    assert tokens[4:] == ["ក្មេ", "ង", "ကြော", "င်", unicodedata.normalize("NFKC", "ນ້ຳ")]


def test_words_of_scripts_with_spaces_stay_whole():
    texts = [
        "a red circle, near b&w tv-sets (2.5 m)",
        "एक कुत्ता घास पर बैठा है",
        "파란 사각형",
        "دائرة حمراء",
        "naïve café",
    ]
    tokenizer = train_tokenizer(texts, 200, model="word")
    words = "a red circle , near b & w tv - sets ( 2 . 5 m )"
    assert tokenizer.tokenize(texts[0]) == words.split()
    assert tokenizer.tokenize(texts[1]) == texts[1].split()
    for text in texts:
        tokens = tokenizer.tokenize(text)
        assert tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens)) == " ".join(tokens)


def test_chinese_words_are_read_back_without_spaces():
    tokenizer = train_tokenizer(CHINESE, 200, model="word")
    ids = tokenizer("一个红色的圆形。a b")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True).startswith("一个红色的圆形。")


def test_a_saved_tokenizer_splits_scripts_without_spaces_alike(tmp_path):
    from amodal.encoders.text.preprocessing import TextPreprocessor

    captions, new = WITHOUT_SPACES["Thai"]
    prepare = TextPreprocessor(train_tokenizer(captions, 200, model="word"), 32)
    prepare.save(tmp_path)
    again = TextPreprocessor.load(tmp_path)
    assert again([new])["input_ids"].tolist() == prepare([new])["input_ids"].tolist()

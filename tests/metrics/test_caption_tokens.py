"""Caption tokens beyond plain English, beside what coco-caption's Java tokenizer printed."""

import unicodedata

import pytest

from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.captioning import caption_scores

PRINTED_BY_JAVA = [
    # words keep their combining marks
    ("एक कुत्ता घास पर बैठा है", "एक कुत्ता घास पर बैठा है"),
    ("दो लड़के पानी में खेल रहे हैं", "दो लड़के पानी में खेल रहे हैं"),
    ("कुत्ता।", "कुत्ता ।"),
    ("हिन्दी-अंग्रेज़ी क-ख #हिन्दी @हिन्दी", "हिन्दी अंग्रेज़ी क-ख #हिन्दी @ हिन्दी"),
    ("หมาวิ่งเล่น ในสวน", "หมาวิ่งเล่น ในสวน"),
    ("ஒரு நாய் புல்லில் அமர்ந்திருக்கிறது", "ஒரு நாய் புல்லில் அமர்ந்திருக்கிறது"),
    ("ক্ষুদ্র কুকুর", "ক্ষুদ্র কুকুর"),
    ("తెలుగు ગુજરાતી", "తెలుగు ગુજરાતી"),
    (
        "\u0643\u064e\u0644\u0652\u0628\u064c \u064a\u064e\u062c\u0652\u0644\u0650\u0633\u064f",
        "\u0643\u064e\u0644\u0652\u0628\u064c \u064a\u064e\u062c\u0652\u0644\u0650\u0633\u064f",
    ),
    ("\u05db\u05b6\u05bc\u05dc\u05b6\u05d1", "\u05db\u05b6\u05bc\u05dc\u05b6\u05d1"),
    (
        "\u0441\u043e\u0431\u0430\u043a\u0430\u0301 \u0438\u0303",
        "\u0441\u043e\u0431\u0430\u043a\u0430\u0301 \u0438\u0303",
    ),
    ("q\u0303uest a\u0301\u0302b \u0301a", "q\u0303uest a\u0301\u0302b \u0301a"),
    # signs without a width
    (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0645\u06cc \u062e\u0648\u0627\u0647\u0645",
    ),
    ("a\u200bb a\u00adb a\ufeffb", "a b ab a b"),
    # & and + hold capitals together, and nothing else
    ("a b&w photo", "a b & w photo"),
    ("at&t AT&T AT&T's R&Bs H&m", "at & t at&t at&t 's r&b s h & m"),
    ("black&white X&Y&Z M&M's", "black & white x&y&z m&m 's"),
    ("x&amp;y AT&amp;T", "x & y at&t"),
    ("a+b A+B d+", "a + b a+b d +"),
    ("C++ code, c++. (C++/C#) f# g++", "c++ code c++ -lrb- c++ / c# -rrb- f# g + +"),
    # emoji and what changes how they are drawn
    ("a \U0001f600 face", "a face"),
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467 family \U0001f1eb\U0001f1f7", "family"),
    ("a dog\u2764\ufe0f 1\ufe0f\u20e3 \u270c\U0001f3fd", "a dog \u2764 1 \u270c"),
    # fractions, raised and lowered digits
    ("1½ cups, ½cup ½-cup a½b", "1 1/2 cups 1/2 cup 1/2 cup a 1/2 b"),
    ("x² H₂O 10²", "x ² h ₂ o 10 ²"),
    ("5¢", "5 cents"),
    # elisions and quotes
    ("l'homme d'un qu'il l'Été c'est", "l'homme d'un qu'il l'été c'est"),
    ("«bonjour» “quoted” 「犬」", "bonjour quoted 犬"),
    ("Ph.D. U.S.A. Mr. SMITH", "ph.d. u.s.a. mr. smith"),
    ("İstanbul DON'T CANNOT", "i̇stanbul do n't can not"),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "want"), PRINTED_BY_JAVA)
def test_tokens_are_those_of_coco_caption_in_other_scripts_and_signs(caption, want):
    assert tokenize(caption) == want.split()


@pytest.mark.parametrize("text", ["naïve café façade", "ỗ ṩ", "приве́т"])
def test_composed_and_decomposed_accents_give_as_many_words(text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert tokenize(decomposed) == decomposed.split()
    assert tokenize(composed) == composed.split()


def test_words_whose_marks_the_java_tokenizer_drops_stay_whole():
    words = "ကလေးငယ် ក្មេងប្រុស ਪੰਜਾਬੀ ಕನ್ನಡ മലയാളം සිංහල"
    assert tokenize(words) == words.split()


def test_hindi_captions_that_share_no_words_share_no_phrases():
    generated = ["एक कुत्ता घास पर बैठा है", "दो लड़के पानी में खेल रहे हैं"]
    references = ["एक बिल्ली कुर्सी पर बैठी है", "तीन लड़कियाँ पानी में तैर रही हैं"]
    scores = caption_scores(
        [tokenize(text) for text in generated], [[tokenize(text)] for text in references]
    )
    assert scores["bleu_4"] < 1e-6
    assert scores["cider_d"] == pytest.approx(1.369, abs=1e-3)

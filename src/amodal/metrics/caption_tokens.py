"""The tokenizer of coco-caption in Python, without Java.

coco-caption runs Stanford's Penn Treebank tokenizer (CoreNLP 3.4.1) in lower case and deletes the
tokens of `PUNCTUATION`. The rules here are those that occur in captions; omitted are emoticons,
telephone numbers, apostrophes in rare words, most of the list of abbreviations, and some special
cases of repeated punctuation.

Words keep their combining marks, as there. CoreNLP knows the marks of Latin, Cyrillic, Hebrew,
Arabic, Thai, Lao, Hindi, Bengali, Gujarati, Tamil and Telugu; it cuts words of other scripts at
each mark and drops the mark (Khmer, Burmese, Kannada, Malayalam, Punjabi, Sinhala, Tibetan). Here
those words stay whole.
"""

from __future__ import annotations

import re
import unicodedata

# Tokens that coco-caption deletes. Its list also has "-LRB-" and the like, which have no effect:
# brackets are "-lrb-" at that point, and are kept. So are runs such as "!!" and "?!".
PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
BRACKETS = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
}
SPLIT_WORDS = {
    "cannot": ("can", "not"),
    "gonna": ("gon", "na"),
    "gotta": ("got", "ta"),
    "wanna": ("wan", "na"),
    "lemme": ("lem", "me"),
    "gimme": ("gim", "me"),
    "'tis": ("'t", "is"),
    "'twas": ("'t", "was"),
    "y'all": ("y'", "all"),
}
_REPLACED = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": " -- ",
        "\u2014": " -- ",
        "\u2026": " ... ",
        "\u00a3": "#",
        "\u20ac": "$",
        "\u00bd": " 1/2 ",
        "\u00bc": " 1/4 ",
        "\u00be": " 3/4 ",
        "\u00a0": " ",
        "\u00a2": " cents ",
        "\u00ad": "",  # soft hyphen
        **dict.fromkeys("«»‹›「」『』【】", '"'),
        # Signs without a width, such as joiners and the mark of a byte order.
        **dict.fromkeys("\u061c\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", " "),
        # How the character before is to be drawn: variation selectors, keycap.
        **dict.fromkeys([*map(chr, range(0xFE00, 0xFE10)), "\u20e3"], ""),
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"'}
# Abbreviations that keep their period.
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|ph\\.d|prof|st|ave|blvd|rd|jr|sr|vs|etc|inc|corp|ltd|co|bros|e\\.g|i\\.e|a\\.m|p\\.m|"
    "jan|feb|mar|apr|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|gen|gov|capt|sgt|lt|rev|hon"
)
# Combining marks, which `\w` leaves out; ranges of a character class.
_MARKS = "".join(
    re.escape(char)
    for char in map(chr, range(0x300, 0x1F000))
    if unicodedata.category(char) in ("Mn", "Mc")
)
_LETTER = "[^\\W²³¹⁰-₉]"  # letter, digit or underscore; raised and lowered digits stand alone
_WORD = f"(?:{_LETTER}|[{_MARKS}])"
_TOKEN = re.compile(
    rf"""
    (?: https?:// | www\. ) [^\s"<>]* [^\s"<>.,;:!?)]
    | [\w.+-]+ @ \w+ (?: \. \w+ )+
    | </? [a-z] [^<>]* >
    | (?: [a-z] \. ){{2,}}                               # u.s.
    | (?: {_ABBREVIATIONS} ) \. (?! \w )
    | no \. (?= \s* \d ) | ft \. (?= \s \w )
    | [a-z]+ (?: \. [a-z]+ )+                            # also where a space was forgotten
    | [a-z] \. (?! [\w.] )
    | [+-]? \d+ (?: [/-] \d+ )+ (?! [\w-] )              # 1/2, 3-4
    | (?: (?<! \S ) [+-] )? \d* (?: [.,:] \d+ )+         # 3.5, 1,000, 10:30
    | (?<! \S ) [+-] \d+ (?! \w )
    | (?<! \w ) ' (?: em | cause | n' | n | \d\ds? | tis | twas ) (?! \w )
    | 'n' (?! \w )
    | (?: rock | n ) (?= 'n' )
    | o' (?: clock | [a-z]{{3,}} )
    | y'all \b
    | [a-z]+ (?= n't (?! \w ) )                          # do n't
    | n't (?! \w )
    | '(?: s | m | d | re | ve | ll ) (?! \w )
    | (?<! \w ) (?: [cdln] | qu ) ' [^\W\d_] {_WORD}*       # l'homme
    | @ [a-z_] \w*
    | \# [^\W\d] {_WORD}*
    | c \+\+ | [cf] \# (?! \w )
    | (?-i: [A-Z]+ (?: [&+] [A-Z]+ )+ )                   # AT&T, but at & t
    | {_LETTER}++ (?! [{_MARKS}] ) (?: [-/] {_LETTER}++ (?! [{_MARKS}] ) )+
    | {_WORD}+
    | [?!]+
    | \.{{3,}} | -{{2,}} | \*+
    | `` | '' | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(caption: str) -> list[str]:
    """Tokens of a caption in lower case, without punctuation.

    Examples:
        >>> tokenize("A man's dog isn't sitting, but it's near!")
        ['a', 'man', "'s", 'dog', 'is', "n't", 'sitting', 'but', 'it', "'s", 'near']
    """
    for entity, mark in _ENTITIES.items():
        caption = caption.replace(entity, mark)
    text = caption.translate(_REPLACED).strip()
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0].lower()
        if token == '"' or token in PUNCTUATION or not token.strip("-") or _is_emoji(token):
            continue
        tokens += SPLIT_WORDS.get(token, (BRACKETS.get(token, token),))
    return tokens


def _is_emoji(token: str) -> bool:
    """Whether a token is a symbol beyond 16 bits, which CoreNLP cannot read and drops."""
    return token[0] > "\uffff" and unicodedata.category(token[0]) in ("So", "Sk", "Cn")

"""The tokenizer of coco-caption in Python, without Java.

coco-caption runs Stanford's Penn Treebank tokenizer (CoreNLP 3.4.1) in lower case and deletes the
tokens of `PUNCTUATION`. The rules here are those that occur in captions; omitted are emoticons,
telephone numbers, apostrophes in rare words, most of the list of abbreviations, and some special
cases of repeated punctuation.
"""

from __future__ import annotations

import re

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
        "\u00bd": "1/2",
        "\u00bc": "1/4",
        "\u00be": "3/4",
        "\u00a0": " ",
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"'}
# Abbreviations that keep their period.
_ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|st|ave|blvd|rd|jr|sr|vs|etc|inc|corp|ltd|co|bros|e\\.g|i\\.e|a\\.m|p\\.m|"
    "jan|feb|mar|apr|aug|sept?|oct|nov|dec|mon|tues?|wed|thurs?|fri|gen|gov|capt|sgt|lt|rev|hon"
)
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
    | [@\#] [a-z_] \w*
    | \w{{1,2}} (?: & \w{{1,2}} )+ (?! \w )                # at&t
    | \w+ (?: [-/] \w+ )*
    | [?!]+
    | \.{{3,}} | -{{2,}} | \*+
    | `` | '' | \S
    """,
    re.VERBOSE,
)


def tokenize(caption: str) -> list[str]:
    """Tokens of a caption in lower case, without punctuation.

    Examples:
        >>> tokenize("A man's dog isn't sitting, but it's near!")
        ['a', 'man', "'s", 'dog', 'is', "n't", 'sitting', 'but', 'it', "'s", 'near']
    """
    for entity, mark in _ENTITIES.items():
        caption = caption.replace(entity, mark)
    text = caption.translate(_REPLACED).lower().strip()
    tokens: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == '"' or token in PUNCTUATION or not token.strip("-"):
            continue
        tokens += SPLIT_WORDS.get(token, (BRACKETS.get(token, token),))
    return tokens

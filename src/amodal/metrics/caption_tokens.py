"""Splits captions as the tokenizer of coco-caption does, without Java.

coco-caption runs Stanford's Penn Treebank tokenizer (CoreNLP 3.4.1) with lower case, and then
deletes the tokens of `PUNCTUATION`. The rules here are those that captions need; some of its
rarer ones are left out: emoticons, telephone numbers, apostrophes in rarer words, most of its
long list of abbreviations, and a few oddities around runs of marks.
"""

from __future__ import annotations

import re

# What coco-caption deletes. Its list also has "-LRB-" and its like, which never occur: brackets
# have become "-lrb-" by then, and stay. So do runs such as "!!" and "?!".
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
# Their period belongs to them.
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
    """The tokens of a caption: lower case, punctuation left out."""
    for entity, mark in _ENTITIES.items():
        caption = caption.replace(entity, mark)
    text = caption.translate(_REPLACED).lower().strip()
    tokens: list[str] = []
    for found in _TOKEN.finditer(text):
        token = found[0]
        if token == '"' or token in PUNCTUATION or not token.strip("-"):
            continue
        tokens += SPLIT_WORDS.get(token, (BRACKETS.get(token, token),))
    return tokens

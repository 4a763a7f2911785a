"""English and Chinese words for questions about scenes."""

from __future__ import annotations

from amodal.data.scenes import chinese, english
from amodal.data.scenes.programs import (
    CELLS,
    Attribute,
    Compare,
    Count,
    Exists,
    Outsize,
    Program,
    Query,
    Relate,
    Things,
)
from amodal.data.scenes.world import Draw

_THINGS = ("thing", "object")
_ENGLISH_QUERIES: dict[Attribute, tuple[str, ...]] = {
    "colour": (
        "what colour is {x}?",
        "what is the colour of {x}?",
        "which colour does {x} have?",
    ),
    "shape": ("what shape is {x}?", "what is the shape of {x}?", "which shape does {x} have?"),
    "size": ("what size is {x}?", "how large is {x}?", "how big is {x}?"),
    "texture": (
        "what texture does {x} have?",
        "what is the texture of {x}?",
        "is {x} solid, striped or dotted?",
    ),
    "cell": (
        "where is {x}?",
        "in which part of the picture is {x}?",
        "where in the picture is {x}?",
    ),
}
_CHINESE_QUERIES: dict[Attribute, tuple[str, ...]] = {
    "colour": ("{x}是什么颜色？", "{x}的颜色是什么？"),
    "shape": ("{x}是什么形状？", "{x}的形状是什么？"),
    "size": ("{x}有多大？", "{x}是大、中还是小？"),
    "texture": ("{x}是什么花纹？", "{x}的花纹是什么？"),
    "cell": ("{x}在哪里？", "{x}在画面的什么位置？"),
}
# "没有花纹的", as captions say it, would be misread after "有没有".
_CHINESE_TEXTURES = {**chinese.WITH_TEXTURE, "solid": "纯色的"}
# Answers in Chinese; numbers are written as digits in both languages.
CHINESE_ANSWERS: dict[str, str] = {
    "yes": "是",
    "no": "否",
    **chinese.COLOURS,
    **{shape: words[0] for shape, words in chinese.SHAPES.items()},
    "small": "小",
    "medium": "中",
    "large": "大",
    **chinese.TEXTURES,
    **{name: chinese.CELLS[cell][0] for cell, name in CELLS.items()},
}


def ask_in_english(program: Program, draw: Draw) -> str:
    """The question in one of several wordings."""
    forms: tuple[str, ...]
    match program:
        case Exists(things):
            a = indefinite(things, draw)
            place = " in the picture" if things.anchor is None else ""
            forms = (f"is there {a}?", f"is there {a}{place}?", f"can you see {a}?")
        case Count(things):
            head, tail = _plural(things, draw), _tail(things, draw)
            if tail:
                forms = (
                    f"how many {head} are {tail}?",
                    f"how many {head} can you see {tail}?",
                    f"what is the number of {head} {tail}?",
                )
            else:
                forms = (
                    f"how many {head} are there?",
                    f"how many {head} can you see?",
                    f"what is the number of {head}?",
                )
        case Compare("equal", left, right):
            noun = draw.choice(_THINGS)
            xs, ys = _plural(left, draw, noun), _plural(right, draw, noun)
            forms = (
                f"are there as many {xs} as {ys}?",
                f"are there exactly as many {xs} as {ys}?",
                f"is the number of {xs} equal to the number of {ys}?",
            )
        case Compare(how, left, right):
            noun = draw.choice(_THINGS)
            xs, ys = _plural(left, draw, noun), _plural(right, draw, noun)
            forms = (
                f"are there {how} {xs} than {ys}?",
                f"can you see {how} {xs} than {ys}?",
                f"does the picture show {how} {xs} than {ys}?",
            )
        case Outsize(how, left, right):
            x, y = definite(left, draw), definite(right, draw)
            word = draw.choice(("larger", "bigger")) if how == "larger" else "smaller"
            forms = (
                f"is {x} {word} than {y}?",
                f"compared with {y}, is {x} {word}?",
                f"is {x} the {word} one, compared with {y}?",
            )
        case Relate(relation, left, right):
            x, y = definite(left, draw), definite(right, draw)
            link = draw.choice(english.RELATIONS[relation])
            forms = (
                f"is {x} {link} {y}?",
                f"can {x} be seen {link} {y}?",
                f"does {x} lie {link} {y}?",
            )
        case Query(attribute, things):
            x = definite(things, draw)
            forms = tuple(form.format(x=x) for form in _ENGLISH_QUERIES[attribute])
    return draw.choice(forms)


def definite(things: Things, draw: Draw) -> str:
    """ "the large star", "the thing above the red circle"."""
    return f"the {_words(things, draw)} {_tail(things, draw)}".rstrip()


def indefinite(things: Things, draw: Draw) -> str:
    """ "a large star", "an orange thing above the red circle"."""
    words = _words(things, draw)
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words} {_tail(things, draw)}".rstrip()


def _words(things: Things, draw: Draw, noun: str | None = None) -> str:
    words = []
    if things.size is not None:
        words.append(draw.choice(english.SIZES[things.size]))
    if things.texture is not None:
        words.append(draw.choice(english.TEXTURES[things.texture]))
    if things.colour is not None:
        words.append(things.colour)
    if things.shape is None:
        words.append(draw.choice(_THINGS) if noun is None else noun)
    else:
        words.append(draw.choice(english.SHAPES[things.shape]))
    return " ".join(words)


def _plural(things: Things, draw: Draw, noun: str | None = None) -> str:
    words = _words(things, draw, noun)
    return words + ("es" if words.endswith("s") else "s")


def _tail(things: Things, draw: Draw) -> str:
    parts = []
    if things.cell is not None:
        parts.append(draw.choice(english.CELLS[things.cell]))
    if things.relation is not None and things.anchor is not None:
        link = draw.choice(english.RELATIONS[things.relation])
        parts.append(f"{link} {definite(things.anchor, draw)}")
    return " ".join(parts)


def ask_in_chinese(program: Program, draw: Draw) -> str:
    """The question in one of several wordings."""
    forms: tuple[str, ...]
    match program:
        case Exists(things):
            x = _chinese(things, draw)
            forms = (f"图中有{x}吗？", f"有没有{x}？", f"画面里有{x}吗？")
        case Count(things):
            x = _chinese(things, draw)
            forms = (f"{x}有几个？", f"{x}的数量是多少？", f"一共有几个{x}？")
        case Compare("equal", left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            forms = (f"{x}和{y}一样多吗？", f"{x}的数量等于{y}的数量吗？")
        case Compare(how, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            word = "多" if how == "more" else "少"
            forms = (f"{x}比{y}{word}吗？", f"图中的{x}是不是比{y}{word}？")
        case Outsize(how, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            word = "大" if how == "larger" else "小"
            forms = (f"{x}比{y}{word}吗？", f"{x}是不是比{y}{word}？")
        case Relate(relation, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            side = draw.choice(chinese.RELATIONS[relation])
            forms = (f"{x}在{y}的{side}吗？", f"{x}是不是在{y}的{side}？")
        case Query(attribute, things):
            x = _chinese(things, draw)
            forms = tuple(form.format(x=x) for form in _CHINESE_QUERIES[attribute])
    return draw.choice(forms)


def _chinese(things: Things, draw: Draw) -> str:
    place = ""
    if things.relation is not None and things.anchor is not None:
        side = draw.choice(chinese.RELATIONS[things.relation])
        place = f"{_chinese(things.anchor, draw)}{side}的"
    if things.cell is not None:
        place += f"{draw.choice(chinese.CELLS[things.cell])}的"
    texture = "" if things.texture is None else _CHINESE_TEXTURES[things.texture]
    size = (
        "" if things.size is None else {"small": "小", "medium": "中号", "large": "大"}[things.size]
    )
    colour = "" if things.colour is None else chinese.COLOURS[things.colour]
    noun = "图形" if things.shape is None else draw.choice(chinese.SHAPES[things.shape])
    return f"{place}{texture}{colour}{size}{noun}"

"""Captions against an independent parser that knows the vocabulary but not the plan."""

import re
from collections import Counter

import pytest

from amodal.data.scenes import chinese, english
from amodal.data.scenes.captions import write_captions
from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.world import BACKGROUNDS, COLOURS, Object, Scene, sample_scene


def inverse(table):
    return {
        word: key
        for key, words in table.items()
        for word in ((words,) if isinstance(words, str) else words)
    }


def alternatives(words):
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


def assemble(mentions, cells, links, background):
    mentions = [Mention(*m, cells.get(k)) for k, m in enumerate(mentions)]
    return Claims(tuple(mentions), tuple(links), True, background)


def parse_english(text):
    text = text.lower()
    shapes, sizes = inverse(english.SHAPES), inverse(english.SIZES)
    textures, places = inverse(english.TEXTURES), inverse(english.CELLS)
    relations, withs = inverse(english.RELATIONS), inverse(english.WITH_TEXTURE)
    found = []

    def noun(match):
        article, words, shape, tail = match.groups()
        words = words.split()
        assert article == ("an" if words[0][0] in "aeiou" else "a")
        said = {"texture": withs[tail.strip()]} if tail else {}
        for word in words:
            for name, table in (("size", sizes), ("texture", textures)):
                if word in table:
                    assert name not in said
                    said[name] = table[word]
            if word in COLOURS:
                said["colour"] = word
        assert len(words) + bool(tail) == len(said)
        found.append((shapes[shape], said["colour"], said.get("size"), said.get("texture")))
        return f"<{len(found) - 1}>"

    background = re.search(rf",? on an? ({'|'.join(BACKGROUNDS)}) background", text)
    if background:
        text = text.replace(background[0], "")
    adjective = alternatives([*sizes, *textures, *COLOURS])
    text = re.sub(
        rf"\b(an?) ((?:(?:{adjective}) )+)({alternatives(shapes)})\b( (?:{alternatives(withs)}))?",
        noun,
        text,
    )
    cell_names = list(inverse(english.CELLS))
    text = re.sub(rf"\b({alternatives(places)})\b", lambda m: f"[{cell_names.index(m[1])}]", text)
    cells, links = {}, []
    for m in re.finditer(r"\[(\d+)\] (?:there )?is <(\d+)>|<(\d+)> \[(\d+)\]", text):
        cell, who = (m[1], m[2]) if m[1] else (m[4], m[3])
        cells[int(who)] = places[cell_names[int(cell)]]
    names = alternatives(relations)
    for m in re.finditer(
        rf"({names}) it (?:there )?is <(\d+)>|<(\d+)> is ({names}) (?:it|<(\d+)>)", text
    ):
        if m[1]:
            links.append((int(m[2]), relations[m[1]], int(m[2]) - 1))
        else:
            other = int(m[5]) if m[5] else int(m[3]) - 1
            links.append((int(m[3]), relations[m[4]], other))
    number = re.match(rf"({'|'.join(english.NUMBERS)}) (?:object|shape)(s?)", text)
    if number:
        assert english.NUMBERS.index(number[1]) == len(found)
        assert (number[2] == "s") == (len(found) != 1)
    return assemble(found, cells, links, background and background[1])


def parse_chinese(text):
    shapes, sizes = inverse(chinese.SHAPES), inverse(chinese.SIZES)
    colours, places = inverse(chinese.COLOURS), inverse(chinese.CELLS)
    relations, grounds = inverse(chinese.RELATIONS), inverse(chinese.BACKGROUNDS)
    textures = inverse(chinese.TEXTURES) | inverse(chinese.WITH_TEXTURE)
    background = re.search(rf"({alternatives(grounds)})背景|背景是({alternatives(grounds)})", text)
    found = []

    def noun(match):
        with_texture, size1, colour, texture, size2, shape = match.groups()
        found.append(
            (
                shapes[shape],
                colours[colour],
                sizes.get(size1 or size2),
                textures.get(with_texture or texture),
            )
        )
        return f"<{len(found) - 1}>"

    size, plain = alternatives(sizes), alternatives(inverse(chinese.TEXTURES))
    text = re.sub(
        rf"一个({alternatives(inverse(chinese.WITH_TEXTURE))})?(?:({size})的)?"
        rf"({alternatives(colours)})({plain})?({size})?({alternatives(shapes)})",
        noun,
        text,
    )
    names = list(places)
    cells, links = {}, []
    for m in re.finditer(
        rf"它的({alternatives(relations)})[是有]<(\d+)>|({alternatives(names)})有<(\d+)>"
        rf"|<(\d+)>在({alternatives(names)})",
        text,
    ):
        if m[1]:
            links.append((int(m[2]), relations[m[1]], int(m[2]) - 1))
        else:
            cells[int(m[4] or m[5])] = places[m[3] or m[6]]
    number = re.search(r"共有(.)个", text)
    if number:
        assert chinese.NUMBERS.index(number[1]) == len(found)
    return assemble(found, cells, links, background and grounds[background[1] or background[2]])


def content(claims):
    """The claims without the order in which they are made."""
    m = claims.mentions
    return (
        Counter(m),
        Counter((m[i], name, m[j]) for i, name, j in claims.relations),
        claims.background,
    )


PARSERS = {"en": parse_english, "zh": parse_chinese}


def scenes(n, split="test"):
    return [sample_scene(0, "iid", split, i) for i in range(n)]


def flip_words(text):
    table = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
    text = re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda m: table[m[1]], text)
    return text.translate(str.maketrans("左右", "右左"))


@pytest.mark.parametrize("style", ["complete", "brief", "mixed"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_text_states_exactly_the_claims_and_they_are_true(language, style):
    for i, scene in enumerate(scenes(300)):
        for c in write_captions(scene, str(i), languages=[language], style=style):
            read = PARSERS[language](c.text)
            assert read.hold_in(scene), c.text
            assert content(read) == content(c.claims), c.text
            assert c.claims.hold_in(scene), c.text


@pytest.mark.parametrize("language", ["en", "zh"])
def test_swapping_left_and_right_gives_a_true_caption_of_the_mirrored_scene(language):
    changed = 0
    for i, scene in enumerate(scenes(300)):
        for c in write_captions(scene, str(i), languages=[language]):
            flipped = flip_words(c.text)
            changed += flipped != c.text
            assert content(PARSERS[language](flipped)) == content(c.claims.mirrored())
            assert c.claims.mirrored().hold_in(scene.mirrored())
    assert changed > 0.6 * 1500


def test_a_complete_caption_identifies_its_scene_among_a_thousand():
    world = scenes(1000)
    unique = sum(
        sum(c.claims.hold_in(other) for other in world) == 1
        for i, scene in enumerate(world)
        for c in write_captions(scene, str(i), count=2)
    )
    assert unique / 2000 > 0.97


def test_complete_captions_name_every_attribute_and_a_position_of_every_object():
    for i, scene in enumerate(scenes(200)):
        for c in write_captions(scene, str(i)):
            placed = {k for k, _, _ in c.claims.relations}
            for k, mention in enumerate(c.claims.mentions):
                assert mention.size
                assert mention.texture
                assert mention.cell is not None or k in placed
            assert len(c.claims.mentions) == len(scene.objects)


def test_the_captions_of_a_scene_differ_and_are_reproducible():
    for i, scene in enumerate(scenes(100)):
        texts = [c.text for c in write_captions(scene, str(i), languages=["en", "zh"], count=8)]
        assert len(set(texts)) == 8
        again = write_captions(scene, str(i), languages=["en", "zh"], count=8)
        assert texts == [c.text for c in again]
        assert all((ord(max(t)) > 0x3000) == (k % 2 == 1) for k, t in enumerate(texts))


def test_false_claims_do_not_hold():
    red = Object("circle", "red", "large", "solid", 0.2, 0.2)
    blue = Object("star", "blue", "small", "dotted", 0.8, 0.5)
    scene = Scene((red, blue))
    circle, star = Mention("circle", "red"), Mention("star", "blue")
    assert Claims((circle, star), ((0, "left_of", 1),)).hold_in(scene)
    assert not Claims((circle, star), ((1, "left_of", 0),)).hold_in(scene)
    assert not Claims((circle,)).hold_in(scene)  # a complete caption leaves nothing out
    assert Claims((circle,), complete=False).hold_in(scene)
    assert not Claims((circle, circle)).hold_in(scene)  # two mentions need two objects
    assert not Claims((circle, star), background="grey").hold_in(scene)
    assert not Claims((Mention("circle", "red", size="small"), star)).hold_in(scene)
    assert not Claims((Mention("circle", "red", cell=("top", "right")), star)).hold_in(scene)


def test_every_value_has_a_wording_in_both_languages():
    world = {o.shape for s in scenes(300) for o in s.objects}
    assert world == set(english.SHAPES) == set(chinese.SHAPES)
    assert set(COLOURS) == set(chinese.COLOURS)
    assert set(BACKGROUNDS) == set(english.BACKGROUNDS) == set(chinese.BACKGROUNDS)
    for table in (english.SHAPES, english.SIZES, english.TEXTURES, english.CELLS):
        assert len(inverse(table)) == sum(map(len, table.values()))  # no word means two things
    for table in (chinese.SHAPES, chinese.SIZES, chinese.CELLS, chinese.RELATIONS):
        assert len(inverse(table)) == sum(map(len, table.values()))

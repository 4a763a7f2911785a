"""Scenes: sampling, relations and the four splits."""

import json
from itertools import combinations, pairwise

import pytest

from amodal.data.scenes.world import (
    CELL_MARGIN,
    COLOURS,
    RELATIONS,
    SHAPES,
    Draw,
    Object,
    Scene,
    has_held_out,
    held_out_pair,
    main_relation,
    overlap,
    sample_scene,
    split_of,
)

PARTS = ("train", "validation", "test")
PINNED = ";".join(
    (
        "large/dotted/brown/star/top/right",
        "large/striped/pink/heart/bottom/centre",
        "medium/dotted/red/ring/bottom/right",
    )
)


def at(x, y, shape="circle", colour="red"):
    return Object(shape, colour, "small", "solid", x, y)


def draw_many(generalization, split, n=300, **options):
    return [sample_scene(0, generalization, split, i, **options) for i in range(n)]


def test_a_scene_is_a_function_of_seed_split_part_and_index():
    def options():
        return [(s, p, i) for s in (0, 1) for p in PARTS for i in (0, 1)]

    first = [sample_scene(s, "iid", p, i) for s, p, i in options()]
    assert first == [sample_scene(s, "iid", p, i) for s, p, i in reversed(options())][::-1]
    assert len(set(first)) == len(first)


def test_this_scene_never_changes():
    scene = sample_scene(0, "iid", "train", 0)
    assert scene.signature() == PINNED


def test_a_scene_survives_json():
    for scene in draw_many("iid", "train", 50):
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


def test_an_unknown_attribute_is_refused_by_name():
    value = Scene((at(0.5, 0.5),)).to_json()
    value["objects"][0]["colour"] = "octarine"
    with pytest.raises(ValueError, match="object 0: colour 'octarine'"):
        Scene.from_json(value)


def test_mirroring_swaps_left_and_right_and_is_an_involution():
    for scene in draw_many("iid", "train", 50):
        mirror = scene.mirrored()
        for o, m in zip(scene.objects, mirror.objects, strict=True):
            assert m.cell == (
                o.cell[0],
                {"left": "right", "right": "left"}.get(o.cell[1], "centre"),
            )
        for (a, b), (c, d) in zip(
            combinations(scene.objects, 2), combinations(mirror.objects, 2), strict=True
        ):
            assert RELATIONS["left_of"](a, b) == RELATIONS["right_of"](c, d)
            assert RELATIONS["above"](a, b) == RELATIONS["above"](c, d)


@pytest.mark.parametrize("max_overlap", [0.0, 0.3])
def test_objects_stay_inside_apart_and_away_from_cell_borders(max_overlap):
    depth = 0.0
    for scene in draw_many("iid", "train", max_objects=6, max_overlap=max_overlap):
        assert len({o.cell for o in scene.objects}) == len(scene.objects)
        for o in scene.objects:
            assert o.radius < o.x < 1 - o.radius
            assert o.radius < o.y < 1 - o.radius
            assert min(abs(v - b) for v in (o.x, o.y) for b in (1 / 3, 2 / 3)) >= CELL_MARGIN
        depth = max([depth, *(overlap(a, b) for a, b in combinations(scene.objects, 2))])
        assert depth <= max_overlap + 1e-9
    assert (depth > 0) == (max_overlap > 0)


def test_counts_are_uniform():
    counts = [len(s.objects) for s in draw_many("iid", "train", 2000)]
    for n in (1, 2, 3, 4):  # 500 expected; five standard deviations are 97
        assert abs(counts.count(n) - 500) < 97


@pytest.mark.parametrize(
    ("dx", "dy", "name"),
    [(0.3, 0.1, "left_of"), (-0.3, 0.1, "right_of"), (0.1, 0.3, "above"), (0.1, -0.3, "below")],
)
def test_the_main_relation_lies_along_the_longer_axis(dx, dy, name):
    a, b = at(0.5, 0.5), at(0.5 + dx, 0.5 + dy)
    assert main_relation(a, b) == name
    assert RELATIONS[name](a, b)
    assert not RELATIONS[name](b, a)


def test_no_description_occurs_in_two_parts():
    seen = {split: {s.signature() for s in draw_many("iid", split, 1000)} for split in PARTS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]
    assert all(split_of(s) == "test" for s in draw_many("iid", "test", 50))


@pytest.mark.parametrize("generalization", ["attribute-pair", "relation"])
def test_held_out_combinations_are_in_every_test_scene_and_in_no_other(generalization):
    for split in PARTS:
        for scene in draw_many(generalization, split):
            assert has_held_out(scene, generalization) == (split == "test")


def test_held_out_pairs_leave_every_colour_and_shape_eight_partners():
    kept = [
        (c, s) for c in COLOURS for s in SHAPES if not held_out_pair(at(0, 0, shape=s, colour=c))
    ]
    assert len(kept) == 80
    assert all(sum(c == colour for c, _ in kept) == 8 for colour in COLOURS)
    assert all(sum(s == shape for _, s in kept) == 8 for shape in SHAPES)


def test_held_out_relations_are_invariant_to_mirroring():
    for split in PARTS:
        for scene in draw_many("relation", split, 200):
            assert has_held_out(scene.mirrored(), "relation") == has_held_out(scene, "relation")


def test_every_shape_has_every_role_in_training_scenes_of_the_relation_split():
    roles = set()
    for scene in draw_many("relation", "train", 800):
        for a, b in combinations(scene.objects, 2):
            roles |= {(a.shape, main_relation(a, b)), (b.shape, main_relation(b, a))}
    assert roles == {(shape, name) for shape in SHAPES for name in RELATIONS}


def test_shuffled_is_a_permutation_and_draws_differ_by_key():
    orders = [tuple(Draw(str(i)).shuffled(range(6))) for i in range(20)]
    assert all(sorted(o) == list(range(6)) for o in orders)
    assert any(a != b for a, b in pairwise(orders))

"""Caption metrics against pycocoevalcap, the Java tokenizer's output and closed forms."""

import math
import random
import warnings
from collections import Counter

import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from amodal.data.scenes.captions import write_captions
from amodal.data.scenes.world import sample_scene
from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.captioning import (
    DocumentFrequency,
    bleu,
    caption_scores,
    cider,
    most_typical,
    rouge_l,
)

# What CoreNLP 3.4.1 makes of them with -preserveLines -lowerCase, less coco-caption's punctuation.
TOKENIZED_BY_JAVA = [
    (
        "A man's dog isn't sitting on the couch, but it's near the window.",
        "a man 's dog is n't sitting on the couch but it 's near the window",
    ),
    (
        "Two people (one with a red umbrella) walk down the street.",
        "two people -lrb- one with a red umbrella -rrb- walk down the street",
    ),
    (
        "There are 3 or 4 zebras; they're eating grass...",
        "there are 3 or 4 zebras they 're eating grass",
    ),
    (
        'A sign that says "STOP" in front of a brick building.',
        "a sign that says stop in front of a brick building",
    ),
    (
        "The bathroom has a toilet, a sink and a tub / shower.",
        "the bathroom has a toilet a sink and a tub / shower",
    ),
    ("A black & white photo of a 1950's kitchen.", "a black & white photo of a 1950 's kitchen"),
    (
        "A close-up of a half-eaten sandwich on a plate!",
        "a close-up of a half-eaten sandwich on a plate",
    ),
    (
        "A woman is holding a Wii remote - she looks happy.",
        "a woman is holding a wii remote she looks happy",
    ),
    (
        "A double-decker bus with the number 12 on it's side.",
        "a double-decker bus with the number 12 on it 's side",
    ),
    (
        "A plane flying at 10:30 over the airport's runway.",
        "a plane flying at 10:30 over the airport 's runway",
    ),
    (
        "Someone can't decide between pizza and ice cream?",
        "someone ca n't decide between pizza and ice cream",
    ),
    (
        "A clock tower with a weathervane on it's top",
        "a clock tower with a weathervane on it 's top",
    ),
    (
        "An old-fashioned train passing by a U.S. flag.",
        "an old-fashioned train passing by a u.s. flag",
    ),
    (
        "A giraffe standing next to a 10 foot fence, looking at visitors.",
        "a giraffe standing next to a 10 foot fence looking at visitors",
    ),
    (
        'A man in a "I love NY" t-shirt takes a selfie.',
        "a man in a i love ny t-shirt takes a selfie",
    ),
    ("Mr. Smith and Mrs. Jones are at the beach.", "mr. smith and mrs. jones are at the beach"),
    (
        "A group of girls' bicycles parked at St. Mary's church.",
        "a group of girls bicycles parked at st. mary 's church",
    ),
    ("A skateboarder doing a 360 in mid-air.", "a skateboarder doing a 360 in mid-air"),
    (
        "A person wouldn't want to miss this view of the mountains.",
        "a person would n't want to miss this view of the mountains",
    ),
    ("Bananas for sale: $1.50 per pound", "bananas for sale $ 1.50 per pound"),
    (
        "A dog is lying on a bed with it's head on a pillow",
        "a dog is lying on a bed with it 's head on a pillow",
    ),
    (
        "A person on skis going down a hill.A person watching.",
        "a person on skis going down a hill.a person watching",
    ),
    ("the cat is in the sink ,looking up", "the cat is in the sink looking up"),
    (
        "A meal with meat, rice, and broccoli (yum).",
        "a meal with meat rice and broccoli -lrb- yum -rrb-",
    ),
    (
        'A "no parking" sign that\'s been knocked over!!',
        "a no parking sign that 's been knocked over !!",
    ),
    (
        "A pitcher's mound at a baseball field with players' gloves",
        "a pitcher 's mound at a baseball field with players gloves",
    ),
    (
        "One, two, three donuts and a cup of o'clock tea",
        "one two three donuts and a cup of o'clock tea",
    ),
    (
        "A traffic light @ night with 5 o'clock traffic",
        "a traffic light @ night with 5 o'clock traffic",
    ),
    ("A red/white/blue kite flying over the ocean", "a red/white/blue kite flying over the ocean"),
    ("A bus #42 that's headed downtown", "a bus # 42 that 's headed downtown"),
    (
        "The kids are gonna play soccer; the dog cannot.",
        "the kids are gon na play soccer the dog can not",
    ),
    (
        "An elephant that is 1,000 pounds and 8.5 feet tall",
        "an elephant that is 1,000 pounds and 8.5 feet tall",
    ),
    (
        "Several surfers who'll ride the waves at 5 p.m. today",
        "several surfers who 'll ride the waves at 5 p.m. today",
    ),
    ("A man eating a hot dog w/ mustard", "a man eating a hot dog w / mustard"),
    (
        "Cars, trucks, buses etc. are stuck in traffic",
        "cars trucks buses etc. are stuck in traffic",
    ),
    (
        "A toothbrush, toothpaste, etc. on the counter",
        "a toothbrush toothpaste etc. on the counter",
    ),
    ("A TV. is on the stand.", "a tv is on the stand"),
    (
        "A 2-story building with a sign reading 'OPEN'.",
        "a 2-story building with a sign reading open",
    ),
    ("We've seen the horse; he'd run 50% faster", "we 've seen the horse he 'd run 50 % faster"),
    ("It's a man with a tie. He is smiling", "it 's a man with a tie he is smiling"),
    (
        "A computer desk with two monitors and a mouse--very messy.",
        "a computer desk with two monitors and a mouse very messy",
    ),
    ("A bird stands on a rock — it isn't flying…", "a bird stands on a rock it is n't flying"),
    ("A woman’s hand holding a “smart” phone", "a woman 's hand holding a smart phone"),
]


def fuzzed(seed, images, words="a b c d e f"):
    draw = random.Random(seed)

    def text():
        return [draw.choice(words.split()) for _ in range(draw.choice((0, 1, 2, 3, 5, 8, 13)))]

    references = [[text() for _ in range(draw.choice((1, 2, 5)))] for _ in range(images)]
    captions = [list(draw.choice(r)) if draw.random() < 0.3 else text() for r in references]
    return captions, references


def scene_captions(images):
    captions, references = [], []
    for index in range(images):
        scene = sample_scene(0, "iid", "train", index, max_objects=3)
        texts = [tokenize(c.text) for c in write_captions(scene, f"{index}", style="mixed")]
        captions.append(texts[0])
        references.append(texts[1:])
    return captions, references


def as_coco(captions, references):
    said = {k: [" ".join(text)] for k, text in enumerate(captions)}
    true = {k: [" ".join(text) for text in texts] for k, texts in enumerate(references)}
    return true, said


def close(got, want):
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=torch.float64), rtol=0, atol=1e-9)


def compare_with_coco(captions, references):
    true, said = as_coco(captions, references)
    found = caption_scores(captions, references)
    corpus, each = Bleu(4).compute_score(true, said, verbose=0)
    close(bleu(captions, references), corpus)
    for n in range(4):
        assert found[f"bleu_{n + 1}"] == pytest.approx(corpus[n], abs=1e-9)
        close(found.per_image[f"bleu_{n + 1}"], each[n])
    for name, scorer in (("rouge_l", Rouge()), ("cider_d", Cider())):
        mean, each = scorer.compute_score(true, said)
        assert found[name] == pytest.approx(mean, abs=1e-9)
        close(found.per_image[name], each)


@pytest.mark.parametrize("seed", range(40))
def test_fuzzed_captions_score_as_in_coco_caption(seed):
    compare_with_coco(*fuzzed(seed, images=2 + seed))


def test_captions_of_scenes_score_as_in_coco_caption():
    compare_with_coco(*scene_captions(60))


def plain_cider(captions, references):
    """CIDEr by explicit vectors over all n-grams of the corpus."""
    scores = []
    for caption, texts in zip(captions, references, strict=True):
        total = 0.0
        for n in range(1, 5):

            def grams(text, n=n):
                return Counter(zip(*[text[k:] for k in range(n)], strict=False))

            documents = [set().union(*[grams(t) for t in r]) for r in references]
            index = sorted(set().union(*documents, grams(caption)))
            idf = [
                math.log(len(references) / max(1, sum(g in d for d in documents))) for g in index
            ]

            def vector(text, grams=grams, index=index, idf=idf):
                return torch.tensor(
                    [grams(text)[g] * w for g, w in zip(index, idf, strict=True)],
                    dtype=torch.float64,
                )

            for text in texts:
                a, b = vector(caption), vector(text)
                length = float(a.norm() * b.norm()) if len(index) else 0.0
                total += float(a @ b) / length if length else 0.0
        scores.append(10 * total / (4 * len(texts)))
    return scores


@pytest.mark.parametrize("seed", range(5))
def test_plain_cider_equals_explicit_vectors(seed):
    captions, references = fuzzed(seed, images=6)
    close(cider(captions, references, variant="plain"), plain_cider(captions, references))


def test_a_caption_equal_to_its_only_reference_scores_the_maximum():
    texts = [["a", "red", "dog", "runs", "far"], ["two", "small", "cats", "sleep", "here"]]
    found = caption_scores(texts, [[t] for t in texts])
    for n in range(1, 5):
        assert found[f"bleu_{n}"] == pytest.approx(1, abs=1e-8)
    assert found["rouge_l"] == pytest.approx(1)
    assert found["cider"] == pytest.approx(10)
    assert found["cider_d"] == pytest.approx(10)


def test_repeating_a_rare_word_raises_cider_and_not_cider_d():
    references = [[["a", "red", "dog", "runs", "far"]], [["two", "small", "cats", "sleep", "here"]]]
    once, often = ["dog"], ["dog", "dog", "dog", "dog", "dog", "dog"]
    plain = [float(cider([c, []], references, variant="plain")[0]) for c in (once, often)]
    clipped = [float(cider([c, []], references)[0]) for c in (once, often)]
    assert plain[1] == pytest.approx(plain[0])
    assert clipped[1] < clipped[0] / 4


def test_order_of_images_and_references_does_not_matter():
    captions, references = fuzzed(3, images=20)
    order = list(range(20))
    random.Random(0).shuffle(order)
    there = caption_scores(captions, references)
    back = caption_scores([captions[k] for k in order], [references[k][::-1] for k in order])
    for name in there.metrics:
        assert there[name] == pytest.approx(back[name], abs=1e-12)


def test_given_document_frequencies_replace_those_of_the_references():
    captions, references = fuzzed(1, images=30)
    every = DocumentFrequency.of(references)
    part = cider(captions[:1], references[:1], frequency=every)
    close(part, cider(captions, references)[:1])


def test_cider_of_one_image_is_zero_and_warns():
    text = ["a", "red", "dog", "runs", "far"]
    with pytest.warns(UserWarning, match="CIDEr is 0 for every caption"):
        found = caption_scores([text], [[text]])
    assert found["cider"] == 0
    assert found["cider_d"] == 0
    assert found["bleu_4"] == pytest.approx(1, abs=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caption_scores([text], [[text]], frequency=DocumentFrequency({}, 100))


def test_intervals_contain_the_estimates_and_resample_corpus_bleu():
    captions, references = scene_captions(60)
    found = caption_scores(captions, references, bootstrap=300)
    for name, estimate in found.metrics.items():
        assert estimate.low < estimate.value < estimate.high, name
    same = caption_scores(captions[:1] * 20, references[:1] * 20, bootstrap=20).metrics["bleu_4"]
    assert same.high - same.low < 1e-6
    flat = found.to_dict()
    assert flat["num_images"] == 60
    assert flat["bleu_4/low"] == found.metrics["bleu_4"].low


def test_text_that_was_not_tokenized_is_refused():
    with pytest.raises(ValueError, match="image 0: expected tokens, got the text 'a dog'"):
        bleu(["a dog"], [[["a", "dog"]]])
    with pytest.raises(ValueError, match="image 0: expected tokens"):
        rouge_l([["a", "dog"]], [["a dog"]])
    with pytest.raises(ValueError, match="image 1: expected a list of references"):
        cider([["a"], ["b"]], [[["a"]], []])
    with pytest.raises(ValueError, match="2 captions and references of 1 images"):
        bleu([["a"], ["b"]], [[["a"]]])
    with pytest.raises(ValueError, match='"plain" or "d"'):
        cider([["a"]], [[["a"]]], variant="D")


@pytest.mark.parametrize(("caption", "want"), TOKENIZED_BY_JAVA)
def test_tokens_are_those_of_the_java_tokenizer(caption, want):
    assert tokenize(caption) == want.split()


def test_brackets_and_runs_of_marks_stay_as_in_coco_caption():
    assert tokenize("What?! (a dog) no!!") == [
        "what",
        "?!",
        "-lrb-",
        "a",
        "dog",
        "-rrb-",
        "no",
        "!!",
    ]
    assert tokenize("") == tokenize(" . ") == []


def test_the_most_typical_reference_has_the_best_cider_of_all():
    rng = random.Random(0)
    words = ["a", "red", "blue", "star", "ring", "on", "white"]
    references = [
        [rng.choices(words, k=rng.randint(2, 6)) for _ in range(rng.randint(1, 3))]
        for _ in range(12)
    ]

    def as_caption_of_all(text):
        return float(cider([text] * len(references), references, variant="plain").mean())

    best = max(as_caption_of_all(text) for texts in references for text in texts)
    assert as_caption_of_all(most_typical(references)) == pytest.approx(best)
    assert most_typical([[[]], [[]]]) == []  # nothing to choose from

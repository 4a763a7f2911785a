"""The page is whole, safe and self-contained; the map is a principal component analysis."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from amodal.reports.plots import joint_map, readable_name, series
from amodal.reports.report import (
    Heatmap,
    Metric,
    Report,
    SearchExample,
    SearchHit,
    data_uri,
    write_report,
)

VOID = {"meta", "link", "img", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """Collects tags, ids, addresses and text, and checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.addresses, self.words = [], [], [], []
        self.images, self.sections = [], []
        self.feed(html)
        assert self.open == []

    def handle_startendtag(self, tag, attributes):
        self._attributes(tag, dict(attributes))

    def handle_starttag(self, tag, attributes):
        self._attributes(tag, dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def _attributes(self, tag, attributes):
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[n] for n in ("src", "href") if n in attributes]
        if tag == "img":
            self.images.append(attributes)
        if tag == "section":
            self.sections.append(attributes["id"])

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def image(seed, size=32):
    return np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)


def full_report():
    generator = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(30, 6, generator=generator), dim=1)
    log = [{"step": s, "loss": 5 / s, "seconds": 1.5 * s} for s in range(1, 100)]
    log += [
        {"step": 50 * i, "eval/loss": 3 / i, "eval/retrieval/text_to_image/recall@1": 0.2 * i}
        for i in (1, 2)
    ]
    return Report(
        title="A run <b>&</b>",
        summary="What was learned.",
        metrics={
            "retrieval/text_to_image/recall@1": Metric(0.612, 0.589, 0.634, chance=0.002),
            "retrieval/text_to_image/median_rank": 2.0,
            "zero_shot/accuracy": Metric(float("nan"), percent=True),
        },
        log=log,
        searches=[
            SearchExample(
                "<script>alert(1)</script> 红色的圆",
                [SearchHit(image(i), 0.9 - 0.1 * i, correct=i == 1) for i in range(5)],
                rank=2,
            ),
            SearchExample("not found", [SearchHit(Image.new("RGB", (9, 9)), 0.1)], rank=41),
        ],
        heatmap=Heatmap(np.eye(3), ["a", "b", "c"], [image(i) for i in range(3)]),
        map_points=joint_map(z, z.roll(1, 1), ("image", "text")),
        recipe="data: {kind: scenes}\n",
        broken=[("captions.json row 7", "no such file: <x>.jpg")],
        records=1000,
        commands=["amodal search index 'a red circle' # Search it."],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    return write_report(run, full_report())


def test_the_page_has_every_part_and_is_well_formed(written):
    page = Page(written.read_text("utf-8"))
    assert page.sections == [
        "results", "training", "searches", "similarity", "map", "skipped", "next", "recipe",
    ]  # fmt: skip
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) == 5 + 1 + 3
    for words in (
        "61.2 %", "58.9 – 63.4", "0.20 %", "306 × chance", "not a number", "at rank 41",
        "1 of 1,000 records", "captions.json row 7", "Search it.", "trained in 2 min 28 s",
        "text → image recall@1",
    ):  # fmt: skip
        assert words in page.text, words


def test_the_page_loads_nothing_from_anywhere(written):
    html = written.read_text("utf-8")
    page = Page(html)
    assert all(re.match(r"data:|#", address) for address in page.addresses)
    assert "url(http" not in html
    assert "@import" not in html
    assert "<script" not in html
    assert {p.name for p in (written.parent / "plots").iterdir()} == {
        "loss.png", "recall.png", "map.png", "similarity.png",
    }  # fmt: skip


def test_text_of_others_is_shown_and_never_run(written):
    assert "<script>alert(1)</script> 红色的圆" in Page(written.read_text("utf-8")).text
    assert "<title>A run &lt;b&gt;&amp;&lt;/b&gt;</title>" in written.read_text("utf-8")


def test_the_correct_hit_alone_is_outlined(written):
    items = re.findall(r'<li( class="correct")?><img', written.read_text("utf-8"))
    assert [bool(item) for item in items] == [False, True, False, False, False, False]


def test_charts_take_the_colours_of_the_page(written):
    charts = re.findall(r"<svg.*?</svg>", written.read_text("utf-8"), flags=re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        assert "var(--grid)" in chart
        assert not re.search(r"#0101\d\d", chart)


def test_equal_input_gives_equal_pages(written, tmp_path):
    assert write_report(tmp_path, full_report()).read_bytes() == written.read_bytes()


def test_a_report_without_anything_is_a_page(tmp_path):
    page = Page(write_report(tmp_path / "new", Report("Empty", "Nothing yet.")).read_text("utf-8"))
    assert page.sections == []
    assert "Nothing yet." in page.text


def test_a_heat_map_that_does_not_fit_is_refused(tmp_path):
    heatmap = Heatmap(np.eye(3), ["a", "b"], [image(i) for i in range(3)])
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 3\)"):
        write_report(tmp_path, Report("x", "y", heatmap=heatmap))


@pytest.mark.parametrize(("size", "kind", "want"), [(64, "PNG", 64), (700, "JPEG", 256)])
def test_small_images_are_kept_exactly_and_large_ones_shrink(size, kind, want):
    array = image(0, size)
    head, content = data_uri(array).split(",")
    decoded = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{kind.lower()};base64"
    assert (decoded.format, decoded.size) == (kind, (want, want))
    if kind == "PNG":
        np.testing.assert_array_equal(np.asarray(decoded), array)


def test_the_map_agrees_with_a_singular_value_decomposition():
    generator = torch.Generator().manual_seed(1)
    image = F.normalize(torch.randn(40, 7, generator=generator, dtype=torch.float64), dim=1)
    text = F.normalize(image + 0.3, dim=1)
    got = joint_map(image, text, ("image", "text"))
    both = torch.cat([image, text])
    u, s, _ = torch.linalg.svd(both - both.mean(0), full_matrices=False)
    want = (u * s)[:, :2]
    mapped = torch.from_numpy(np.concatenate([got.first, got.second])).double()
    torch.testing.assert_close(mapped.abs(), want.abs(), atol=1e-5, rtol=0)
    assert got.explained == pytest.approx(float((s[:2] ** 2).sum() / (s**2).sum()))
    assert got.gap == pytest.approx(float((image.mean(0) - text.mean(0)).norm()))


def test_the_map_has_an_answer_for_degenerate_input():
    for z in (torch.ones(1, 4) / 2, torch.ones(5, 4) / 2, torch.ones(3, 1)):
        got = joint_map(z, z, ("a", "b"))
        assert np.isfinite(got.first).all()
        assert (got.first.shape, got.gap) == ((len(z), 2), 0.0)
    with pytest.raises(ValueError, match="expected"):
        joint_map(torch.ones(2, 3), torch.ones(3, 3), ("a", "b"))


def test_lines_without_a_number_are_left_out_of_curves():
    log = [{"step": 1, "loss": 2.0}, {"step": 2}, {"step": 3, "loss": float("nan")}, {"loss": 1.0}]
    assert series(log, "loss") == ([1.0], [2.0])


def test_metric_names_read_like_words():
    assert readable_name("retrieval/image_to_text/recall@5") == "image → text recall@5"
    assert readable_name("zero_shot/accuracy") == "zero shot accuracy"

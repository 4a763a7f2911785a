"""Recordings in search: uploaded as a query, and played from the hits."""

import shutil

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("fastapi", reason="needs amodal[serve]")
from fastapi.testclient import TestClient

from amodal.data.sources.specification import parse_source
from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.models.joint_embedding import Architecture, build_joint_embedding
from amodal.search.embed import embed_source
from amodal.search.store import VectorStore
from amodal.serving.app import create_app
from amodal.serving.served import ServedModels

RATE = 8000
FORMATS = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}


def served_recordings(folder):
    """An index of a recording of each format, the first of which is long; with its files."""
    torch.manual_seed(0)
    sizes = {"sample_rate": RATE, "n_mels": 16, "widths": (8, 16), "width": 16}
    architecture = Architecture(
        encoders={
            "audio": SmallAudioCNNConfig(**sizes, segment_seconds=1),
            "text": SmallTransformerConfig(width=16, layers=1, heads=2),
        },
        projection={"kind": "linear", "dim": 8},
    )
    model = build_joint_embedding(architecture, lambda: iter([{"text": ["a b"]}])).eval()
    for number, suffix in enumerate(FORMATS):
        rng = np.random.default_rng(number)
        seconds = 2.5 if suffix == "wav" else 0.5
        soundfile.write(
            folder / f"{suffix}.{suffix}", rng.normal(0, 0.1, round(seconds * RATE)), RATE
        )
    lines = "\n".join(f"{suffix},{folder / suffix}.{suffix},{suffix}" for suffix in FORMATS)
    (folder / "audio.csv").write_text(f"id,audio,caption\n{lines}\n")
    columns = "columns.audio=audio,columns.image=null,columns.id=id"
    source = parse_source(f"table:path={folder}/audio.csv,{columns}").open()
    store = VectorStore.create(folder / "index", model.dim, fingerprint=model.fingerprint())
    store.add(embed_source(model, source, thumbnails=True))
    return ServedModels(name="i", kind="search index", embedding_model=model, store=store)


@pytest.fixture
def served(tmp_path):
    return served_recordings(tmp_path)


@pytest.fixture
def client(served):
    return TestClient(create_app(served, hosts=["*"]), raise_server_exceptions=False)


def search(client, content, **fields):
    files = {"audio": ("q.wav", content)}
    return client.post("/api/search", data=fields, files=files)


def test_a_recording_finds_itself_and_its_file_is_served(client, tmp_path):
    for suffix in ("flac", "ogg", "mp3"):
        content = (tmp_path / f"{suffix}.{suffix}").read_bytes()
        hit = search(client, content, input="audio").json()["hits"][0]
        assert (hit["id"], round(hit["score"], 4)) == (suffix, 1)
        assert hit["media"]["type"] == FORMATS[suffix]
        assert hit["media"]["span"] is None
        assert hit["thumbnail"].startswith("data:image/jpeg")
        response = client.get("/" + hit["media"]["url"])
        assert response.headers["content-type"] == FORMATS[suffix]
        assert response.content == content


def test_a_hit_in_a_long_recording_has_its_moment(client):
    hits = client.post("/api/search", data={"text": "a", "input": "audio", "k": 10}).json()["hits"]
    spans = sorted(tuple(hit["media"]["span"]) for hit in hits if hit["id"] == "wav")
    assert spans == [(0.0, 0.833), (0.833, 1.667), (1.667, 2.5)]


def test_a_player_may_ask_for_a_part_of_a_file(client, tmp_path):
    content = (tmp_path / "wav.wav").read_bytes()
    found = client.get("/api/media?id=wav&input=audio&row=2", headers={"range": "bytes=100-199"})
    assert (found.status_code, found.content) == (206, content[100:200])


@pytest.mark.parametrize(
    "query",
    [
        "id=/etc/passwd&input=audio&row=0",
        "id=wav&input=audio&row=3",
        "id=wav&input=image&row=0",
        "id=wav' OR 1=1 --&input=audio&row=0",
    ],
)
def test_only_rows_of_the_index_have_files(client, query):
    response = client.get(f"/api/media?{query}")
    assert response.status_code == 422
    assert "no file" in response.json()["detail"]


def test_a_file_of_another_type_or_one_that_is_gone_is_not_served(served, client, tmp_path):
    store = served.store
    hit = store.get(["ogg"], "audio")[0]
    shutil.copy(hit.path, tmp_path / "secret.txt")
    (tmp_path / "flac.flac").unlink()
    assert client.get("/api/media?id=flac&input=audio").status_code == 422
    from amodal.search.rows import Row

    store.add([Row("x", "audio", np.eye(8, dtype=np.float32)[0], path=f"{tmp_path}/secret.txt")])
    assert client.get("/api/media?id=x&input=audio").status_code == 422


def test_an_upload_that_is_no_recording_is_named(client):
    response = search(client, b"no recording at all")
    assert response.status_code == 422
    assert response.json()["detail"].startswith("audio: not a readable audio file")

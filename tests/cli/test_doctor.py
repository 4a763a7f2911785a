"""`amodal doctor` as it is typed: exit codes, what is printed, JSON."""

import json

import pytest
import yaml
from PIL import Image


@pytest.fixture
def amodal(tmp_path, monkeypatch, run_command):
    """Runs the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return run_command


SMALL = (
    *("--set", "data.train.size=300", "--set", "data.validation.size=30"),
    *("--set", "train.batch_size=4"),
)


def test_a_source_without_a_fault_has_no_finding_and_says_what_was_checked(amodal):
    code, out, _ = amodal("doctor", "scenes:size=30")
    assert code == 0
    assert out.startswith("no findings; checked 30 items of scenes/iid/train: rows that cannot")
    assert "false negatives" in out


def test_a_finding_is_printed_with_what_can_be_pasted(amodal, tmp_path):
    code, out, _ = amodal("doctor", "quickstart", *SMALL)
    assert code == 0
    assert "1. warning: small batch (train.batch_size)" in out
    assert "--set train.batch_size=32 --set train.micro_batch_size=4" in out
    assert "     train:\n       batch_size: 32\n       micro_batch_size: 4" in out
    assert "1 finding; checked 300 items" in out
    fixed = ("--set", "train.batch_size=32", "--set", "train.micro_batch_size=4")
    code, out, _ = amodal("doctor", "quickstart", *SMALL, *fixed)
    assert (code, out[:11]) == (0, "no findings")


def test_json_holds_findings_and_what_was_checked(amodal):
    code, out, _ = amodal("doctor", "quickstart", "--json", *SMALL)
    found = json.loads(out)
    assert code == 0
    assert [finding["name"] for finding in found["findings"]] == ["small_batch"]
    assert yaml.safe_load(found["findings"][0]["recipe"]) == {
        "train": {"batch_size": 32, "micro_batch_size": 4}
    }
    assert found["items"][0] == {"source": "scenes/attribute-pair/train", "read": 300, "all": 300}
    assert "learning rate" in found["checked"]


def test_what_cannot_be_read_is_an_error(amodal):
    code, out, err = amodal("doctor", "nothing.csv")
    assert (code, out) == (1, "")
    assert "nothing.csv" in err


def test_a_check_that_cannot_be_done_is_named_with_its_reason(amodal):
    text = "model.encoders.text={kind: huggingface, name: ./no_such_folder}"
    code, out, _ = amodal("doctor", "quickstart", *SMALL, "--set", text)
    assert code == 0
    assert "not checked: truncated texts: " in out
    assert "no_such_folder" in out


def test_inspect_ends_with_the_findings_and_the_next_command(amodal, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(30):
        Image.new("RGB", (20, 20), "white").save(folder / f"{number}.png")
    rows = [f'{{"image": "photos/{n}.png", "caption": "white page {n}"}}' for n in range(30)]
    (tmp_path / "pages.jsonl").write_text("\n".join(rows))
    code, out, _ = amodal("data", "inspect", "pages.jsonl")
    assert code == 0
    assert "warning: blank images (pages.jsonl)" in out
    assert "30 of 30 images have one colour only" in out
    assert out.rstrip().endswith("next: amodal init pages.jsonl")
    code, out, _ = amodal("doctor", "own-data", "--set", "data.train=pages.jsonl")
    assert code == 0
    assert "blank images" in out

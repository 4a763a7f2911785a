"""Every command of docs/your-own-photos.md runs, in order, from an empty folder."""

import re
import shlex
import sys
from pathlib import Path

import own_data
import pytest

from amodal.cli import main as cli
from amodal.serving.served import open_served
from amodal.setup import defaults

PAGE = Path(__file__).parents[1] / "docs" / "your-own-photos.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
SMALL = {"train": ["--set", "train.epochs=1", "--set", "train.precision=fp32"]}


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(defaults, "PRETRAINED", own_data.SMALL)
    own_data.captions_csv()
    own_data.houses()
    rows = [(f"photos/{i}.jpg", own_data.CAPTIONS[i]) for i in range(20)]
    own_data.write_csv("held-out.csv", ("image", "caption"), rows)
    assert len(COMMANDS) >= 8
    for words in COMMANDS:
        assert words[0] == "amodal"
        if words[1] == "serve":  # a server does not end
            assert "search" in open_served(Path(words[2])).capabilities
            continue
        monkeypatch.setattr(sys, "argv", [*words, *SMALL.get(words[1], [])])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, words
    assert Path("predictions.csv").is_file()
    assert Path("runs/photos/report.html").is_file()

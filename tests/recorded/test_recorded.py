"""Small runs of every recipe give what they gave before the package was restructured.

On the machine of the record (torch version, CPU capability and CPU model), all losses, metrics and
outputs must be equal to 1e-6. On any other machine only the mean loss of the first 5 steps is
compared, to 5e-2, because rounding differs there and grows from step to step. A failure says which
of the two was compared, and which number differs by how much. See `record.py`.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import record

# Recipes that came after the record.
NEWER = {"own-data", "flickr8k-frozen", "spoken-digits", "scenes-video"}


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    return record.Recorder(tmp_path_factory.mktemp("recorded") / "work")


@pytest.mark.slow
@pytest.mark.parametrize("name", record.RUNS)
def test_a_run_gives_what_was_recorded(recorder, name):
    if name == "flickr8k-photos" and not record.has_photos():
        pytest.skip(f"no photos in {record.PHOTOS}; set AMODAL_DATA")
    recorded, results = record.read_record()
    found = record.compare(
        recorder.result(name), results[name], same_machine=record.machine() == recorded
    )
    if found.failures:
        lines = [record.where_compared(recorded), *found.failures]
        pytest.fail(f"{name}, compared " + "\n    ".join(lines))


def test_every_recipe_is_recorded():
    recipes = {path.stem for path in (record.ROOT / "recipes").glob("*.yaml")}
    assert {run.recipe for run in record.RUNS.values()} == recipes - NEWER
    assert set(record.read_record()[1]) == set(record.RUNS)

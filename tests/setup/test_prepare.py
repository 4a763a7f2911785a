"""From data to a recipe that trains: every layout, every task, and what is refused."""

from pathlib import Path

import numpy as np
import own_data
import pytest
import yaml

from amodal.data.record import DataError
from amodal.data.sources.specification import open_random_access
from amodal.encoders import packaged
from amodal.setup import defaults
from amodal.setup import prepare as preparation
from amodal.setup.prepare import prepare
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run
from amodal.training.sources import open_sources, source_for_run

PRETRAINED = defaults.PRETRAINED  # before a fixture has put small ones in their place
STEP = ["train.epochs=1", "train.batch_size=16", "train.precision=fp32"]


def take(question, options, guess, option):
    if guess is None:
        raise DataError(f"{question} {option} {options}")
    asked.append((question, list(options), guess))
    return guess


asked = []


def made(path, **options):
    """The recipe file for a path, and what is told about it."""
    asked.clear()
    file = Path("made.yaml")
    prepared = prepare(path, file, take, **options)
    file.write_text(prepared.text)
    return file, prepared


def words(prepared):
    return "\n".join([*prepared.found, *prepared.chosen])


@pytest.mark.parametrize("layout", own_data.SEARCH_LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_search_is_prepared_for_every_layout(layout):
    path = layout()
    file, prepared = made(path)
    recipe = load_recipe(file)
    assert recipe.model.types == {"image": "image", "text": "text"}
    assert recipe.data.near_duplicates == "auto"
    train, held_out = open_sources(recipe)
    assert (len(train), len(held_out)) == (36, 4)
    assert all(train[i]["text"] for i in range(36))
    assert "40 items" in words(prepared)
    assert recipe.train.batch_size == 8  # at most a quarter of 36, and a power of two
    several = layout in (own_data.metadata_csv, own_data.json_lines)
    assert recipe.data.captions_per_item == (2 if several else 1)
    assert prepared.commands[0] == "amodal train made.yaml"
    assert prepared.commands[2] == "amodal serve runs/made/index"
    assert not asked


@pytest.mark.parametrize("layout", own_data.SEARCH_LAYOUTS, ids=lambda layout: layout.__name__)
def test_the_word_in_the_commands_names_the_same_items(layout):
    file, prepared = made(layout())
    run = Path("runs/made")
    run.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (run / name).write_text("{}")
    (run / "recipe.yaml").write_text(load_recipe(file).to_yaml())
    word = prepared.commands[1].partition("runs/made ")[2].partition(" --out")[0].strip("'")
    source = open_random_access(source_for_run(run, word), word)
    assert len(source) == 40
    assert {"image", "text"} <= set(source[0])


def test_the_recipe_trains_with_encoders_replaced():
    file, _ = made(own_data.captions_csv())
    recipe = load_recipe(file, [*STEP, "model.projection.hidden=8", "model.projection.dim=8"])
    result = train_run(recipe, Path("run"))
    assert result.steps == 2
    assert 0 <= result.metrics["retrieval/text_to_image/recall@1"] <= 1


def test_a_prediction_reads_images_texts_numbers_and_categories():
    file, prepared = made(own_data.houses(), target="price")
    recipe = load_recipe(file)
    assert recipe.model.kind == "fusion"
    assert recipe.model.target.model_dump(include={"task", "column"}) == {
        "task": "regression",
        "column": "price",
    }
    assert list(recipe.model.encoders) == ["image", "text", "columns"]
    assert recipe.model.encoders["columns"].numerical == ("rooms", "area")
    assert recipe.model.encoders["columns"].categorical == ("town",)
    assert recipe.data.train.columns.id == "id"
    assert "amodal predict runs/made houses.csv" in prepared.commands[1]
    result = train_run(load_recipe(file, STEP), Path("run"))
    assert np.isfinite(result.metrics["prediction/r2"])


def test_a_prediction_from_columns_alone_has_two_inputs():
    own_data.write_csv(
        "rooms.csv",
        ("rooms", "town", "price"),
        [(i % 5, ("Bern", "Ulm")[i % 2], 1000 * i) for i in range(60)],
    )
    file, _ = made("rooms.csv", target="price")
    assert list(load_recipe(file).model.encoders) == ["columns_1", "columns_2"]


@pytest.mark.parametrize(
    ("cells", "task"),
    [
        (lambda i: ("red", "green", "red|green")[i % 3], "multi_label"),
        (lambda i: ("red", "green")[i % 2], "classification"),
        (lambda i: i % 3, "classification"),
        (lambda i: i / 7, "regression"),
    ],
)
def test_the_target_says_how_it_is_predicted(cells, task):
    rows = [(i % 5, ("Bern", "Ulm")[i % 2], cells(i)) for i in range(60)]
    own_data.write_csv("rooms.csv", ("rooms", "town", "value"), rows)
    file, _ = made("rooms.csv", target="value")
    assert load_recipe(file).model.target.task == task


def test_questions_and_answers_of_a_table():
    file, prepared = made(own_data.questions())
    recipe = load_recipe(file)
    assert recipe.model.tasks == ("vqa",)
    assert "what is it, number 0?" in prepared.commands[1]
    result = train_run(load_recipe(file, [*STEP, "model.width=16", "model.heads=2"]), Path("run"))
    assert "vqa/exact_match" in result.metrics


def test_recordings_are_searched_by_text():
    pytest.importorskip("soundfile")
    file, prepared = made(own_data.recordings())
    recipe = load_recipe(file)
    assert recipe.model.types == {"audio": "audio", "text": "text"}
    assert recipe.data.train.columns.audio == "recording"
    assert "audio: small_audio_cnn (trained from random weights)" in words(prepared)
    train, held_out = open_sources(recipe)
    assert (len(train), len(held_out)) == (36, 4)


def test_a_column_of_files_that_are_not_there_is_left_out():
    own_data.recordings()
    rows = [(f"sounds/{i}.wav", f"gone/{i}.jpg", c) for i, c in enumerate(own_data.CAPTIONS)]
    own_data.write_csv("recordings.csv", ("recording", "image", "caption"), rows)
    file, prepared = made("recordings.csv")
    assert list(load_recipe(file).model.types) == ["audio", "text"]
    assert "column 'image' is not read, as its files are not there" in words(prepared)


def test_captions_are_generated_where_asked():
    file, prepared = made(own_data.captions_csv(), task="captions")
    recipe = load_recipe(file)
    assert recipe.model.tasks == ("caption",)
    assert list(recipe.model.encoders) == ["image"]
    assert prepared.commands[1] == "amodal caption runs/made photos/0.jpg"


def test_two_caption_columns_are_a_question():
    names = own_data.images("photos")
    rows = [
        (f"photos/{n}", c, f"some other words {c}")
        for n, c in zip(names, own_data.CAPTIONS, strict=True)
    ]
    own_data.write_csv("photos.csv", ("image", "title", "notes"), rows)
    file, prepared = made("photos.csv")
    assert asked == [("Which column holds the captions?", ["title", "notes"], "title")]
    assert load_recipe(file).data.train.columns.text == "title"
    assert "not read: notes" in words(prepared)


def test_numbered_caption_columns_are_several_captions():
    names = own_data.images("photos")
    rows = [(f"photos/{n}", c, f"again {c}") for n, c in zip(names, own_data.CAPTIONS, strict=True)]
    own_data.write_csv("photos.csv", ("image", "caption_1", "caption_2"), rows)
    file, _ = made("photos.csv")
    assert load_recipe(file).data.train.columns.text == ("caption_1", "caption_2")
    assert not asked


def test_broken_rows_are_counted_with_their_reason():
    path = own_data.captions_csv()
    with Path("photos/captions.csv").open("a") as file:
        file.write("gone.jpg,a photo that is not there\n0.jpg\n")
    Path("photos/1.jpg").write_bytes(b"\xff\xd8\xff no image")
    _, prepared = made(path)
    told = words(prepared)
    assert "1 rows are skipped, such as: no such image file" in told
    assert "photos/captions.csv row 2" in told


def test_several_tables_in_a_folder_are_a_question():
    path = own_data.captions_csv()
    own_data.write_csv("photos/other.csv", ("image", "caption"), [("0.jpg", "quite another text")])
    made(path)
    question, options, guess = asked[0]
    assert question == "Which table describes the files?"
    assert (options, guess) == (["photos/captions.csv", "photos/other.csv"], "photos/captions.csv")


def test_captions_beside_the_images_come_before_a_table_of_their_sizes():
    path = own_data.txt_beside()
    own_data.write_csv("photos/sizes.csv", ("file", "width"), [(f"{i}.jpg", i) for i in range(40)])
    file, _ = made(path)
    assert load_recipe(file).data.train.kind == "folder"


def test_columns_that_are_said_are_not_guessed():
    own_data.semicolons()
    word = "table:path=photos.csv,root=pictures,columns={image: File, text: Description}"
    file, _ = made(word)
    columns = load_recipe(file).data.train.columns
    assert (columns.image, columns.text) == ("File", "Description")


def test_the_recipe_is_short_and_says_what_was_seen():
    file, _ = made(own_data.captions_csv())
    lines = file.read_text().splitlines()
    assert len(lines) < 45
    assert max(map(len, lines)) <= 100
    header = [line for line in lines if line.startswith("#")]
    assert any("photos: a table, photos/captions.csv" in line for line in header)
    assert any("ms for each image" in line for line in header)
    values = yaml.safe_load(file.read_text())
    assert list(values) == ["data", "model", "objectives", "train"]


def test_without_pretrained_encoders_the_recipe_trains_from_scratch(monkeypatch):
    monkeypatch.setattr(preparation, "has_pretrained", lambda: False)
    file, prepared = made(own_data.captions_csv())
    recipe, packaged_recipe = load_recipe(file), load_recipe("own-data")
    assert recipe.model == packaged_recipe.model
    assert recipe.augment == packaged_recipe.augment
    assert recipe.data.train.path == "photos/captions.csv"
    assert any("pip install 'amodal[pretrained]'" in warning for warning in prepared.warnings)
    for options in ({"target": "price"}, {"task": "captions"}):
        made(own_data.houses(), **options)
        load_recipe(file)


def test_a_missing_package_is_seen(monkeypatch):
    one = packaged.TEXT_PACKAGES["all-minilm-l6-v2"]
    assert (
        packaged.Package(**{**vars(one), "distribution": "not-there-at-all"}).is_installed is False
    )


def empty_folder():
    Path("empty").mkdir()
    return "empty"


def bare_images():
    own_data.images("bare")
    return "bare"


def captions_of_nothing():
    own_data.images("photos")
    rows = [(f"gone/{i}.jpg", caption) for i, caption in enumerate(own_data.CAPTIONS)]
    own_data.write_csv("photos/captions.csv", ("image", "caption"), rows)
    return "photos"


def damaged_images():
    for name in own_data.images("photos"):
        Path("photos", name).write_bytes(b"no image")
        Path("photos", name).with_suffix(".txt").write_text("a text of some words")
    return "photos"


def no_header():
    rows = zip(own_data.images("photos"), own_data.CAPTIONS, strict=True)
    own_data.write_csv("photos/list.csv", ("first.jpg", "a dog on the roof"), rows)
    return "photos"


def words_alone():
    own_data.write_csv("words.csv", ("a", "b"), [(f"x{i}", f"y{i}") for i in range(40)])
    return "words.csv"


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        (empty_folder, {}, "holds no known data set"),
        (bare_images, {}, r"image files without captions.*captions as a\.txt beside a\.jpg"),
        (captions_of_nothing, {}, r"captions\.csv: none of the files.*'gone/0\.jpg'.*root=FOLDER"),
        (damaged_images, {}, "photos: no item can be used: .*image"),
        (own_data.class_folders, {"target": "label"}, r"got image beside the target 'label'"),
        (
            no_header,
            {},
            r"list\.csv: the column name 'first\.jpg' looks like a cell; is the header",
        ),
        (words_alone, {}, r"no column names image, video or audio files.*a \(40 different names\)"),
        (own_data.houses, {"target": "prise"}, "no column 'prise', did you mean 'price'"),
        (own_data.houses, {"target": "price", "task": "search"}, "no part of --task search"),
        (own_data.houses, {"task": "questions"}, "Which column holds the questions"),
        (own_data.captions_csv, {"task": "prediction"}, "no column of numbers or categories"),
        (lambda: "nothing.csv", {}, r"nothing\.csv: no such table"),
    ],
)
def test_data_that_cannot_be_used_are_refused(layout, options, message):
    with pytest.raises(DataError, match=message):
        made(layout(), **options)


@pytest.mark.slow
def test_pretrained_encoders_are_chosen_where_they_are_installed(monkeypatch):
    monkeypatch.setattr(defaults, "PRETRAINED", PRETRAINED)
    file, prepared = made(own_data.captions_csv())
    encoders = load_recipe(file).model.encoders
    assert [encoder.kind for encoder in encoders.values()] == ["packaged", "packaged"]
    assert all(encoder.freeze == "all" for encoder in encoders.values())
    assert "all-minilm-l6-v2 (pretrained and frozen)" in words(prepared)

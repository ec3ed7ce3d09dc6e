"""A saved model: plain transformers, whole or not at all, and checked when it is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bertkit
from bertkit import hookimpl
from bertkit.artifact import Exported, model_card, save_model
from bertkit.errors import ArtifactError, BertkitError, MissingPluginError, ModelError
from bertkit.heads.linear import Linear
from bertkit.predicting import evaluate_file
from bertkit.progress import Silent
from bertkit.registry import Origin, Registry, use
from bertkit.tasks import MultiLabel, Regression, SingleLabel
from bertkit.text.long_text import LongText
from tests.conftest import WORDS, make_encoder, reviews

HEADS = ("linear", "frozen-feature")
TASK = SingleLabel(("neg", "pos"))


def train(encoder: Path, output: Path, head: str = "linear", policy: str = "head", **trainer):
    """Train so that the model has learned something; long texts have more than 16 tokens."""
    options = {
        "max_steps": 40, "batch_size": 8, "precision": "fp32", "evaluate": None, "best": None,
        "learning_rate": 5e-3 if head == "linear" else 5e-2, **trainer,
    }  # fmt: skip
    spec = {
        "encoder": str(encoder),
        "dataset": {"type": "inline", "train": reviews(60), "validation": 0.2},
        "long_text": {"max_length": 16, "keep": policy},
        "head": head,
        "trainer": options,
        "output": str(output),
    }
    return bertkit.run(spec, progress=Silent())


@pytest.fixture(scope="module")
def saved(encoder_dir, tmp_path_factory):
    """Return the model directory of a head and a long-text policy; do not write to it."""
    made: dict[tuple[str, str], Path] = {}
    folder = tmp_path_factory.mktemp("saved")

    def find(head: str = "linear", keep: str = "head") -> Path:
        if (head, keep) not in made:
            result = train(encoder_dir, folder / f"{head}-{keep}", head, keep)
            made[head, keep] = Path(result.model_dir)
        return made[head, keep]

    return find


@pytest.fixture
def copied(saved, tmp_path):
    """Return a function that copies a model directory, for a test that damages it."""

    def copy(head: str = "frozen-feature") -> Path:
        return Path(shutil.copytree(saved(head), tmp_path / "model"))

    return copy


def parts(folder: Path) -> SimpleNamespace:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    return SimpleNamespace(
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )


def save(folder: Path, found: SimpleNamespace, **changes) -> None:
    arguments = {
        "task": TASK, "long_text": LongText(max_length=16), "card": "# card\n",
        "settings": {
            "head": {"type": "linear"}, "metrics": [], "label_values": {}, "plugins": {},
            "columns": {"text": "text", "label": "label"},
        },
    }  # fmt: skip
    save_model(folder, Exported(found.model, {}), found.tokenizer, **{**arguments, **changes})


# plain transformers


@pytest.mark.parametrize("keep", ["head", "tail"])
@pytest.mark.parametrize("head", HEADS)
def test_a_transformers_pipeline_gives_the_same_scores_on_200_texts(saved, head, keep):
    from transformers import pipeline

    folder = saved(head, keep)
    texts = [row["text"] for row in reviews(200, seed=3)]
    texts[0] = "good " + "room " * 200
    texts[1] = "room " * 200 + "bad"
    texts[2] = "好 Ünknown 🤗 words"
    assert sum(len(text.split()) > 14 for text in texts) > 50  # over-long ones
    classify = pipeline("text-classification", model=str(folder), truncation=True)
    plain = classify(texts, top_k=None, batch_size=32)
    ours = bertkit.load(folder).predict(texts)
    for found, scores in zip(ours, plain, strict=True):
        assert found.scores == pytest.approx({s["label"]: s["score"] for s in scores}, abs=1e-5)
        assert found.label == scores[0]["label"]
    positive = [found.scores["pos"] for found in ours]
    assert max(positive) - min(positive) > 0.3  # so that the comparison can fail


@pytest.mark.parametrize("head", HEADS)
def test_config_and_tokenizer_carry_labels_and_length_for_plain_transformers(saved, head):
    found = parts(saved(head, "tail"))
    assert found.model.config.id2label == {0: "neg", 1: "pos"}
    assert found.model.config.label2id == {"neg": 0, "pos": 1}
    assert found.model.config.problem_type == "single_label_classification"
    assert found.tokenizer.model_max_length == 16
    assert found.tokenizer.truncation_side == "left"


def test_the_native_head_gives_the_logits_of_the_saved_model(saved, encoder_dir):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModel

    classifier = bertkit.load(saved("frozen-feature"))
    batch = classifier.tokenizer(["good clean room", "awful"], padding=True, return_tensors="pt")
    head = load_file(saved("frozen-feature") / "head.safetensors")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(encoder_dir)(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        expected = mean @ head["classifier.weight"].T + head["classifier.bias"]
        logits = classifier.model(**batch).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert not (saved("linear") / "head.safetensors").exists()


@pytest.mark.parametrize("head", HEADS)
def test_a_run_directory_and_its_model_directory_load_alike(saved, monkeypatch, head):
    folder = saved(head)
    texts = ["good room", "awful bed"]
    found = bertkit.load(folder).predict(texts)
    assert bertkit.load(str(folder.parent)).predict(texts) == found
    monkeypatch.chdir(folder)
    assert bertkit.load(".").predict(texts) == found


def test_a_directory_that_transformers_alone_saved_loads(encoder_dir, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(
        encoder_dir, id2label={0: "no", 1: "yes", 2: "perhaps"}, num_labels=3
    )
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path)
    classifier = bertkit.load(tmp_path)
    assert classifier.labels == ("no", "yes", "perhaps")
    assert classifier.settings == {}
    assert set(classifier.predict("a room")[0].scores) == {"no", "yes", "perhaps"}


@pytest.mark.parametrize(
    ("problem_type", "labels", "kind", "function"),
    [
        (None, 3, "single_label", "softmax"),
        ("single_label_classification", 3, "single_label", "softmax"),
        ("multi_label_classification", 3, "multi_label", "sigmoid"),
        (None, 1, "regression", "none"),
        ("regression", 3, "regression", "none"),
    ],
)
def test_the_task_of_such_a_model_is_what_its_config_says(
    encoder_dir, tmp_path, problem_type, labels, kind, function
):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    names = {i: f"name {i}" for i in range(labels)}
    AutoModelForSequenceClassification.from_pretrained(
        encoder_dir, id2label=names, problem_type=problem_type
    ).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoder_dir).save_pretrained(tmp_path)
    classifier = bertkit.load(tmp_path)
    assert classifier.task.kind == kind
    assert classifier.labels == tuple(names.values())
    classify = pipeline("text-classification", model=str(tmp_path), top_k=None)
    (wanted,) = classify(["good room"], function_to_apply=function)
    (found,) = classifier.predict("good room")
    assert found.scores == pytest.approx({one["label"]: one["score"] for one in wanted})


# bertkit.json and the hashes


def test_bertkit_json_holds_what_prediction_and_evaluation_need(saved):
    folder = saved("frozen-feature", "tail")
    content = json.loads((folder / "bertkit.json").read_text(encoding="utf-8"))
    for path in folder.iterdir():
        if path.name not in ("README.md", "bertkit.json"):
            assert content["files"].pop(path.name) == {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "size": path.stat().st_size,
            }
    assert content.pop("files") == {}
    assert len(content.pop("sha256")) == 64
    assert content == {
        "format": 1,
        "bertkit": bertkit.__version__,
        "task": {"kind": "single_label", "labels": ["neg", "pos"]},
        "long_text": {
            "max_length": 16,
            "keep": "tail",
            "head": None,
            "cut": None,
            "stride": None,
            "pool": None,
            "max_windows": None,
        },
        "head": {"type": "frozen-feature", "pooling": "mean"},
        "metrics": [
            {"type": "accuracy", "name": None},
            {"type": "f1", "name": None, "average": "macro", "positive": None},
        ],
        "columns": {"text": "text", "label": "label"},
        "label_values": {"neg": "neg", "pos": "pos"},
        "plugins": {},
    }


FILES = (
    "bertkit.json", "config.json", "head.safetensors", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_found_and_named(copied, name):
    folder = copied()
    assert sorted([*FILES, "README.md"]) == sorted(os.listdir(folder))
    size = (folder / name).stat().st_size
    for at in (0, size // 2, size - 2):
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match=re.escape(str(folder / name))):
            bertkit.load(folder)
        content[at] ^= 1
        (folder / name).write_bytes(content)
    bertkit.load(folder)


@pytest.mark.parametrize("name", FILES[1:])
def test_a_missing_file_is_named(copied, name):
    folder = copied()
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name} is missing; copy the whole folder again"):
        bertkit.load(folder)


@pytest.mark.parametrize("name", ["README.md", "bertkit.json"])
def test_without_card_or_settings_it_is_still_a_transformers_model(copied, name):
    folder = copied()
    expected = bertkit.load(folder).predict("good room")
    (folder / name).unlink()
    assert bertkit.load(folder).predict("good room") == expected


def rewritten(folder: Path, change) -> None:
    """Change bertkit.json as somebody does who also knows how it is hashed."""
    file = folder / "bertkit.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content.pop("sha256")
    change(content)
    text = json.dumps(content, sort_keys=True)
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    file.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(format=2), "format 2, this bertkit reads 1; update bertkit"),
        (lambda c: c.update(format="1"), "format '1', this bertkit reads 1"),
        (lambda c: c.pop("format"), "not readable"),
        (lambda c: c.pop("task"), "task: Field required"),
        (lambda c: c["task"].update(kind="magic"), "task.kind: "),
        (lambda c: c["task"].update(labels=[1, 2]), "task.labels.0: "),
        (lambda c: c["task"].update(center=[0.0, 0.0]), "task: "),
        (lambda c: c["columns"].pop("text"), "columns.text: Field required"),
        (lambda c: c["columns"].update(text=["a", "b", "c"]), "columns.text"),
        (lambda c: c["long_text"].update(keep="middle"), "long_text.keep: "),
        (lambda c: c["files"]["config.json"].pop("size"), "files.config.json.size: "),
        (lambda c: c.update(plugins=[]), "plugins: "),
    ],
)
def test_settings_of_another_shape_are_refused_by_place(copied, change, said):
    folder = copied()
    rewritten(folder, change)
    with pytest.raises(ArtifactError) as caught:
        bertkit.load(folder)
    assert str(folder / "bertkit.json") in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{", "[" * 5000, "\xff"])
def test_settings_that_are_no_settings_are_refused(copied, text):
    folder = copied()
    (folder / "bertkit.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"bertkit\.json: not readable .*copy the folder again"):
        bertkit.load(folder)


@pytest.mark.parametrize("head", HEADS)
def test_attention_over_windows_without_its_weights_is_refused(encoder_dir, tmp_path, head):
    from safetensors.torch import load_file, save_file

    rows = [{"text": f"{word} room", "label": word} for word in ("good", "bad") * 4]
    run = bertkit.run(
        {
            "encoder": str(encoder_dir), "head": head, "output": str(tmp_path / "run"),
            "dataset": {"type": "inline", "train": rows, "validation": 0},
            "long_text": {"max_length": 16, "keep": "windows", "pool": "attention"},
            "trainer": {"max_steps": 1, "precision": "fp32"},
        }
    )  # fmt: skip
    file = Path(run.model_dir, "head.safetensors")
    for name in load_file(file):
        left = {key: value for key, value in load_file(file).items() if key != name}
        before = file.read_bytes()
        save_file(left, file)
        entry = {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size,
        }  # fmt: skip
        settings = file.with_name("bertkit.json").read_bytes()
        rewritten(file.parent, lambda c, entry=entry: c["files"].update({file.name: entry}))
        with pytest.raises(ArtifactError, match=r"head\.safetensors: does not hold the weights of"):
            bertkit.load(run.model_dir)
        file.write_bytes(before)
        file.with_name("bertkit.json").write_bytes(settings)
    bertkit.load(run.model_dir)


def test_settings_cannot_reach_out_of_the_folder(copied, tmp_path):
    folder = copied()
    (tmp_path / "secret").write_text("x")
    entry = {"sha256": "0" * 64, "size": 1}
    rewritten(folder, lambda c: c["files"].update({"../secret": entry}))
    with pytest.raises(ArtifactError, match=r"\.\./secret is missing"):
        bertkit.load(folder)


# what is no model


def nothing(folder, encoder):
    pass


def a_file(folder, encoder):
    folder.write_text("x")


def an_empty_folder(folder, encoder):
    folder.mkdir()


def an_encoder_without_a_head(folder, encoder):
    shutil.copytree(encoder, folder)


def a_run_without_a_model(folder, encoder):
    folder.mkdir()
    (folder / "spec.yaml").write_text("# bertkit run\n")


def an_empty_model_folder(folder, encoder):
    a_run_without_a_model(folder, encoder)
    (folder / "model").mkdir()


def a_dataset(folder, encoder):
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\na,b\n")


def pickled_weights(folder, encoder):
    folder.mkdir()
    shutil.copy(encoder / "config.json", folder)
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch pwned'\ntR.")


def changed_config(**changes):
    def make(folder, encoder):
        shutil.copytree(encoder, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return make


def config_of(text):
    def make(folder, encoder):
        shutil.copytree(encoder, folder)
        (folder / "config.json").write_text(text)

    return make


def without(name):
    def make(folder, encoder):
        classifier_of(folder, encoder)
        (folder / name).unlink()

    return make


def with_file(name, content):
    def make(folder, encoder):
        classifier_of(folder, encoder)
        (folder / name).write_bytes(content)

    return make


def classifier_of(folder, encoder):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(encoder).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (nothing, ArtifactError, "there is no such folder; expected one that"),
        (a_file, ArtifactError, "there is no such folder; expected one that"),
        (an_empty_folder, ModelError, "no config.json; expected a folder"),
        (a_dataset, ModelError, "no config.json; expected a folder"),
        (an_encoder_without_a_head, ArtifactError, "a model without a classification head"),
        (
            a_run_without_a_model,
            ArtifactError,
            "has not saved a model yet; finish it: bertkit run ",
        ),
        (an_empty_model_folder, ModelError, "no config.json"),
        (pickled_weights, ArtifactError, "bertkit reads safetensors only"),
        (changed_config(auto_map={"AutoModel": "x.y"}), ModelError, "code of its own (auto_map)"),
        (changed_config(model_type="gpt2"), ModelError, "a gpt2 model; bertkit fine-tunes enc"),
        (changed_config(model_type="nope"), ModelError, "model_type `nope` cannot be used"),
        (changed_config(hidden_size=64), ArtifactError, "cannot be loaded"),
        (changed_config(hidden_size="big"), BertkitError, "cannot be"),
        (config_of("{"), ModelError, "not readable as JSON"),
        (config_of("[]"), ModelError, "no model_type"),
        (without("tokenizer.json"), ArtifactError, "cannot be loaded"),
        (without("model.safetensors"), ArtifactError, "no model.safetensors"),
        (with_file("model.safetensors", b"\x00" * 64), ArtifactError, "cannot be loaded"),
        (with_file("model.safetensors", b""), ArtifactError, "cannot be loaded"),
        (with_file("tokenizer.json", b"{}"), ArtifactError, "cannot be loaded"),
    ],
)
def test_what_is_no_model_is_refused_by_its_place(tmp_path, encoder_dir, make, error, said):
    make(tmp_path / "model", encoder_dir)
    with pytest.raises(error) as caught:
        bertkit.load(tmp_path / "model")
    assert said in str(caught.value)
    assert str(tmp_path / "model") in str(caught.value)
    assert not (tmp_path / "pwned").exists()


# whole or not at all


class Dying(BaseException):
    """Raised where a process would have died."""


armed: list = []


def _hook(event: str, arguments: tuple) -> None:
    if not armed or event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"):
        return
    folder, strike = armed[0]
    if isinstance(arguments[0], (str, Path)) and str(arguments[0]).startswith(folder):
        strike()


sys.addaudithook(_hook)  # stays for the whole session, so it does nothing unless armed


@contextlib.contextmanager
def dying_at(folder: Path, count: int, die):
    """Call `die` at file event number `count` below a folder; yield the number counted so far."""
    seen = [0]

    def strike() -> None:
        seen[0] += 1
        if seen[0] == count:
            armed.clear()
            die()

    armed.append((str(folder), strike))
    try:
        yield seen
    finally:
        armed.clear()


def die() -> None:
    raise Dying


def test_an_exception_anywhere_in_saving_leaves_the_old_model_the_new_one_or_none(saved, tmp_path):
    new = parts(saved("linear"))
    old_files = {path.name: path.read_bytes() for path in saved("frozen-feature").iterdir()}
    folder = tmp_path / "run" / "model"
    outcomes = set()
    count = 0
    while True:
        count += 1
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(saved("frozen-feature"), folder)
        with contextlib.suppress(Dying), dying_at(tmp_path, count, die) as seen:
            save(folder, new)
        if not folder.exists():
            outcomes.add("none")
        elif {p.name: p.read_bytes() for p in folder.iterdir()} == old_files:
            outcomes.add("old")
        else:
            bertkit.load(folder)
            assert not (folder / "head.safetensors").exists()
            outcomes.add("new")
        assert {p.name for p in folder.parent.iterdir()} <= {"model", ".model.old"}
        if seen[0] < count:
            break
    assert count > 20
    assert {"old", "new"} <= outcomes
    assert os.listdir(folder.parent) == ["model"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_a_process_killed_anywhere_in_saving_leaves_no_partial_model(saved, tmp_path):
    found = parts(saved("linear"))
    expected = bertkit.load(saved("linear")).predict("good room")
    killed = 0
    for count in range(1, 200, 3):
        run_dir = tmp_path / str(count)
        run_dir.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the child only writes files
            child = os.fork()
        if child == 0:
            try:
                with dying_at(run_dir, count, lambda: os.kill(os.getpid(), signal.SIGKILL)):
                    save(run_dir / "model", found)
            finally:
                os._exit(0)  # whatever happened, or there would be two of this test
        ended = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(ended):
            break
        killed += 1
        if (run_dir / "model").exists():
            assert bertkit.load(run_dir / "model").predict("good room") == expected
        save(run_dir / "model", found)  # what was left behind is in nobody's way
        assert os.listdir(run_dir) == ["model"]
    assert killed > 4
    assert bertkit.load(run_dir / "model").predict("good room") == expected


def test_a_disk_that_fills_up_is_one_clear_error_and_leaves_nothing(saved, tmp_path):
    resource = pytest.importorskip("resource")
    found = parts(saved("linear"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(ArtifactError, match=r"model: the model cannot be written \(.*large"):
            save(tmp_path / "model", found)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


# checkpoints and plugins


@pytest.mark.parametrize("head", HEADS)
def test_a_step_gives_the_weights_that_the_run_had_then(encoder_dir, tmp_path, head):
    options = {"schedule": "constant", "save": {"steps": 1}, "keep": 9, "learning_rate": 1e-2}
    whole = train(encoder_dir, tmp_path / "whole", head, max_steps=4, **options)
    short = train(encoder_dir, tmp_path / "short", head, max_steps=2, **options)
    texts = ["good clean room", "awful dirty bed"]
    then = [p.scores for p in bertkit.load(short.model_dir).predict(texts)]
    for folder in (whole.run_dir, whole.model_dir):
        found = [p.scores for p in bertkit.load(folder, step=2).predict(texts)]
        assert found[0] == pytest.approx(then[0], abs=1e-6)
        assert found[1] == pytest.approx(then[1], abs=1e-6)
    last = [p.scores for p in bertkit.load(whole.run_dir).predict(texts)]
    assert last[0] != pytest.approx(then[0], abs=1e-4)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(encoder_dir, tmp_path):
    run = train(encoder_dir, tmp_path / "run", max_steps=2, save={"steps": 1}, keep=9)
    with pytest.raises(BertkitError, match=r"no checkpoint of step 7; the steps kept are: 1, 2"):
        bertkit.load(run.run_dir, step=7)
    weights = tmp_path / "run" / "checkpoints" / "step-000001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(BertkitError, match=r"step-000001: .*choose another checkpoint"):
        bertkit.load(run.run_dir, step=1)


def test_a_plain_model_has_no_steps(encoder_dir, tmp_path):
    classifier_of(tmp_path / "plain", encoder_dir)
    with pytest.raises(ArtifactError, match="not saved by bertkit, so there are no checkpoints"):
        bertkit.load(tmp_path / "plain", step=1)


class Twin(Linear):
    """A third party's head."""

    type: Literal["twin"] = "twin"


class Twins:
    @hookimpl
    def bertkit_heads(self):
        return [Twin]


def test_a_plugins_model_predicts_without_it_and_names_it_where_it_is_needed(encoder_dir, tmp_path):
    registry = Registry(plugins=False)
    registry.manager.register(Twins(), name="twins")
    registry._origins["twins"] = Origin("twins", "bertkit-twins", "1.0")
    use(registry)
    try:
        run = train(encoder_dir, tmp_path / "run", "twin", max_steps=2)
    finally:
        use(None)
    assert bertkit.load(run.run_dir).predict("good room")[0].label in ("neg", "pos")
    with pytest.raises(MissingPluginError, match=r"head `twin`; install bertkit-twins"):
        bertkit.load(run.run_dir, step=2)


def test_a_metric_that_is_not_installed_is_named_when_it_is_needed(copied, tmp_path):
    folder = copied("linear")

    def change(content):
        content["metrics"].append({"type": "brier"})
        content["plugins"]["metrics.2"] = "bertkit-brier"

    rewritten(folder, change)
    (tmp_path / "data.csv").write_text("text,label\ngood room,pos\n")
    classifier = bertkit.load(folder)
    with pytest.raises(MissingPluginError, match=r"metric `brier`; install bertkit-brier"):
        evaluate_file(classifier, tmp_path / "data.csv")


def test_options_that_a_newer_plugin_does_not_know_are_an_artifact_error(copied, tmp_path):
    folder = copied("linear")
    rewritten(folder, lambda c: c["metrics"].append({"type": "accuracy", "old": 1}))
    (tmp_path / "data.csv").write_text("text,label\ngood room,pos\n")
    with pytest.raises(ArtifactError, match=r"metrics\.2: the installed metric `accuracy` does"):
        evaluate_file(bertkit.load(folder), tmp_path / "data.csv")


# the card


def card(
    labels=("neg", "pos"), name="run", scores=None, head="linear", task=None, pairs=False, **policy
) -> str:
    task = task or SingleLabel(tuple(labels))
    long_text = LongText(**{"max_length": 16, **policy})
    if long_text.keep == "windows":
        long_text = long_text.fitted(14)
    return model_card(
        name, task, long_text, {"type": head}, "some/encoder", scores or {},
        columns=("que|`stion", "answer") if pairs else ("text",),
    )  # fmt: skip


def test_the_card_tells_use_labels_scores_and_limits():
    text = card(scores={"test": {"accuracy": 0.91234, "roc_auc": None, "mae": 102313.34}})
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert "A model for texts, one of 2 labels each, fine-tuned by bertkit from" in text
    assert 'pipeline("text-classification", model=".", truncation=True)\nclassify("a text")' in text
    assert 'bertkit.load(".").predict(["a text"])' in text
    assert "- 0: `neg`\n- 1: `pos`\n" in text
    assert "| test | `accuracy` | 0.9123 |\n| test | `roc_auc` | – |\n" in text
    assert "| test | `mae` | 102313 |\n" in text
    assert (
        "At most 16 tokens are read; where there are more, the text is cut and its `head` kept."
        in text
    )
    assert "head.safetensors" not in text
    assert "head.safetensors" in card(head="frozen-feature")


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            MultiLabel(("late", "rude"), (0.25, 0.5)),
            ["any number of 2 labels each", "top_k=None)", "- 0: `late` (from 0.250 on)\n",
             "- 1: `rude` (from 0.500 on)\n", "A text has the labels whose probability reaches"],
        ),
        (
            Regression(("stars",), (3.4,), (1.25,)),
            ["one number each", "truncation=True)\n", "## Targets\n",
             "- 0: `stars` (mean 3.4, standard deviation 1.25 in training)\n",
             "the predicted value itself, in the units of the training data"],
        ),
        (
            Regression(("price", "share"), (1e6, 1e-3), (2e5, 2e-4)),
            ["2 numbers each", "top_k=None)", "- 0: `price` (mean 1000000, standard deviation"],
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)  # fmt: skip
def test_the_card_tells_how_to_read_the_answers_of_other_tasks(task, said):
    text = card(task=task)
    for part in said:
        assert part in text


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"keep": "tail"}, ["the text is cut and its `tail` kept."]),
        ({"keep": "head+tail"}, ["Plain transformers keeps the head only, bertkit both"]),
        ({"keep": "drop"}, ["was left out of training (`drop`): bertkit refuses it, and plain"]),
        ({"keep": "error"}, ["What is longer was refused in training (`error`)"]),
        ({"pairs": True}, ["truncation=True)", '{"text": "a text", "text_pair": "another"}',
                           'predict([("a text", "another")])', "first `que|'stion`, then `answer`",
                           "At most 16 tokens of both texts together", "the longer text is"]),
        ({"pairs": True, "cut": "second"}, ['truncation="only_second")', "the second text is cut"]),
        ({"pairs": True, "cut": "first"}, ['truncation="only_first")', "the first text is cut"]),
        ({"keep": "windows"}, ["reads the first 16 tokens of a longer text and no more",
                               "in up to 8 windows of 16 tokens, each of which starts 7 tokens",
                               "pools their logits by mean, as", "scores above are of whole"]),
        ({"keep": "windows", "pool": "attention"}, ["by attention (weights in `head.safet"]),
    ],
    ids=str,
)  # fmt: skip
def test_the_card_tells_what_becomes_of_long_texts(policy, said):
    text = card(**policy)
    for part in said:
        assert part in text


NASTY = (
    "</script><script>alert(1)</script>", "`code`", "a\nb", "a\r\n## Free money\n", "a | b |",
    "[x](javascript:alert(1))", "![](http://x/y.png)", "<!--", "---", "\x1b[31mred", "\u202eevil",
    "```", "{{ x }}", "x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_names_from_the_data_cannot_bring_markup_into_the_card(text):
    plain = card(labels=("neg", "pos"), name="run", scores={"test": {"loss": 1.0}})
    odd = card(labels=(text, "pos"), name=text, scores={"test": {text: 1.0}})
    assert len(odd.splitlines()) == len(plain.splitlines())
    for before, after in zip(plain.splitlines(), odd.splitlines(), strict=True):
        if before != after:
            start, code, end = re.fullmatch(
                r"(# |- 0: |\| test \| )`([^`]*)`( .*)?", after
            ).groups()
            assert before.startswith(start)
            assert code.isprintable()
            assert len(code) < 200
            if end:
                assert end == " | 1.0000 |"
                assert "|" not in code.replace("\\|", "")


@given(st.text(min_size=1))
def test_any_label_is_one_line_of_code_in_the_card(label):
    lines = card(labels=(label, "pos")).splitlines()
    (line,) = [line for line in lines if line.startswith("- 0: ")]
    assert re.fullmatch(r"- 0: `[^`]*`", line)
    assert line.isprintable()


def test_labels_that_are_markup_survive_training_saving_and_loading(encoder_dir, tmp_path):
    labels = ["</script>", "a | `b`\nc"]
    rows = [{"text": f"{WORDS[i]} room", "label": labels[i % 2]} for i in range(8)]
    dataset = {"type": "inline", "train": rows, "validation": 0}
    trainer = {"max_steps": 1, "precision": "fp32"}
    spec = {"encoder": str(encoder_dir), "dataset": dataset, "trainer": trainer}
    run = bertkit.run(spec | {"output": str(tmp_path / "<b>run")}, progress=Silent())
    assert bertkit.load(run.model_dir).labels == tuple(labels)
    text = Path(run.model_dir, "README.md").read_text(encoding="utf-8")
    assert "# `<b>run`\n" in text
    assert "- 1: `a | 'b' c`\n" in text


def test_all_families_load_as_saved(tmp_path):
    """One family besides BERT whose folded head differs; heads/ has them all."""
    encoder = make_encoder(tmp_path / "enc", "roberta")
    run = train(encoder, tmp_path / "run", "frozen-feature", max_steps=2)
    assert bertkit.load(run.run_dir).predict("good")[0].label in ("neg", "pos")

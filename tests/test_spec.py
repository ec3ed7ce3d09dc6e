"""RunSpec: short forms, round trips, paths, overrides, and what is said about mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import bertkit
from bertkit.datasets.base import Sample
from bertkit.datasets.files import Files
from bertkit.datasets.inline import Inline
from bertkit.datasets.memory import Memory
from bertkit.encoders.pretrained import Pretrained
from bertkit.errors import SpecError, UnknownComponentError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.metrics.classification import F1, Accuracy
from bertkit.registry import Registry, use
from bertkit.spec import RunSpec, schema
from bertkit.tasks import TaskOptions
from bertkit.trainers.base import EarlyStopping, Every
from bertkit.trainers.hf import HF
from bertkit.trainers.loop import Loop
from tests.conftest import reviews
from tests.generated_specs import SENSIBLE, TEXT, documents

SMALL = {"encoder": "some-encoder", "dataset": "reviews.csv"}


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    """What is installed beside bertkit here does not matter to these tests."""
    use(Registry(plugins=False))
    yield
    use(None)


def parse(where: str = "run.yaml", /, **fields: Any) -> RunSpec:
    return RunSpec.parse({**SMALL, **fields}, where=where)


def mistakes(raw: object, **options: Any) -> list[str]:
    """Return the lines of the one error that a spec gives."""
    with pytest.raises(SpecError) as caught:
        RunSpec.parse(raw, where="run.yaml", **options)
    return [line.strip().removeprefix("run.yaml: ") for line in str(caught.value).splitlines()]


# Short forms


SHORT_FORMS: dict[str, tuple[str, Any, Any]] = {
    "an encoder's name": ("encoder", "bert", {"type": "pretrained", "name": "bert"}),
    "an encoder without type": (
        "encoder",
        {"name": "bert"},
        {"type": "pretrained", "name": "bert"},
    ),
    "an encoder's folder": ("encoder", Path("a/b"), {"type": "pretrained", "name": "a/b"}),
    "a file": ("dataset", "a.csv", {"type": "files", "train": "a.csv"}),
    "a pathlib path": ("dataset", Path("a.csv"), {"type": "files", "train": "a.csv"}),
    "pathlib paths inside": (
        "dataset",
        {"train": [Path("a.csv"), "b.csv"]},
        {"type": "files", "train": ["a.csv", "b.csv"]},
    ),
    "a dataset without type": ("dataset", {"train": "a.csv"}, {"type": "files", "train": "a.csv"}),
    "a head's type": ("head", "frozen-feature", {"type": "frozen-feature", "pooling": "mean"}),
    "a head without type": ("head", {}, {"type": "linear"}),
    "a trainer's type": ("trainer", "hf", {"type": "hf"}),
    "a trainer without type": ("trainer", {"epochs": 2}, {"type": "loop", "epochs": 2}),
    "metrics' types": ("metrics", ["recall"], [{"type": "recall", "average": "macro"}]),
    "mixed metrics": (
        "metrics",
        ["accuracy", {"type": "f1"}],
        [{"type": "accuracy", "name": None}, {"type": "f1", "name": None, "average": "macro"}],
    ),
    "patience": (
        "trainer",
        {"early_stopping": 5},
        {"early_stopping": {"patience": 5, "min_delta": 0.0}},
    ),
    "the output as a pathlib path": ("output", Path("runs/a"), "runs/a"),
    "label names as numbers": (
        "dataset",
        {"train": "a.csv", "labels": [0, 1]},
        {"train": "a.csv", "labels": ["0", "1"]},
    ),
}


@pytest.mark.parametrize("case", SHORT_FORMS)
def test_a_short_form_means_its_long_form(case: str) -> None:
    field, short, long = SHORT_FORMS[case]
    assert parse(**{field: short}) == parse(**{field: long})
    assert parse(**{field: short}).to_yaml() == parse(**{field: long}).to_yaml()


def test_a_frame_is_short_for_the_memory_dataset() -> None:
    import datasets
    import pandas
    import polars

    frame = pandas.DataFrame(reviews(4))
    split = datasets.Dataset.from_pandas(frame)
    for table in (frame, polars.DataFrame(reviews(4)), split, datasets.DatasetDict(train=split)):
        dataset = parse(dataset=table).dataset
        assert isinstance(dataset, Memory)
        assert dataset.data is table


def test_the_smallest_spec_has_two_lines_and_every_field_a_value() -> None:
    spec = RunSpec.model_validate(SMALL)
    assert isinstance(spec.encoder, Pretrained)
    assert isinstance(spec.dataset, Files)
    assert (type(spec.head), type(spec.trainer)) == (Linear, Loop)
    assert (spec.task, spec.metrics) == (None, None)  # the labels decide
    assert (spec.seed, spec.output, spec.offline) == (42, None, False)


def test_components_and_options_may_be_given_as_objects() -> None:
    given_ = {
        "encoder": Pretrained(name="bert"),
        "dataset": Files(train="a.csv", sample=Sample(train=3)),
        "head": FrozenFeature(pooling="cls"),
        "trainer": HF(evaluate=Every(steps=3), early_stopping=EarlyStopping(patience=2)),
        "metrics": [F1(average="micro"), Accuracy()],
    }
    spec = RunSpec.model_validate(given_)
    assert {name: getattr(spec, name) for name in given_} == {
        **given_,
        "metrics": (F1(average="micro"), Accuracy()),
    }
    assert RunSpec.parse(spec) == spec


# Round trips


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_yaml_and_json_round_trip_without_loss(tmp_path: Path, data: st.DataObject) -> None:
    raw = data.draw(documents(schema(), SENSIBLE))
    try:
        spec = RunSpec.parse(raw, base=tmp_path)
    except SpecError:
        assume(False)
    for name, text in {"a.yaml": spec.to_yaml(), "a.json": spec.to_json()}.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        assert RunSpec.from_file(tmp_path / name) == spec
    assert json.loads(spec.to_json()) == spec.model_dump(mode="json")


@given(text=TEXT)
def test_any_text_survives_yaml_and_json(tmp_path_factory: Any, text: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    example = {"text": text, "label": text}
    spec = parse(dataset={"type": "inline", "train": [example]})
    for name, written in {"b.yaml": spec.to_yaml(), "b.json": spec.to_json()}.items():
        (folder / name).write_text(written, encoding="utf-8", newline="")
        read = RunSpec.from_file(folder / name).dataset
        assert isinstance(read, Inline)
        assert read.train[0].model_dump() == example


def test_the_written_spec_spells_every_field_out() -> None:
    raw = json.loads(parse(trainer={"early_stopping": 2}, metrics=["accuracy", "f1"]).to_json())
    assert raw["trainer"]["early_stopping"] == {"patience": 2, "min_delta": 0.0}
    assert raw["trainer"]["type"] == "loop"
    assert raw["metrics"][1] == {"type": "f1", "name": None, "average": "macro", "positive": None}
    assert set(raw) == set(RunSpec.model_fields)


def test_a_frame_is_not_written_down() -> None:
    import pandas

    spec = parse(dataset=pandas.DataFrame(reviews(4)))
    assert "data" not in json.loads(spec.to_json())["dataset"]


# Paths


PATHS: dict[str, tuple[dict[str, Any], str]] = {
    "one file": ({"dataset": "a.csv"}, "{folder}/a.csv"),
    "a folder below": ({"dataset": "sub/a.csv"}, "{folder}/sub/a.csv"),
    "a folder above": ({"dataset": "sub/../a.csv"}, "{folder}/a.csv"),
    "an absolute path": ({"dataset": "/data/a.csv"}, "/data/a.csv"),
    "the home folder": ({"dataset": "~/a.csv"}, "{home}/a.csv"),
    "output": ({"output": "runs/a"}, "{folder}/runs/a"),
    "cache": ({"compute": {"cache": "kept"}}, "{folder}/kept"),
    "a folder of disk": ({"dataset": {"type": "disk", "path": "d"}}, "{folder}/d"),
    "an encoder that is a folder": ({"encoder": "here"}, "{folder}/here"),
    "an encoder with a dot": ({"encoder": "./gone"}, "{folder}/gone"),
    "an encoder on the hub": ({"encoder": "gone"}, "gone"),
}


def path_of(spec: RunSpec, fields: dict[str, Any]) -> object:
    field = next(iter(fields))
    value = getattr(spec, field)
    names = {"dataset": ("path", "train"), "encoder": ("name",), "compute": ("cache",)}
    for name in names.get(field, ()):
        value = getattr(value, name, value) if not isinstance(value, str) else value
    return value


@pytest.mark.parametrize("case", PATHS)
def test_a_path_in_a_file_is_relative_to_the_file_and_in_python_left_alone(
    tmp_path: Path, case: str
) -> None:
    fields, expected = PATHS[case]
    (tmp_path / "here").mkdir()
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({**SMALL, **fields}))
    absolute = expected.format(folder=tmp_path, home=Path.home())
    assert path_of(RunSpec.from_file(file), fields) == absolute

    def written(value: Any) -> Any:
        while isinstance(value, dict):
            value = value.get("path") or value.get("cache")
        return value

    in_python = RunSpec.model_validate({**SMALL, **fields})
    assert path_of(in_python, fields) == written(next(iter(fields.values())))


def test_every_file_of_a_list_and_a_split_is_anchored(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "encoder: x\ndataset: {train: [a.csv, b.csv], validation: v.csv, test: [t.csv]}\n"
    )
    dataset = RunSpec.from_file(file).dataset
    assert dataset.train == [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]
    assert (dataset.validation, dataset.test) == (f"{tmp_path}/v.csv", [f"{tmp_path}/t.csv"])


def test_a_home_folder_of_nobody_is_refused() -> None:
    assert mistakes({**SMALL, "output": "~nobody-by-this-name/runs"}, base=Path("/tmp")) == [
        "output: found ~nobody-by-this-name/runs, but `~nobody-by-this-name` is no user's home "
        "folder here; write the folder out"
    ]


# What validation may not do


WATCHED = """
import sys
from bertkit.spec import RunSpec

specs = [
    {"encoder": "someone/some-encoder", "dataset": "nowhere.csv"},
    {"encoder": "./nowhere", "dataset": {"type": "disk", "path": "nowhere"}, "trainer": "hf"},
    {"encoder": {"type": "scratch"}, "dataset": {"type": "hub", "name": "a/b"}},
    {"encoder": "x", "dataset": {"type": "inline", "train": [{"text": "a", "label": 1}]},
     "head": "frozen-feature", "metrics": ["roc_auc"], "output": "out", "compute": {"cache": "c"}},
]
for spec in specs:
    RunSpec.model_validate(spec)  # what is imported is imported now

seen = []
def watch(event, args):
    if event.split(".")[0] in ("open", "socket", "subprocess", "os", "shutil", "import"):
        seen.append((event, str(args)[:200]))
sys.addaudithook(watch)
for spec in specs:
    RunSpec.model_validate(spec)
print(len(seen), seen[:3])
"""


def test_validation_opens_no_file_and_no_socket(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0 []\n"


def test_a_spec_is_frozen() -> None:
    spec = parse()
    for target, field in [(spec, "seed"), (spec.trainer, "epochs"), (spec.long_text, "keep")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, field, 1)


# --set


OVERRIDES: list[tuple[dict[str, Any], str, str, Any]] = [
    ({}, "trainer.epochs=1", "trainer", {"epochs": 1}),
    ({"trainer": "hf"}, "trainer.epochs=1", "trainer", {"type": "hf", "epochs": 1}),
    ({"trainer": {"batch_size": 2}}, "trainer.epochs=1", "trainer", {"batch_size": 2, "epochs": 1}),
    ({"trainer": {"epochs": 5}}, "trainer.epochs=1", "trainer", {"epochs": 1}),
    ({"trainer": {"epochs": 5}}, "trainer.epochs=", "trainer", {}),
    ({}, "trainer.learning_rate=2e-5", "trainer", {"learning_rate": 2e-5}),
    ({}, "trainer.evaluate.steps=3", "trainer", {"evaluate": {"steps": 3}}),
    ({}, "trainer.evaluate=null", "trainer", {"evaluate": None}),
    ({}, "trainer=hf", "trainer", "hf"),
    ({}, "trainer={type: hf, epochs: 2}", "trainer", {"type": "hf", "epochs": 2}),
    ({}, " trainer.epochs = 2 ", "trainer", {"epochs": 2}),
    ({}, "head=frozen-feature", "head", "frozen-feature"),
    ({"head": "frozen-feature"}, "head.pooling=cls", "head",
     {"type": "frozen-feature", "pooling": "cls"}),
    ({}, "encoder.revision=abc", "encoder", {"name": "some-encoder", "revision": "abc"}),
    ({}, "encoder=other", "encoder", "other"),
    ({}, "dataset.sample.train=5", "dataset", {"train": "reviews.csv", "sample": {"train": 5}}),
    ({"dataset": {"train": "a", "labels": ["x", "y"]}}, "dataset.labels.1=z", "dataset",
     {"train": "a", "labels": ["x", "z"]}),
    ({}, "metrics=[matthews]", "metrics", ["matthews"]),
    ({"metrics": ["accuracy", "f1"]}, "metrics.1.average=micro", "metrics",
     ["accuracy", {"type": "f1", "average": "micro"}]),
    ({}, "task=regression", "task", "regression"),
    ({"task": "multi_label"}, "task.thresholds.a=0.3", "task",
     {"type": "multi_label", "thresholds": {"a": 0.3}}),
    ({}, "dataset.text=[question, answer]", "dataset",
     {"train": "reviews.csv", "text": ["question", "answer"]}),
    ({}, "trainer.class_weights.neg=2", "trainer", {"class_weights": {"neg": 2}}),
    ({"metrics": ["f1"]}, "metrics.0.average=binary", "metrics",
     [{"type": "f1", "average": "binary"}]),
    ({"metrics": [{"type": "f1", "name": "a"}]}, "metrics.0.average=binary", "metrics",
     [{"type": "f1", "name": "a", "average": "binary"}]),
    ({"metrics": ["f1"]}, "metrics.0=recall", "metrics", ["recall"]),
    ({}, "long_text.max_length=64", "long_text", {"max_length": 64}),
    ({}, "compute.threads=1", "compute", {"threads": 1}),
    ({}, "seed=7", "seed", 7),
    ({}, "output=a=b", "output", "a=b"),
    ({}, "offline=true", "offline", True),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "override", "field", "value"), OVERRIDES)
def test_an_override_changes_one_field(
    fields: dict[str, Any], override: str, field: str, value: Any
) -> None:
    changed = RunSpec.parse({**SMALL, **fields}, overrides=[override])
    assert changed == RunSpec.parse({**SMALL, **fields, field: value})


def test_overrides_apply_in_their_order_and_leave_the_mapping_alone() -> None:
    raw = {**SMALL, "trainer": {"epochs": 5}}
    spec = RunSpec.parse(raw, overrides=["trainer.epochs=1", "trainer.epochs=2", "trainer.clip="])
    assert (spec.trainer.epochs, spec.trainer.clip) == (2, None)
    assert raw == {**SMALL, "trainer": {"epochs": 5}}


def test_an_overridden_path_is_one_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(json.dumps(SMALL))
    spec = RunSpec.from_file(tmp_path / "run.yaml", ["output=runs/b", "dataset.test=t.csv"])
    assert (spec.output, spec.dataset.test) == (f"{tmp_path}/runs/b", f"{tmp_path}/t.csv")


WRONG_OVERRIDES: dict[str, str] = {
    "trainer": "--set trainer: expected KEY=VALUE, such as trainer.epochs=1",
    "=3": "--set =3: expected KEY=VALUE, such as trainer.epochs=1",
    "trainer..epochs=1": "--set trainer..epochs=1: expected KEY=VALUE, such as trainer.epochs=1",
    "trainr.epochs=1": "trainr: unknown key. Did you mean `trainer`?",
    "trainer.epoch=1": "trainer.epoch: unknown key. Did you mean `epochs`?",
    "trainer.epochs=one": 'trainer.epochs: found "one"; expected a whole number',
    "trainer.epochs=[1": "--set trainer.epochs, line 1, column 3: found '[1'",
    "dataset.sample.trian=1": "dataset.sample.trian: unknown key. Did you mean `train`?",
    "seed.x=1": "seed: found a mapping; expected a whole number",
    "encoder.name.x=1": '--set encoder.name.x=1: `x` cannot be set inside "some-encoder"',
    "metrics.1.average=micro": (
        "--set metrics.1.average=micro: the spec names no metrics; name them all, such as "
        "--set metrics=[accuracy,f1]"
    ),
    "dataset.labels.2=z": (
        "--set dataset.labels.2=z: `2` is no place in a list of 2; places are counted from 0"
    ),
    "dataset.labels.first=z": (
        "--set dataset.labels.first=z: `first` is no place in a list of 2; places are counted "
        "from 0"
    ),
    "dataset.labels.²=z": (
        "--set dataset.labels.²=z: `²` is no place in a list of 2; places are counted from 0"
    ),
    "metrics=f1": 'metrics: found "f1"; expected a list',
    "metrics=[{type: f1, averag: micro}]": "metrics.0.averag: unknown key.",
    "head=lienar": "head: no head is called `lienar`. Did you mean `linear`?",
}


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_a_wrong_override_says_what_to_write(override: str) -> None:
    raw = {**SMALL, "dataset": {"train": "reviews.csv", "labels": ["x", "y"]}}
    (line,) = mistakes(raw, overrides=[override])
    assert line.startswith(WRONG_OVERRIDES[override])


# Mistakes


UNKNOWN_KEYS: dict[str, tuple[dict[str, Any], str, str]] = {
    "of the spec": ({"sede": 1}, "sede", "seed"),
    "of an encoder": ({"encoder": {"name": "x", "revison": "1"}}, "encoder.revison", "revision"),
    "of a dataset": ({"dataset": {"train": "a", "lable": "x"}}, "dataset.lable", "label"),
    "of a sample": (
        {"dataset": {"train": "a", "sample": {"tran": 1}}},
        "dataset.sample.tran",
        "train",
    ),
    "of an example": (
        {"dataset": {"type": "inline", "train": [{"text": "a", "label": 1, "lable": 2}]}},
        "dataset.train.0.lable",
        "label",
    ),
    "of an example of a test split": (
        {
            "dataset": {
                "type": "inline",
                "train": [{"text": "a", "label": 1}],
                "test": [{"text": "a", "label": 1, "txet": 2}],
            }
        },
        "dataset.test.0.txet",
        "text",
    ),
    "of long texts": ({"long_text": {"max_lenght": 9}}, "long_text.max_lenght", "max_length"),
    "of a head": ({"head": {"type": "frozen-feature", "poling": "cls"}}, "head.poling", "pooling"),
    "of a trainer": ({"trainer": {"epoch": 1}}, "trainer.epoch", "epochs"),
    "of another trainer": ({"trainer": {"type": "hf", "extras": {}}}, "trainer.extras", "extra"),
    "of a rhythm": ({"trainer": {"save": {"epoch": 2}}}, "trainer.save.epoch", "epochs"),
    "of early stopping": (
        {"trainer": {"early_stopping": {"patient": 1}}},
        "trainer.early_stopping.patient",
        "patience",
    ),
    "of a metric": ({"metrics": ["accuracy", {"type": "f1", "averge": 1}]}, "metrics.1.averge",
                    "average"),
    "of the machine": ({"compute": {"thread": 1}}, "compute.thread", "threads"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN_KEYS)
def test_an_unknown_key_is_refused_at_every_level_with_what_is_near(case: str) -> None:
    fields, path, near = UNKNOWN_KEYS[case]
    lines = mistakes({**SMALL, **fields})
    (line,) = [line for line in lines if "unknown key" in line]
    assert line.startswith(f"{path}: unknown key. Did you mean `{near}`? Known: ")


MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    # a place that is empty or of the wrong type
    "nothing after the colon": (
        {"head": None}, "head: found null; expected a head: a name, or a mapping with `type`"),
    "a number for an encoder": (
        {"encoder": 3}, "encoder: found 3; expected an encoder: a name, or a mapping with `type`"),
    "a list of files": (
        {"dataset": ["a.csv"]},
        "dataset: found a list; expected a dataset: a name, or a mapping with `type`"),
    "an empty name": ({"encoder": ""}, 'encoder.name: found ""; expected text of length 1 or more'),
    "a name that is a number": (
        {"encoder": {"name": 3}}, "encoder.name: found 3; expected text"),
    "a type that is a number": (
        {"encoder": {"type": 3}}, "encoder: `type` is 3; expected the name of an encoder"),
    "text for a number": (
        {"trainer": {"epochs": "3"}}, 'trainer.epochs: found "3"; expected a whole number'),
    "a fraction for a count": (
        {"trainer": {"epochs": 1.5}}, "trainer.epochs: found 1.5; expected a whole number"),
    "true for a count": (
        {"trainer": {"epochs": True}}, "trainer.epochs: found true; expected a whole number"),
    "text for a fraction": (
        {"trainer": {"learning_rate": "fast"}},
        'trainer.learning_rate: found "fast"; expected a number'),
    "an infinite number": (
        {"trainer": {"learning_rate": float("inf")}},
        "trainer.learning_rate: found Infinity; expected a finite number"),
    "a word for a switch": (
        {"offline": "yes"}, 'offline: found "yes"; expected true or false'),
    "a number for a switch": ({"offline": 1}, "offline: found 1; expected true or false"),
    "a word for a group": (
        {"long_text": "head"},
        'long_text: found "head"; expected a mapping with max_length, keep, head, cut, stride, '
        "pool, max_windows"),
    "a number for a group": (
        {"long_text": 512},
        "long_text: found 512; expected a mapping with max_length, keep, head, cut, stride, pool, "
        "max_windows"),
    "a number for a rhythm": (
        {"trainer": {"evaluate": 3}},
        "trainer.evaluate: found 3; expected auto or a mapping with steps, epochs. {about}"),
    "a number for a task": ({"task": 3}, "task: found 3; expected a mapping with type, thresholds"),
    "a word for the machine": (
        {"compute": "cpu"},
        'compute: found "cpu"; expected a mapping with device, threads, workers, cache'),
    "one metric without a list": (
        {"metrics": "accuracy"}, 'metrics: found "accuracy"; expected a list'),
    "a metric without type": (
        {"metrics": [{"average": "macro"}]},
        "metrics.0: `type` is missing; expected the name of a metric"),
    "a metric that is a number": (
        {"metrics": [3]},
        "metrics.0: found 3; expected a metric: a name, or a mapping with `type`"),
    "no metric": ({"metrics": []}, "metrics: found an empty list; expected 1 or more items"),
    "a long text": (
        {"task": "x" * 100},
        f'task: found "{"x" * 56}…; expected single_label, multi_label or regression. {{about}}'),
    "a task, nearly": (
        {"task": "regresion"},
        'task: found "regresion"; expected single_label, multi_label or regression. Did you mean '
        "`regression`? {about}"),
    "a task without type": (
        {"task": {"thresholds": 0.5}}, "task.type: missing, but required. What is predicted."),
    "a set, which has no order": (
        {"metrics": {"f1"}}, "metrics: found a set; expected a list"),
    "a tuple where YAML has a list": (
        {"dataset": {"train": ("a.csv",)}},
        "dataset.train: found a tuple; expected text or a list. {about}"),
    "an object where YAML has plain data": (
        {"trainer": {"type": "hf", "extra": {"a": object()}}},
        "trainer.extra.a: input was not a valid JSON value"),
    "an object of Python": ({"seed": object()}, "seed: found an object; expected a whole number"),
    # unions: one line, about the branch that was meant
    "a share above 1": (
        {"dataset": {"train": "a.csv", "test": 1.5}},
        "dataset.test: found 1.5; expected a number below 1. {about}"),
    "no split at all": (
        {"dataset": {"train": "a.csv", "test": True}},
        "dataset.test: found true; expected a number, text or a list. {about}"),
    "an item of a list of files": (
        {"dataset": {"train": "a.csv", "test": ["b.csv", 3]}},
        "dataset.test.1: found 3; expected text"),
    "a label of no kind": (
        {"dataset": {"type": "inline", "train": [{"text": "a", "label": True}]}},
        "dataset.train.0.label: found true; expected a whole number, a number, text or a list. "
        "Its label or number, or a list of them."),
    "a label of no kind in a list, in a union of its own": (
        {"dataset": {"type": "inline", "train": [{"text": "a", "label": []}],
                     "test": [{"text": "a", "label": ["x", True]}]}},
        "dataset.test.0.label.1: found true; expected a whole number, a number or text"),
    "three texts": (
        {"dataset": {"train": "a.csv", "text": ["a", "b", "c"]}},
        "dataset.text: found a list; expected 2 items at most. {about}"),
    "one text in a list": (
        {"dataset": {"train": "a.csv", "text": ["a"]}},
        "dataset.text: found a list; expected 2 or more items. {about}"),
    "no label column": (
        {"dataset": {"train": "a.csv", "label": []}},
        "dataset.label: found an empty list; expected 1 or more items. {about}"),
    "a word for thresholds": (
        {"task": {"type": "multi_label", "thresholds": "auto"}},
        'task.thresholds: found "auto"; expected validation, a number or a mapping. {about}'),
    "a threshold above 1": (
        {"task": {"type": "multi_label", "thresholds": {"a": 2}}},
        "task.thresholds.a: found 2; expected 1 or less"),
    "thresholds above 1": (
        {"task": {"type": "multi_label", "thresholds": 1.5}},
        "task.thresholds: found 1.5; expected 1 or less. {about}"),
    "a word for class weights": (
        {"trainer": {"class_weights": "balance"}},
        'trainer.class_weights: found "balance"; expected balanced or a mapping. Did you mean '
        "`balanced`? {about}"),
    "a weight below 0": (
        {"trainer": {"sampling": {"a": -1}}},
        "trainer.sampling.a: found -1; expected 0 or more"),
    "label names as one text": (
        {"dataset": {"train": "a.csv", "labels": "a, b"}},
        'dataset.labels: found "a, b"; expected a list or a mapping. {about}'),
    # bounds and choices
    "below a bound": ({"seed": -1}, "seed: found -1; expected 0 or more"),
    "above a bound": (
        {"seed": 2**32}, "seed: found 4294967296; expected a number below 4294967296"),
    "not above zero": (
        {"trainer": {"learning_rate": 0}},
        "trainer.learning_rate: found 0; expected a number above 0"),
    "two characters": (
        {"dataset": {"train": "a.csv", "delimiter": ";;"}},
        'dataset.delimiter: found ";;"; expected text of length 1 at most'),
    "a choice, nearly": (
        {"trainer": {"schedule": "cosin"}},
        'trainer.schedule: found "cosin"; expected linear, cosine, constant or '
        "constant_with_warmup. Did you mean `cosine`?"),
    "a choice, not nearly": (
        {"long_text": {"keep": "middle"}},
        'long_text.keep: found "middle"; expected head, tail, head+tail, drop, error or '
        "windows"),
    "a device": (
        {"compute": {"device": "gpu"}},
        'compute.device: found "gpu"; expected auto, cpu, cuda or mps. Did you mean `cpu`?'),
    "an empty path": ({"output": ""}, 'output: found ""; expected text of length 1 or more'),
    # components
    "an unknown component": (
        {"head": "liner"}, "head: no head is called `liner`. Did you mean `linear`? Known: "
        "frozen-feature, linear. Plugins are switched off (--no-plugins)."),
    "an option of another type": (
        {"head": {"pooling": "mean"}},
        "head.pooling: unknown key. It is an option of `frozen-feature`. Known: type, "
        "freeze_embeddings, freeze_layers, reinit_layers, layer_decay, hidden_dropout, "
        "attention_dropout, classifier_dropout."),
    "a field that is missing": (
        {"dataset": {"type": "files"}},
        "dataset.train: missing, but required. File or files to train on."),
    # options that do not go together
    "two ways to say how long": (
        {"trainer": {"epochs": 1, "max_steps": 3}},
        "trainer: give one of `epochs` and `max_steps`"),
    "a warm-up that constant has not": (
        {"trainer": {"schedule": "constant", "warmup": 3}},
        "trainer: `schedule: constant` has no warm-up; write `schedule: constant_with_warmup`, or "
        "take `warmup` out"),
    "early stopping without a measure": (
        {"trainer": {"early_stopping": 1, "best": None}},
        "trainer: `early_stopping` needs `evaluate` and `best`; neither can be null"),
    "early stopping without looking": (
        {"trainer": {"early_stopping": 1, "evaluate": None}},
        "trainer: `early_stopping` needs `evaluate` and `best`; neither can be null"),
    "best by what is not computed": (
        {"trainer": {"best": "acuracy"}, "metrics": ["accuracy", "f1"]},
        'trainer.best: found "acuracy"; expected `auto`, `loss` or one of: accuracy, f1. '
        "Did you mean `accuracy`?"),
    "one name twice": (
        {"metrics": ["f1", {"type": "f1", "average": "micro"}]},
        "metrics: two results would be called `f1`; give one a `name` of its own"),
    "the name of the loss": (
        {"metrics": [{"type": "f1", "name": "loss"}]},
        "metrics: two results would be called `loss`; give one a `name` of its own"),
    "two rhythms": (
        {"trainer": {"save": {"steps": 3, "epochs": 1}}},
        "trainer.save: give one of `steps` and `epochs`, as in {epochs: 1} or {steps: 30}"),
    "a head length without both ends": (
        {"long_text": {"head": 3}}, "long_text: `head` is for `keep: head+tail`, found keep: head"),
    "a head as long as the text": (
        {"long_text": {"keep": "head+tail", "head": 9, "max_length": 8}},
        "long_text: `head` (9) must be below max_length (8)"),
    "no label name": (
        {"dataset": {"train": "a.csv", "labels": []}},
        "dataset.labels: at least one label name is expected, found none"),
    "thresholds of one label a text": (
        {"task": {"type": "single_label", "thresholds": 0.5}},
        "task: `thresholds` are for `multi_label`, found type: single_label"),
    "a stride without windows": (
        {"long_text": {"stride": 9}},
        "long_text: `stride` is for `keep: windows`, found keep: head"),
    "a stride longer than the text": (
        {"long_text": {"keep": "windows", "stride": 9, "max_length": 8}},
        "long_text: `stride` (9) is more than max_length (8): the tokens between two windows "
        "would not be read"),
    "some examples with pairs": (
        {"dataset": {"type": "inline", "train": [{"text": "a", "label": 1},
                                                 {"text": ["a", "b"], "label": 1}]}},
        "dataset: `text` is a list in 1 of 2 examples and not in the others; expected the same "
        "in all"),
}  # fmt: skip


@pytest.mark.parametrize("case", MESSAGES)
def test_a_mistake_is_one_line_that_says_where_what_and_what_else(case: str) -> None:
    fields, message = MESSAGES[case]
    place, known = message.partition(":")[0].split("."), RunSpec.model_fields
    if "{about}" in message and len(place) > 1:
        known = {"dataset": Files, "trainer": Loop, "task": TaskOptions}[place[0]].model_fields
    field = known.get(place[-1])
    message = message.replace("{about}", str(field.description) if field else "")
    assert mistakes({**SMALL, **fields}) == [message]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "found an empty list; expected a mapping with `encoder` and `dataset`"),
        ("text", 'found "text"; expected a mapping with `encoder` and `dataset`'),
        (None, "found null; expected a mapping with `encoder` and `dataset`"),
        ({"dataset": "a.csv"}, "encoder: missing, but required. The transformer to start from."),
        ({"encoder": "x"}, "dataset: missing, but required. Where the labelled texts come from."),
        ({3: 4, **SMALL}, "3: Keys should be strings"),
    ],
)
def test_what_is_no_spec_is_refused(raw: object, message: str) -> None:
    assert mistakes(raw) == [message]


def test_several_mistakes_are_reported_together() -> None:
    raw = {
        "encoder": {"name": 3, "revison": "x"},
        "dataset": {"type": "files", "tran": "a.csv"},
        "trainer": {"type": "lop"},
        "metrics": ["acuracy", {"type": "f1", "average": "maco"}],
        "sede": 1,
    }
    first, *rest = mistakes(raw)
    assert first == "8 mistakes"
    assert [line.partition(":")[0] for line in rest] == [
        "encoder.name", "encoder.revison", "dataset.train", "dataset.tran", "trainer",
        "metrics.0", "metrics.1.average", "sede",
    ]  # fmt: skip


def test_an_unknown_component_alone_has_an_error_of_its_own() -> None:
    with pytest.raises(UnknownComponentError):
        parse(trainer="lop")
    with pytest.raises(SpecError) as caught:
        parse(trainer="lop", seed=-1)
    assert type(caught.value) is SpecError


def test_the_error_names_its_source(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("encoder: x\ndataset: a.csv\nsede: 1\n")
    with pytest.raises(SpecError) as caught:
        RunSpec.from_file(file)
    assert str(caught.value).startswith(f"{file}: sede: unknown key. Did you mean `seed`?")
    with pytest.raises(SpecError, match=r"^spec: sede: unknown key"):
        bertkit.run({**SMALL, "sede": 1})


# One spec in three shapes


def test_run_takes_a_spec_a_mapping_or_a_path(
    encoder_dir: Path, reviews_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = reviews_csv.parent
    raw: dict[str, Any] = {
        "encoder": str(encoder_dir),
        "dataset": {"train": "reviews.csv", "test": 0.25},
        "head": "frozen-feature",
        "trainer": {"epochs": 2},
        "compute": {"device": "cpu"},
    }
    file = folder / "run.yaml"
    file.write_text(json.dumps({**raw, "output": "from-file"}))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    from_file = bertkit.run(file)
    monkeypatch.chdir(folder)
    from_mapping = bertkit.run({**raw, "output": "from-mapping"})
    from_spec = bertkit.run(RunSpec.model_validate({**raw, "output": "from-spec"}))

    assert from_file.metrics == from_mapping.metrics == from_spec.metrics
    for name, result in {"file": from_file, "mapping": from_mapping, "spec": from_spec}.items():
        assert Path(result.run_dir) == folder / f"from-{name}"
        replayed = RunSpec.from_file(Path(result.run_dir, "spec.yaml"))
        assert replayed.dataset == Files(train=str(reviews_csv), test=0.25)

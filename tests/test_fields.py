"""No field of a spec may be one that nothing reads: each has a test that shows what it does."""

from __future__ import annotations

import ast
import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

import bertkit
from bertkit.component import KINDS, Component, Options
from bertkit.registry import Registry, base_class, use
from bertkit.spec import RunSpec
from bertkit.tasks import SingleLabel
from tests.conftest import reviews

TESTS = Path(__file__).parent
BUILT_INS = Registry(plugins=False)


@pytest.fixture(autouse=True)
def no_plugins() -> Iterator[None]:
    use(Registry(plugins=False))
    yield
    use(None)


# Every field has a test


def nested(annotation: Any) -> list[type[Options]]:
    """Return the classes of options that a field may hold."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [found for part in get_args(annotation) for found in nested(part)]


def of_class(place: str, cls: type[Options]) -> Iterator[str]:
    """Yield the fields of a class of options, those of nested options in place of the outer."""
    for name, field in cls.model_fields.items():
        if name != "type" or not issubclass(cls, Component):
            yield from of_field(f"{place}{name}", field.annotation)


def of_field(place: str, annotation: Any) -> Iterator[str]:
    inner = nested(annotation)
    for cls in inner:
        yield from of_class(f"{place}.", cls)
    if not inner:
        yield place


def demanded() -> set[str]:
    """Return the path of every field of the spec and of every built-in component."""
    paths = {"metrics"}
    kinds = {"encoder", "dataset", "head", "trainer", "metrics"}
    for name, field in RunSpec.model_fields.items():
        if name not in kinds:
            paths |= set(of_field(name, field.annotation))
    for kind in KINDS:
        shared = base_class(kind)
        paths |= set(of_class(f"{kind}.", shared))
        for one in BUILT_INS.all(kind):
            for name, field in one.cls.model_fields.items():
                declared = shared.model_fields.get(name)
                if not declared or nested(field.annotation) != nested(declared.annotation):
                    paths |= set(of_field(f"{kind}.{one.name}.{name}", field.annotation))
    return paths


def known() -> set[str]:
    """Return what a marker may name: every field, and what groups some of them."""
    paths = demanded()
    groups = {path.rpartition(".")[0] for path in paths}
    return paths | groups | {"encoder", "dataset", "head", "trainer"}


def marked() -> dict[str, list[str]]:
    """Return the tests by the field that their marker names."""
    found: dict[str, list[str]] = {}
    for file in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            # `field` may be short for `pytest.mark.field` in a file with many of them
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "field":
                for path in node.args:
                    assert isinstance(path, ast.Constant), f"{file}:{node.lineno}: no literal path"
                    place = f"{file.relative_to(TESTS)}:{node.lineno}"
                    found.setdefault(str(path.value), []).append(place)
    return found


def test_the_walk_finds_the_fields() -> None:
    paths = demanded()
    assert len(paths) > 70
    assert paths >= {
        "seed", "offline", "task.type", "task.thresholds", "metrics", "long_text.keep",
        "compute.device", "dataset.train",
        "dataset.sample.seed", "dataset.files.encoding", "dataset.memory.data",
        "dataset.inline.train.text", "encoder.pretrained.name", "encoder.scratch.layers",
        "head.frozen-feature.pooling", "trainer.batch_size", "trainer.evaluate.steps",
        "trainer.early_stopping.patience", "trainer.hf.extra", "metric.name",
        "metric.f1.average", "metric.calibration_error.bins",
    }  # fmt: skip
    assert [path for path in paths if path.endswith(".type")] == ["task.type"]


def test_every_field_has_a_test_that_shows_what_it_does() -> None:
    missing = sorted(demanded() - set(marked()))
    assert not missing, "\n".join(["fields without a test:", *missing])


def test_every_marker_names_a_field() -> None:
    strange = {path: places for path, places in marked().items() if path not in known()}
    assert strange == {}


# Those of the spec itself


@pytest.fixture
def spec(encoder_dir: Path, reviews_csv: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "encoder": str(encoder_dir),
        "dataset": {"train": str(reviews_csv), "test": 0.25},
        "head": "frozen-feature",
        "trainer": {"epochs": 1},
        "output": str(tmp_path / "run"),
    }


@pytest.mark.field("task")
@pytest.mark.field("task.type")
def test_task_says_that_fractions_are_classes(spec: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "stars.csv"
    rows = [{**row, "label": {"neg": "1.5", "pos": "4.5"}[row["label"]]} for row in reviews()]
    with file.open("w", newline="") as target:
        writer = csv.DictWriter(target, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    spec["dataset"] = {"train": str(file)}
    inferred = bertkit.run({**spec, "output": str(tmp_path / "inferred")})
    assert inferred.task["kind"] == "regression"
    assert set(inferred.metrics["test"]) == {"loss", "mae", "pearson", "r2"}
    assert 1 < bertkit.load(inferred.model_dir).predict(["good view"])[0].score < 5
    result = bertkit.run({**spec, "task": {"type": "single_label"}})
    assert result.task == {"kind": "single_label", "labels": ["1.5", "4.5"]}
    assert set(result.metrics["test"]) == {"loss", "accuracy", "f1"}


@pytest.mark.field("task.thresholds")
def test_thresholds_say_from_which_probability_on_a_label_is_given(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    rows = [{**row, "label": [row["label"], "text"]} for row in reviews(80)]
    spec["dataset"] = {"type": "inline", "train": rows, "validation": 0.25, "test": 0.25}
    given = {}
    for thresholds in (None, "validation", 0.0, 1.0, {"pos": 0.0, "text": 1.0}):
        task = {"type": "multi_label", "thresholds": thresholds}
        result = bertkit.run({**spec, "task": task, "output": str(tmp_path / str(len(given)))})
        found = bertkit.load(result.model_dir).predict(["good view"])[0]
        given[str(thresholds)] = (result.task["thresholds"], set(found.labels))
    assert given["None"] == given["validation"]
    chosen = given["validation"][0]
    assert 0.5 not in (chosen["neg"], chosen["pos"])
    assert chosen["text"] == 0.5  # which all texts have
    assert given["0.0"] == (dict.fromkeys(chosen, 0.0), {"neg", "pos", "text"})
    assert given["1.0"] == (dict.fromkeys(chosen, 1.0), set())
    assert given[str({"pos": 0.0, "text": 1.0})][0] == {"neg": 0.5, "pos": 0.0, "text": 1.0}
    assert {"pos"} <= given[str({"pos": 0.0, "text": 1.0})][1] <= {"pos", "neg"}


@pytest.mark.field("dataset.text")
@pytest.mark.field("dataset.label")
@pytest.mark.field("dataset.separator")
def test_columns_of_a_file_are_a_pair_and_several_labels(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    with file.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["question", "answer", "tags", "neg", "pos"])
        for row in reviews():
            flags = [int(row["label"] == name) for name in ("neg", "pos")]
            writer.writerow(["the view is", row["text"], f"{row['label']};view", *flags])
    pair = {"type": "files", "train": str(file), "text": ["question", "answer"]}
    shapes = {
        "joined": {**pair, "label": "tags", "separator": ";"},
        "columns": {**pair, "label": ["neg", "pos"]},
        "single": {**pair, "text": "answer", "label": "neg"},
    }
    results = {
        name: bertkit.run({**spec, "dataset": dataset, "output": str(tmp_path / name)})
        for name, dataset in shapes.items()
    }
    labels = {name: result.task["labels"] for name, result in results.items()}
    assert labels == {
        "joined": ["neg", "pos", "view"], "columns": ["neg", "pos"], "single": ["0", "1"],
    }  # fmt: skip
    assert results["joined"].data["labels"]["train"]["view"] > 20
    shortest = {name: result.data["lengths"]["train"] for name, result in results.items()}
    # question and answer have a separating token and three words more than the answer
    assert shortest["columns"]["longest"] == shortest["single"]["longest"] + 4
    assert bertkit.load(results["joined"].model_dir).predict([("the view is", "good")])


@pytest.mark.field("metrics")
@pytest.mark.field("metric.name")
def test_metrics_are_what_is_computed_and_named_and_the_first_decides(
    spec: dict[str, Any],
) -> None:
    metrics = [{"type": "recall", "name": "hits"}, {"type": "recall", "average": "micro"}]
    trainer = {**spec["trainer"], "early_stopping": 9}  # or few validation texts decide nothing
    result = bertkit.run({**spec, "metrics": metrics, "trainer": trainer})
    assert set(result.metrics["test"]) == {"loss", "hits", "recall"}
    assert result.training["best"]["metric"] == "hits"


@pytest.mark.field("compute.device")
def test_device_says_where_it_runs(spec: dict[str, Any]) -> None:
    import torch

    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(bertkit.SpecError, match=rf"compute\.device: `{absent}` is not on this"):
        bertkit.run({**spec, "compute": {"device": absent}})
    result = bertkit.run({**spec, "compute": {"device": "cpu"}})
    assert result.training["device"].startswith("cpu (")


@pytest.mark.field("compute.cache")
def test_cache_is_the_folder_that_keeps_tokens_and_features(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    cache = tmp_path / "kept"
    spec["compute"] = {"cache": str(cache), "device": "cpu"}
    bertkit.run(spec)
    assert list((cache / "tokens").iterdir())
    assert list((cache / "features").iterdir())
    again = bertkit.run({**spec, "output": str(tmp_path / "again")})
    assert set(again.data["token_cache"].values()) == {"hit"}
    spec["compute"] = {"cache": str(tmp_path / "other"), "device": "cpu"}
    elsewhere = bertkit.run({**spec, "output": str(tmp_path / "elsewhere")})
    assert set(elsewhere.data["token_cache"].values()) == {"miss"}


FORKS: list[None] = []
os.register_at_fork(before=lambda: FORKS.append(None))


@pytest.mark.field("compute.workers")
def test_workers_tokenize_in_as_many_processes_with_the_same_result(
    spec: dict[str, Any], tmp_path: Path
) -> None:
    results, forks = {}, {}
    for workers in (1, 2):
        FORKS.clear()
        compute = {"workers": workers, "cache": str(tmp_path / f"cache{workers}"), "device": "cpu"}
        run_dir = str(tmp_path / f"run{workers}")
        results[workers] = bertkit.run({**spec, "compute": compute, "output": run_dir})
        forks[workers] = len(FORKS)
    assert forks[1] == 0
    assert forks[2] >= 2
    assert results[1].metrics == results[2].metrics
    assert results[1].data["lengths"] == results[2].data["lengths"]


@pytest.mark.field("dataset.inline.train.text")
@pytest.mark.field("dataset.inline.train.label")
@pytest.mark.field("dataset.inline.validation.text")
@pytest.mark.field("dataset.inline.validation.label")
@pytest.mark.field("dataset.inline.test.text")
@pytest.mark.field("dataset.inline.test.label")
def test_texts_and_labels_of_the_spec_are_the_splits_they_are_given_as(
    spec: dict[str, Any],
) -> None:
    rows = reviews(12)
    short, long = {"text": "good view", "label": "pos"}, {"text": "bad " * 40, "label": "neg"}
    splits = {"train": rows[:8], "validation": [short, rows[8]], "test": [long, rows[9], short]}
    result = bertkit.run({**spec, "dataset": {"type": "inline", **splits}})
    assert result.data["labels"] == {
        "train": {"neg": 4, "pos": 4},
        "validation": {"neg": 1, "pos": 1},
        "test": {"neg": 1, "pos": 2},
    }
    for name, examples in splits.items():
        words = [len(example["text"].split()) + 2 for example in examples]
        lengths = result.data["lengths"][name]
        assert (lengths["tokens"], lengths["longest"]) == (sum(words), max(words))


OPTIONS_OF_METRICS: list[tuple[dict[str, Any], float]] = [
    ({"type": "precision", "average": "macro"}, (4 / 5 + 1) / 2),
    ({"type": "precision", "average": "weighted"}, (4 * 4 / 5 + 2 * 1) / 6),
    ({"type": "precision", "average": "binary", "positive": "neg"}, 4 / 5),
    ({"type": "precision", "average": "binary", "positive": "pos"}, 1),
    ({"type": "recall", "average": "macro"}, (1 + 1 / 2) / 2),
    ({"type": "recall", "average": "micro"}, 5 / 6),
    ({"type": "recall", "average": "binary", "positive": "neg"}, 1),
    ({"type": "recall", "average": "binary"}, 1 / 2),
    ({"type": "f1", "average": "macro"}, (8 / 9 + 2 / 3) / 2),
    ({"type": "f1", "average": "micro"}, 5 / 6),
    ({"type": "f1", "average": "binary", "positive": "neg"}, 8 / 9),
    ({"type": "f1", "average": "binary", "positive": "pos"}, 2 / 3),
]


@pytest.mark.field("metric.precision.average")
@pytest.mark.field("metric.precision.positive")
@pytest.mark.field("metric.recall.average")
@pytest.mark.field("metric.recall.positive")
@pytest.mark.field("metric.f1.average")
@pytest.mark.field("metric.f1.positive")
@pytest.mark.parametrize(("metric", "value"), OPTIONS_OF_METRICS)
def test_average_and_positive_say_which_score_it_is(metric: dict[str, Any], value: float) -> None:
    raw = {"encoder": "x", "dataset": "a.csv", "metrics": [metric]}
    (found,) = RunSpec.model_validate(raw).metrics
    truth, predicted = [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]
    scores = found.make(SingleLabel(("neg", "pos"))).compute(
        references=truth, predictions=predicted
    )
    assert scores == {metric["type"]: pytest.approx(value)}


@pytest.mark.field("metric.calibration_error.bins")
def test_bins_are_the_intervals_of_confidence_that_are_compared() -> None:
    truth, scores = [0, 0], [[0.9, 0.1], [0.4, 0.6]]  # sure and right, less sure and wrong
    task = SingleLabel(("neg", "pos"))
    for bins, value in [(1, abs(1 - 0.9 - 0.6) / 2), (5, (abs(1 - 0.9) + abs(0 - 0.6)) / 2)]:
        metric = {"type": "calibration_error", "bins": bins}
        spec = RunSpec.model_validate({"encoder": "x", "dataset": "a.csv", "metrics": [metric]})
        found = spec.metrics[0].make(task).compute(references=truth, predictions=scores)
        assert found == {"calibration_error": pytest.approx(value)}

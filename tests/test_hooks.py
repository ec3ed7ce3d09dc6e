"""Observers: what they are told and when, and that they cannot alter a run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import bertkit
from bertkit import hooks
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.records import Fitted, Run, RunResult, Scores, Splits
from bertkit.registry import Registry, use
from bertkit.text.encoded import Encoded

STAGES = ["load", "tokenize", "build", "train", "evaluate", "save"]
Event = tuple[str, dict[str, Any]]


class Observer:
    """Keeps what it is told, and may raise on the way."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.events: list[Event] = []
        self.error = error

    def tell(self, event: str, **facts: Any) -> None:
        self.events.append((event, facts))
        if self.error:
            raise self.error

    @bertkit.hookimpl
    def bertkit_run_started(self, run: Run) -> None:
        self.tell("started", run=run, there=run.run_dir.is_dir())

    @bertkit.hookimpl
    def bertkit_stage_finished(self, run: Run, stage: str, record: object) -> None:
        self.tell(stage, run=run, record=record)

    @bertkit.hookimpl
    def bertkit_run_finished(self, run: Run, result: RunResult) -> None:
        self.tell(
            "finished", run=run, result=result, written=(run.run_dir / "result.json").exists()
        )

    @bertkit.hookimpl
    def bertkit_run_failed(self, run: Run, error: BaseException) -> None:
        self.tell("failed", run=run, error=error)


class Point:
    dist = None

    def __init__(self, name: str, plugin: object) -> None:
        self.name, self.plugin = name, plugin

    def load(self) -> object:
        return self.plugin


def watch(*observers: object) -> None:
    points = [Point(f"observer{i}", one) for i, one in enumerate(observers)]
    use(Registry(entry_points=lambda: points))  # type: ignore[arg-type,return-value]


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    yield
    use(None)


@pytest.fixture
def spec(encoder_dir: Path, reviews_csv: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "encoder": str(encoder_dir),
        "dataset": {"train": str(reviews_csv), "test": 0.25},
        "head": "frozen-feature",
        "trainer": {"epochs": 1},
        "compute": {"device": "cpu"},
        "output": str(tmp_path / "run"),
    }


def names(observer: Observer) -> list[str]:
    return [event for event, _ in observer.events]


def test_every_hook_fires_in_the_order_of_the_run_with_the_record_of_its_stage(
    spec: dict[str, Any],
) -> None:
    observer = Observer()
    watch(observer)
    result = bertkit.run(spec)
    assert names(observer) == ["started", *STAGES, "finished"]
    told = dict(observer.events)

    run = told["started"]["run"]
    assert told["started"]["there"]
    assert (run.run_dir, run.resumed) == (Path(spec["output"]), False)
    assert run.spec.trainer.learning_rate == FrozenFeature.learning_rate, "defaults are filled in"
    assert all(facts["run"] is run for _, facts in observer.events)

    assert isinstance(told["load"]["record"], Splits)
    assert set(told["tokenize"]["record"]) == {"train", "validation", "test"}
    assert all(isinstance(one, Encoded) for one in told["tokenize"]["record"].values())
    assert isinstance(told["build"]["record"], nn.Module)
    assert isinstance(told["train"]["record"], Fitted)
    assert {name: type(one) for name, one in told["evaluate"]["record"].items()} == {
        "validation": Scores,
        "test": Scores,
    }
    assert told["save"]["record"] == Path(result.model_dir)
    assert told["finished"]["result"] == result
    assert told["finished"]["written"]


def test_a_failure_is_told_after_the_stages_that_ended_and_then_raised(
    spec: dict[str, Any],
) -> None:
    observer = Observer()
    watch(observer)
    with pytest.raises(bertkit.DataError) as caught:
        bertkit.run({**spec, "dataset": {"train": spec["dataset"]["train"], "text": "review"}})
    assert names(observer) == ["started", "failed"]
    assert dict(observer.events)["failed"]["error"] is caught.value


def test_an_interruption_is_told_as_a_failure(spec: dict[str, Any]) -> None:
    class Impatient(bertkit.Head):
        type: str = "impatient"

        def check_encoder(self, encoder: Any) -> None:
            raise KeyboardInterrupt

    observer = Observer()
    watch(observer)
    with pytest.raises(KeyboardInterrupt):
        bertkit.run({**spec, "head": Impatient()})
    assert names(observer) == ["started", "failed"]
    assert isinstance(dict(observer.events)["failed"]["error"], KeyboardInterrupt)


def test_a_resumed_run_says_so(spec: dict[str, Any]) -> None:
    bertkit.run(spec)
    run_dir = Path(spec["output"])
    (run_dir / "result.json").unlink()
    observer = Observer()
    watch(observer)
    bertkit.run(spec, resume=True)
    assert dict(observer.events)["started"]["run"].resumed
    assert dict(observer.events)["train"]["record"].resumed_from is not None


@pytest.mark.parametrize("error", [ValueError("not\ntoday"), SystemExit(7)])
def test_what_an_observer_raises_is_logged_and_dropped_and_the_others_are_told(
    spec: dict[str, Any], error: BaseException
) -> None:
    bad, good = Observer(error), Observer()
    watch(bad, good)
    result = bertkit.run(spec)
    assert names(bad) == names(good) == ["started", *STAGES, "finished"]
    assert all("has only" in warning for warning in result.warnings)  # of few texts, no more
    log = Path(result.run_dir, "log.txt").read_text()
    words = {ValueError: "ValueError: not today", SystemExit: "SystemExit: 7"}[type(error)]
    for hook in ("bertkit_run_started", "bertkit_stage_finished", "bertkit_run_finished"):
        assert f"observer observer0@unknown raised in {hook} and was ignored: {words}" in log


def test_what_an_observer_of_a_failure_raises_does_not_hide_the_failure(
    spec: dict[str, Any],
) -> None:
    watch(Observer(ValueError("told you so")))
    with pytest.raises(bertkit.DataError):
        bertkit.run({**spec, "dataset": {"train": spec["dataset"]["train"], "text": "review"}})


def test_an_observer_may_ask_for_less_than_is_told(spec: dict[str, Any]) -> None:
    seen = []

    class Short:
        @bertkit.hookimpl
        def bertkit_stage_finished(self, stage: str) -> None:
            seen.append(stage)

        @bertkit.hookimpl
        def bertkit_run_finished(self) -> None:
            seen.append("finished")

    watch(Short())
    bertkit.run(spec)
    assert seen == [*STAGES, "finished"]


@pytest.mark.parametrize(("rank", "told"), [(None, 1), ("0", 1), ("1", 0), ("3", 0)])
def test_only_the_first_process_of_a_distributed_run_tells(
    rank: str | None, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    observer = Observer()
    found = Registry(entry_points=lambda: [Point("o", observer)])  # type: ignore[list-item]
    found.observe("bertkit_run_failed", pytest.fail, run=None, error=ValueError())
    assert len(observer.events) == told


SPECIFICATIONS = {name: one for name, one in vars(hooks).items() if name.startswith("bertkit_")}


def test_the_hooks_are_those_of_the_documentation() -> None:
    registrations = ["datasets", "encoders", "heads", "trainers", "metrics"]
    observers = ["run_started", "stage_finished", "run_finished", "run_failed"]
    assert list(SPECIFICATIONS) == [f"bertkit_{name}" for name in [*registrations, *observers]]


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_the_example_of_a_hook_is_a_valid_implementation(name: str) -> None:
    _, _, example = inspect.getdoc(SPECIFICATIONS[name]).partition("Example:\n")  # type: ignore[union-attr]
    space: dict[str, Any] = {"bertkit": bertkit}
    exec(inspect.cleandoc(example), space)
    found = Registry(
        entry_points=lambda: [Point("o", type("P", (), {name: staticmethod(space[name])}))]
    )  # type: ignore[list-item]
    found.everything()
    (implementation,) = getattr(found.manager.hook, name).get_hookimpls()
    assert implementation.function is space[name]

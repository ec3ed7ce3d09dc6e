"""Every kind of task, under both heads and both trainers: trained, saved, loaded, scored, resumed.

The runs are a covering subset of tasks x heads x trainers x families of encoders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import bertkit
from bertkit.artifact import Classifier
from bertkit.predicting import evaluate_file
from bertkit.progress import Silent
from bertkit.records import Context, RunResult
from bertkit.spec import RunSpec
from tests.conftest import make_encoder

LENGTH, STRIDE = 12, 5
STEPS = 40
GOOD, DIRTY, NOISY = ("good", "great"), ("dirty", "bad"), ("noise", "awful")
FILLER = ("room", "staff", "bed", "food", "the", "a", "is", "was", "very", "and")


def table(count: int, seed: int, longest: int = 6) -> list[dict[str, Any]]:
    """Return texts with columns for every kind of task."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        found = {
            "good": rng.random() < 0.5, "dirty": rng.random() < 0.4, "noisy": rng.random() < 0.25,
        }  # fmt: skip
        words = rng.choices(FILLER, k=rng.randint(1, longest))
        for given, signals in zip(found.values(), (GOOD, DIRTY, NOISY), strict=True):
            if given:
                words.insert(rng.randrange(len(words) + 1), rng.choice(signals))
        stars = 3 + 2 * found["good"] - 1.5 * found["dirty"] + rng.gauss(0, 0.1)
        names = [name for name, given in found.items() if given]
        rows.append(
            {
                "text": " ".join(words), "kind": "yes" if found["good"] else "no",
                "tags": names, "joined": " | ".join(names),
                **{name: int(given) for name, given in found.items()},
                "price": round(1e6 + 2e5 * stars), "share": stars / 1e3,
                "question": " ".join(words), "answer": " ".join(rng.choices(FILLER, k=4)),
            }
        )  # fmt: skip
    return rows


FORMS: dict[str, dict[str, Any]] = {
    "single_label": {"label": "kind"},
    "lists": {"label": "tags"},
    "joined": {"label": "joined", "separator": "|"},
    "columns": {"label": ["good", "dirty", "noisy"]},
    "number": {"label": "share"},
    "whole number": {"label": "price"},
    "numbers": {"label": ["price", "share"]},
    "pairs": {"label": "kind", "text": ["question", "answer"]},
    "pairs, number": {"label": "share", "text": ["answer", "question"]},
}
"""What the dataset names, by the form that the labels have."""


@dataclass(frozen=True)
class Case:
    form: str
    head: str
    trainer: str
    family: str = "bert"
    long_text: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        more = (str(value) for value in self.long_text.values())
        return "-".join([self.form, *more, self.head, self.trainer, self.family])

    @property
    def windows(self) -> bool:
        return self.long_text.get("keep") == "windows"


def windows(pool: str) -> dict[str, Any]:
    return {"keep": "windows", "pool": pool, "stride": STRIDE, "max_windows": 4}


CASES = [
    Case("single_label", "linear", "loop", "distilbert"),
    Case("single_label", "frozen-feature", "hf", "bert", {"keep": "tail"}),
    Case("lists", "linear", "hf", "roberta"),
    Case("lists", "frozen-feature", "loop", "distilbert"),
    Case("joined", "linear", "loop", "bert"),
    Case("columns", "frozen-feature", "hf", "roberta"),
    Case("columns", "linear", "hf", "distilbert"),
    Case("whole number", "linear", "loop", "roberta"),
    Case("number", "frozen-feature", "hf", "bert"),
    Case("numbers", "linear", "hf", "bert"),
    Case("numbers", "frozen-feature", "loop", "distilbert"),
    Case("pairs", "linear", "hf", "bert"),
    Case("pairs", "frozen-feature", "loop", "bert", {"cut": "first", "keep": "tail"}),
    Case("pairs, number", "linear", "loop", "roberta", {"cut": "second", "max_length": 16}),
    Case("pairs, number", "frozen-feature", "hf", "distilbert"),
    Case("single_label", "linear", "loop", "bert", windows("mean")),
    Case("number", "frozen-feature", "hf", "distilbert", windows("mean")),
    Case("lists", "linear", "hf", "distilbert", windows("max")),
    Case("single_label", "frozen-feature", "loop", "roberta", windows("max")),
    Case("numbers", "linear", "loop", "bert", windows("attention")),
    Case("joined", "linear", "hf", "distilbert", windows("attention")),
    Case("number", "frozen-feature", "loop", "bert", windows("attention")),
    Case("columns", "frozen-feature", "hf", "distilbert", windows("attention")),
]
WINDOWED = [case for case in CASES if case.windows]


def of(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=map(str, cases))


def enlarge(encoder: Path) -> None:
    """Give an encoder weights of the size that trained ones have, so that a few steps teach it."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    model.save_pretrained(encoder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data and the encoders of all runs."""
    folder = tmp_path_factory.mktemp("every-task")
    for family in ("bert", "distilbert", "roberta"):
        enlarge(make_encoder(folder / family, family))
    for name, (count, seed) in {"train": (96, 0), "validation": (40, 1), "test": (40, 2)}.items():
        for kind, longest in (("short", 6), ("long", 18)):
            lines = map(json.dumps, table(count, seed, longest))
            (folder / f"{kind}-{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def spec_of(case: Case, folder: Path, output: Path, **trainer: Any) -> dict[str, Any]:
    kind = "long" if case.windows else "short"
    files = {name: str(folder / f"{kind}-{name}.jsonl") for name in ("train", "validation", "test")}
    return {
        "task": "regression" if case.form == "whole number" else None,
        "encoder": str(folder / case.family),
        "dataset": {**files, **FORMS[case.form]},
        "long_text": {"max_length": LENGTH, **case.long_text},
        "head": case.head,
        "trainer": {
            "type": case.trainer, "max_steps": STEPS, "batch_size": 16, "precision": "fp32",
            "learning_rate": 3e-3 if case.head == "linear" else 5e-2, "warmup": 0,
            "evaluate": None, "best": None, "save": {"steps": STEPS // 2}, "keep": 2, **trainer,
        },
        "output": str(output),
    }  # fmt: skip


@pytest.fixture(scope="module")
def trained(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the finished run of a case, trained once; do not write to it."""

    @cache
    def find(name: str) -> RunResult:
        case = next(case for case in CASES if str(case) == name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BERTKIT_CACHE", str(place / "cache"))
            spec = spec_of(case, place, tmp_path_factory.mktemp("run") / "run")
            return bertkit.run(spec, progress=Silent())

    return lambda case: find(str(case))


def texts_of(case: Case, count: int = 12, longest: int = 6) -> list[Any]:
    rows = table(count, 3, longest)
    names = FORMS[case.form].get("text", "text")
    if isinstance(names, str):
        return [row[names] for row in rows]
    return [tuple(row[name] for name in names) for row in rows]


def pipeline_of(folder: str, **options: Any) -> Any:
    from transformers import pipeline

    return pipeline("text-classification", model=folder, top_k=None, **options)


def same_scores(ours: Any, plain: list[list[dict[str, Any]]]) -> None:
    """Demand the same score of each label, to rounding; of a value in its own units."""
    for found, scores in zip(ours, plain, strict=True):
        expected = {one["label"]: one["score"] for one in scores}
        for name, score in found.scores.items():
            assert score == pytest.approx(expected.pop(name), rel=2e-5, abs=1e-7), name
        assert expected == {}


def code_of_the_card(result: RunResult, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the code in README.md, in the model's directory; return what it defines."""
    card = Path(result.model_dir, "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with monkeypatch.context() as patch:
        patch.chdir(result.model_dir)
        for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
            exec(block, names)
    assert set(names) >= {"pipeline", "classify", "bertkit"}
    return names


# plain transformers


@of(CASES)
def test_plain_transformers_gives_the_same_scores_called_as_the_card_says(
    trained, monkeypatch, case
):
    result = trained(case)
    texts = texts_of(case, longest=20)
    lengths = [len((text if isinstance(text, str) else " ".join(text)).split()) for text in texts]
    if case.windows:  # of a long text plain transformers reads the first window only
        texts = [text for text, n in zip(texts, lengths, strict=True) if n <= LENGTH - 2]
    else:
        assert max(lengths) > LENGTH > min(lengths)
    if case.long_text.get("cut") == "first":  # also where the other one is longer
        texts.append(("good bad awful great", "room " * 7))
    if case.long_text.get("cut") == "second":
        texts.append(("room " * 10, "good bad awful great dirty"))
    classify = code_of_the_card(result, monkeypatch)["classify"]
    given = [
        dict(zip(("text", "text_pair"), text, strict=True)) if isinstance(text, tuple) else text
        for text in texts
    ]
    ours = bertkit.load(result.model_dir).predict(texts)
    same_scores(ours, classify(given, top_k=None))
    assert len({found.score for found in ours}) > 2  # so that the comparison can fail


@of(WINDOWED)
def test_the_logits_of_windows_are_pooled_as_documented(trained, place, case):
    result = trained(case)
    classifier = bertkit.load(result.model_dir)
    long = " ".join(row["text"] for row in table(6, 4))
    words = classifier.tokenizer(long, add_special_tokens=False)["input_ids"]
    room = LENGTH - 2
    parts = [words[start : start + room] for start in range(0, 4 * STRIDE, STRIDE)]
    assert len(words) > 3 * STRIDE + room  # more than four windows: the rest is left out
    cls, sep = classifier.tokenizer.cls_token_id, classifier.tokenizer.sep_token_id
    ids = torch.tensor([[cls, *part, sep] for part in parts])
    with torch.inference_mode():
        logits = classifier.model(input_ids=ids).logits.numpy()
    pool = case.long_text["pool"]
    if pool == "attention":
        pooled = attention_by_hand(result, case, place, ids) @ logits
    else:
        pooled = {"mean": logits.mean(0), "max": logits.max(0)}[pool]
    expected = {
        "single_label": lambda x: np.exp(x) / np.exp(x).sum(),
        "multi_label": lambda x: 1 / (1 + np.exp(-x)),
        "regression": lambda x: x,
    }[result.task["kind"]](pooled)
    (found,) = classifier.predict(long)
    assert list(found.scores.values()) == pytest.approx(expected.tolist(), rel=2e-5)
    assert list(found.scores.values()) != pytest.approx(
        list(classifier.predict(long, keep="head")[0].scores.values()), rel=2e-4
    )


def attention_by_hand(result: RunResult, case: Case, place: Path, ids: torch.Tensor) -> np.ndarray:
    """Return the weight of each window, from what is kept in head.safetensors."""
    from transformers import AutoModel, AutoModelForSequenceClassification

    kept = load_file(Path(result.model_dir, "head.safetensors"))
    seen: list[torch.Tensor] = []
    with torch.inference_mode():
        if case.head == "frozen-feature":
            encoder = AutoModel.from_pretrained(place / case.family)
            seen = [encoder(input_ids=ids).last_hidden_state.mean(1)]
        else:
            model = AutoModelForSequenceClassification.from_pretrained(result.model_dir)
            linear = [m for m in model.classifier.modules() if isinstance(m, torch.nn.Linear)][-1]
            linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
            model(input_ids=ids)
        hidden = torch.tanh(seen[0] @ kept["windows.hidden.weight"].T + kept["windows.hidden.bias"])
        scores = (hidden @ kept["windows.score.weight"].T)[:, 0]
    weights = scores.softmax(0).numpy()
    if case.head == "frozen-feature":  # something was learned, which takes longer under `linear`
        assert weights.max() > 1.02 * weights.min()
    return weights


@of([case for case in WINDOWED if case.head == "linear"])
def test_a_windows_model_reads_one_window_where_that_is_asked_for(trained, case):
    result = trained(case)
    classifier = bertkit.load(result.model_dir)
    long = texts_of(case, 6, longest=40)
    plain = pipeline_of(result.model_dir, truncation=True)
    same_scores(classifier.predict(long, keep="head"), plain(long))
    ends = [" ".join(text.split()[-(LENGTH - 2) :]) for text in long]
    same_scores(classifier.predict(long, keep="tail"), plain(ends))


# answers


def test_thresholds_are_chosen_on_validation_kept_and_decide(trained):
    differ = 0
    for case in CASES:
        result = trained(case)
        if result.task["kind"] != "multi_label":
            continue
        limits = result.task["thresholds"]
        assert set(limits) == {"good", "dirty", "noisy"}
        classifier = bertkit.load(result.model_dir)
        for found in classifier.predict(texts_of(case, 40)):
            given = [name for name, score in found.scores.items() if score >= limits[name]]
            assert sorted(found.labels) == sorted(given)
            half = [name for name, score in found.scores.items() if score >= 0.5]
            differ += sorted(half) != sorted(given)
    assert differ > 20  # texts whose labels would be others with 0.5


@of([case for case in CASES if "number" in case.form])
def test_numbers_are_predicted_and_scored_in_the_units_of_the_data(trained, case):
    result = trained(case)
    rows = table(40, 3)
    found = bertkit.load(result.model_dir).predict(texts_of(case, 40))
    for name in result.task["labels"]:
        truth = np.array([row[name] for row in rows])
        values = np.array([one.scores[name] for one in found])
        assert abs(values - truth).mean() < truth.std()
        assert np.corrcoef(values, truth)[0, 1] > 0.1
        assert found[0].labels == tuple(result.task["labels"])
    assert found[0].score == found[0].scores[found[0].label]
    summary = result.data["labels"]["test"]
    largest = max(one["deviation"] for one in summary.values())
    assert 0.01 * largest < result.metrics["test"]["mae"] < largest
    assert result.metrics["test"]["loss"] < 1.5  # of standardised values


# scoring, checkpoints, resume


@of(CASES)
def test_evaluation_of_the_saved_model_gives_the_scores_of_the_run(trained, place, case):
    result = trained(case)
    data = place / f"{'long' if case.windows else 'short'}-test.jsonl"
    scores, rows = evaluate_file(bertkit.load(result.model_dir), data)
    assert scores.metrics == pytest.approx(result.metrics["test"], rel=1e-4)
    assert nearly(scores.report, result.reports["test"])
    assert len(rows) == scores.texts == 40


def nearly(one: Any, other: Any) -> bool:
    """Say whether two reports agree, their numbers to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(nearly(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(nearly, one, other))
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-5, abs=1e-9)
    return one == other


@of(CASES)
def test_a_step_loads_what_was_trained_up_to_then(trained, place, case):
    result = trained(case)
    texts = texts_of(case, 8, longest=30 if case.windows else 6)
    last = bertkit.load(result.run_dir)
    again = bertkit.load(result.run_dir, step=STEPS)
    early = bertkit.load(result.run_dir, step=STEPS // 2)
    wanted = last.scores_of(last.tokens(texts))
    np.testing.assert_allclose(again.scores_of(again.tokens(texts)), wanted, rtol=2e-5)
    expected = checkpoint_by_hand(result, case, place, STEPS // 2, early, texts)
    np.testing.assert_allclose(early.scores_of(early.tokens(texts)), expected, rtol=1e-4)
    assert abs(expected / wanted - 1).max() > 1e-3


def checkpoint_by_hand(
    result: RunResult, case: Case, place: Path, step: int, classifier: Classifier, texts: list[Any]
) -> np.ndarray:
    """Return the scores of a checkpoint's weights in the module that was trained."""
    from bertkit.encoders.pretrained import load_encoder
    from bertkit.heads.windows import Windowed
    from bertkit.scoring import predict_logits

    spec = RunSpec.from_file(Path(result.run_dir, "spec.yaml"))
    encoder, _ = load_encoder(place / case.family, Context())
    module = spec.head.build(encoder, classifier.task, Context())
    if case.windows:
        module = Windowed(module, case.long_text["pool"], classifier.task.num_labels)
    weights = load_file(
        Path(result.run_dir, "checkpoints", f"step-{step:06d}", "weights.safetensors")
    )
    trained = {name for name, one in module.named_parameters() if one.requires_grad}
    assert set(weights) >= trained
    module.load_state_dict(weights, strict=False)
    tokens = classifier.tokens(texts)
    return classifier.task.scores(
        predict_logits(module, tokens, batch_size=8, device="cpu").numpy()
    )


class StopsInTheMiddle(Silent):
    """Progress of a user who presses Ctrl-C in the middle of training."""

    @contextlib.contextmanager
    def bar(self, title, total, done=0):
        class Bar:
            count = done

            def advance(self, amount=1, note=""):
                self.count += amount
                if title == "train" and self.count == total // 2 + 3:
                    raise KeyboardInterrupt

        yield Bar()


RESUMED = [
    Case("columns", "linear", "hf", "distilbert"),
    Case("numbers", "linear", "hf", "bert"),
    Case("pairs", "frozen-feature", "loop", "bert", {"cut": "first", "keep": "tail"}),
    Case("numbers", "linear", "loop", "bert", windows("attention")),
    Case("columns", "frozen-feature", "hf", "distilbert", windows("attention")),
]


@of(RESUMED)
def test_a_run_stopped_in_the_middle_resumes_to_the_same_bits(trained, place, tmp_path, case):
    whole = trained(case)
    spec = spec_of(case, place, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        bertkit.run(spec, progress=StopsInTheMiddle())
    resumed = bertkit.run(spec, resume=True, progress=Silent())
    assert resumed.training["resumed_from"] == STEPS // 2
    assert resumed.metrics == whole.metrics
    assert resumed.task == whole.task
    for name in ("model.safetensors", "head.safetensors"):
        files = [Path(run.model_dir, name) for run in (whole, resumed)]
        assert files[0].exists() == files[1].exists()
        if files[0].exists():
            one, other = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
            assert one == other

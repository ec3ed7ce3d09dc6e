"""Weights, focal loss, smoothing and sampling: what each is for, under both trainers alike.

20 of 200 texts have the rare label, and a model that is trained shortly misses most of them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bertkit.checkpoints import CheckpointStore
from bertkit.errors import SpecError
from bertkit.tasks import PLAIN, MultiLabel, Regression, SingleLabel
from bertkit.text.encoded import Features
from bertkit.trainers.base import TrainingContext
from bertkit.trainers.hf import HF
from bertkit.trainers.loop import Loop
from tests.conftest import reviews
from tests.trainers.conftest import losses

field = pytest.mark.field
both = pytest.mark.parametrize("trainer", [Loop, HF])
LABELS = ("common", "rare")
ROWS, RARE = 200, 20
SHORT = {"epochs": 5, "batch_size": 16, "learning_rate": 0.05, "save": None}


class Blank(nn.Module):
    """A linear classifier of features that knows nothing yet."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(2, 2)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features):
        return type("Output", (), {"logits": self.classifier(features)})()


class Seen(Features):
    """Features that remember the rows that were asked for."""

    def batch(self, rows):
        self.rows = [*getattr(self, "rows", ()), *rows]
        return super().batch(rows)


def one_label(ids):
    return SingleLabel(LABELS), ids


def labels_of_both(ids):
    return MultiLabel(LABELS), np.eye(2, dtype=np.float32)[ids]


def drawn(rows, rare, seed):
    """Draw points about -3 (common) and 0 (rare); return them and their label ids."""
    ids = np.zeros(rows, dtype=np.int64)
    ids[:rare] = 1
    points = torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))
    points[:, 0] += torch.from_numpy(np.where(ids == 1, 0.0, -3.0)).float()
    return points, ids


def fitted(trainer, tmp_path, kind=one_label, rare_points=None, **options):
    """Train as a run of the engine does; return model, data and what the trainer says."""
    points, ids = drawn(ROWS, RARE, seed=0)
    if rare_points is not None:
        points[:RARE] = rare_points
    task, targets = kind(ids)
    data, model, part = Seen(points, targets), Blank(), trainer(**{**SHORT, **options})
    ctx = TrainingContext(
        seed=0, task=task, store=CheckpointStore(tmp_path / "none", {}),
        shaping=part.shaping(task, targets), row_weights=part.row_weights(task, targets),
    )  # fmt: skip
    return model, data, part.fit(model, data, None, ctx)


def scores_of(model, kind):
    """Return task, scores and truth for texts that were not trained on."""
    points, ids = drawn(2000, 200, seed=1)
    task, targets = kind(ids)
    with torch.no_grad():
        return task, task.scores(model(points).logits.numpy()), task.truth(targets)


def recall_of_the_rare(model, kind):
    task, scores, truth = scores_of(model, kind)
    found, wanted = (
        rows == 1 if rows.ndim == 1 else rows[:, 1] == 1 for rows in (task.decide(scores), truth)
    )
    return float(found[wanted].mean())


@field("trainer.class_weights")
@field("trainer.focal")
@field("trainer.sampling")
@pytest.mark.parametrize("kind", [one_label, labels_of_both])
@both
def test_each_finds_more_of_the_rare_than_the_plain_run(trainer, kind, tmp_path):
    def recall(**options):
        return recall_of_the_rare(fitted(trainer, tmp_path, kind, **options)[0], kind)

    plain = recall()
    assert plain < 0.5
    assert recall(focal=2.0) > plain + 0.05
    for option in ("class_weights", "sampling"):
        balanced, by_name = (recall(**{option: asked}) for asked in ("balanced", {"rare": 4.0}))
        assert balanced > by_name > plain + 0.1, option


@field("trainer.label_smoothing")
@pytest.mark.parametrize("kind", [one_label, labels_of_both])
@both
def test_smoothing_keeps_the_model_from_being_sure_of_itself(trainer, kind, tmp_path):
    def confidence(smoothing):
        model, *_ = fitted(trainer, tmp_path, kind, epochs=40, label_smoothing=smoothing)
        _, scores, _ = scores_of(model, kind)
        return float(np.maximum(scores, 1 - scores).mean())

    some, more, none = confidence(0.1), confidence(0.4), confidence(0.0)
    assert none > 0.95
    assert none > some > more
    assert more < 0.8 + 0.02  # 0.8 is where the loss is least


@field("trainer.sampling")
@pytest.mark.parametrize(
    ("asked", "share"),
    [
        ("balanced", 1 / 2),
        ({"rare": 3}, 60 / 240),
        ({"common": 0.5, "rare": 0.5}, 20 / 200),
        ({"rare": 0}, 0),
        ({"common": 0.0}, 1),
    ],
    ids=str,
)
@both
def test_texts_are_drawn_in_proportion_and_as_many_an_epoch_as_there_are(
    trainer, asked, share, tmp_path
):
    _, data, done = fitted(trainer, tmp_path, epochs=20, batch_size=100, sampling=asked)
    rows = np.array(data.rows)
    assert len(rows) == 20 * ROWS
    assert done.steps == 20 * 2
    of_rare = rows < RARE
    deviation = (share * (1 - share) / len(rows)) ** 0.5
    assert abs(of_rare.mean() - share) <= 4 * deviation
    for group, size in ((rows[of_rare], RARE), (rows[~of_rare], ROWS - RARE)):
        if len(group):
            counts = np.bincount(group - group.min(), minlength=size)
            expected = len(group) / size  # within a label every text is as likely
            assert abs(counts - expected).max() < 5 * expected**0.5


@both
def test_without_sampling_each_text_comes_once_an_epoch(trainer, tmp_path):
    _, data, _ = fitted(trainer, tmp_path, epochs=3)
    assert (np.bincount(data.rows) == 3).all()


@field("trainer.class_weights")
@both
def test_texts_of_a_label_of_weight_0_change_nothing(trainer, tmp_path):
    def weights(asked, value):
        model, *_ = fitted(trainer, tmp_path, class_weights=asked, rare_points=value)
        return model.classifier.weight

    assert torch.equal(weights({"rare": 0.0}, 1.0), weights({"rare": 0.0}, 5.0))
    assert not torch.equal(weights({"rare": 0.1}, 1.0), weights({"rare": 0.1}, 5.0))


@both
def test_balancing_twice_is_warned_of(trainer, tmp_path):
    points, ids = drawn(ROWS, RARE, seed=0)
    for sampling, told in (("balanced", 1), ({"rare": 9.0}, 0), (None, 0)):
        warned = []
        part = trainer(**SHORT, class_weights="balanced", sampling=sampling)
        ctx = TrainingContext(
            task=SingleLabel(LABELS), store=CheckpointStore(tmp_path / "none", {}),
            warn=warned.append,
        )  # fmt: skip
        part.fit(Blank(), Features(points, ids), None, ctx)
        assert len(warned) == told
    part = trainer(**SHORT, class_weights="balanced", sampling="balanced")
    part.fit(Blank(), Features(points, ids), None, ctx)
    assert warned[0].startswith("trainer.class_weights and trainer.sampling are both `balanced`")


# --- the fields of a spec -------------------------------------------------------------------


def test_nothing_is_shaped_where_nothing_is_asked_for():
    _, ids = drawn(ROWS, RARE, seed=0)
    assert Loop().shaping(SingleLabel(LABELS), ids) == PLAIN
    assert Loop().row_weights(SingleLabel(LABELS), ids) is None


FOR_LABELS = {
    "class_weights": "balanced", "sampling": {"x": 2.0}, "focal": 2.0, "label_smoothing": 0.1,
}  # fmt: skip


@pytest.mark.parametrize("name", FOR_LABELS)
def test_a_regression_refuses_what_is_for_labels(train, name):
    numbers = np.zeros((4, 1), dtype=np.float32)
    part, task = Loop(**{name: FOR_LABELS[name]}), Regression(("x",))
    message = rf"trainer\.{name}: is for labels, and the task is regression; take it out"
    with pytest.raises(SpecError, match=message):
        part.shaping(task, numbers), part.row_weights(task, numbers)
    rows = [{"text": row["text"], "label": i / 7} for i, row in enumerate(reviews(24))]
    with pytest.raises(SpecError, match=message):
        train(spec={"dataset": {"type": "inline", "train": rows}}, **{name: FOR_LABELS[name]})


@pytest.mark.parametrize("name", ["class_weights", "sampling"])
def test_a_label_that_does_not_exist_is_refused(train, name):
    with pytest.raises(SpecError, match=rf"trainer\.{name}: there is no label 'poss'.*`pos`"):
        train(**{name: {"poss": 2.0}})


WRONG = [
    ({"class_weights": {"pos": -1}}, "trainer.class_weights.pos: found -1; expected 0 or more"),
    ({"sampling": {"pos": "2"}}, 'trainer.sampling.pos: found "2"; expected a number'),
    ({"sampling": "balance"}, "Did you mean `balanced`?"),
    ({"focal": -0.5}, "trainer.focal: found -0.5; expected 0 or more"),
    ({"label_smoothing": 1.0}, "trainer.label_smoothing: found 1.0; expected a number below 1"),
    ({"label_smoothing": -0.1}, "trainer.label_smoothing: found -0.1; expected 0 or more"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=str)
def test_a_value_that_means_nothing_is_refused(train, options, message):
    with pytest.raises(SpecError) as caught:
        train(**options)
    assert message in str(caught.value)


@pytest.mark.parametrize("written", [0, "0"])
def test_labels_are_named_as_they_are_written_in_the_data(train, written):
    rows = [{**row, "label": int(row["label"] == "pos")} for row in reviews()]
    result = train(
        head="frozen-feature", max_steps=30, class_weights={written: 0}, best=None,
        spec={"dataset": {"type": "inline", "train": rows, "validation": 0.25}},
    )  # fmt: skip
    assert result.reports["validation"]["per_class"]["0"]["recall"] == 0


@field("trainer.class_weights")
@field("trainer.focal")
@field("trainer.label_smoothing")
@field("trainer.sampling")
@pytest.mark.parametrize("trainer", ["loop", "hf"])
def test_the_fields_of_a_spec_reach_the_loss_that_is_trained_and_not_the_one_that_is_reported(
    train, trainer
):
    options = {"head": "frozen-feature", "max_steps": 3, "schedule": "constant", "batch_size": 36}
    plain = train(trainer, baseline=True, **options)
    untrained = plain.history[0]["loss"]
    shaped = {
        name: train(trainer, baseline=True, **{name: value}, **options)
        for name, value in {
            "class_weights": {"neg": 9.0}, "focal": 2.0, "label_smoothing": 0.2,
            "sampling": {"neg": 9.0},
        }.items()
    }  # fmt: skip
    for name, result in shaped.items():
        assert result.history[0]["loss"] == untrained, name
        assert losses(result) != losses(plain), name
        assert result.metrics["validation"] != plain.metrics["validation"], name
    assert losses(shaped["focal"])[0] == pytest.approx(losses(plain)[0] / 4, rel=0.1)

"""Every option of the trainers changes what happens, under both of them alike.

36 of 48 texts are trained on and 12 validate, so an epoch of batches of 8 has 5 batches.
"""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bertkit.errors import SpecError
from bertkit.heads.frozen_feature import FrozenFeature
from bertkit.heads.linear import Linear
from bertkit.trainers.loop import Loop
from bertkit.trainers.training import optimizer_for
from tests.trainers.conftest import checkpoints, evaluated, losses, rates, weights_of

both = pytest.mark.parametrize("trainer", ["loop", "hf"])
field = pytest.mark.field
NEVER = {"evaluate": None, "save": None, "best": None}


class Amounts:
    """Progress that remembers how much was done at a time, by title."""

    def __init__(self):
        self.seen = {}

    @contextmanager
    def bar(self, title, total, done=0):
        self.title = title
        yield self

    def advance(self, amount=1, note=""):
        self.seen.setdefault(self.title, []).append(amount)


def logged(result):
    return [line["step"] for line in result.history if "learning_rate" in line]


# --- how many steps, of how many texts ------------------------------------------------------

STEPS = [
    # options, optimizer steps, epochs
    ({"epochs": 1}, 5, 1.0),
    ({"epochs": 2}, 10, 2.0),
    ({"max_steps": 3}, 3, 0.6),
    ({"max_steps": 7}, 7, 1.4),
    ({"epochs": 1, "batch_size": 16}, 3, 1.0),
    ({"epochs": 1, "batch_size": 36}, 1, 1.0),
    ({"epochs": 1, "drop_last": True}, 4, 1.0),
    ({"epochs": 1, "accumulation": 2}, 3, 1.0),
    ({"epochs": 1, "accumulation": 2, "drop_last": True}, 2, 1.0),
    ({"epochs": 1, "accumulation": 9}, 1, 1.0),
]


@field("trainer.epochs")
@field("trainer.max_steps")
@field("trainer.batch_size")
@field("trainer.drop_last")
@field("trainer.accumulation")
@pytest.mark.parametrize(
    ("trainer", "options", "steps", "epochs"),
    [*(("loop", *row) for row in STEPS), *(("hf", *row) for row in STEPS[3::5])],
    ids=str,
)
def test_number_of_steps(train, trainer, options, steps, epochs):
    result = train(trainer, head="frozen-feature", **{"batch_size": 8, **options, **NEVER})
    assert result.training["steps"] == steps
    assert result.training["epochs"] == epochs
    assert logged(result) == list(range(1, steps + 1))


@field("trainer.epochs")
@pytest.mark.parametrize(
    ("head", "options", "epochs", "evaluations"),
    [
        ("linear", {"batch_size": 1}, 3, [36, 72, 108]),
        ("linear", {"batch_size": 12}, 34, [36, 72, 102]),
        ("frozen-feature", {"batch_size": 36}, 30, [*range(1, 31)]),
    ],
)
def test_head_and_texts_say_how_many_epochs_where_the_spec_does_not(
    train, head, options, epochs, evaluations
):
    result = train(head=head, best=None, **options)
    assert result.training["epochs"] == epochs
    assert evaluated(result) == evaluations
    assert "epochs: null" in Path(result.run_dir, "spec.yaml").read_text(encoding="utf-8")


def test_a_frozen_head_has_more_epochs_and_a_higher_rate_than_a_whole_encoder():
    assert FrozenFeature.epochs > Linear.epochs == 3
    assert FrozenFeature.learning_rate > Linear.learning_rate == 5e-5


def test_a_batch_that_the_texts_do_not_fill_cannot_be_dropped(train):
    with pytest.raises(SpecError, match="drop_last: 36 texts do not fill one batch of 37"):
        train(batch_size=37, drop_last=True)


@field("trainer.eval_batch_size")
@pytest.mark.parametrize("size", [5, 32])
def test_evaluation_and_features_are_computed_in_batches_of_their_own_size(train, size):
    progress = Amounts()
    train(head="frozen-feature", epochs=1, eval_batch_size=size, progress=progress)
    assert progress.seen["evaluate validation"] == ([5, 5, 2] if size == 5 else [12])
    assert progress.seen["encode"] == ([5] * 7 + [1, 5, 5, 2] if size == 5 else [32, 4, 12])


# --- the learning rate ----------------------------------------------------------------------

RATES = {
    # options, share of the learning rate after each of 5 steps
    "linear without warm-up": ({"warmup": 0}, [0.8, 0.6, 0.4, 0.2, 0]),
    "linear, a tenth of the steps by default": ({}, [1, 0.75, 0.5, 0.25, 0]),
    "linear, steps of warm-up": ({"warmup": 2}, [0.5, 1, 2 / 3, 1 / 3, 0]),
    "linear, a share for warm-up": ({"warmup": 0.4}, [0.5, 1, 2 / 3, 1 / 3, 0]),
    "cosine": (
        {"schedule": "cosine", "warmup": 1},
        [1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0],
    ),
    "constant": ({"schedule": "constant"}, [1] * 5),
    "constant with warm-up": ({"schedule": "constant_with_warmup", "warmup": 2}, [0.5, 1, 1, 1, 1]),
}


@field("trainer.schedule")
@field("trainer.warmup")
@field("trainer.learning_rate")
@pytest.mark.parametrize(
    ("trainer", "name"), [*(("loop", name) for name in RATES), ("hf", "cosine")]
)
def test_course_of_the_learning_rate(train, trainer, name):
    options, shares = RATES[name]
    for peak in (0.01, 0.5) if name == "cosine" else (0.01,):
        result = train(
            trainer, head="frozen-feature", max_steps=5, learning_rate=peak, **options, **NEVER
        )
        assert rates(result) == pytest.approx([peak * share for share in shares], abs=1e-9)


@pytest.mark.parametrize("head", [Linear, FrozenFeature])
def test_the_head_says_the_learning_rate_where_the_spec_does_not(train, head):
    result = train(head=head.type_name(), max_steps=2, schedule="constant")
    assert rates(result) == [head.learning_rate, head.learning_rate]
    assert result.training["learning_rate"] == head.learning_rate


def test_constant_refuses_a_warm_up_that_it_would_not_make(train):
    with pytest.raises(SpecError, match=r"`schedule: constant` has no warm-up"):
        train(schedule="constant", warmup=10)


# --- the optimizer --------------------------------------------------------------------------


def change(result, encoder_dir):
    """Return by how much training changed each weight of the encoder."""
    before = load_file(Path(encoder_dir, "model.safetensors"))
    after = weights_of(result)
    return {name: after[f"bert.{name}"] - value for name, value in before.items()}


ONE_STEP = {"max_steps": 1, "schedule": "constant", **NEVER}


@field("trainer.weight_decay")
@both
def test_weight_decay_shrinks_all_but_biases_and_norms(train, encoder_dir, trainer):
    with_decay, without = (
        change(train(trainer, learning_rate=0.1, weight_decay=w, **ONE_STEP), encoder_dir)
        for w in (2.0, 0.0)
    )
    before = load_file(Path(encoder_dir, "model.safetensors"))
    for name, value in before.items():
        spared = name.endswith("bias") or "LayerNorm" in name
        wanted = torch.zeros_like(value) if spared else -0.1 * 2.0 * value
        torch.testing.assert_close(with_decay[name] - without[name], wanted, atol=1e-6, rtol=1e-5)
        assert spared or bool(wanted.any())


@field("trainer.optimizer")
@both
def test_the_optimizer_decides_on_the_step(train, encoder_dir, trainer):
    norms = {}
    for kind in ("adamw", "adam", "sgd"):
        result = train(
            trainer, optimizer=kind, learning_rate=0.1, weight_decay=0.5, clip=None, **ONE_STEP
        )
        norms[kind] = float(change(result, encoder_dir)["embeddings.word_embeddings.weight"].norm())
    assert len({round(norm, 6) for norm in norms.values()}) == 3
    assert norms["sgd"] < norms["adamw"]  # Adam's first step has the length of the learning rate


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)],
)
def test_the_optimizer_has_the_parameters_that_are_trained_in_two_groups(kind, wanted):
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    options = Loop(optimizer=kind, learning_rate=0.25, weight_decay=0.125)
    optimizer = optimizer_for(model, options)
    assert type(optimizer) is wanted
    decayed, spared = optimizer.param_groups
    assert [p.shape for p in decayed["params"]] == [(4, 4), (2, 4)]
    assert [p.shape for p in spared["params"]] == [(4,), (4,), (4,), (2,)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.125, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    if kind == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


@field("trainer.clip")
@both
def test_clipping_bounds_the_norm_of_the_gradient(train, encoder_dir, trainer):
    def moved(clip):
        result = train(
            trainer, optimizer="sgd", learning_rate=1.0, weight_decay=0.0, clip=clip, **ONE_STEP
        )
        # of the encoder, whose share of the whole gradient does not depend on `clip`
        return sum(float((d**2).sum()) for d in change(result, encoder_dir).values()) ** 0.5

    free = moved(None)
    assert free > 0.02
    assert moved(1000.0) == pytest.approx(free)
    assert moved(0.001) < 0.001
    assert moved(0.002) == pytest.approx(2 * moved(0.001), rel=1e-3)


@field("trainer.accumulation")
@both
def test_accumulated_batches_weigh_as_one_large_batch(train, trainer):
    # texts of equal cost, so that the rows of the large batch are those of the small ones
    options = {"head": "frozen-feature", "epochs": 2, "drop_last": True, **NEVER}
    small = train(trainer, batch_size=12, accumulation=3, **options)
    large = train(trainer, batch_size=36, **options)
    assert losses(small) == pytest.approx(losses(large))
    assert small.training["batch_size"] == large.training["batch_size"] == 36
    torch.testing.assert_close(weights_of(small), weights_of(large))


# --- precision ------------------------------------------------------------------------------


@field("trainer.precision")
@both
def test_bf16_computes_otherwise_and_keeps_the_weights_in_fp32(train, trainer):
    exact = train(trainer, max_steps=3, precision="fp32")
    rough = train(trainer, max_steps=3, precision="bf16")
    assert exact.training["precision"] == {"used": "fp32", "reason": "as the spec says"}
    assert rough.training["precision"] == {"used": "bf16", "reason": "as the spec says"}
    assert losses(exact) != losses(rough)
    assert losses(exact) == pytest.approx(losses(rough), rel=0.02)
    assert {value.dtype for value in weights_of(rough).values()} == {torch.float32}


@both
def test_a_run_in_bf16_leaves_the_next_one_in_fp32(train, trainer):
    before = losses(train(trainer, max_steps=2))
    train(trainer, max_steps=2, precision="bf16")
    train("hf" if trainer == "loop" else "loop", max_steps=2, precision="bf16")
    assert losses(train(trainer, max_steps=2)) == before


def test_auto_says_what_it_took_and_why(train):
    measured = train(max_steps=1, precision="auto").training["precision"]
    assert measured["used"] in ("fp32", "bf16")
    assert "a bf16 matrix product is" in measured["reason"]
    features = train(max_steps=1, precision="auto", head="frozen-feature").training["precision"]
    assert features == {"used": "fp32", "reason": "features are kept exact"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused where there is no CUDA device")
@both
def test_fp16_is_refused_on_a_cpu_and_leaves_no_run_behind(train, tmp_path, trainer):
    with pytest.raises(SpecError, match=r"trainer\.precision: fp16 needs a CUDA device, found cpu"):
        train(trainer, precision="fp16")
    assert list(tmp_path.iterdir()) == []


# --- when what happens ----------------------------------------------------------------------


@field("trainer.log_steps")
@both
def test_losses_are_logged_every_so_many_steps_and_after_the_last(train, trainer):
    options = {"max_steps": 7, "batch_size": 12, **NEVER}
    each = train(trainer, **options)
    some = train(trainer, log_steps=3, **options)
    assert logged(each) == [1, 2, 3, 4, 5, 6, 7]
    assert logged(some) == [3, 6, 7]
    seven = losses(each)
    means = [sum(seven[:3]) / 3, sum(seven[3:6]) / 3, seven[6]]
    assert losses(some) == pytest.approx(means)


def test_a_logged_loss_is_the_mean_over_the_texts_since_the_last_one(train):
    options = {"max_steps": 2, "batch_size": 24, **NEVER}  # batches of 24 and 12, in some order
    first, second = losses(train(**options))
    (mean,) = losses(train(log_steps=2, **options))
    orders = [(24 * first + 12 * second) / 36, (12 * first + 24 * second) / 36]
    assert mean in (pytest.approx(orders[0]), pytest.approx(orders[1]))
    assert mean != pytest.approx((first + second) / 2, rel=1e-9)
    assert train(**options).training["train_loss"] == pytest.approx(mean)


RHYTHMS = [
    # rhythm, steps at which it is time, in 12 steps of 5 an epoch
    ({"epochs": 1}, [5, 10, 12]),
    ({"epochs": 2}, [10, 12]),
    ({"steps": 4}, [4, 8, 12]),
    ({"steps": 5}, [5, 10, 12]),
    ({"steps": 100}, [12]),
    (None, []),
]


@field("trainer.evaluate")
@field("trainer.evaluate.steps")
@field("trainer.evaluate.epochs")
@field("trainer.save")
@field("trainer.save.steps")
@field("trainer.save.epochs")
@pytest.mark.parametrize(("rhythm", "steps"), RHYTHMS, ids=str)
def test_evaluation_and_checkpoints_have_a_rhythm_each(train, rhythm, steps):
    common = {"head": "frozen-feature", "max_steps": 12, "batch_size": 8, "keep": 99, "best": None}
    result = train(**common, evaluate=rhythm, save={"steps": 7})
    assert (evaluated(result), checkpoints(result)) == (steps, [7, 12])
    result = train(**common, evaluate={"steps": 7}, save=rhythm)
    assert (evaluated(result), checkpoints(result)) == ([7, 12], steps)


def test_both_trainers_keep_the_rhythm(train):
    result = train("hf", max_steps=7, evaluate={"steps": 3}, save={"steps": 2}, keep=99, best=None)
    assert evaluated(result) == [3, 6, 7]
    assert checkpoints(result) == [2, 4, 6, 7]


@pytest.mark.parametrize("rhythm", [{}, {"steps": 2, "epochs": 1}])
def test_a_rhythm_has_one_unit(train, rhythm):
    with pytest.raises(SpecError, match=r"trainer\.save: give one of `steps` and `epochs`"):
        train(save=rhythm)


@field("trainer.keep")
@pytest.mark.parametrize(
    ("trainer", "keep", "left"),
    [("loop", 1, [4]), ("loop", 9, [1, 2, 3, 4]), ("hf", 3, [2, 3, 4])],
)
def test_the_newest_checkpoints_are_kept(train, trainer, keep, left):
    result = train(trainer, max_steps=4, save={"steps": 1}, keep=keep, best=None)
    assert checkpoints(result) == left


# --- which weights --------------------------------------------------------------------------

# so high a rate that validation gets worse and better all the time
ROUGH = {"learning_rate": 0.05, "max_steps": 8, "evaluate": {"steps": 1}, "optimizer": "adam"}


def scores(result, key):
    return {line["step"]: line[key] for line in result.history if line.get("split") == "validation"}


def best_step(result, key, choose):
    """Return the step of the best value; of equals the lowest loss decides, then the order."""
    values, loss = scores(result, key), scores(result, "loss")
    wanted = choose(values.values())
    return min((step for step in values if values[step] == wanted), key=lambda step: loss[step])


@field("trainer.best")
@pytest.mark.parametrize(
    ("trainer", "best", "key", "choose"),
    [
        ("loop", "loss", "loss", min),
        ("loop", "auto", "accuracy", max),
        ("loop", "f1", "f1", max),
        ("loop", "log_loss", "log_loss", min),
        ("hf", "loss", "loss", min),
        ("hf", "auto", "accuracy", max),
    ],
)
def test_the_weights_of_the_best_evaluation_are_kept(train, trainer, best, key, choose):
    # under `auto` 12 validation texts choose nothing, unless early stopping has to
    patience = {"early_stopping": 99} if best == "auto" else {}
    metrics = {"metrics": ["accuracy", "f1", "log_loss"]}
    result = train(trainer, best=best, **ROUGH, **patience, spec=metrics)
    values, loss = scores(result, key), scores(result, "loss")
    step = best_step(result, key, choose)
    assert 0 < step < 8, "this test needs a best step before the last one"
    best = {"metric": key, "value": values[step], "loss": loss[step], "step": step}
    assert result.training["best"] == best
    assert result.metrics["validation"][key] == pytest.approx(values[step])
    assert checkpoints(result) == sorted({step, 8})
    kept = load_file(Path(result.run_dir, f"checkpoints/step-{step:06d}/weights.safetensors"))
    assert all(torch.equal(value, kept[name]) for name, value in weights_of(result).items())


@field("trainer.best")
@both
def test_without_a_best_rule_the_last_weights_are_kept(train, trainer):
    result = train(trainer, best=None, **ROUGH)
    assert result.training["best"] is None
    assert checkpoints(result) == [8]
    assert result.metrics["validation"]["loss"] == pytest.approx(scores(result, "loss")[8])
    kept = load_file(Path(result.run_dir, "checkpoints/step-000008/weights.safetensors"))
    assert all(torch.equal(value, kept[name]) for name, value in weights_of(result).items())


def test_without_a_save_rhythm_only_the_best_checkpoint_is_written(train):
    result = train(best="loss", save=None, **ROUGH)
    assert checkpoints(result) == [result.training["best"]["step"]]


@field("trainer.best")
@both
def test_of_equal_values_the_one_with_the_lower_loss_is_better(train, trainer):
    result = train(
        trainer, head="frozen-feature", max_steps=6, evaluate={"steps": 1}, learning_rate=1e-4,
        schedule="constant", best="accuracy",
    )  # fmt: skip
    accuracy = scores(result, "accuracy")
    first, *_, last = (step for step, value in accuracy.items() if value == accuracy[1])
    assert max(accuracy.values()) == accuracy[1], "this test needs ties"
    assert result.training["best"]["step"] == last == best_step(result, "accuracy", max) > first


def test_a_tie_of_metric_and_loss_keeps_the_earlier_weights(train):
    still = {"optimizer": "sgd", "learning_rate": 1e-30, "weight_decay": 0.0}
    result = train(
        head="frozen-feature", max_steps=4, evaluate={"steps": 1}, best="accuracy", **still
    )
    assert len(set(scores(result, "loss").values())) == 1, "this test needs ties"
    assert result.training["best"]["step"] == 1


def test_a_tie_is_no_improvement_for_early_stopping(train):
    result = train(
        head="frozen-feature", max_steps=6, evaluate={"steps": 1}, learning_rate=1e-4,
        schedule="constant", best="accuracy", early_stopping=2,
    )  # fmt: skip
    assert result.training["stopped_early"]
    assert result.training["steps"] == 3
    assert result.training["best"]["step"] == 3


def test_best_names_a_metric_of_the_spec(train):
    with pytest.raises(SpecError, match=r"trainer\.best: found `acuracy`.*Did you mean `accuracy`"):
        train(best="acuracy")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"best": "accuracy"}, "best"),
        ({"early_stopping": 2}, "early_stopping"),
        ({"baseline": True}, "baseline"),
    ],
)
def test_what_needs_a_validation_split_says_so(train, options, name):
    from tests.conftest import reviews

    data = {"type": "inline", "train": reviews(), "validation": 0}
    with pytest.raises(SpecError, match=f"trainer.{name}: needs a validation split"):
        train(**options, spec={"dataset": data})


# --- when to stop ---------------------------------------------------------------------------


def strikes_until(values, patience, min_delta):
    """Return the step at which patience is over, computed from the values of all steps."""
    reference, strikes = None, 0
    for step, value in values.items():
        if reference is None or reference - value > min_delta:
            reference, strikes = value, 0
        else:
            strikes += 1
        if strikes == patience:
            return step
    return max(values)


@field("trainer.early_stopping")
@field("trainer.early_stopping.patience")
@field("trainer.early_stopping.min_delta")
@pytest.mark.parametrize(
    ("trainer", "stopping", "patience", "min_delta"),
    [
        ("loop", 1, 1, 0.0),
        ("loop", {"patience": 2}, 2, 0.0),
        ("loop", {"patience": 2, "min_delta": 0.5}, 2, 0.5),
        ("loop", {"min_delta": 10.0}, 3, 10.0),
        ("hf", {"patience": 2}, 2, 0.0),
    ],
    ids=str,
)
def test_training_stops_when_patience_is_over(train, trainer, stopping, patience, min_delta):
    whole = scores(train(trainer, best="loss", **ROUGH), "loss")
    result = train(trainer, best="loss", early_stopping=stopping, **ROUGH)
    stop = strikes_until(whole, patience, min_delta)
    assert result.training["steps"] == stop < 8
    assert result.training["stopped_early"]
    assert scores(result, "loss") == {step: v for step, v in whole.items() if step <= stop}
    assert result.training["best"]["step"] == best_step(result, "loss", min)
    assert stop in checkpoints(result)


def test_a_change_of_exactly_min_delta_is_not_enough_but_a_larger_one_is():
    from bertkit.trainers.training import better

    assert not better(0.5, 0.25, greater=True, by=0.25)
    assert better(0.5, 0.25, greater=True, by=0.2)
    assert not better(0.25, 0.5, greater=False, by=0.25)
    assert better(0.25, 0.5, greater=False, by=0.2)
    assert better(0.5, None, greater=True)
    assert not better(0.5, 0.5, greater=True)
    assert not better(float("nan"), None, greater=True)


@field("trainer.early_stopping.min_delta")
@pytest.mark.parametrize(
    ("min_delta", "patience", "steps"),
    [
        pytest.param(0.0, 1, 8, id="every improvement counts"),
        pytest.param(0.02, 3, 4, id="none is large enough"),
        pytest.param(0.005, 2, 8, id="two together are large enough"),
    ],
)
def test_improvements_below_min_delta_do_not_prolong_training(train, min_delta, patience, steps):
    result = train(
        head="frozen-feature", optimizer="adam", learning_rate=0.01, schedule="constant",
        max_steps=8, batch_size=36, evaluate={"steps": 1}, best="loss",
        early_stopping={"patience": patience, "min_delta": min_delta},
    )  # fmt: skip
    values = list(scores(result, "loss").values())
    gains = [before - after for before, after in itertools.pairwise(values)]
    assert all(0.002 < gain < 0.005 for gain in gains), "this test needs a steady improvement"
    assert result.training["steps"] == steps
    assert result.training["stopped_early"] == (steps < 8)
    assert result.training["best"]["step"] == steps


@pytest.mark.parametrize("options", [{"best": None}, {"evaluate": None}])
def test_early_stopping_needs_something_to_stop_on(train, options):
    with pytest.raises(SpecError, match="`early_stopping` needs `evaluate` and `best`"):
        train(early_stopping=2, **options)


# --- before training ------------------------------------------------------------------------


@field("trainer.baseline")
@both
def test_the_baseline_is_the_score_of_the_untrained_model(train, trainer):
    result = train(trainer, max_steps=2, baseline=True)
    assert evaluated(result) == [0, 2]
    assert scores(result, "loss")[0] == pytest.approx(0.693, abs=0.01)
    assert evaluated(train(trainer, max_steps=2)) == [2]


def test_the_baseline_is_never_the_best_model(train):
    result = train(baseline=True, best="loss", max_steps=3, learning_rate=0.5, optimizer="adam")
    values = scores(result, "loss")
    assert values[0] < values[3]
    assert result.training["best"]["step"] == 3

"""Seven families, two heads, two trainers: each run ends in a model that transformers loads."""

from __future__ import annotations

import gc

import pytest
import transformers
from safetensors.torch import load_file

import bertkit
from tests.conftest import FAMILIES, make_encoder, reviews

TEXTS = [row["text"] for row in reviews(6, seed=9)] + ["the hotel was very good " * 30]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Name and folder of a tiny random encoder."""
    assert transformers.Trainer
    gc.freeze()  # Trainer collects garbage after each training: spare it the libraries' objects
    return request.param, make_encoder(tmp_path_factory.mktemp("family") / "m", request.param)


def pooling_of(family):
    return "cls" if family == "albert" else "mean"


@pytest.mark.field("head")
@pytest.mark.field("trainer")
@pytest.mark.parametrize("trainer", ["loop", "hf"])
@pytest.mark.parametrize("head", ["linear", "frozen-feature"])
def test_plain_transformers_gives_the_scores_of_the_saved_model(family, head, trainer, tmp_path):
    name, folder = family
    options = {"type": head} | ({"pooling": pooling_of(name)} if head != "linear" else {})
    result = bertkit.run(
        {
            "encoder": str(folder),
            "dataset": {"type": "inline", "train": reviews(32)},
            "head": options,
            "trainer": {
                "type": trainer,
                "max_steps": 2,
                "learning_rate": 0.02,
                "precision": "fp32",
            },
            "output": str(tmp_path / "run"),
        }
    )
    assert result.training["steps"] == 2
    trained = load_file(tmp_path / "run/model/model.safetensors")
    assert all(value.isfinite().all() for value in trained.values())

    plain = transformers.pipeline("text-classification", model=result.model_dir, top_k=None)
    found = [
        {answer["label"]: answer["score"] for answer in answers}
        for answers in plain(TEXTS, truncation=True)
    ]
    wanted = [dict(one.scores) for one in bertkit.load(result.model_dir).predict(TEXTS)]
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert len({round(one["pos"], 6) for one in wanted}) > 1, "the texts must differ in score"

"""Every spec of docs/examples runs as it stands, on stand-ins of the same shape.

The specs are copied beside stand-in data, and one child process runs them all through the command
line. The encoders and datasets that they name come from a hub on this machine.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bertkit
from bertkit.records import RunResult
from bertkit.spec import RunSpec
from tests.loopback_hub import LoopbackHub

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SEEDS = sorted(path.name for path in EXAMPLES.glob("seed-*.yaml"))

LIMITS = {"seed-001-frozen-chnsenticorp.yaml": ["dataset.sample={train: 330}"]}
"""What keeps the tests short: 100 epochs are run, on fewer texts."""

YELP = "Yelp/yelp_review_full/yelp_review_full"
GOOD, BAD, FILLER = "好棒赞爱", "差坏烂糟", "房间服务酒店早餐的是很不我们"
WORDS = (
    "i love this movie the is terrible plot great acting bad . ! food slow staff kind again never "
    "one star two three four five books reads she write him saw who they"
)
ENGLISH = WORDS.split()

CHILD = """
import contextlib, os, shutil, traceback
from pathlib import Path
from bertkit.cli import main

os.chdir({folder!r})

def run(name, *arguments):
    with open(f"{{name}}.out", "w") as out, open(f"{{name}}.err", "w") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(["run", *arguments])
            except SystemExit as end:
                Path(f"{{name}}.code").write_text(str(end.code))
            except Exception as error:
                traceback.print_exc(file=err)
                Path(f"{{name}}.code").write_text(repr(error))

for spec, limits in {specs!r}.items():
    run(spec, spec, *(word for limit in limits for word in ("--set", limit)))

# what a run that was stopped after step 90 leaves behind, gone on with
whole, stopped = Path("runs/rbt3-chnsenticorp"), Path("runs/stopped")
if (whole / "result.json").is_file():
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "model")
    (stopped / "result.json").unlink()
    for checkpoint in (stopped / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > 90:
            shutil.rmtree(checkpoint)
    spec = "seed-003-rbt3-chnsenticorp.yaml"
    run("resumed", spec, "--set", f"output={{stopped}}", "--resume")
"""


def chinese(rng: random.Random, label: int, length: int) -> str:
    text = rng.choices(FILLER, k=length)
    for place in rng.sample(range(length), min(6, length)):
        text[place] = rng.choice((BAD, GOOD)[label])
    return "".join(text)


def english(rng: random.Random, signal: str) -> str:
    words = [*rng.choices(ENGLISH, k=rng.randint(4, 20)), signal]
    rng.shuffle(words)
    return " ".join(words)


def make_encoder(folder: Path, hidden: int) -> None:
    """Save a BERT of one layer that reads 512 tokens: Chinese characters and a few words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *GOOD, *BAD, *FILLER, *ENGLISH])
    vocabulary = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", model_max_length=512,
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_chnsenticorp(folder: Path) -> None:
    """Save splits as ChnSentiCorp has them: some texts too long, labels 0 and 1."""
    from datasets import Dataset, DatasetDict

    rng = random.Random(3)
    splits = {}
    for name, count in {"train": 2200, "validation": 120, "test": 120}.items():
        labels = [i % 2 for i in range(count)]
        lengths = [600 if i % 97 == 0 else rng.randint(3, 24) for i in range(count)]
        texts = [chinese(rng, *row) for row in zip(labels, lengths, strict=True)]
        splits[name] = Dataset.from_dict({"text": texts, "label": labels})
    DatasetDict(splits).save_to_disk(folder)


def make_food_reviews(file: Path) -> None:
    rng = random.Random(4)
    labels = [int(i % 5 < 3) for i in range(100)]
    texts = [chinese(rng, label, rng.randint(3, 30)) for label in labels]
    rows = [f'"{text}，{i}",{labels[i]}\n' for i, text in enumerate(texts)]
    file.write_text("review,label\n" + "".join(rows), encoding="utf-8")


def make_hub(root: Path) -> None:
    """Fill a hub with what the specs name."""
    from datasets import ClassLabel, Dataset, Features, Value

    for name, hidden in {
        "bert-base-uncased": 32, "bert-base-cased": 32, "bert-base-chinese": 768, "hfl/rbt3": 64,
    }.items():  # fmt: skip
        make_encoder(root / "models" / name, hidden)

    rng = random.Random(2)
    stars = ["1 star", "2 star", "3 stars", "4 stars", "5 stars"]
    yelp = Features({"label": ClassLabel(names=stars), "text": Value("string")})
    words = ["terrible", "slow", "food", "kind", "great"]
    for split in ("train", "test"):
        labels = [rng.randrange(5) for _ in range(1200)]
        texts = [english(rng, words[label]) for label in labels]
        table = Dataset.from_dict({"label": labels, "text": texts}, features=yelp)
        folder = root / "datasets" / YELP
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")

    names = ["unacceptable", "acceptable"]
    cola = {"sentence": Value("string"), "label": ClassLabel(names=names), "idx": Value("int32")}
    for config in ("cola", "sst2"):
        folder = root / "datasets" / "nyu-mll" / "glue" / config
        folder.mkdir(parents=True)
        for split, count in {"train": 160, "validation": 40, "test": 40}.items():
            labels = [-1 if split == "test" else i % 2 for i in range(count)]
            texts = [english(rng, ("saw", "never")[label]) for label in labels]
            content = {"sentence": texts, "label": labels, "idx": list(range(count))}
            table = Dataset.from_dict(content, features=Features(cola))
            table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    lines = ["---", "configs:"]
    for config in ("cola", "sst2"):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "validation", "test"):
            lines += [f"  - {{split: {split}, path: {config}/{split}-*}}"]
    text = "\n".join([*lines, "---", ""])
    (root / "datasets" / "nyu-mll" / "glue" / "README.md").write_text(text, encoding="utf-8")


class Done(NamedTuple):
    """What the child process left."""

    folder: Path

    def output(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text(encoding="utf-8")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.err").read_text(encoding="utf-8")

    def result(self, name: str) -> RunResult:
        assert (self.folder / f"{name}.code").read_text() == "0", self.log(name)
        return RunResult.read(self.folder / self.run_of(name))

    def run_of(self, name: str) -> str:
        if name == "resumed":
            return "runs/stopped"
        return str(RunSpec.from_file(self.folder / name).output)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("examples")
    for name in SEEDS:
        shutil.copy(EXAMPLES / name, folder)
    (folder / "data").mkdir()
    make_chnsenticorp(folder / "data" / "ChnSentiCorp")
    make_food_reviews(folder / "data" / "food_reviews_10k.csv")
    make_hub(folder / "hub")
    with LoopbackHub(folder / "hub") as hub:
        specs = {name: LIMITS.get(name, []) for name in SEEDS}
        code = CHILD.format(folder=str(folder), specs=specs)
        child = hub.python(code, folder / "home", BERTKIT_CACHE=str(folder / "cache"))
        assert child.returncode == 0, child.stderr
        (folder / "asked.json").write_text(json.dumps(hub.paths()), encoding="utf-8")
    return Done(folder)


def command(*arguments: Any) -> None:
    from bertkit.cli import main

    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert end.value.code == 0


def scores(text: str) -> dict[str, float]:
    """Read the one-row table that `bertkit evaluate` prints."""
    names, values = (line.split("\t")[1:] for line in text.splitlines())
    return dict(zip(names, map(float, values), strict=True))


def evaluations(result: RunResult) -> list[dict[str, Any]]:
    return [dict(row) for row in result.history if row.get("split") == "validation"]


@pytest.mark.parametrize("name", SEEDS)
def test_an_example_runs_as_it_stands(done: Done, name: str) -> None:
    result = done.result(name)
    spec = RunSpec.from_file(done.folder / name)
    wanted = {"loss", *(metric.key for metric in spec.metrics)}
    for split in result.metrics.values():
        assert set(split) == wanted
    assert "predict  bertkit predict" in done.log(name)


def test_there_is_an_example_for_every_system() -> None:
    assert [name[5:9].strip("-") for name in SEEDS] == [
        "000", "001", "002a", "002b", "002c", "003", "004a", "004b",
    ]  # fmt: skip


def test_encoders_and_datasets_come_from_the_hub_that_the_specs_name(done: Done) -> None:
    asked = json.loads((done.folder / "asked.json").read_text())
    for name in ("bert-base-chinese", "bert-base-uncased", "bert-base-cased", "hfl/rbt3"):
        assert any(f"/{name}/" in path for path in asked), name
    for name in ("datasets/Yelp/yelp_review_full", "datasets/nyu-mll/glue"):
        assert any(name in path for path in asked), name


class TestInlineSentences:
    name = "seed-000-inline.yaml"

    def test_the_loss_of_every_step_is_recorded(self, done: Done) -> None:
        history = done.result(self.name).history
        assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4, 5, 6]

    def test_the_model_loads_elsewhere_with_transformers_alone(
        self, done: Done, tmp_path: Path
    ) -> None:
        from transformers import pipeline

        elsewhere = tmp_path / "elsewhere"
        shutil.copytree(done.result(self.name).model_dir, elsewhere)
        classify = pipeline("text-classification", model=str(elsewhere), truncation=True)
        text = "The plot is great."
        (found,) = classify(text)
        (own,) = bertkit.load(elsewhere).predict(text)
        assert found["label"] == own.label
        assert found["label"] in ("negative", "positive")
        assert found["score"] == pytest.approx(own.score, abs=1e-5)


class TestFrozenChnSentiCorp:
    name = "seed-001-frozen-chnsenticorp.yaml"
    steps_per_epoch = 330 // 32

    def test_1538_parameters_are_trained_for_100_epochs(self, done: Done) -> None:
        result = done.result(self.name)
        assert result.training["parameters"]["trainable"] == 1538
        assert result.training["epochs"] == 100
        assert result.training["steps"] == 100 * self.steps_per_epoch

    def test_loss_and_accuracy_are_recorded_every_five_steps(self, done: Done) -> None:
        result = done.result(self.name)
        steps = list(range(5, result.training["steps"] + 1, 5))
        losses = [row["step"] for row in result.history if "learning_rate" in row]
        assert losses == steps
        assert [row["step"] for row in evaluations(result) if "accuracy" in row] == steps

    def test_the_weights_of_every_epoch_are_kept(self, done: Done) -> None:
        run_dir = Path(done.result(self.name).run_dir)
        kept = sorted(int(path.name[5:]) for path in run_dir.glob("checkpoints/step-*"))
        assert kept == [epoch * self.steps_per_epoch for epoch in range(1, 101)]

    def test_the_test_accuracy_of_a_chosen_epoch_can_be_had(
        self, done: Done, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = done.result(self.name)
        data = done.folder / "data/ChnSentiCorp/test/data-00000-of-00001.arrow"
        found = {}
        for epoch in (3, 100):
            command("evaluate", result.run_dir, data, "--step", epoch * self.steps_per_epoch)
            found[epoch] = scores(capsys.readouterr().out)
        assert found[100] == pytest.approx(result.metrics["test"], abs=1e-4)
        assert found[3]["loss"] > found[100]["loss"]

    def test_texts_typed_in_get_class_names_until_q(self, done: Done) -> None:
        import sys

        import pexpect

        run_dir = done.result(self.name).run_dir
        text = "房间很好，服务棒"
        (expected,) = bertkit.load(run_dir).predict(text)
        assert expected.label in ("负向评价", "正向评价")
        line = ["-c", "from bertkit.cli import main; main()", "predict", run_dir]
        child = pexpect.spawn(sys.executable, line, timeout=60, encoding="utf-8")
        child.expect_exact("labels: 负向评价, 正向评价; q to leave")
        child.expect_exact("text> ")
        child.sendline(text)
        child.expect_exact(f"{expected.label}  {expected.score:.4f}")
        child.expect_exact("text> ")
        child.sendline("q")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


class TestYelp:
    def test_the_thousand_texts_are_those_of_a_seeded_shuffle(self, done: Done) -> None:
        from datasets import Dataset

        from bertkit.datasets.splits import fingerprint

        folder = done.folder / "hub/datasets" / YELP
        for split in ("train", "test"):
            whole = Dataset.from_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
            drawn = whole.shuffle(seed=42).select(range(1000))
            found = done.result("seed-002b-yelp-loop.yaml").provenance["data"]
            assert found[split] == fingerprint(drawn)

    def test_five_labels_are_scored_on_a_thousand_test_texts(self, done: Done) -> None:
        for name in ("seed-002a-yelp-trainer.yaml", "seed-002b-yelp-loop.yaml"):
            result = done.result(name)
            matrix = result.reports["test"]["confusion_matrix"]
            assert sum(map(sum, matrix)) == 1000
            assert result.task["labels"] == ["1 star", "2 star", "3 stars", "4 stars", "5 stars"]

    def test_the_trainer_evaluates_each_epoch_and_never_on_the_test_split(self, done: Done) -> None:
        result = done.result("seed-002a-yelp-trainer.yaml")
        assert [row["epoch"] for row in evaluations(result)] == [1, 2, 3]
        assert {row["split"] for row in result.history if "split" in row} == {"validation"}
        assert sum(result.data["labels"]["validation"].values()) == 100

    def test_the_loop_trains_on_all_thousand_texts(self, done: Done) -> None:
        result = done.result("seed-002b-yelp-loop.yaml")
        assert result.training["steps"] == 3 * 1000 // 8
        assert evaluations(result) == []


class TestCola:
    def test_the_public_validation_split_is_the_test(self, done: Done) -> None:
        result = done.result("seed-002c-cola.yaml")
        assert result.task["labels"] == ["unacceptable", "acceptable"]
        counts = {name: sum(labels.values()) for name, labels in result.data["labels"].items()}
        assert counts == {"train": 144, "validation": 16, "test": 40}
        assert -1 <= result.metrics["test"]["matthews"] <= 1


class TestRbt3:
    name = "seed-003-rbt3-chnsenticorp.yaml"

    def test_parameters_are_counted_and_shown(self, done: Done) -> None:
        total = done.result(self.name).training["parameters"]["total"]
        assert f"model: {total:,} parameters, {total:,} of them trained" in done.log(self.name)

    def test_an_encoder_of_its_shape_has_38478338_parameters(self) -> None:
        from transformers import BertConfig, BertModel

        from bertkit.heads.linear import Linear
        from bertkit.records import Context
        from bertkit.tasks import SingleLabel

        encoder = BertModel(BertConfig(vocab_size=21128, num_hidden_layers=3))
        model = Linear().build(encoder, SingleLabel(("0", "1")), Context())
        assert sum(p.numel() for p in model.parameters()) == 38_478_338

    def test_texts_over_512_tokens_are_dropped_and_counted(self, done: Done) -> None:
        report = done.result(self.name).data["lengths"]["train"]
        assert report["longest"] == 602
        assert report["dropped_texts"] > 0
        assert report["texts"] + report["dropped_texts"] == 2000

    def test_it_is_scored_before_training_and_every_30_steps(self, done: Done) -> None:
        result = done.result(self.name)
        last = result.training["steps"]
        found = evaluations(result)
        assert [row["step"] for row in found] == [0, 30, 60, 90, 120, last]
        assert found[0]["accuracy"] < 0.7 < found[-1]["accuracy"]

    def test_every_30_steps_a_checkpoint_is_kept(self, done: Done) -> None:
        result = done.result(self.name)
        kept = sorted(path.name for path in Path(result.run_dir).glob("checkpoints/step-*"))
        last = result.training["steps"]
        assert kept == [f"step-{step:06d}" for step in (30, 60, 90, 120, last)]

    def test_resumed_at_step_90_it_ends_with_the_same_weights_and_scores(self, done: Done) -> None:
        whole, resumed = done.result(self.name), done.result("resumed")
        assert resumed.training["resumed_from"] == 90
        assert resumed.metrics == whole.metrics
        assert resumed.history == whole.history
        files = [Path(r.model_dir, "model.safetensors").read_bytes() for r in (whole, resumed)]
        assert files[0] == files[1]


class TestFoodReviews:
    name = "seed-004a-food-reviews.yaml"

    def test_the_table_is_cut_eight_to_two(self, done: Done) -> None:
        for name in (self.name, "seed-004b-food-reviews-loop.yaml"):
            counts = done.result(name).data["labels"]
            assert counts["test"] == {"NEGATIVE": 8, "POSITIVE": 12}
            assert sum(counts["train"].values()) + sum(counts["validation"].values()) == 80

    def test_two_checkpoints_and_the_best_one_are_kept(self, done: Done) -> None:
        result = done.result(self.name)
        per_epoch = result.training["steps"] // 3
        kept = {int(p.name[5:]) for p in Path(result.run_dir).glob("checkpoints/step-*")}
        best = result.training["best"]["step"]
        assert kept == {2 * per_epoch, 3 * per_epoch, best}
        by_step = {row["step"]: row["accuracy"] for row in evaluations(result)}
        assert by_step[best] == max(by_step.values())

    def test_the_scores_are_weighted_over_the_labels(self, done: Done) -> None:
        result = done.result(self.name)
        rows = result.reports["test"]["per_class"].values()
        total = sum(row["support"] for row in rows)
        for key in ("precision", "recall", "f1"):
            weighted = sum(row[key] * row["support"] for row in rows) / total
            assert result.metrics["test"][key] == pytest.approx(weighted)

    def test_the_saved_config_names_the_labels(self, done: Done) -> None:
        model_dir = Path(done.result(self.name).model_dir)
        config = json.loads((model_dir / "config.json").read_text())
        assert config["id2label"] == {"0": "NEGATIVE", "1": "POSITIVE"}

    def test_the_log_tells_the_total_time(self, done: Done) -> None:
        result = done.result(self.name)
        log = Path(result.run_dir, "log.txt").read_text(encoding="utf-8")
        assert f"done in {result.timings['total']:.1f} s" in log

    def test_one_text_is_predicted_from_the_command_line(
        self, done: Done, capsys: pytest.CaptureFixture[str]
    ) -> None:
        result = done.result(self.name)
        text = "送餐很好，服务棒"
        (expected,) = bertkit.load(result.run_dir).predict(text)
        capsys.readouterr()
        command("predict", result.run_dir, text)
        assert capsys.readouterr().out == f"{expected.label}\t{expected.score:.4f}\t{text}\n"
        assert expected.label in ("NEGATIVE", "POSITIVE")

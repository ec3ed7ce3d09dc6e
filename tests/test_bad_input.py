# ruff: noqa: E501 - a table is read by its rows
"""Bad input: every row is one mistake, the command that meets it, and what the message must say.

Each runs the real command line in a folder that holds

    run.yaml      a spec that works        reviews.csv   its data: 48 texts, labels neg and pos
    encoder/      a tiny BERT              done/         a finished run of that spec

and demands exit code 2, a short message on standard error, nothing on standard output, and that
every file is as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from loguru import logger
from typer.testing import CliRunner

import bertkit
from bertkit.cli import app
from bertkit.progress import Silent
from tests.conftest import reviews

SPEC = """\
encoder: ./encoder
dataset: {train: reviews.csv, test: 0.2}
trainer: {max_steps: 2, precision: fp32}
output: out
"""
HEAD = "encoder: ./encoder\noutput: out\n"


class Case(NamedTuple):
    """One mistake."""

    name: str
    files: dict[str, str | bytes | Callable[[Path], object]]
    """What lies there: content, or a function that makes it."""
    command: str
    said: list[str]
    stdin: bytes = b""


def changed(name: str, at: int = -5) -> Callable[[Path], object]:
    """Flip a bit of a file of a copied run."""

    def make(path: Path) -> None:
        copy_of("done")(path)
        content = bytearray((path / name).read_bytes())
        content[at] ^= 1
        (path / name).write_bytes(content)

    return make


def copy_of(source: str, *without: str) -> Callable[[Path], object]:
    """Copy a folder, without some of its files."""
    leave = shutil.ignore_patterns(*without)
    return lambda path: shutil.copytree(path.parent / source, path, ignore=leave)


def encoder_with(**changes: object) -> Callable[[Path], object]:
    """Copy the encoder and change its config."""

    def make(path: Path) -> None:
        copy_of("encoder")(path)
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return make


def folder(path: Path) -> None:
    """Make a folder."""
    path.mkdir()


def parquet(path: Path) -> None:
    """Write a table whose texts are numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [1, 2], "label": ["a", "b"]}), path)


def data(options: str) -> dict[str, str]:
    """Return a spec with these options of its dataset."""
    return {"run.yaml": f"{HEAD}dataset: {{{options}}}\n"}


def table(text: str | bytes, options: str = "") -> dict[str, str | bytes]:
    """Return a spec that trains on this file."""
    return {**data(f"train: bad.csv{options}"), "bad.csv": text}


ROWS = "text,label\n" + "good room,pos\nbad room,neg\n" * 10
RUN = "run run.yaml"

YAML = [
    Case("no such file", {}, "run nowhere.yaml", ["nowhere.yaml", "no such file", "expected a YAML file"]),
    Case("a name nearly right", {}, "run runs.yaml", ["runs.yaml", "did you mean run.yaml?"]),
    Case("a folder", {}, "run encoder", ["encoder: found a folder", "expected a YAML file: check the name"]),
    Case("empty", {"run.yaml": ""}, RUN, ["run.yaml, line 1", "no content", "key: value"]),
    Case(
        "a tab",
        {"run.yaml": "encoder: x\ntrainer:\n\tepochs: 1\n"}, RUN,
        ["run.yaml, line 3", "expected spaces: replace the tab"],
    ),
    Case(
        "a key twice",
        {"run.yaml": f"{SPEC}encoder: y\n"}, RUN,
        ["run.yaml, line 5", "the key 'encoder' again (first on line 1)", "delete or rename one"],
    ),
    Case(
        "an anchor",
        {"run.yaml": "encoder: &e bert\ndataset: *e\n"}, RUN,
        ["run.yaml, line 1, column 10", "an anchor", "write the value out"],
    ),
    Case(
        "a tag that would run code",
        {"run.yaml": "encoder: !!python/object/apply:os.system [touch pwned]\n"}, RUN,
        ["run.yaml, line 1", "tag", "expected plain values"],
    ),
    Case(
        "two documents",
        {"run.yaml": f"{SPEC}---\n{SPEC}"}, RUN,
        ["run.yaml, line 5", "a second document", "use two files"],
    ),
    Case(
        "no space after the colon",
        {"run.yaml": "encoder:bert\ndataset: a.csv\n"}, RUN,
        ["run.yaml, line 2", "write a space after each colon, above this line, too"],
    ),
    Case(
        "a quote that never ends",
        {"run.yaml": 'encoder: "bert\ndataset: a.csv\n'}, RUN,
        ["run.yaml, line 1", "close the quote"],
    ),
    Case(
        "a bracket that never ends",
        {"run.yaml": "metrics: [accuracy\ntask: single_label\n"}, RUN,
        ["run.yaml, line", "closing bracket"],
    ),
    Case(
        "another encoding",
        {"run.yaml": "encoder: ./encoder\n# gr\xfc\xdfe\n".encode("latin-1")}, RUN,
        ["run.yaml, line 2", "byte 0xFC", "save it as UTF-8"],
    ),
    Case(
        "a list",
        {"run.yaml": "- encoder\n- dataset\n"}, RUN,
        ["run.yaml", "expected a mapping with `encoder` and `dataset`"],
    ),
    Case("over 1 MiB", {"run.yaml": "#" * (1 << 20) + SPEC}, RUN, ["run.yaml", "at most 1 MiB"]),
    Case(
        "a merge key",
        {"run.yaml": "encoder: x\ntrainer:\n  <<: {epochs: 1}\n"}, RUN,
        ["run.yaml, line 3", "'<<'", "nothing is merged"],
    ),
]  # fmt: skip

FIELDS = [
    Case("no encoder", {"run.yaml": "dataset: a.csv\n"}, RUN, ["run.yaml: encoder: ", "The transformer"]),
    Case("no dataset", {"run.yaml": "encoder: x\n"}, RUN, ["run.yaml: dataset: ", "labelled texts"]),
    Case(
        "a key misspelt",
        {"run.yaml": f"{SPEC}trainner: {{}}\n"}, RUN,
        ["run.yaml: trainner: ", "Did you mean `trainer`?"],
    ),
    Case(
        "two mistakes at once",
        {}, f"{RUN} --set trainer.bach_size=8 --set seed=-1",
        ["2 mistakes", "trainer.bach_size: ", "Did you mean `batch_size`?", "seed: ", "-1"],
    ),
    Case("a text for a number", {}, f"{RUN} --set trainer.epochs=three", ["trainer.epochs: ", '"three"', "whole number"]),
    Case("a negative rate", {}, f"{RUN} --set trainer.learning_rate=-1", ["trainer.learning_rate: ", "-1", "0"]),
    Case("an unknown head", {}, f"{RUN} --set head=liner", ["head: ", "`liner`", "Did you mean `linear`?", "Known: "]),
    Case("an unknown metric", {}, f"{RUN} --set metrics=[acuracy]", ["metrics.0: ", "Did you mean `accuracy`?"]),
    Case("an unknown trainer", {}, f"{RUN} --set trainer.type=keras", ["trainer: ", "`keras`", "Known: hf, loop"]),
    Case("a type that is a number", {}, f"{RUN} --set head.type=3", ["head", "3", "name of a head"]),
    Case("no metrics", {}, f"{RUN} --set metrics=[]", ["metrics: ", "an empty list", "1 or more"]),
    Case(
        "the same metric twice",
        {}, f"{RUN} --set metrics=[f1,f1]",
        ["metrics: two results would be called `f1`", "give one a `name` of its own"],
    ),
    Case(
        "a best metric that is not computed",
        {}, f"{RUN} --set trainer.best=roc_auc",
        ["trainer.best: ", "`roc_auc`", "`auto` or one of: loss, accuracy, f1"],
    ),
    Case(
        "epochs and steps",
        {}, f"{RUN} --set trainer.epochs=1",
        ["trainer: ", "give one of `epochs` and `max_steps`"],
    ),
    Case(
        "a schedule misspelt",
        {}, f"{RUN} --set trainer.schedule=liner",
        ["trainer.schedule: ", '"liner"', "linear", "Did you mean"],
    ),
    Case("a share above one", {}, f"{RUN} --set dataset.test=1.5", ["dataset.test: ", "1.5", "below 1"]),
    Case("half a policy", {}, f"{RUN} --set long_text.head=9", ["long_text: ", "`keep: head+tail`"]),
    Case("a length of two", {}, f"{RUN} --set long_text.max_length=2", ["long_text.max_length: ", "2", "4"]),
    Case("an unknown device", {}, f"{RUN} --set compute.device=gpu", ["compute.device: ", '"gpu"', "cuda"]),
    Case(
        "a device that is not there",
        {}, f"{RUN} --set compute.device=cuda",
        ["compute.device: `cuda` is not on this machine", "write `auto` or `cpu`"],
    ),
    Case(
        "fp16 on a CPU",
        {}, f"{RUN} --set trainer.precision=fp16 --set compute.device=cpu",
        ["trainer.precision: fp16 needs a CUDA device", "write `auto`, `bf16` or `fp32`"],
    ),
    Case(
        "a name that TrainingArguments does not have",
        {}, f"{RUN} --set trainer.type=hf --set trainer.extra.gradient_checkpoint=true",
        ["trainer.extra.gradient_checkpoint: ", "Did you mean `gradient_checkpointing`?"],
    ),
    Case(
        "a name that bertkit has a field for",
        {}, f"{RUN} --set trainer.type=hf --set trainer.extra.bf16=true",
        ["trainer.extra.bf16: ", "`trainer.precision`"],
    ),
    Case(
        "early stopping without validation",
        {}, f"{RUN} --set trainer.early_stopping=2 --set dataset.validation=0",
        ["trainer.early_stopping: needs a validation split", "give dataset.validation"],
    ),
    Case(
        "a batch that is never full",
        {}, f"{RUN} --set trainer.drop_last=true --set trainer.batch_size=64",
        ["trainer.drop_last: 33 texts do not fill one batch of 64", "lower trainer.batch_size"],
    ),
    Case(
        "a class that is no label",
        {}, f"{RUN} --set 'metrics=[{{type: f1, average: binary, positive: happy}}]'",
        ["metrics", "happy", "neg, pos"],
    ),
]  # fmt: skip

OVERRIDES = [
    Case(
        "no value", {}, f"{RUN} --set trainer.epochs", ["--set trainer.epochs: expected KEY=VALUE"]
    ),
    Case("no key", {}, f"{RUN} --set =3", ["--set =3: expected KEY=VALUE", "trainer.epochs=1"]),
    Case("into a text", {}, f"{RUN} --set output.folder=x", ["--set output.folder=x", '"out"']),
    Case(
        "no such place in a list",
        {},
        f"{RUN} --set metrics=[f1] --set metrics.7=f1",
        ["--set metrics.7=f1", "list of 1"],
    ),
    Case(
        "a place among metrics that are not named",
        {},
        f"{RUN} --set metrics.1.average=micro",
        ["the spec names no metrics", "--set metrics=[accuracy,f1]"],
    ),
    Case(
        "a value that is no YAML",
        {},
        f"{RUN} --set 'metrics=[f1'",
        ["--set metrics", "closing bracket"],
    ),
    Case("an unknown field", {}, f"{RUN} --set sead=1", ["sead: ", "Did you mean `seed`?"]),
]

DATA = [
    Case(
        "a file name nearly right",
        data("train: review.csv"), RUN,
        ["dataset.train: there is no file", "review.csv", "Did you mean `reviews.csv`?"],
    ),
    Case("a folder", data("train: encoder"), RUN, ["dataset.train: ", "is a folder; expected a file"]),
    Case("a URL", data("train: 'https://x.org/a.csv'"), RUN, ["dataset.train", "is a URL; download it first"]),
    Case("an ending that says nothing", data("train: run.yaml"), RUN, ["run.yaml", ".yaml", "set dataset.format"]),
    Case("an empty file", table(""), RUN, ["bad.csv: the file is empty; expected labelled texts"]),
    Case("a header alone", table("text,label\n"), RUN, ["train", "has no rows"]),
    Case(
        "no such text column",
        data("train: reviews.csv, text: texts"), RUN,
        ["dataset.text: ", "no column `texts`", "Did you mean `text`?", "Found: text, label."],
    ),
    Case(
        "no such label column",
        data("train: reviews.csv, label: stars"), RUN,
        ["dataset.label: ", "no column `stars`", "Found: text, label."],
    ),
    Case("one column twice", data("train: reviews.csv, text: label"), RUN, ["dataset.label: the same column as dataset.text"]),
    Case("semicolons", table(ROWS.replace(",", ";")), RUN, ["no column `text`", "Found: text;label."]),
    Case("a missing text", table(f"{ROWS} ,pos\n"), RUN, ["1 of 21 texts are empty", "row 21", "remove those rows"]),
    Case("a missing label", table(f"{ROWS}good,\n"), RUN, ["1 of 21 labels are missing", "row 21", "`label`"]),
    Case("one label only", table(ROWS.replace("neg", "pos")), RUN, ["every one of its 14 texts has the label `pos`", "at least two"]),
    Case("a row too long", table(f"{ROWS}good, but small,pos\n"), RUN, ["bad.csv", "quotes", "dataset.delimiter"]),
    Case("another encoding", table(f"{ROWS}sch\xf6n,pos\n".encode("latin-1")), RUN, ["bad.csv, line 22", "not utf-8", "encoding: latin-1"]),
    Case("an unknown encoding", table(ROWS, ", encoding: utf8000"), RUN, ["dataset", "'utf8000'", "common ones are utf-8"]),
    Case(
        "a label in test that train never had",
        {**data("train: reviews.csv, test: bad.csv"), "bad.csv": "text,label\ngood,mixed\n"}, RUN,
        ["test: 1 texts", "label", "mixed"],
    ),
    Case(
        "a label that is not declared",
        data("train: reviews.csv, labels: [neg, positive]"), RUN,
        ["labels that are not among those dataset.labels names", "'pos' in row ", "Known: neg, positive."],
    ),
    Case("a label name twice", data("train: reviews.csv, labels: [a, b, a]"), RUN, ["dataset.labels: ", "found twice: a"]),
    Case("a share too small", table("text,label\na,x\nb,y\nc,x\n", ", validation: 0.01"), RUN, ["dataset.validation: 0.01 of 3 texts", "larger share"]),
    Case("no Parquet", {**data("train: bad.parquet"), "bad.parquet": b"PAR1 no"}, RUN, ["bad.parquet: not a readable parquet file"]),
    Case("numbers for texts", {**data("train: bad.parquet"), "bad.parquet": parquet}, RUN, ["dataset.text: column `text`", "int64", "expected strings"]),
    Case(
        "broken JSON lines",
        {**data("train: bad.jsonl"), "bad.jsonl": '{"text": "a", "label": "b"}\n{"text": \n'}, RUN,
        ["bad.jsonl, line 2"],
    ),
    Case("no saved dataset", data("type: disk, path: encoder"), RUN, ["dataset.path: ", "`save_to_disk`", "`type: files`"]),
    Case("a Python object", data("type: memory"), RUN, ["dataset", "`type: files`"]),
    Case("an inline text without label", data("type: inline, train: [{text: a}]"), RUN, ["dataset.train.0.label: "]),
    Case(
        "a hub dataset without network",
        data("type: hub, name: nobody/nothing"), f"{RUN} --offline",
        ["dataset.name: nobody/nothing", "offline"],
    ),
]  # fmt: skip

PAIR = "question,answer,label\n" + "who,me,a\nwhat,that,b\n" * 10
MANY = "text,label\n" + "good room,view|room\nbad room,room\nbad,\n" * 10
FLAGS = "text,room,view\n" + "good room,1,0\nbad view,0,1\n" * 10
STARS = "text,label\n" + "good,4.5\nbad,1.5\nfair,3\n" * 10
LISTS = '{"text": "good room", "label": ["room"]}\n{"text": "bad", "label": []}\n'


def lines(text: str) -> dict[str, str]:
    """Return a spec that trains on these JSON lines."""
    return {**data("train: bad.jsonl"), "bad.jsonl": text}


MANY_LABELS = table(MANY, ", separator: '|'")

TASKS = [
    # labels
    Case("numbers and words", table(f"{STARS}bad,bad\n"), RUN, ["train: column `label` mixes numbers, such as 4.5, and words, such as 'bad' in row 31", "correct it, or write `task: single_label`"]),
    Case("lists and words", lines(f'{LISTS}{{"text": "c", "label": "view"}}\n'), RUN, ["bad.jsonl: column `label` holds lists in 2 of 3 rows and single values in others"]),
    Case("a missing number", table(f"{STARS}bad,\nbad,nan\n"), RUN, ["2 of 32 labels are missing, in rows 31, 32", "remove those rows or fill the column `label`"]),
    Case("an infinite number", table(f"{STARS}bad,inf\n"), RUN, ["1 of 31 labels in column `label` are no finite numbers: 'inf' in row 31"]),
    Case("one number only", table("text,label\n" + "good,1.5\nbad,1.5\n" * 9), RUN, ["train: `label` is 1.5 in every one of its 12 texts", "two different values"]),
    Case("objects for labels", lines('{"text": "a", "label": {"stars": 5}}\n'), RUN, ["dataset.label: column `label` of train holds ", "expected a string or a number a text, or a list of them"]),
    Case("an empty label in a list", lines('{"text": "a", "label": ["x", ""]}\n'), RUN, ["1 of 1 lists in column `label` hold an empty label, in row 1", "take it out"]),
    Case("no labels at all", table("text,label\n" + "good,\nbad,\n" * 9, ", separator: '|'"), RUN, ["train: none of its 12 texts has a label"]),
    Case("a separator of lists", {**data("train: bad.jsonl, separator: '|'"), "bad.jsonl": LISTS}, RUN, ["dataset.separator: ", "column `label` holds lists; take the separator out"]),
    Case("a separator of columns", table(FLAGS, ", label: [room, view], separator: '|'"), RUN, ["dataset.separator: splits one column", "dataset.label names 2 columns; take the separator out"]),
    Case("an empty separator", {}, f"{RUN} --set 'dataset.separator=\"\"'", ["dataset.separator: ", "text of length 1 or more"]),
    Case("words in a column of one label", table(f"{FLAGS}bad,no,yes\n", ", label: [room, view]"), RUN, ["several label columns hold either 0 or 1", "found 'no' in column `room`, row 21", "name one column"]),
    Case("a 2 in a column of one label", table(f"{FLAGS}bad,2,1\n", ", label: [room, view]"), f"{RUN} --set task=multi_label", ["1 of 21 values in column `room` are neither 0 nor 1, such as '2' in row 21"]),
    Case("a label column misspelt", table(FLAGS, ", label: [room, veiw]"), RUN, ["dataset.label: ", "no column `veiw`", "Did you mean `view`?"]),
    Case("a label column twice", table(FLAGS, ", label: [room, room]"), RUN, ["dataset.label: the column `room` is named twice"]),
    Case("a column of lists among several", {**data("train: bad.jsonl, label: [label, room]"), "bad.jsonl": '{"text": "a", "label": ["x"], "room": 1}\n'}, RUN, ["dataset.label: column `label` of train holds lists", "several columns of single values"]),
    Case("too few names of columns", table(FLAGS, ", label: [room, view], labels: [Room]"), RUN, ["dataset.labels: 1 names do not fit the 2 columns of dataset.label (room, view)"]),
    Case("two names for one number", table(STARS, ", labels: [bad, good]"), RUN, ["dataset.labels: 2 names, and the targets of the regression are: label"]),
    Case("no label names", {}, f"{RUN} --set dataset.labels=[]", ["dataset.labels: at least one label name is expected"]),
    # pairs
    Case("one text of a pair is missing", table(f"{PAIR}why,,a\n", ", text: [question, answer]"), RUN, ["1 of 21 texts are empty or missing, in row 21", "fill the column `answer`"]),
    Case("a column of a pair misspelt", table(PAIR, ", text: [question, anser]"), RUN, ["dataset.text: ", "no column `anser`", "Did you mean `answer`?"]),
    Case("a pair of one column", table(PAIR, ", text: [answer, answer]"), RUN, ["dataset.text: both texts are the column `answer`; name two columns"]),
    Case("a pair with the label", table(PAIR, ", text: [question, label]"), RUN, ["dataset.label: the same column as dataset.text, `label`"]),
    Case("one column in a list", {}, f"{RUN} --set dataset.text=[text]", ["dataset.text: ", "2 or more items", "the two columns of a pair"]),
    Case("three columns", {}, f"{RUN} --set dataset.text=[a,b,c]", ["dataset.text: ", "2 items at most", "the two columns of a pair"]),
    Case("a side of single texts to cut", {}, f"{RUN} --set long_text.cut=first", ["long_text.cut: first, but dataset.text names one column", "take it out"]),
    Case("inline pairs beside single texts", data("type: inline, train: [{text: [a, b], label: x}, {text: c, label: y}]"), RUN, ["dataset: `text` is a list in 1 of 2 examples and not in the others"]),
    # task
    Case("an unknown task", {}, f"{RUN} --set task=regresion", ["task: ", '"regresion"', "single_label, multi_label or regression", "Did you mean `regression`?"]),
    Case("a regression on words", {}, f"{RUN} --set task=regression", ["48 of 48 labels in column `label` are no finite numbers: 'neg' in row 1", "a regression learns numbers", "`task: single_label`"]),
    Case("several labels of one", {}, f"{RUN} --set task=multi_label", ["task: multi_label, but column `label` holds one class a text", "means single_label", "expected a column of lists, a column of 0 and 1 for each label, or dataset.separator"]),
    Case("one label of several", MANY_LABELS, f"{RUN} --set task=single_label", ["task: single_label, but dataset.separator splits column `label`", "means multi_label", "expected one column with one value a text"]),
    Case("a regression on joined labels", MANY_LABELS, f"{RUN} --set task=regression", ["task: regression, but dataset.separator splits column `label`", "expected numbers"]),
    # thresholds
    Case("thresholds without validation", MANY_LABELS, f"{RUN} --set 'task={{type: multi_label, thresholds: validation}}' --set dataset.validation=0", ["task.thresholds: to be chosen on the validation split, and there is none", "give dataset.validation, such as 0.1, or the thresholds themselves"]),
    Case("a threshold of no label", MANY_LABELS, f"{RUN} --set 'task={{type: multi_label, thresholds: {{rom: 0.3}}}}'", ["task.thresholds: there is no label 'rom'. Did you mean `room`? Known: room, view."]),
    Case("a threshold above one", MANY_LABELS, f"{RUN} --set 'task={{type: multi_label, thresholds: 1.5}}'", ["task.thresholds: found 1.5; expected 1 or less"]),
    Case("a word for thresholds", MANY_LABELS, f"{RUN} --set 'task={{type: multi_label, thresholds: auto}}'", ['task.thresholds: found "auto"; expected validation, a number or a mapping']),
    Case("thresholds of a regression", table(STARS), f"{RUN} --set 'task={{type: regression, thresholds: 0.5}}'", ["task: `thresholds` are for `multi_label`, found type: regression"]),
    Case("thresholds of one label", {}, f"{RUN} --set 'task={{type: single_label, thresholds: 0.5}}'", ["task: `thresholds` are for `multi_label`, found type: single_label"]),
    # metrics
    Case("accuracy of numbers", table(STARS), f"{RUN} --set metrics=[accuracy]", ["metrics: `accuracy` is for single_label", "the task is regression", "choose from: mse, mae, pearson, spearman, r2"]),
    Case("an error of labels", {}, f"{RUN} --set metrics=[mae]", ["metrics: `mae` is for regression, and the task is single_label", "choose from: accuracy"]),
    Case("best of a metric of another task", table(STARS), f"{RUN} --set trainer.best=accuracy", ["trainer.best: found `accuracy`; expected `auto` or one of: loss, r2, mae, pearson"]),
    Case("a class that several labels do not have", MANY_LABELS, f"{RUN} --set 'metrics=[{{type: f1, average: binary, positive: rom}}]'", ["metrics", "f1"]),
    # loss and sampling
    Case("a weight of no label", {}, f"{RUN} --set trainer.class_weights.poss=2", ["trainer.class_weights: there is no label 'poss'. Did you mean `pos`? Known: neg, pos."]),
    Case("a draw of no label", {}, f"{RUN} --set trainer.sampling.poss=2", ["trainer.sampling: there is no label 'poss'. Did you mean `pos`? Known: neg, pos."]),
    Case("weights of nothing", {}, f"{RUN} --set 'trainer.class_weights={{neg: 0, pos: 0}}'", ["trainer.class_weights: every train text has the weight 0; give one above 0"]),
    Case("a weight below zero", {}, f"{RUN} --set trainer.class_weights.pos=-1", ["trainer.class_weights.pos: found -1; expected 0 or more"]),
    Case("a word for weights", {}, f"{RUN} --set trainer.class_weights=balance", ["trainer.class_weights: ", "balanced or a mapping", "Did you mean `balanced`?"]),
    Case("weights of a regression", table(STARS), f"{RUN} --set trainer.class_weights=balanced", ["trainer.class_weights: is for labels, and the task is regression; take it out"]),
    Case("draws of a regression", table(STARS), f"{RUN} --set trainer.sampling=balanced", ["trainer.sampling: is for labels, and the task is regression; take it out"]),
    Case("a focal loss of a regression", table(STARS), f"{RUN} --set trainer.focal=2", ["trainer.focal: is for labels, and the task is regression; take it out"]),
    Case("smoothing of a regression", table(STARS), f"{RUN} --set trainer.label_smoothing=0.1", ["trainer.label_smoothing: is for labels, and the task is regression; take it out"]),
    Case("smoothing of everything", {}, f"{RUN} --set trainer.label_smoothing=1", ["trainer.label_smoothing: found 1; expected a number below 1"]),
    # windows
    Case("windows that stand still", {}, f"{RUN} --set long_text.keep=windows --set long_text.stride=0", ["long_text.stride: found 0; expected 1 or more"]),
    Case("windows that skip", {}, f"{RUN} --set 'long_text={{keep: windows, max_length: 32, stride: 33}}'", ["long_text: `stride` (33) is more than max_length (32)", "would not be read"]),
    Case("windows that skip what the encoder reads", {}, f"{RUN} --set 'long_text={{keep: windows, stride: 63}}'", ["long_text.stride: 63 is more than the 62 tokens of text in a window", "write 62 or less"]),
    Case("a stride without windows", {}, f"{RUN} --set long_text.stride=9", ["long_text: `stride` is for `keep: windows`, found keep: head"]),
    Case("a pool of no kind", {}, f"{RUN} --set 'long_text={{keep: windows, pool: sum}}'", ["long_text.pool: ", "mean, max or attention"]),
    # the encoder's layers
    Case("more frozen layers than there are", {}, f"{RUN} --set head.freeze_layers=3", ["head.freeze_layers: 3", "2"]),
    Case("more new layers than there are", {}, f"{RUN} --set head.reinit_layers=3", ["head.reinit_layers: 3", "2"]),
    Case("a decay of nothing", {}, f"{RUN} --set head.layer_decay=0", ["head.layer_decay: found 0; expected a number above 0"]),
    Case("a dropout of everything", {}, f"{RUN} --set head.hidden_dropout=1", ["head.hidden_dropout: found 1; expected a number below 1"]),
    Case("a decay of features", {}, f"{RUN} --set head=frozen-feature --set head.layer_decay=0.9", ["head.layer_decay: unknown key. It is an option of `linear`"]),
]  # fmt: skip

ENCODERS = [
    Case("no such folder", {}, f"{RUN} --set encoder=./bert", ["encoder.name: there is no folder", "bert"]),
    Case("neither folder nor hub name", {}, f"{RUN} --set 'encoder=what is this?'", ["encoder.name: what is this?", "neither a folder nor a name on the hub"]),
    Case("not in the cache", {}, f"{RUN} --offline --set encoder=nobody/nothing", ["encoder.name: nobody/nothing", "offline", "run once with the network"]),
    Case("a folder of data", {"stuff": folder}, f"{RUN} --set encoder=./stuff", ["stuff: no config.json", "`save_pretrained`"]),
    Case(
        "pickled weights",
        {"old": copy_of("encoder", "*.safetensors"), "old/pytorch_model.bin": b"x"}, f"{RUN} --set encoder=./old",
        ["no model.safetensors", "pytorch_model.bin, which can run code", "convert the weights"],
    ),
    Case("code of its own", {"m": encoder_with(auto_map={"AutoModel": "x.Y"})}, f"{RUN} --set encoder=./m", ["config.json", "auto_map", "use a model that transformers knows"]),
    Case("a decoder", {"m": encoder_with(model_type="gpt2")}, f"{RUN} --set encoder=./m", ["a gpt2 model", "encoders of the BERT family"]),
    Case("an unknown model type", {"m": encoder_with(model_type="bertt")}, f"{RUN} --set encoder=./m", ["config.json", "`bertt` cannot be used"]),
    Case("weights of another size", {"m": encoder_with(hidden_size=64)}, f"{RUN} --set encoder=./m", ["m: ", "weights"]),
    Case("weights cut short", {"m": copy_of("encoder"), "m/model.safetensors": b"\0" * 99}, f"{RUN} --set encoder=./m", ["the weights cannot be loaded"]),
    Case("no tokenizer", {"m": copy_of("encoder", "tokenizer*")}, f"{RUN} --set encoder=./m", ["tokenizer"]),
    Case("a revision of a folder", {}, f"{RUN} --set encoder.revision=v1", ["encoder.revision: ", "take the revision out"]),
    Case("longer than it reads", {}, f"{RUN} --set long_text.max_length=999", ["long_text.max_length: 999", "64 tokens at most", "write 64 or less"]),
    Case(
        "heads that do not divide",
        {}, f"{RUN} --set 'encoder={{type: scratch, hidden_size: 30, attention_heads: 4}}'",
        ["encoder: ", "hidden_size (30) must be a multiple of attention_heads (4)"],
    ),
]  # fmt: skip

OUTPUTS = [
    Case("somebody else's folder", {"out": folder, "out/thesis.txt": "mine"}, RUN, ["output: ", "out is not empty and not a run of bertkit", "choose a new folder"]),
    Case("the same with --overwrite", {"out": folder, "out/thesis.txt": "mine"}, f"{RUN} --overwrite", ["not a run of bertkit"]),
    Case("a file", {"out": "mine"}, RUN, ["output: ", "out is a file; expected a folder"]),
    Case("below a file", {}, f"{RUN} --set output=reviews.csv/out", ["output: ", "reviews.csv/out cannot be", "choose another"]),
    Case("a name too long", {}, f"{RUN} --set output=new/{'x' * 300}", ["output: ", "cannot be written", "too long", "choose another"]),
    Case("a finished run", {"out": copy_of("done")}, RUN, ["output: ", "finished run", "--resume", "--overwrite"]),
    Case("an unfinished run", {"out": copy_of("done", "result.json")}, RUN, ["output: ", "an unfinished run", "--resume"]),
    Case("a resume of another spec", {"out": copy_of("done")}, f"{RUN} --resume --set seed=7", ["cannot resume", "seed was 42, is 7", "Undo the change"]),
    Case("a resume of nothing", {}, f"{RUN} --resume --set output=null", ["output: not set", "which run to resume", "name its folder"]),
    Case("resume and overwrite", {"out": copy_of("done")}, f"{RUN} --resume --overwrite", ["--resume and --overwrite", "give one of them"]),
]  # fmt: skip

WORDS = [
    Case("an unknown command", {}, "rum run.yaml", ["No such command 'rum'", "run"]),
    Case("an unknown option", {}, f"{RUN} --quite", ["No such option", "--quite", "--quiet"]),
    Case("no spec", {}, "run", ["Missing argument 'spec'"]),
    Case("a word too many", {}, f"{RUN} more.yaml", ["unexpected extra argument", "more.yaml"]),
    Case("a step that is no number", {}, "predict done good --step last", ["'--step'", "integer"]),
    Case(
        "a batch of nothing",
        {},
        "predict done good --batch-size 0",
        ["'--batch-size'", "equal to 1"],
    ),
    Case("an unknown plugin command", {}, "plugins lst", ["No such command 'lst'"]),
]

MODELS = [
    Case("no such folder", {}, "predict nowhere good", ["nowhere: there is no such folder; expected one that `bertkit run` wrote"]),
    Case("a file", {}, "predict reviews.csv good", ["reviews.csv", "no such folder; expected one that"]),
    Case("an encoder", {}, "predict encoder good", ["encoder: a model without a classification head (no classifier.bias, classifier.weight)"]),
    Case("an empty folder", {"e": folder}, "predict e good", ["e: no config.json"]),
    Case("an unfinished run", {"u": copy_of("done", "model", "result.json")}, "predict u good", ["u: this run has not saved a model yet; finish it: bertkit run u/spec.yaml --resume"]),
    Case("a damaged file", {"d": changed("model/config.json")}, "predict d good", ["config.json: not the file that was saved", "copy the folder again"]),
    Case("a missing file", {"d": copy_of("done", "tokenizer.json")}, "predict d good", ["tokenizer.json is missing; copy the whole folder again"]),
    Case("no such step", {}, "predict done good --step 9", ["no checkpoint of step 9; the steps kept are: 2"]),
    Case("an empty text", {}, "predict done good ''", ["text 2: expected a text, found ''"]),
    Case("texts and a file", {}, "predict done good --file reviews.csv", ["give texts or --file, not both"]),
    Case("a column without a file", {}, "predict done good --text review", ["--text names a column of --file"]),
    Case("an unknown policy", {}, "predict done good --keep middle", ["--keep: found 'middle'; expected head, tail or head+tail"]),
    Case("no such input", {}, "predict done --file nowhere.csv", ["--file: there is no file nowhere.csv"]),
    Case("no such column", {}, "predict done --file reviews.csv --text txt", ["--text: reviews.csv has no column `txt`", "Did you mean `text`?"]),
    Case("an empty row", {"t.csv": "text\ngood\n \n"}, "predict done --file t.csv --out o.csv", ["t.csv, row 2: expected a text"]),
    Case("an unknown output", {}, "predict done good --out o.xlsx", ["--out: o.xlsx should end in .jsonl, .csv or .tsv"]),
    Case("no folder for the output", {}, "predict done good --out new/o.csv", ["--out: there is no folder new"]),
    Case("binary input", {}, "predict done", ["standard input, line 2: not UTF-8 text; convert it"], b"good\n\xff\xfe\n"),
    Case("an unknown label", {"t.csv": "text,label\ngood,poss\n"}, "evaluate done t.csv", ["t.csv: 1 texts", "labels that are not among those the model knows: 'poss'", "Did you mean `pos`?"]),
    Case("no label column", {"t.csv": "text,y\ngood,pos\n"}, "evaluate done t.csv", ["--label: t.csv has no column `label`", "Found: text, y."]),
    Case("nothing to evaluate", {"t.csv": "text,label\n"}, "evaluate done t.csv", ["t.csv: no rows"]),
    Case("an output that is no JSON", {}, "evaluate done reviews.csv --out o.csv", ["--out: o.csv should end in .json"]),
    Case("neither run nor model", {}, "inspect .", ["neither a run of bertkit nor a model directory; expected one that"]),
    Case("a damaged result", {"d": copy_of("done"), "d/result.json": "{"}, "inspect d", ["result.json: not a result of bertkit"]),
    Case("a spec that is there", {}, "init reviews.csv run.yaml", ["run.yaml: is there already; give another name"]),
    Case("no data", {}, "init nowhere.csv new.yaml", ["there is no file nowhere.csv"]),
    Case("no column for the label", {"t.csv": "text\ngood\n"}, "init t.csv new.yaml", ["t.csv: no second column for the label"]),
    Case("no folder for the spec", {}, "init reviews.csv new/new.yaml", ["new/new.yaml: cannot be written", "choose another place"]),
]  # fmt: skip

TABLE = [
    *(pytest.param(case, id=f"{kind}: {case.name}")
      for kind, cases in {
          "yaml": YAML, "spec": FIELDS, "set": OVERRIDES, "data": DATA, "task": TASKS,
          "encoder": ENCODERS,
          "output": OUTPUTS, "command line": WORDS, "model": MODELS,
      }.items()
      for case in cases),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(encoder_dir, tmp_path_factory) -> Path:
    """What every row finds in its folder; copied, never changed."""
    place = tmp_path_factory.mktemp("shared")
    lines = [f"{row['text']},{row['label']}\n" for row in reviews()]
    (place / "reviews.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")
    (place / "run.yaml").write_text(SPEC, encoding="utf-8")
    shutil.copytree(encoder_dir, place / "encoder")
    return place


@pytest.fixture(scope="module")
def done(shared, tmp_path_factory) -> Path:
    """A finished run of the spec, as it looks from every row's folder."""
    place = tmp_path_factory.mktemp("done") / "place"
    shutil.copytree(shared, place)
    spec = bertkit.RunSpec.from_file(place / "run.yaml")
    bertkit.run(spec, progress=Silent())
    return place


def tree(place: Path) -> dict[str, str]:
    """Return every path below a folder with the hash of its content."""
    return {
        str(path.relative_to(place)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in place.rglob("*")
    }


@pytest.fixture
def place(shared, done, tmp_path, monkeypatch) -> Path:
    """The folder of a row, which is the working directory."""
    place = tmp_path / "place"
    shutil.copytree(shared, place)
    shutil.copytree(done / "out", place / "done")
    spec = place / "done" / "spec.yaml"
    text = spec.read_text(encoding="utf-8").replace(str(done), str(place))
    spec.write_text(text, encoding="utf-8")
    monkeypatch.chdir(place)
    yield place
    logger.remove()


@pytest.mark.parametrize("case", TABLE)
def test_a_mistake_is_explained_and_leaves_nothing_behind(place: Path, case: Case):
    for name, content in case.files.items():
        if callable(content):
            content(place / name)
        else:
            content = content.encode() if isinstance(content, str) else content
            (place / name).write_bytes(content)
    before = tree(place)

    found = CliRunner().invoke(app, shlex.split(case.command), input=case.stdin)

    assert found.exit_code == 2, (found.output, found.exception)
    assert found.stdout == ""
    message = re.sub(r"(?m)^\d\d:\d\d:\d\d .*\n", "", found.stderr)  # the log of what went well
    for fragment in case.said:
        assert fragment in message
    assert "Traceback" not in found.stderr
    assert len(message.splitlines()) <= 8
    assert len(message) < 1500
    assert tree(place) == before


def test_the_table_is_as_long_as_promised_and_names_no_case_twice():
    names = [param.id for param in TABLE]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


def test_the_spec_that_the_rows_break_works(place):
    found = CliRunner().invoke(app, ["run", "run.yaml", "--quiet"])
    assert found.exit_code == 0, found.output

"""Save and load a model directory: a plain transformers model, and what bertkit adds to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertkit.checkpoints import CheckpointStore, file_hash, sync_file, sync_folder
from bertkit.component import Component
from bertkit.errors import ArtifactError, DataError, MissingPluginError, UnknownComponentError
from bertkit.records import score_text
from bertkit.tasks import MultiLabel, Regression, SavedTask, SingleLabel, Task, task_from
from bertkit.text.long_text import Keep, LongText

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.heads.base import Head
    from bertkit.tasks import Prediction
    from bertkit.text.encoded import Tokens
    from bertkit.text.tokenize import TextEncoder

SETTINGS = "bertkit.json"
NATIVE = "head.safetensors"
ATTENTION = "windows."
"""Where the names of its tensors start that weigh windows."""
FORMAT = 1
STREAM_CHUNK = 2048
"""Texts that `Classifier.stream` holds at a time: sorted by length, answered in order."""


@dataclass(frozen=True)
class Exported:
    """A plain transformers model, and the tensors that stand beside it."""

    model: PreTrainedModel
    native: Mapping[str, Tensor]


def attention_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of the attention over windows, named as they are kept; {} without one."""
    found: Any = getattr(model, "attention", None) if hasattr(model, "module") else None
    if found is None:
        return {}
    return {f"{ATTENTION}{k}": v.detach().cpu() for k, v in found.state_dict().items()}


def as_trained(exported: Exported, head: Head | None, task: Task, long_text: LongText) -> nn.Module:
    """Return what predicts texts as the trained model did: the plain model, over windows or not.

    Args:
        exported: the plain model and what stands beside it.
        head: that it was trained with; None where windows are not weighed by attention.
        task: of the model.
        long_text: with `max_length`.
    """
    if long_text.keep != "windows":
        return exported.model
    from bertkit.heads.windows import Windowed

    inner: nn.Module = exported.model
    if head is not None:
        inner = head.restore(exported.model, exported.native, task)
    module = Windowed(inner, long_text.pool or "mean", task.num_labels)
    if long_text.pool == "attention":
        named = exported.native.items()
        weights = {k.removeprefix(ATTENTION): v for k, v in named if k.startswith(ATTENTION)}
        module.attention.load_state_dict(weights)
    return module.to(exported.model.device).eval()


def save_model(
    folder: Path,
    exported: Exported,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: Task,
    long_text: LongText,
    card: str,
    settings: Mapping[str, Any],
) -> None:
    """Write a model directory, whole or not at all.

    Args:
        folder: must not exist, or hold a model that bertkit saved.
        exported: a plain sequence-classification model, and tensors for `head.safetensors`.
        tokenizer: its truncation is set to agree with `long_text`, where transformers can.
        task: with the label names.
        long_text: with `max_length`.
        card: text of README.md.
        settings: further content of `bertkit.json`.

    Raises:
        ArtifactError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    exported.model.config.problem_type = task.problem_type  # a plugin's head may not have set it
    tokenizer.model_max_length = long_text.max_length
    tokenizer.truncation_side = "left" if long_text.keep == "tail" else "right"
    # transformers saves what a tokenizer was made with; of what was set later only the length
    tokenizer.init_kwargs["truncation_side"] = tokenizer.truncation_side
    for name in ("is_local", "local_files_only"):  # true of this machine only
        tokenizer.init_kwargs.pop(name, None)
    staging, replaced = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    try:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
        staging.mkdir(parents=True)
        exported.model.save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        if exported.native:
            native = {k: v.contiguous() for k, v in exported.native.items()}
            save_file(native, staging / NATIVE)
        (staging / "README.md").write_text(card, encoding="utf-8")
        hashes = {
            path.name: {"sha256": file_hash(path), "size": path.stat().st_size}
            for path in sorted(staging.iterdir())
            if path.name != "README.md"
        }
        content = {
            "format": FORMAT,
            "task": task.settings(),
            "long_text": long_text.model_dump(),
            **settings,
            "files": hashes,
        }
        content["sha256"] = _own_hash(content)
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        (staging / SETTINGS).write_text(text, encoding="utf-8")
        for path in staging.iterdir():
            sync_file(path)
        sync_folder(staging)
        if folder.exists():  # moved, for a folder that is half removed could still be loaded
            folder.rename(replaced)
        staging.rename(folder)
        sync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the model cannot be written ({error})") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _SavedFile(BaseModel):
    sha256: str
    size: int


class _Columns(BaseModel):
    model_config = ConfigDict(strict=True)

    text: str | Annotated[list[str], Field(min_length=2, max_length=2)]
    label: str | list[str]
    separator: str | None = None


class _Settings(BaseModel):
    """What `bertkit.json` must hold."""

    model_config = ConfigDict(extra="allow", strict=True)

    task: SavedTask
    long_text: LongText
    head: dict[str, Any]
    metrics: list[dict[str, Any]]
    columns: _Columns
    label_values: dict[str, str]
    plugins: dict[str, str]
    files: dict[str, _SavedFile]


def read_settings(folder: Path) -> dict[str, Any]:
    """Read and check `bertkit.json`; empty for a plain transformers model.

    Raises:
        ArtifactError: it is not what was saved, or its format is newer than this bertkit.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder}: there is no such folder; expected one that `bertkit run` wrote"
        )
    file = folder / SETTINGS
    if not file.is_file():
        return {}
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = settings["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{file}: not readable ({error}); copy the folder again") from None
    if version != FORMAT:
        raise ArtifactError(
            f"{file}: format {version!r}, this bertkit reads {FORMAT}; "
            "update bertkit, or load the folder with plain transformers"
        )
    if settings.pop("sha256", None) != _own_hash(settings):
        raise ArtifactError(_not_as_saved(file))
    try:
        _Settings.model_validate(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{file}: {place}: {first['msg']}; save the model again") from None
    return settings


def verify_files(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare the files of a model directory with the hashes in its settings.

    Raises:
        ArtifactError: one is missing, or not what was saved.
    """
    for name, entry in settings.get("files", {}).items():
        path = folder / Path(name).name
        if not path.is_file():
            raise ArtifactError(f"{folder}: {name} is missing; copy the whole folder again")
        if path.stat().st_size != entry["size"] or file_hash(path) != entry["sha256"]:
            raise ArtifactError(_not_as_saved(path))


def _own_hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _not_as_saved(path: Path) -> str:
    return (
        f"{path}: not the file that was saved (its sha256 differs); copy the folder again, "
        f"or delete {SETTINGS} to load it as it is"
    )


def saved_component(
    settings: Mapping[str, Any], place: str, kind: str, options: Mapping[str, Any]
) -> Component:
    """Return a component that a saved model names.

    Args:
        settings: content of `bertkit.json`.
        place: of the component in the spec, such as `head` or `metrics.0`.
        kind: of the component.
        options: of the component, `type` among them.

    Raises:
        MissingPluginError: no installed plugin provides it.
        ArtifactError: the installed one does not know these options.
    """
    from bertkit.registry import registry

    try:
        cls = registry().find(kind, str(options.get("type")))
        return cls.model_validate(dict(options))
    except UnknownComponentError as error:
        needed = settings.get("plugins", {}).get(place, "the plugin that provides it")
        raise MissingPluginError(
            f"{place}: the model was saved with the {kind} `{options.get('type')}`; "
            f"install {needed} ({error})"
        ) from None
    except ValidationError as error:
        raise ArtifactError(
            f"{place}: the installed {kind} `{options.get('type')}` does not take the options "
            f"that the model was saved with ({error.errors()[0]['msg']}); install the version "
            "that result.json names"
        ) from None


def load(folder: str | Path, *, device: str = "auto", step: int | None = None) -> Classifier:
    """Load a saved classifier for prediction.

    Args:
        folder: a model directory, or a run directory that holds one in `model/`. A
            sequence-classification model that transformers alone saved works, too.
        device: `auto`, `cpu`, `cuda`, …
        step: take the weights of this checkpoint of the run in place of the final ones.

    Raises:
        ArtifactError: it is no model directory, or damaged.
        ModelError: its weights are not safetensors, or its config asks for code.

    Example:
        >>> classifier = bertkit.load("runs/reviews")  # doctest: +SKIP
        >>> classifier.predict("很好看")[0].label  # doctest: +SKIP
        'POSITIVE'
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from bertkit.compute import quiet_libraries, resolve_device
    from bertkit.encoders.pretrained import check_config, check_tokenizer
    from bertkit.text.tokenize import fit_policy

    path = Path(folder)
    is_run = (path / "spec.yaml").is_file()
    run_dir = path if is_run else path.resolve().parent
    if is_run:
        path = path / "model"
        if not path.is_dir():
            raise ArtifactError(
                f"{folder}: this run has not saved a model yet; finish it: "
                f"bertkit run {Path(folder, 'spec.yaml')} --resume"
            )
    settings = read_settings(path)
    verify_files(path, settings)
    check_config(path)
    if not list(path.glob("model*.safetensors")):
        raise ArtifactError(f"{path}: no model.safetensors; bertkit reads safetensors only")
    with quiet_libraries():
        try:
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
            tokenizer = AutoTokenizer.from_pretrained(
                path, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ArtifactError(f"{path}: cannot be loaded ({reason})") from error
    if report["missing_keys"]:
        raise ArtifactError(
            f"{path}: a model without a classification head (no "
            f"{', '.join(sorted(report['missing_keys'])[:3])}); expected one that `bertkit run` or "
            "a sequence-classification model of transformers saved"
        )
    check_tokenizer(path, model, tokenizer)
    task = task_from(settings["task"]) if settings else _task_of(model)
    native: dict[str, Tensor] = {}
    if NATIVE in settings.get("files", {}):
        from safetensors.torch import load_file

        native = load_file(path / NATIVE)
    policy = LongText(**settings["long_text"]) if settings else LongText()
    head: Head | None = None
    if step is not None or policy.pool == "attention":
        head = _head_of(settings, path)
        if step is not None:
            native |= _overlay(model, head, task, native, run_dir, step)
    policy = fit_policy(policy, model, tokenizer)
    exported = Exported(model.to(resolve_device(device)).eval(), native)
    try:
        module = as_trained(exported, head if policy.pool == "attention" else None, task, policy)
    except (KeyError, RuntimeError) as error:  # tensors that are not there, or of another shape
        raise ArtifactError(
            f"{path / NATIVE}: does not hold the weights of the attention over windows; copy the "
            "folder again"
        ) from error
    return Classifier(model, module, tokenizer, task, policy, settings)


def _overlay(
    model: PreTrainedModel, head: Head, task: Task, native: Mapping[str, Tensor], run_dir: Path,
    step: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Put the weights of a checkpoint into a model; return those that stand beside it."""
    weights = CheckpointStore(run_dir / "checkpoints", {}).weights(step)
    attention = {k: v for k, v in weights.items() if k.startswith("attention.")}
    if attention or any(name.startswith("module.") for name in weights):
        weights = {k.removeprefix("module."): weights[k] for k in weights if k not in attention}
    head.overlay(model, weights, task)
    beside = {f"{ATTENTION}{k.removeprefix('attention.')}": v for k, v in attention.items()}
    return beside | {name: weights[name] for name in native if name in weights}


def _task_of(model: PreTrainedModel) -> Task:
    """Return the task of a model that transformers alone saved."""
    labels = tuple(map(str, (model.config.id2label or {}).values()))
    kinds: dict[str | None, type[Task]] = {
        task.problem_type: task for task in (SingleLabel, MultiLabel, Regression)
    }
    alone = Regression if len(labels) == 1 else SingleLabel
    return kinds.get(model.config.problem_type, alone)(labels)


def _head_of(settings: Mapping[str, Any], folder: Path) -> Head:
    from bertkit.heads.base import Head

    if not settings:
        raise ArtifactError(f"{folder}: not saved by bertkit, so there are no checkpoints")
    head = saved_component(settings, "head", "head", settings["head"])
    assert isinstance(head, Head)
    return head


class Classifier:
    """A saved model, loaded for prediction; made by `bertkit.load`.

    Attributes:
        model: the transformers model, in eval mode, fp32.
        module: what predicts: `model`, or `model` over the windows of a text.
        tokenizer: its tokenizer.
        task: with the label names in id order, or the targets of a regression.
        long_text: what happens to texts longer than `long_text.max_length`.
        settings: content of `bertkit.json`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        module: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        long_text: LongText,
        settings: Mapping[str, Any],
    ) -> None:
        self.model, self.module, self.tokenizer, self.task = model, module, tokenizer, task
        self.long_text, self.settings = long_text, settings
        self._encoders: dict[LongText, TextEncoder] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in id order, or the targets of a regression."""
        return self.task.labels

    @property
    def pairs(self) -> bool | None:
        """Whether the model reads pairs of texts; None where it was not saved by bertkit."""
        columns = self.settings.get("columns")
        return None if columns is None else isinstance(columns["text"], list)

    def predict(
        self,
        texts: str | tuple[str, str] | Iterable[str] | Iterable[tuple[str, str]],
        *,
        batch_size: int = 32,
        keep: Keep | None = None,
    ) -> list[Prediction]:
        """Classify texts, or pairs of them for a model that was trained on pairs.

        Args:
            texts: one text, any iterable of them, one pair as a tuple, or an iterable of pairs.
            batch_size: texts per forward pass; they are batched by length.
            keep: what to keep of long texts, in place of `long_text.keep`: `head`, `tail` or
                `head+tail`; a model that reads `windows` then reads one of them.

        Returns:
            One prediction a text, in order; a list of one for a single text.

        Raises:
            DataError: a text is not a string or empty, a single text where the model reads pairs,
                or too long under `drop` or `error`.
        """
        alone = isinstance(texts, str) or (
            isinstance(texts, tuple)
            and len(texts) == 2
            and self.pairs
            and all(isinstance(text, str) for text in texts)
        )
        return list(self.stream([texts] if alone else texts, batch_size=batch_size, keep=keep))

    def stream(
        self, texts: Iterable[Any], *, batch_size: int = 32, keep: Keep | None = None
    ) -> Iterator[Prediction]:
        """Classify texts as they come, in order, holding at most `STREAM_CHUNK` of them."""
        from itertools import islice

        source, first = iter(texts), 1
        while chunk := list(islice(source, STREAM_CHUNK)):
            tokens = self.tokens(chunk, first=first, keep=keep)
            for row in self.scores_of(tokens, batch_size=batch_size):
                yield self.task.prediction(row)
            first += len(chunk)

    def tokens(
        self,
        texts: Sequence[Any],
        *,
        targets: np.ndarray[Any, Any] | None = None,
        first: int = 1,
        keep: Keep | None = None,
    ) -> Tokens:
        """Tokenize texts as in training.

        Args:
            texts: strings that are not empty, or pairs of them.
            targets: what `Task.targets` gives for them, where it is known.
            first: number of the first text in messages.
            keep: what to keep of long texts, in place of `long_text.keep`.
        """
        from bertkit.text.tokenize import TextEncoder

        pairs = self._check(texts, first)
        policy = self.long_text
        if keep not in (None, policy.keep):
            policy = LongText(max_length=policy.max_length, keep=keep, cut=policy.cut)
        if policy not in self._encoders:
            self._encoders[policy] = TextEncoder(self.tokenizer, policy)
        encoder = self._encoders[policy]
        one, two = map(list, zip(*texts, strict=True)) if pairs else (list(texts), None)
        tokens, before = encoder.tokens(one, two, targets, first=first)
        if policy.keep in ("drop", "error") and (before > encoder.max_length).any():
            long = int((before > encoder.max_length).argmax())
            raise DataError(
                f"text {long + first}: {before[long]} tokens, the model reads "
                f"{encoder.max_length} and was saved with keep: {policy.keep}; shorten the text, "
                "or say what to keep of it (`keep='head'`, on the command line --keep head)"
            )
        return tokens

    def _check(self, texts: Sequence[Any], first: int) -> bool:
        """Refuse what is no text, or no pair where pairs are read; say whether these are pairs."""
        pairs = self.pairs
        if pairs is None:
            pairs = isinstance(texts[0], (tuple, list))
        for number, item in enumerate(texts, first):
            parts = item if pairs and isinstance(item, (tuple, list)) else (item,)
            if pairs and len(parts) != 2:
                raise DataError(
                    f"text {number}: the model reads pairs of texts, found {item!r}; "
                    "give a tuple of two"
                )
            for text in parts:
                if not isinstance(text, str) or not text.strip():
                    expected = "a pair of texts" if pairs else "a text"
                    raise DataError(f"text {number}: expected {expected}, found {item!r}")
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise DataError(
                        f"text {number}: {text!r} is not Unicode ({error.reason})"
                    ) from None
        return pairs

    def logits_of(self, tokens: Tokens, *, batch_size: int = 32) -> np.ndarray[Any, Any]:
        """Return the raw scores of tokenized texts, as they were trained, (n, num_labels)."""
        from bertkit.scoring import predict_logits

        module = self.model if tokens.counts is None else self.module  # `keep` may say one window
        device = str(self.model.device)
        logits = predict_logits(module, tokens, batch_size=batch_size, device=device)
        return self.task.from_plain(logits.numpy())

    def scores_of(self, tokens: Tokens, *, batch_size: int = 32) -> np.ndarray[Any, Any]:
        """Return probabilities, or values in the user's units, float64 (n, num_labels)."""
        return self.task.scores(self.logits_of(tokens, batch_size=batch_size))


def _about_long_texts(policy: LongText, pairs: bool) -> list[str]:
    """Return the lines of the card that say what becomes of them."""
    from bertkit.text.tokenize import WHICH

    limit = policy.max_length
    if policy.keep == "windows":
        weights = f" (weights in `{NATIVE}`)" if policy.pool == "attention" else ""
        return [
            f"This model reads at most {limit} tokens at a time. Plain transformers, called as "
            f"above, reads the first {limit} tokens of a longer text and no more. bertkit reads it "
            f"in up to {policy.max_windows} windows of {limit} tokens, each of which starts "
            f"{policy.stride} tokens after the one before, and pools their logits by "
            f"{policy.pool}{weights}, as in training. The scores above are of whole texts.",
        ]
    both = " of both texts together" if pairs else ""
    if policy.keep in ("drop", "error"):
        was = {"drop": "left out of training", "error": "refused in training"}[policy.keep]
        return [
            f"At most {limit} tokens{both} are read. What is longer was {was} (`{policy.keep}`): "
            "bertkit refuses it, and plain transformers reads its start.",
        ]
    cut = WHICH[policy.cut or "longest"] if pairs else "the text"
    lines = [
        f"At most {limit} tokens{both} are read; where there are more, {cut} is cut and its "
        f"`{policy.keep}` kept."
    ]
    if policy.keep == "head+tail":
        lines.append("Plain transformers keeps the head only, bertkit both, as in training.")
    return lines


def model_card(
    name: str,
    task: Task,
    long_text: LongText,
    head: Mapping[str, Any],
    encoder: str,
    scores: Mapping[str, Mapping[str, float | None]],
    *,
    columns: Sequence[str] = ("text",),
) -> str:
    """Return the README.md of a model directory; two columns are those of a pair."""

    def inline(text: str) -> str:
        """Show a text from the data as text: no markup of its own."""
        from bertkit.console import printable

        one_line = printable(" ".join(text.split()))[:80]
        return "`" + one_line.replace("`", "'") + "`"

    read, plain, own = "texts", '"a text"', '["a text"]'
    pairs = len(columns) > 1
    if pairs:
        read = f"pairs of texts (first {inline(columns[0])}, then {inline(columns[1])})"
        plain = '{"text": "a text", "text_pair": "another"}'
        own = '[("a text", "another")]'
    cut = {"first": '"only_first"', "second": '"only_second"'}.get(long_text.cut or "", "True")
    every = "" if task.one_answer else ", top_k=None"
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-classification", "tags: [bertkit]",
        "---", "", f"# {inline(name)}", "",
        f"A model for {read}, {task.about}, fine-tuned by bertkit from {inline(encoder)} with the "
        f"head `{head['type']}`.", "",
        "```python", "from transformers import pipeline", "",
        f'classify = pipeline("text-classification", model=".", truncation={cut}{every})',
        f"classify({plain})", "```", "",
        "or with bertkit, which needs the same files:", "",
        "```python", "import bertkit", "", f'bertkit.load(".").predict({own})', "```", "",
        f"## {task.noun}", "",
        *(f"- {i}: {inline(label)}{more}"
          for i, (label, more) in enumerate(zip(task.labels, task.remarks(), strict=True))), "",
    ]  # fmt: skip
    if task.advice:
        lines += [task.advice, ""]
    if scores:
        lines += ["## Scores", "", "| split | score | value |", "|---|---|---|"]
        for split, values in scores.items():
            for key, value in values.items():
                cell = inline(key).replace("|", "\\|")
                lines.append(f"| {split} | {cell} | {score_text(value)} |")
        lines.append("")
    lines += ["## Long texts", "", *_about_long_texts(long_text, pairs)]
    if head["type"] == "frozen-feature":
        lines += [
            "", "## Head", "",
            "The encoder was not trained. Its linear head is folded into the classification layers "
            "of this model family, which gives the same logits in float32 and bfloat16; for "
            "further training start from `head.safetensors`, not from the folded layers.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"

"""Save and load a model directory: a plain transformers model, and what bertkit adds to it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bertkit.checkpoints import CheckpointStore, file_hash, sync_file, sync_folder
from bertkit.component import Component
from bertkit.errors import ArtifactError, DataError, MissingPluginError, UnknownComponentError
from bertkit.tasks import SingleLabel, Task
from bertkit.text.long_text import Keep, LongText

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.text.encoded import Tokens
    from bertkit.text.tokenize import TextEncoder

SETTINGS = "bertkit.json"
FORMAT = 1
STREAM_CHUNK = 2048
"""Texts that `Classifier.stream` holds at a time: sorted by length, answered in order."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one text."""

    label: str
    score: float
    """Probability of `label`."""
    scores: Mapping[str, float]
    """Probability of every label."""


def save_model(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    task: Task,
    long_text: LongText,
    card: str,
    native: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Write a model directory, whole or not at all.

    Args:
        folder: must not exist, or hold a model that bertkit saved.
        model: a plain sequence-classification model.
        tokenizer: its truncation is set to agree with `long_text`, where transformers can.
        task: with the label names.
        long_text: with `max_length`.
        card: text of README.md.
        native: tensors for `head.safetensors`; none where empty.
        settings: further content of `bertkit.json`.

    Raises:
        ArtifactError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

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
        model.save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        if native:
            save_file({k: v.contiguous() for k, v in native.items()}, staging / "head.safetensors")
        (staging / "README.md").write_text(card, encoding="utf-8")
        hashes = {
            path.name: {"sha256": file_hash(path), "size": path.stat().st_size}
            for path in sorted(staging.iterdir())
            if path.name != "README.md"
        }
        content = {
            "format": FORMAT,
            "task": {"kind": task.kind, "labels": list(task.labels)},
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


class _SavedTask(BaseModel):
    kind: Literal["single_label"]
    labels: list[str]


class _SavedFile(BaseModel):
    sha256: str
    size: int


class _Settings(BaseModel):
    """What `bertkit.json` must hold."""

    model_config = ConfigDict(extra="allow", strict=True)

    task: _SavedTask
    long_text: LongText
    head: dict[str, Any]
    metrics: list[dict[str, Any]]
    columns: dict[str, str]
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
    if step is not None:
        _overlay(model, settings, run_dir, step)
    labels = settings["task"]["labels"] if settings else _labels_of(model)
    policy = LongText(**settings["long_text"]) if settings else LongText()
    return Classifier(
        model.to(resolve_device(device)).eval(),
        tokenizer,
        SingleLabel(tuple(labels)),
        fit_policy(policy, model, tokenizer),
        settings,
    )


def _labels_of(model: PreTrainedModel) -> list[str]:
    return list(map(str, (model.config.id2label or {}).values()))


def _overlay(model: PreTrainedModel, settings: Mapping[str, Any], run_dir: Path, step: int) -> None:
    from bertkit.heads.base import Head

    if not settings:
        raise ArtifactError(f"{run_dir}: not saved by bertkit, so there are no checkpoints")
    head = saved_component(settings, "head", "head", settings["head"])
    assert isinstance(head, Head)
    head.overlay(model, CheckpointStore(run_dir / "checkpoints", {}).weights(step))


class Classifier:
    """A saved model, loaded for prediction; made by `bertkit.load`.

    Attributes:
        model: the transformers model, in eval mode, fp32.
        tokenizer: its tokenizer.
        task: with the label names in id order.
        long_text: what happens to texts longer than `long_text.max_length`.
        settings: content of `bertkit.json`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        long_text: LongText,
        settings: Mapping[str, Any],
    ) -> None:
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.long_text, self.settings = long_text, settings
        self._encoders: dict[LongText, TextEncoder] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """The label names in id order."""
        return self.task.labels

    def predict(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 32,
        keep: Keep | None = None,
    ) -> list[Prediction]:
        """Classify texts.

        Args:
            texts: one text, or any iterable of them.
            batch_size: texts per forward pass; they are batched by length.
            keep: what to keep of long texts, in place of `long_text.keep`.

        Returns:
            One prediction a text, in order; a list of one for a single text.

        Raises:
            DataError: a text is not a string or empty, or too long under `drop` or `error`.
        """
        texts = [texts] if isinstance(texts, str) else texts
        return list(self.stream(texts, batch_size=batch_size, keep=keep))

    def stream(
        self, texts: Iterable[str], *, batch_size: int = 32, keep: Keep | None = None
    ) -> Iterator[Prediction]:
        """Classify texts as they come, in order, holding at most `STREAM_CHUNK` of them."""
        from itertools import islice

        source, first = iter(texts), 1
        while chunk := list(islice(source, STREAM_CHUNK)):
            logits = self.logits_of(
                self.tokens(chunk, first=first, keep=keep), batch_size=batch_size
            )
            for row in self.task.scores(logits):
                yield self._prediction(row)
            first += len(chunk)

    def tokens(self, texts: Sequence[Any], *, first: int = 1, keep: Keep | None = None) -> Tokens:
        """Tokenize texts as in training.

        Args:
            texts: strings that are not empty.
            first: number of the first text in messages.
            keep: what to keep of long texts, in place of `long_text.keep`.
        """
        import numpy as np

        from bertkit.text.encoded import LengthReport, Tokens
        from bertkit.text.tokenize import TextEncoder

        for number, text in enumerate(texts, first):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"text {number}: expected a text, found {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(
                    f"text {number}: {text!r} is not Unicode ({error.reason})"
                ) from None
        policy = self.long_text
        if keep not in (None, policy.keep):
            policy = LongText(max_length=policy.max_length, keep=keep)
        if policy not in self._encoders:
            self._encoders[policy] = TextEncoder(self.tokenizer, policy)
        encoder = self._encoders[policy]
        ids, before = encoder.encode(texts)
        long = [i for i, count in enumerate(before) if count > encoder.max_length]
        if long and policy.keep in ("drop", "error"):
            raise DataError(
                f"text {long[0] + first}: {before[long[0]]} tokens, the model reads "
                f"{encoder.max_length} and was saved with keep: {policy.keep}; shorten the text, "
                "or say what to keep of it (`keep='head'`, on the command line --keep head)"
            )
        lengths = np.array([len(one) for one in ids])
        values = np.concatenate([np.asarray(one) for one in ids])
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        report = LengthReport(len(ids), int(lengths.sum()), max(before), cut_texts=len(long))
        labels = np.zeros(len(ids), dtype=np.int64)
        return Tokens(values, offsets, labels, encoder.pad_id, report)

    def logits_of(self, tokens: Tokens, *, batch_size: int = 32) -> np.ndarray[Any, Any]:
        """Return the raw scores of tokenized texts, float32 (n, num_labels)."""
        from bertkit.scoring import predict_logits

        device = str(self.model.device)
        return predict_logits(self.model, tokens, batch_size=batch_size, device=device).numpy()

    def _prediction(self, scores: np.ndarray[Any, Any]) -> Prediction:
        best = int(self.task.decide(scores[None])[0])
        named = dict(zip(self.labels, map(float, scores), strict=True))
        return Prediction(self.labels[best], float(scores[best]), named)


def model_card(
    name: str,
    task: Task,
    long_text: LongText,
    head: Mapping[str, Any],
    encoder: str,
    scores: Mapping[str, Mapping[str, float | None]],
) -> str:
    """Return the README.md of a model directory."""

    def inline(text: str) -> str:
        """Show a text from the data as text: no markup of its own."""
        from bertkit.console import printable

        one_line = printable(" ".join(text.split()))[:80]
        return "`" + one_line.replace("`", "'") + "`"

    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-classification", "tags: [bertkit]",
        "---", "", f"# {inline(name)}", "",
        f"A text classifier with {task.num_labels} labels, fine-tuned by bertkit from "
        f"{inline(encoder)} with the head `{head['type']}`.", "",
        "```python", "from transformers import pipeline", "",
        'classify = pipeline("text-classification", model=".", truncation=True)',
        'classify("a text")', "```", "", "## Labels", "",
        *(f"- {i}: {inline(label)}" for i, label in enumerate(task.labels)), "",
    ]  # fmt: skip
    if scores:
        lines += ["## Scores", "", "| split | score | value |", "|---|---|---|"]
        for split, values in scores.items():
            for key, value in values.items():
                shown = "–" if value is None else f"{value:.4f}"
                cell = inline(key).replace("|", "\\|")
                lines.append(f"| {split} | {cell} | {shown} |")
        lines.append("")
    lines += [
        "## Long texts", "",
        f"At most {long_text.max_length} tokens are read; of longer texts, `{long_text.keep}` is "
        "what was kept in training.",
    ]  # fmt: skip
    if long_text.keep not in ("head", "tail"):
        lines.append("Plain transformers keeps the head of a longer text; `bertkit.load` does not.")
    if head["type"] == "frozen-feature":
        lines += [
            "", "## Head", "",
            "The encoder was not trained. Its linear head is folded into the classification layers "
            "of this model family, which gives the same logits in float32 and bfloat16; for "
            "further training start from `head.safetensors`, not from the folded layers.",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"

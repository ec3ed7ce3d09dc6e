"""Encoders that somebody trained: from the hub, or from a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from bertkit.component import anchored
from bertkit.compute import hub_snapshot
from bertkit.encoders.base import Encoder
from bertkit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bertkit.records import Context

WANTED = [
    "config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model",
]  # fmt: skip
"""What is downloaded: never pickles, never code."""
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
MOST_LAYERS = 512
"""More than any encoder has; a config that asks for a million would fill the memory."""


class Pretrained(Encoder):
    """A BERT-family encoder by its hub name or its folder; weights in safetensors only."""

    type: Literal["pretrained"] = "pretrained"
    name: str = Field(
        min_length=1, description="Name on the hub, such as bert-base-chinese, or a folder."
    )
    revision: str | None = Field(
        None, description="Branch, tag or commit on the hub; main by default."
    )

    @field_validator("name")
    @classmethod
    def _folders_are_paths(cls, value: str, info: ValidationInfo) -> str:
        base = (info.context or {}).get("base")
        if base is not None and (value[0] in "./~" or Path(base, value).is_dir()):
            return anchored(value, info)
        return value

    def load(self, ctx: Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load encoder and tokenizer."""
        folder = self._folder(ctx)
        ctx.say(f"reading encoder {folder}")
        return load_encoder(folder, ctx)

    def _folder(self, ctx: Context) -> Path:
        local = Path(self.name)
        if local.is_dir():
            if self.revision is not None:
                raise ModelError(
                    f"encoder.revision: {self.name} is a folder, which has no revisions; "
                    "take the revision out"
                )
            return local
        if local.is_absolute() or self.name[0] in ".~":
            raise ModelError(
                f"encoder.name: there is no folder {self.name}; a folder holds config.json, a name "
                "on the hub starts with neither a dot nor a slash"
            )
        place = "in the cache" if ctx.offline else "on the hub"
        ctx.say(f"looking for encoder {self.name} {place}")
        folder = hub_snapshot(
            self.name, self.revision, WANTED, kind="encoder", offline=ctx.offline, error=ModelError
        )
        ctx.note("encoder_revision", folder.name)
        return folder


def load_encoder(folder: Path, ctx: Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer from a folder, safetensors only, no code of its own.

    Args:
        folder: with config.json, model.safetensors and the tokenizer's files.
        ctx: for warnings.

    Raises:
        ModelError: something is missing or not what bertkit fine-tunes.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    check_config(folder)
    if not list(folder.glob("model*.safetensors")):
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl"))
        raise ModelError(
            f"{folder}: no model.safetensors"
            + (f"; found {', '.join(pickled)}, which can run code when loaded" if pickled else "")
            + ". bertkit reads safetensors only; convert the weights, or look for a revision that "
            "has them (on the hub often refs/pr/1)"
        )
    if not any(any(folder.glob(name)) for name in VOCABULARIES):
        raise ModelError(
            f"{folder}: no tokenizer; expected one of {', '.join(VOCABULARIES)}, which "
            "`tokenizer.save_pretrained` writes"
        )
    try:
        model, report = AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:
        reason = _short(error)
        if "ignore_mismatched_sizes" in reason:
            reason = "their shapes are not those that config.json asks for"
        raise ModelError(f"{folder}: the weights cannot be loaded ({reason})") from error
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing or report["mismatched_keys"]:
        names = ", ".join(map(str, [*missing, *report["mismatched_keys"]][:3]))
        raise ModelError(
            f"{folder}: model.safetensors lacks weights that config.json asks for, such as "
            f"{names}; the two do not belong together"
        )
    if any("pooler" in key for key in report["missing_keys"]):
        model.pooler = None  # what was drawn is no pooler; a head that trains one draws its own
        ctx.note("pooler", "missing in the weights")
    unread = sorted(key for key in report["unexpected_keys"] if re.search(r"\.\d+\.", key))
    if unread:
        ctx.warn(
            f"{folder}: config.json asks for fewer layers than the weights have; {len(unread)} "
            f"tensors are not used, such as {unread[0]}"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded ({_short(error)})") from error
    check_tokenizer(folder, model, tokenizer)
    return model, tokenizer


def check_config(folder: Path) -> dict[str, Any]:
    """Read config.json and refuse what is no encoder of the BERT family.

    Raises:
        ModelError: with what was found and what is expected.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder}: no config.json; expected a folder that `save_pretrained` wrote"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{file}: no model_type; expected the config of a transformers model")
    if "auto_map" in config:
        raise ModelError(
            f"{file}: asks to run code of its own (auto_map), which bertkit does not do; "
            "use a model that transformers knows by itself"
        )
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, MODEL_MAPPING, AutoConfig

    kind = config["model_type"]
    try:
        parsed = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{file}: model_type `{kind}` cannot be used ({_short(error)})") from error
    is_encoder = type(parsed) in MODEL_MAPPING and type(parsed) in MODEL_FOR_MASKED_LM_MAPPING
    if not is_encoder or parsed.is_encoder_decoder or getattr(parsed, "is_decoder", False):
        raise ModelError(
            f"{file}: a {kind} model; bertkit fine-tunes encoders of the BERT family, such as "
            "bert, roberta, distilbert, electra, albert, deberta-v2, modernbert"
        )
    layers = getattr(parsed, "num_hidden_layers", 1)
    if not 0 < layers <= MOST_LAYERS:
        raise ModelError(
            f"{file}: asks for {layers} layers; expected a number from 1 to {MOST_LAYERS}"
        )
    return config


def check_tokenizer(
    where: Path | str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse a tokenizer that does not go with the model.

    Raises:
        ModelError: it is not a fast one, or makes ids that the model has no vector for.
    """
    if not tokenizer.is_fast:
        raise ModelError(f"{where}: the tokenizer is not a fast one; save it as tokenizer.json")
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise ModelError(
            f"{where}: the tokenizer makes ids up to {largest}, the model has vectors for {rows}; "
            "the two do not belong together"
        )
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{where}: the tokenizer has no padding token")


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{text[:200]}{'…' if len(text) > 200 else ''}" if text else type(error).__name__

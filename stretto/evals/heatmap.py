"""Speed-up over exit layer and draft length, as a picture. Imported late: needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import TwoSlopeNorm

_PANELS = {"speedup": "measured", "predicted": "cost model", "acceptance": "acceptance rate"}


def draw_sweep(lines: Sequence[dict[str, Any]], path: Path) -> Path:
    """Heat maps over all tasks: speed-up, what the cost model says, and acceptance.

    Args:
        lines: of :func:`stretto.evals.sweep.sweep`.
        path: a PNG file.
    """
    lines = [line for line in lines if line["task"] == "all"]
    layers = sorted({line["layer"] for line in lines})
    lengths = sorted({line["rows"] for line in lines})
    speeds = [line[name] for line in lines for name in ("speedup", "predicted")]
    norm = TwoSlopeNorm(1.0, min(0.9, *speeds), max(1.1, *speeds))
    figure, axes = plt.subplots(
        1, len(_PANELS), figsize=(1.2 + 3.6 * len(_PANELS), 1.4 + 0.42 * len(layers)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axis, (name, title) in zip(axes.flat, _PANELS.items(), strict=True):
        by = {(line["layer"], line["rows"]): line[name] for line in lines}
        grid = [[by[layer, rows] for rows in lengths] for layer in layers]
        is_rate = name == "acceptance"
        # Blue is faster, orange slower; both read well for the colour-blind.
        look = (
            {"cmap": "Greys", "vmin": 0, "vmax": 1} if is_rate else {"cmap": "PuOr", "norm": norm}
        )
        axis.imshow(grid, aspect="auto", origin="lower", **look)
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                far = value > 0.6 if is_rate else abs(norm(value) - 0.5) > 0.35
                axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize="small",
                          color="white" if far else "black")  # fmt: skip
        axis.set_title(title if is_rate else f"speed-up, {title}")
        axis.set_xticks(range(len(lengths)), lengths)
        axis.set_yticks(range(len(layers)), layers)
        axis.set_xlabel("rows drafted at a time")
    axes[0, 0].set_ylabel("exit after layer")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path

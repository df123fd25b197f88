"""The house style of pictures. Imported late: needs matplotlib.

The same data draws the same bytes: no date and no random name is written into a picture.
"""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, which colour-blind readers can tell apart.
GREY, RED, BLUE, GREEN, ORANGE = "#999999", "#D55E00", "#0072B2", "#009E73", "#E69F00"
COLOURS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#000000", GREY)


def panels(
    titles: Sequence[str], height: float = 3.2, *, columns: int = 3, width: float = 4.2, **how: Any
) -> tuple[Any, list[Any]]:
    """A figure of small panels, one a title (not yet set), as many in a row as given."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    size = (width * columns, height * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **how
    )
    flat = list(axes.flat)
    for unused in flat[len(titles) :]:
        unused.set_visible(False)
    return figure, flat


def legend(figure: Any, *axes: Any, columns: int = 6) -> None:
    """One for all panels, above them, where it hides nothing; each label once.

    The figure grows by what more than one line of it takes.
    """
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    lines = -(-len(found) // columns)
    figure.set_figheight(figure.get_figheight() + 0.22 * (lines - 1))
    figure.legend(found.values(), found.keys(), loc="outside upper left",
                  ncols=min(columns, len(found)), fontsize="small")  # fmt: skip


def svg(figure: Any) -> bytes:
    """The figure as a self-contained SVG: text as outlines, so it needs no font."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "stretto", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()

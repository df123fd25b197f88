"""Tables of a report as text, written as HTML, LaTeX, PDF or Markdown by others.

Strict and legacy figures stand one under the other, the share of invalid answers beside them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stretto.commons.compare import Contrast, Group
from stretto.commons.stats import Interval
from stretto.commons.table import MEASURES, Table

MISSING = "-"
INVALID_NOTE = (
    "Invalid answers are the share of harvest answers that could not be read; '-' is not known or "
    "undefined."
)


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        name: short, for files and anchors.
        title: what it is.
        note: how to read it.
        header: of the columns.
        body: lines of cells; as many as the header has.
        quiet: lines to be set back, by index.
    """

    name: str
    title: str
    note: str
    header: tuple[str, ...]
    body: tuple[tuple[str, ...], ...]
    quiet: frozenset[int] = frozenset()


def condition_grid(found: Sequence[Group]) -> Grid:
    """Means of every condition in both forms."""
    header = ("condition", "form", "runs", *(f"{k.title}, {k.unit}" for k in MEASURES.values()),
              "runs with a month of no harvest, %")  # fmt: skip
    body = []
    for group in found:
        cells = [
            interval(value, kind.scale)
            + (f" ({value.runs} known)" if value is not None and value.runs < group.runs else "")
            for name, kind in MEASURES.items()
            for value in [group.values[name]]
        ]
        zero = MISSING if group.zero_months is None else f"{100 * group.zero_months:.0f}"
        body.append((group.condition, group.form, str(group.runs), *cells, zero))
    return Grid(
        "conditions", "Means by condition",
        "Mean [95 % interval] over runs: bootstrap, of rates Wilson's; of fewer than 3 runs no "
        f"interval. Conclude from strict; compare with GovSim's tables by legacy. {INVALID_NOTE}",
        header, tuple(body), frozenset(i for i, g in enumerate(found) if g.form == "legacy"),
    )  # fmt: skip


def run_grid(table: Table) -> Grid:
    """Every run, a line in each form."""
    header = ("run", "condition", "seed", "form", "months",
              *(f"{k.title}, {_unit(name)}" for name, k in MEASURES.items()))  # fmt: skip
    body = []
    for row in table.rows:
        for form in ("strict", "legacy"):
            cells = [number(row.values(form)[n], kind.scale) for n, kind in MEASURES.items()]
            seed = MISSING if row.seed is None else str(row.seed)
            body.append((row.run, row.label, seed, form, f"{row.months}/{row.horizon}", *cells))
    quiet = frozenset(range(1, len(body), 2))
    return Grid("runs", "Runs", f"Months played of the horizon. {INVALID_NOTE}",
                header, tuple(body), quiet)  # fmt: skip


def contrast_grid(found: Sequence[Contrast], name: str, title: str, note: str) -> Grid:
    """Differences or effects, with p-values before and after correction."""
    tests = sum(one.p is not None for one in found)
    by = "by seed" if all(one.paired for one in found) else "by seed where 'pairs' are given"
    many = (
        f"{note} Differences [95 % bootstrap interval], {by}; p two-sided, by permutation. "
        f"{tests} hypotheses are tested in this table: conclude from the corrected p (Holm), not "
        "from the plain one."
    )
    body = []
    for one in found:
        kind = MEASURES[one.measure]
        unit = "% points" if kind.scale == 100 else kind.unit
        count = f"{one.value.runs} {'pairs' if one.paired else 'runs'}"
        body.append((
            one.what, kind.title, unit, interval(one.value, kind.scale),
            count, p_value(one.p), p_value(one.holm),
        ))  # fmt: skip
    header = ("difference", "measure", "unit", "value", "pairs or runs", "p", "p, Holm")
    return Grid(name, title, many, header, tuple(body))


def interval(value: Interval | None, scale: float = 1.0) -> str:
    """As in ``55.0 [42.1, 67.9]``; without an interval where there is none."""
    if value is None:
        return MISSING
    whole = number(value.value, scale)
    if value.low == value.high:
        return whole
    return f"{whole} [{number(value.low, scale)}, {number(value.high, scale)}]"


def number(value: float | None, scale: float = 1.0) -> str:
    """With one decimal, or a dash; never a minus before zero."""
    if value is None or value != value:
        return MISSING
    text = f"{scale * value:.1f}"
    return "0.0" if text == "-0.0" else text


def p_value(value: float | None) -> str:
    """With three decimals."""
    if value is None:
        return MISSING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def latex(grids: Iterable[Grid]) -> str:
    """Tables for a paper; needs ``booktabs`` and ``longtable``."""
    parts = ["% Needs \\usepackage{booktabs,longtable} and UTF-8 input."]
    for grid in grids:
        columns = len(grid.header)
        lines = [" & ".join(map(escape, line)) + r" \\" for line in grid.body]
        head = " & ".join(map(escape, grid.header)) + r" \\"
        parts.append("\n".join([
            rf"\begin{{longtable}}{{l*{{{columns - 1}}}{{r}}}}",
            rf"\caption{{{escape(f'{grid.title}. {grid.note}')}}}\label{{tab:{grid.name}}}\\",
            r"\toprule", head, r"\midrule", r"\endfirsthead",
            r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endlastfoot",
            *lines, r"\end{longtable}",
        ]))  # fmt: skip
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """As LaTeX prints it, whatever is in it."""
    return "".join(_LATEX.get(c, c) for c in text.replace("\n", " "))


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def markdown(grid: Grid) -> str:
    """As a page shows it."""
    lines = [grid.header, tuple("---" for _ in grid.header), *grid.body]
    rows = ["| " + " | ".join(_bar(cell) for cell in line) + " |" for line in lines]
    return f"## {grid.title}\n\n{grid.note}\n\n" + "\n".join(rows) + "\n"


def _bar(cell: str) -> str:
    return cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def _unit(name: str) -> str:
    return "1 or 0, %" if name == "survived" else MEASURES[name].unit

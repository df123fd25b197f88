"""Writing a report: an HTML page of one file, a PDF, LaTeX tables, and always CSV.

The same runs give the same bytes; nothing in a report says when it was written unless told.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from stretto import __version__
from stretto.commons import compare
from stretto.commons.compare import Contrast, Group
from stretto.commons.game import Game
from stretto.commons.replay import GAME, Line, game_of, lines, read_events
from stretto.commons.report import grids as tables
from stretto.commons.report.grids import Grid
from stretto.commons.table import MEASURES, Table, read_table
from stretto.errors import ConfigError
from stretto.runs import atomic_write

FORMATS = ("html", "pdf", "latex")
MOST_RUNS = 120  # listed one by one on a page


@dataclass(frozen=True)
class Content:
    """Everything a report says.

    Attributes:
        table: the runs.
        groups: by condition.
        differences: against the baseline.
        effects: of a factorial.
        grids: as they are shown.
        game: of a single run, for its catches.
        lines: its transcript.
        remarks: what a reader must know.
    """

    table: Table
    groups: list[Group]
    differences: list[Contrast]
    effects: list[Contrast]
    grids: list[Grid]
    remarks: list[str]
    game: Game | None = None
    lines: list[Line] = field(default_factory=list)


def write_report(
    folder: str | Path,
    out: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    baseline: str = "",
    date: str = "",
) -> list[Path]:
    """Report on a sweep's folder or on one run.

    Args:
        folder: of a sweep or a run, or a ``game.jsonl``.
        out: folder, made where needed.
        formats: of ``html``, ``pdf``, ``latex``; tables as CSV come with all.
        baseline: condition that others are compared with; the first if empty.
        date: written into the page, if given.

    Returns:
        The files written.

    Raises:
        ConfigError: no such format.
        InputError: nothing to report on, or no such baseline.
    """
    path = Path(folder)
    content = collect(read_table(path), baseline)
    if not (path / "manifest.json").exists():
        events = read_events(path if path.is_file() else path / GAME)
        content = replace(content, game=game_of(events), lines=list(lines(events)))
        if not any(event["type"] == "end" for event in events):
            content.remarks.insert(0, "This run is not finished: figures are of what is there.")
    return write(content, Path(out), formats, date)


def import_report(
    paths: Sequence[str | Path],
    out: str | Path,
    formats: Sequence[str] = FORMATS,
    *,
    date: str = "",
) -> list[Path]:
    """Report on runs of others: see :func:`stretto.commons.published.read_published`."""
    from stretto.commons.published import read_published

    return write(collect(read_published([Path(path) for path in paths])), Path(out), formats, date)


def collect(table: Table, baseline: str = "") -> Content:
    """Compute what is to be said."""
    remarks = list(table.remarks)
    found = compare.groups(table)
    shown = [tables.condition_grid(found)]
    comparable = len(table.conditions) > 1 and table.rows[0].condition.get("model") is None
    gaps: list[Contrast] = []
    effects: list[Contrast] = []
    if comparable:
        gaps = compare.differences(table, baseline)
        against = baseline or next(iter(table.conditions))
        shown.append(tables.contrast_grid(
            gaps, "differences", f"Differences from: {against}", "Strict measures.",
        ))  # fmt: skip
        effects, why = compare.effects(table)
        if effects:
            shown.append(tables.contrast_grid(
                effects, "effects", "Effects of the factors",
                "Strict measures. Main effects, averaged over the other factors, and two-way "
                "interactions (x: by how much the first difference differs between the levels of "
                f"the second factor); a seed counts once. {why}".strip(),
            ))  # fmt: skip
        elif len([1 for levels in table.factors.values() if len(levels) > 1]) > 1:
            remarks.append(f"No effects of factors: {why}")
    if same := _without_chance(table):
        remarks.append(
            f"In {len(same)} of {len(table.conditions)} conditions all runs are exactly the same "
            "whatever the seed: they are one observation each, and intervals and p-values that "
            f"rest on them say nothing: {'; '.join(same[:6])}{'; ...' * (len(same) > 6)}."
        )
    if len(table.rows) <= MOST_RUNS:
        shown.append(tables.run_grid(table))
    else:
        remarks.append(f"All {len(table.rows)} runs, one by one, stand in runs.csv only.")
    return Content(table, found, gaps, effects, shown, remarks)


def _without_chance(table: Table) -> list[str]:
    """Conditions of which all of our own recorded runs cannot be told apart."""
    return [
        name
        for name, rows in table.conditions.items()
        if len(rows) > 1
        and all(row.stock and row.protocol for row in rows)
        and len({(row.stock, *row.strict.values()) for row in rows}) == 1
    ]


def write(
    content: Content, out: Path, formats: Sequence[str] = FORMATS, date: str = ""
) -> list[Path]:
    """Write a report's files; see :func:`write_report`."""
    if unknown := [one for one in formats if one not in FORMATS]:
        raise ConfigError(f"formats: {unknown[0]!r} is none of {', '.join(FORMATS)}")
    made = f"stretto {__version__}" + (f", {date}" if date else "")
    files: dict[str, str | bytes] = _csv(content)
    if "latex" in formats:
        files["tables.tex"] = tables.latex(content.grids)
    if "html" in formats or "pdf" in formats:
        pictures = _pictures(content)
        try:
            if "html" in formats:
                files["report.html"] = _html(content, pictures, made)
            if "pdf" in formats:
                files["report.pdf"] = _pdf(content, pictures, made)
        finally:
            from matplotlib import pyplot

            for picture in pictures:
                pyplot.close(picture.figure)
    for name, data in files.items():
        atomic_write(out / name, data)
    return [out / name for name in files]


def _csv(content: Content) -> dict[str, str | bytes]:
    import polars as pl

    conditions = [
        {"condition": g.condition, "form": g.form, "runs": g.runs, "seeds": g.seeds}
        | {
            f"{name}{end}": None if (v := g.values[name]) is None else getattr(v, part)
            for name in MEASURES
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        for g in content.groups
    ]
    files: dict[str, str | bytes] = {
        "runs.csv": content.table.frame().write_csv(),
        "conditions.csv": pl.DataFrame(conditions, infer_schema_length=None).write_csv(),
    }
    for name, found in (("differences", content.differences), ("effects", content.effects)):
        if found:
            flat = [asdict(one) for one in found]
            rows = [one | one.pop("value") for one in flat]
            files[f"{name}.csv"] = pl.DataFrame(rows, infer_schema_length=None).write_csv()
    return files


def _pictures(content: Content) -> list[Any]:
    from stretto.commons.report import pictures as draw

    conditions = content.table.conditions
    if content.game is not None:
        found = [*draw.stock_pictures(conditions), draw.catch_picture(content.game)]
    else:
        found = [*draw.point_pictures(content.groups), *draw.survival_pictures(content.table),
                 *draw.stock_pictures(conditions)]  # fmt: skip
    for picture in found:  # laid out once, not again in each format
        picture.figure.draw_without_rendering()
        picture.figure.set_layout_engine("none")
    return found


def _html(content: Content, pictures: Sequence[Any], made: str) -> str:
    import jinja2

    from stretto.plots import svg

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = (resources.files("stretto.commons.report") / "page.html.jinja").read_text(
        encoding="utf-8"
    )
    shown = [
        {"name": one.name, "title": one.title, "note": one.note,
         "source": f"data:image/svg+xml;base64,{base64.b64encode(svg(one.figure)).decode()}"}
        for one in pictures
    ]  # fmt: skip
    return environment.from_string(text).render(
        title=f"Commons: {content.table.title}", made=made, remarks=content.remarks,
        pictures=shown, grids=content.grids, lines=content.lines,
    )  # fmt: skip


def _pdf(content: Content, pictures: Sequence[Any], made: str) -> bytes:
    from matplotlib import pyplot
    from matplotlib.backends.backend_pdf import PdfPages

    from stretto.commons.report.sheets import sheets

    buffer = io.BytesIO()
    facts = {"Title": f"Commons: {content.table.title}", "Creator": made, "CreationDate": None}
    with PdfPages(buffer, metadata=facts) as pages:
        for picture in pictures:
            pages.savefig(picture.figure)
        for sheet in sheets(content.table.title, made, content.remarks, content.grids):
            pages.savefig(sheet)
            pyplot.close(sheet)
    return buffer.getvalue()

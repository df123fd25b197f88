"""Reports: whole pages, nothing from outside, the same bytes again, and nothing left unescaped."""

import asyncio
import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("polars")
from stretto.commons.play import play
from stretto.commons.published import read_published
from stretto.commons.report import import_report, write_report
from stretto.commons.report.grids import Grid, escape, interval, latex, markdown, number, p_value
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.stats import Interval
from stretto.commons.sweep import Sweep, prepare
from stretto.commons.worker import work
from stretto.errors import ConfigError, InputError
from stretto.evals.items import find_source
from tests.commons.talking import Letters, Talker
from tests.commons.test_importers import harvest, log, utterance


class Page(HTMLParser):
    """Checks that every tag is closed in turn, and gathers links and words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("src", "href") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def self_contained(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\(|@import", text)
    for link in page.links:
        head, _, data = link.partition(",")
        assert head == "data:image/svg+xml;base64"
        picture = ElementTree.fromstring(base64.b64decode(data))
        for node in picture.iter():
            for name, value in node.attrib.items():
                assert not (name.endswith("href") and not value.startswith("#")), (name, value)
    return page


NOISY = {
    "seats": [{"model": "script:threshold:1"}], "talk": "none",
    "rules": {"villagers": 2, "months": 4, "growth": {"noise": 0.6}},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported") / "a_sweep & <more>"
    factors = {"rules.collapse_below": [5, 40], "rules.growth.rate": [2.0, 1.5]}
    prepare(Sweep(NOISY, factors, seeds=3), folder)
    assert work(folder) == {}
    return folder


def test_a_sweeps_report(folder: Path, tmp_path: Path) -> None:
    files = write_report(folder, tmp_path / "one")
    assert {file.name for file in files} == {
        "report.html", "report.pdf", "tables.tex", "runs.csv", "conditions.csv", "differences.csv",
        "effects.csv",
    }  # fmt: skip
    page = self_contained(tmp_path / "one" / "report.html")
    assert page.ids == [
        "measures-1", "survival-1", "stock-1", "conditions", "differences", "effects", "runs",
    ]  # fmt: skip
    said = " ".join(page.words)
    assert "Commons: a_sweep & <more>" in said
    assert "27 hypotheses are tested in this table" in said  # 3 differences of 9 measures
    assert (tmp_path / "one" / "report.pdf").read_bytes().startswith(b"%PDF")
    tex = (tmp_path / "one" / "tables.tex").read_text()
    assert tex.count(r"\begin{longtable}") == tex.count(r"\end{longtable}") == 4
    write_report(folder, tmp_path / "two")
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_formats_and_dates(folder: Path, tmp_path: Path) -> None:
    files = write_report(folder, tmp_path, ("html",), date="21 November 2026")
    assert {file.suffix for file in files} == {".html", ".csv"}
    assert "21 November 2026" in (tmp_path / "report.html").read_text()
    with pytest.raises(ConfigError, match="'docx' is none of html, pdf, latex"):
        write_report(folder, tmp_path, ("docx",))
    with pytest.raises(InputError, match="no condition 'x'"):
        write_report(folder, tmp_path, baseline="x")


def test_one_runs_report_has_its_transcript(tmp_path: Path) -> None:
    told = iter([30, "many", 8] * 20)
    talker = Talker({"units": lambda _: next(told), "text": "<script>alert('$1')</script>"})
    rules = Rules(3, months=2)
    config = RunConfig((Seat("m"),), rules=rules, profile="paper", attempts=1)
    run = tmp_path / "run"
    run.mkdir()
    asyncio.run(play(config, {"m": talker}, run, embedder=Letters()))
    write_report(run, tmp_path / "out")
    page = self_contained(tmp_path / "out" / "report.html")
    assert page.ids == ["stock-1", "catches", "conditions", "runs", "transcript"]
    assert any("<script>alert('$1')</script>" in word for word in page.words)
    said = " ".join(page.words)
    assert "Month 2: stock" in said
    assert "no valid demand" in said
    text = (run / "game.jsonl").read_text().splitlines(keepends=True)
    (run / "game.jsonl").write_text("".join(text[:-1]))
    write_report(run, tmp_path / "cut", ("html",))
    assert "This run is not finished" in (tmp_path / "cut" / "report.html").read_text()


def test_the_same_run_again_and_again_is_told(tmp_path: Path) -> None:
    run = {**NOISY, "rules": {"villagers": 2, "months": 2}}
    prepare(Sweep(run, {"talk": ["none", "round"]}, seeds=2), tmp_path / "sweep")
    work(tmp_path / "sweep")
    write_report(tmp_path / "sweep", tmp_path / "out", ("html",))
    assert "In 2 of 2 conditions all runs are exactly" in (tmp_path / "out/report.html").read_text()


def test_latex_is_escaped() -> None:
    assert escape(r"a_b & 5 % \x {y} $z# ~^") == (
        r"a\_b \& 5 \% \textbackslash{}x \{y\} \$z\# \textasciitilde{}\textasciicircum{}"
    )
    grid = Grid("g", "T_1", "100 %", ("a&b", "c"), (("[1", "x_y"),))
    text = latex([grid])
    # A line that begins with a bracket would be read as an argument of the break before it.
    assert "{[}1 & x\\_y \\\\" in text
    assert "a\\&b & c \\\\" in text
    assert r"\caption{T\_1. 100 \%}" in text
    assert "| a\\|b |" in markdown(Grid("g", "", "", ("a|b",), ()))


def test_numbers_as_they_are_read() -> None:
    assert interval(Interval(0.55, 0.421, 0.679, 9), 100) == "55.0 [42.1, 67.9]"
    assert interval(Interval(2.0, 2.0, 2.0, 1)) == "2.0"
    assert (interval(None), number(float("nan")), number(-0.001)) == ("-", "-", "0.0")
    assert (p_value(0.0004), p_value(0.05), p_value(None)) == ("<0.001", "0.050", "-")


def published(folder: Path) -> Path:
    """Four runs: plain, nothing known of it, never harvested, and of another law."""
    zero = [harvest(i, m, 100, 100, 0, 0) for m in range(12) for i in range(5)]
    odd = [harvest(i, 0, 100, 50, 10, 10) for i in range(5)]
    odd += [utterance("persona_0", 0)] + [harvest(i, 1, 60, 10, 10, 10) for i in range(5)]
    runs = {"plain": log(), "unknown": log(), "zero": zero, "odd": odd}
    rows = [{**row, "run": run} for run, rows in runs.items() for row in rows]
    path = folder / "logs.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    (folder / "the_summary.csv").write_text(
        "run,model,scenario,env,n_mix,seed\n"
        "plain,a/b,fishing,fish_baseline_concurrent_universalization,0,21\n"
        "unknown,,,,0,\nzero,c,fishing,fish_baseline_concurrent,0,42\n"
        "odd,c,trash,trash_baseline_concurrent,0,42\n"
    )
    return path


def test_runs_of_others_are_told_apart(tmp_path: Path) -> None:
    table = read_published([published(tmp_path)])
    (row,) = table.rows
    assert (row.label, row.seed) == ("fishery, universalization, a/b", 21)
    assert row.strict["over_usage"] == pytest.approx(0.5)
    assert row.legacy["over_usage"] == pytest.approx(5 / 12)
    assert row.strict["invalid"] is None  # a log cannot tell
    said = " ".join(table.remarks)
    for why in ("no configuration is known", "nothing was ever harvested", "trash: another game"):
        assert f"Left out, 1 run: {why}" in said
    files = import_report([tmp_path / "logs.jsonl.gz"], tmp_path / "out")
    assert "report.pdf" in {file.name for file in files}
    self_contained(tmp_path / "out" / "report.html")
    with pytest.raises(InputError, match="neither logs nor result files"):
        read_published([tmp_path / "out"])


def record(gains: list[float], months: int, over: float, efficiency: float) -> dict[str, Any]:
    return {"gains": {f"persona_{i}": gain for i, gain in enumerate(gains)},
            "survival_time": months, "efficiency": efficiency, "equality": 100.0,
            "over_usage": over}  # fmt: skip


def test_records_are_checked_against_their_logs(tmp_path: Path) -> None:
    folder = tmp_path / "baseline"
    folder.mkdir()
    name = "phi-4_fish_baseline_concurrent_instruction_Level2.json"
    (folder / name).write_text(json.dumps({
        "run-a": record([30.0] * 5, 2, 50.0, 25.0),
        "run-b": record([20.0] * 5, 1, 100.0, 100 / 6),
        "run-c": record([1.0] * 5, 1, 0.0, 100 / 120),
        "empty": {}, "general": {},
    }))  # fmt: skip
    rows = [{**row, "run": "run-a"} for row in log()]
    (tmp_path / "events.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read_published([tmp_path])
    assert {row.label for row in table.rows} == {"fishery, instruction, level 2, phi-4"}
    by = {row.run.rpartition("/")[2]: row for row in table.rows}
    assert by["run-a"].stock == (100, 100)
    assert by["run-a"].legacy["over_usage"] == pytest.approx(5 / 12)
    assert by["run-b"].legacy["over_usage"] is None
    assert by["run-b"].collapsed
    assert not by["run-c"].collapsed  # 95 were left: it was broken off
    said = " ".join(table.remarks)
    assert "1 agree with the record to two decimals." in said
    assert "1 records without any figure" in said
    assert "1 runs ended before the horizon without a collapse" in said
    wrong = json.loads((folder / name).read_text())
    wrong["run-a"]["over_usage"] = 40.0
    (folder / name).write_text(json.dumps(wrong))
    assert "not: run-a" in " ".join(read_published([tmp_path]).remarks)


def dev() -> Path:
    folder = find_source(None)
    if folder is None:
        pytest.skip("the development pack ../shared/data/dev.tar.xz is not here")
    return folder


def test_the_development_pack() -> None:
    logs = read_published([dev() / "govsim_events_slim.jsonl.gz"])
    said = " ".join(logs.remarks)
    assert len(logs.rows) == 67
    assert "Left out, 10 runs: no configuration" in said
    assert "Left out, 1 run: nothing was ever harvested: fishing_v6.4/vivid-galaxy-17." in said
    assert "Left out, 34 runs: trash" in said
    assert "6 runs have a month in which nobody harvested" in said
    records = read_published([dev() / "regovsim_results"])
    assert len(records.rows) == 1002
    assert "11 agree with the record to two decimals." in " ".join(records.remarks)
    assert {row.condition["scenario"] for row in records.rows} == {
        "fishery",
        "pasture",
        "pollution",
    }
    assert all(row.legacy["over_usage"] is None for row in records.rows if not row.stock)


def test_a_limit_counts_from_the_next_month() -> None:
    from stretto.commons.report.pictures import _in_force

    held = _in_force(np.array([np.nan, 10.0, np.nan, 8.0, 7.0]))
    np.testing.assert_array_equal(held, [np.nan, np.nan, 10.0, 10.0, 8.0])


def test_a_broken_off_stock_is_not_known_further_on_and_a_collapsed_one_is_nothing() -> None:
    from stretto.commons.report.pictures import stock_pictures
    from stretto.commons.table import MEASURES, Row

    none = dict.fromkeys(MEASURES)
    fell = Row("fell", {}, 0, none, none, 2, 4, True, (100, 40))
    broke = Row("broke", {}, 1, none, none, 2, 4, False, (100, 60))
    (picture,) = stock_pictures({"all": [fell, broke]})
    one, other, mean = (line.get_ydata() for line in picture.figure.axes[0].get_lines())
    assert (list(one), list(other)) == ([100, 40, 0], [100, 60])
    assert list(mean) == [100, 50, 0, 0]

"""Tables, differences, effects and the leaderboard against numbers worked out by hand."""

import asyncio
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy")
pytest.importorskip("polars")
from stretto.commons.compare import average, differences, effects, groups, holm
from stretto.commons.leaderboard import leaderboard
from stretto.commons.play import play
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.sweep import Sweep, prepare, run_folder
from stretto.commons.table import MEASURES, Row, Table, label, read_table
from stretto.commons.worker import work
from stretto.errors import InputError
from tests.commons.talking import Letters, Talker


def row(condition: dict[str, Any], seed: int | None, gain: float | None, **more: Any) -> Row:
    values = {**dict.fromkeys(MEASURES, 1.0), "gain": gain, **more}
    return Row(f"{label(condition)}-{seed}", condition, seed, values, values, 12, 12, False)


def factorial(left_out: tuple[int, int, int] | None = None) -> Table:
    """Gain = 10 + 2 talk + 4 told + 3 both, and what a seed brings to all its cells."""
    rows = [
        row({"talk": talk, "told": told}, seed, 10 + 2 * talk + 4 * told + 3 * talk * told + luck)
        for talk in (False, True) for told in (False, True)
        for seed, luck in enumerate((0.0, 5.0, -1.0)) if (talk, told, seed) != left_out
    ]  # fmt: skip
    return Table("made up", tuple(rows))


def test_effects_by_hand() -> None:
    found, why = effects(factorial(), ["gain"])
    assert why == ""
    assert {one.what: one.value.value for one in found} == pytest.approx({
        "talk yes against talk no": 3.5,  # 2 without told, 5 with it
        "told yes against told no": 5.5,
        "talk yes x told yes": 3.0,
    })  # fmt: skip
    assert all(one.paired and one.value.runs == 3 for one in found)
    # Three seeds that agree: as likely as 2 of 8 signs by chance, three times over.
    assert [one.p for one in found] == pytest.approx([0.25] * 3)
    assert [one.holm for one in found] == pytest.approx([0.75] * 3)


def test_levels_are_compared_with_the_first() -> None:
    rows = [row({"size": size}, seed, size * 2.0 + seed) for size in (5, 10, 50) for seed in (1, 2)]
    found, _ = effects(Table("", tuple(rows)), ["gain"])
    assert [(one.what, one.value.value) for one in found] == [
        ("size 10 against size 5", 10.0), ("size 50 against size 5", 90.0),
    ]  # fmt: skip


def test_seeds_that_are_not_everywhere_are_left_out() -> None:
    found, why = effects(factorial((True, True, 1)), ["gain"])
    assert "1 seed" in why
    assert {one.value.runs for one in found} == {2}
    assert found[0].value.value == pytest.approx(3.5)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([row({"a": 1}, 0, 1.0)], "Nothing was varied"),
        ([row({"a": 1, "b": 1}, 0, 1.0), row({"a": 2, "b": 2}, 0, 1.0)], "2 of 4 conditions"),
        ([row({"a": a}, 0, 1.0) for a in (1, 1, 2)], "twice"),
        ([row({"a": a}, None, 1.0) for a in (1, 2)], "lack a seed"),
        ([row({"a": a}, 0, 1.0) for a in (1, 2)], "two seeds"),
    ],
)
def test_what_is_no_factorial(rows: list[Row], why: str) -> None:
    found, told = effects(Table("", tuple(rows)))
    assert found == []
    assert why in told


def test_an_undefined_measure_has_no_effects() -> None:
    rows = [row({"a": a}, seed, None) for a in (1, 2) for seed in (0, 1)]
    found, why = effects(Table("", tuple(rows)), ["gain", "efficiency"])
    assert {one.measure for one in found} == {"efficiency"}
    assert "No effects on gain per villager" in why


def test_differences_are_paired_by_seed() -> None:
    first = [row({"condition": "base"}, seed, gain) for seed, gain in enumerate((1.0, 50.0, 90.0))]
    second = [row({"condition": "new"}, seed, gain) for seed, gain in ((2, 92.0), (0, 2.0), (7, 0))]
    (one,) = differences(Table("", (*first, *second)), measures=["gain"])
    assert one.paired
    assert one.value.value == pytest.approx(1.5)  # seeds 0 and 2: +1 and +2
    assert one.value.runs == 2
    (other,) = differences(Table("", (*first, *second)), "new", ["gain"])
    assert other.value.value == pytest.approx(-1.5)
    with pytest.raises(InputError, match="no condition 'old'"):
        differences(Table("", tuple(first)), "old")


def test_without_seeds_groups_are_compared() -> None:
    first = [row({"condition": "base"}, None, gain) for gain in (1.0, 3.0)]
    second = [row({"condition": "new"}, None, gain) for gain in (5.0, 7.0, 9.0)]
    (one,) = differences(Table("", (*first, *second)), measures=["gain"])
    assert not one.paired
    assert one.value.value == pytest.approx(5.0)
    assert one.p == pytest.approx(0.2)  # 2 of the 10 ways to part five runs
    (lone,) = differences(Table("", (first[0], *second)), measures=["gain"])
    assert lone.p is lone.holm is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_means_leave_out_what_is_undefined() -> None:
    rows = [row({"a": 1}, 0, None), row({"a": 1}, 1, 4.0)]
    mean = average(rows, "strict", "gain")
    assert mean is not None
    assert (mean.value, mean.runs) == (4.0, 1)
    assert average(rows[:1], "strict", "gain") is None


SCRIPTED = {"seats": [{"model": "script:threshold"}] * 2, "rules": {"villagers": 2, "months": 3}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    greedy = {"seats": [{"model": "script:greedy"}] * 2}
    prepare(Sweep(SCRIPTED, {}, {"calm": {}, "greedy": greedy}, seeds=3), folder)
    assert work(folder) == {}
    return folder


def test_a_sweep_as_a_table(folder: Path, tmp_path: Path) -> None:
    table = read_table(folder)
    assert table.remarks == ()
    assert {name: len(rows) for name, rows in table.conditions.items()} == {"calm": 3, "greedy": 3}
    frame = table.frame()
    assert frame["survival_time"].to_list() == [3, 3, 3, 1, 1, 1]
    assert frame["gain"].to_list() == [75, 75, 75, 50, 50, 50]  # 25 a month; half of 100
    assert frame["over_usage"].to_list() == [0, 0, 0, 1, 1, 1]
    assert frame["invalid_legacy"].to_list() == [0] * 6
    assert set(frame["models"]) == {"scripted:threshold", "scripted:greedy"}
    assert len(set(frame["protocol"])) == 1  # models are not part of it
    by = {(group.condition, group.form): group for group in groups(table)}
    survival = by["greedy", "strict"].values["survived"]
    assert survival is not None
    assert survival.value == 0
    assert 0 < survival.high < 1
    one = read_table(run_folder(folder, table.rows[0].run))
    assert (one.rows[0].strict, one.rows[0].legacy) == (table.rows[0].strict, table.rows[0].legacy)
    with pytest.raises(InputError, match="neither a sweep"):
        read_table(tmp_path)


def test_runs_that_are_not_finished_are_told(tmp_path: Path) -> None:
    prepare(Sweep(SCRIPTED, seeds=3), tmp_path)
    with pytest.raises(InputError, match="none of its 3 runs"):
        read_table(tmp_path)
    work(tmp_path)
    (next((tmp_path / "runs").iterdir()) / "metrics.json").unlink()
    assert "1 of 3 planned runs" in read_table(tmp_path).remarks[0]


def play_in(folder: Path, name: str, talker: Talker, **config: Any) -> None:
    run = RunConfig((Seat("m"),), rules=config.pop("rules", Rules(2, months=2)), **config)
    (folder / name).mkdir(parents=True)
    asyncio.run(play(run, {"m": talker}, folder / name, embedder=Letters()))


def test_a_leaderboard_never_averages_over_protocols(tmp_path: Path) -> None:
    good, bad = Talker({"units": 20}, "good"), Talker({"units": 60}, "bad")
    for seed in (0, 1):
        play_in(tmp_path / "runs", f"good-{seed}", good, seed=seed)
        play_in(tmp_path / "runs", f"bad-{seed}", bad, seed=seed)
    play_in(tmp_path / "runs", "short", good, rules=Rules(2, months=1))
    play_in(tmp_path / "runs", "told", good, told_threshold="number")
    files = leaderboard(tmp_path / "runs", out=tmp_path / "out")
    assert [file.name for file in files] == [f"leaderboard.{e}" for e in ("json", "csv", "md")]
    board = json.loads(files[0].read_text())
    entries = board["entries"]
    assert sorted((one["model"], one["runs"]) for one in entries) == [
        ("bad", 2), ("good", 1), ("good", 1), ("good", 2),
    ]  # fmt: skip
    together = [one for one in entries if one["runs"] == 2]
    assert len({one["protocol"] for one in together}) == 1
    assert [one["model"] for one in together] == ["good", "bad"]  # better ones first
    assert {one["protocol"] for one in entries} == set(board["protocols"])
    assert together[0]["values"]["strict"]["gain"]["value"] == 40
    assert together[0]["values"]["strict"]["invalid"]["value"] == 0
    assert len({one["prompts"] for one in entries}) == 1
    assert all(one["stretto"] for one in entries)
    with files[1].open() as file:
        assert len(list(csv.DictReader(file))) == 4
    again = leaderboard(tmp_path / "runs", tmp_path / "runs" / "good-0", out=tmp_path / "twice")
    assert json.loads(again[0].read_text())["entries"] == entries  # a run counts once


def test_a_leaderboard_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished run"):
        leaderboard(tmp_path, out=tmp_path)


def test_a_broken_off_run_is_not_ranked(tmp_path: Path) -> None:
    play_in(tmp_path / "runs", "whole", Talker())
    play_in(tmp_path / "runs", "half", Talker())
    path = tmp_path / "runs" / "half" / "game.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    board = json.loads(leaderboard(tmp_path, out=tmp_path / "out")[0].read_text())
    assert board["entries"][0]["runs"] == 1
    assert "1 runs are not finished" in " ".join(board["remarks"])


def test_legacy_is_not_of_other_runs_than_strict() -> None:
    rows = [row({"a": 1}, 0, 2.0), row({"a": 1}, 1, 6.0)]
    rows[1] = replace(rows[1], legacy={**rows[1].legacy, "gain": None})
    strict, legacy = groups(Table("", tuple(rows)))
    assert strict.values["gain"] is not None
    assert strict.values["gain"].value == 4.0
    assert legacy.values["gain"] is None
    assert legacy.values["efficiency"] is not None

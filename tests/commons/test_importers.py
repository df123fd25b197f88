"""Logs of GovSim and its forks: read, refused, and re-scored."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stretto.commons.game import Game
from stretto.commons.importers import read_logs, read_results
from stretto.commons.metrics import measure
from stretto.commons.resource import Rules
from stretto.errors import InputError
from stretto.evals.items import find_source


def harvest(who: int, month: int, before: int, after: int, got: int, wanted: int) -> dict[str, Any]:
    return {
        "agent_id": f"persona_{who}", "round": month, "action": "harvesting",
        "resource_in_pool_before_harvesting": float(before),
        "resource_in_pool_after_harvesting": float(after), "concurrent_harvesting": True,
        "resource_collected": float(got), "wanted_resource": float(wanted),
    }  # fmt: skip


def utterance(who: str, month: int) -> dict[str, Any]:
    return {"agent_id": who, "round": month, "action": "utterance", "utterance": "Well."}


def log() -> list[dict[str, Any]]:
    rows = [harvest(i, 0, 100, 50, 10, 10) for i in range(5)]
    rows += [utterance("framework", 0), utterance("persona_0", 0), utterance("persona_1", 0)]
    rows += [{"agent_id": "framework", "round": 0, "action": "conversation_resource_limit",
              "resource_limit": 12}]  # fmt: skip
    return rows + [harvest(i, 1, 100, 0, 20, 30) for i in range(5)]


def test_a_log_of_one_run(tmp_path: Path) -> None:
    (tmp_path / "run-7").mkdir()
    (tmp_path / "run-7" / "log_env.json").write_text(json.dumps(log()))
    for path in (tmp_path, tmp_path / "run-7" / "log_env.json"):
        ((name, game),) = read_logs(path).items()
        assert name == "run-7"
        assert game.stock.tolist() == [100, 100]
        assert game.received.sum(axis=1).tolist() == [50, 100]
        assert game.utterances.tolist() == [2, 0]
        assert game.limits[0] == 12
        assert np.isnan(game.limits[1])
        assert game.collapsed
        strict, legacy = measure(game), measure(game, "legacy")
        assert strict.over_usage == pytest.approx(5 / 10)
        assert legacy.over_usage == pytest.approx(5 / 12)


def test_rows_of_many_runs(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    rows = [{**row, "run": run} for run in ("a", "b") for row in log()]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(read_logs(path)) == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rounds \\[\\]"),
        ([harvest(0, 1, 100, 90, 10, 10)], "rounds \\[1\\]"),
        ([harvest(0, 0, 100, 90, 10, 10)] * 2, "harvests twice"),
        ([harvest(0, 0, 100, 95, 10, 10)], "not what is missing"),
        ([harvest(0, 0, 100, 90, 5, 5), harvest(1, 0, 90, 85, 5, 5)], "several values"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, rows: list[dict], message: str) -> None:
    path = tmp_path / "log_env.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=message):
        read_logs(path)


def test_nothing_to_read(tmp_path: Path) -> None:
    for call in (read_logs, read_results):
        with pytest.raises(InputError, match="holds no"):
            call(tmp_path)
        (tmp_path / "x.jsonl").write_text("{")
        with pytest.raises(InputError, match=r"x\.jsonl"):
            call(tmp_path / "x.jsonl")


def dev() -> Path:
    folder = find_source(None)
    if folder is None:
        pytest.skip("the development pack ../shared/data/dev.tar.xz is not here")
    return folder


def test_112_runs_are_scored_as_their_summary_says() -> None:
    runs = read_logs(dev() / "govsim_events_slim.jsonl.gz")
    with (dev() / "govsim_run_summary.csv").open() as file:
        told = {row["run"]: row for row in csv.DictReader(file)}
    assert set(runs) == set(told)
    assert len(runs) == 112
    for name, game in runs.items():
        row, found = told[name], measure(game)
        assert found.survival_time == float(row["months"])
        assert game.received.sum() == float(row["total"])
        assert found.gain == pytest.approx(float(row["gain_mean"]), abs=0.005)
        assert game.left[-1] == float(row["final_after"])
        if found.equality is not None:
            assert 1 - found.equality == pytest.approx(float(row["gini"]), abs=5e-5)
        # The summary counts what was wanted.
        assert found.over_demand == pytest.approx(float(row["overuse"]), abs=5e-5)


def test_1002_records_are_scored_as_they_say() -> None:
    records, empty = read_results(dev() / "regovsim_results" / "results_json")
    assert (len(records), len(empty)) == (1002, 5)
    for record in records:
        assert record.equality is not None
        assert 100 * record.efficiency == pytest.approx(record.told["efficiency"], abs=0.005)
        assert 100 * record.equality == pytest.approx(record.told["equality"], abs=0.005)
        if record.over_usage is not None:
            assert 100 * record.over_usage == pytest.approx(record.told["over_usage"], abs=0.005)
    assert sum(record.over_usage is not None for record in records) == 499


def one_month(over: int, utterances: int) -> Game:
    received = np.array([[20] * over + [10] * (5 - over)])
    yes = np.ones((1, 5), bool)
    return Game(
        Rules(), ("a", "b", "c", "d", "e"), np.array([100]), 100 - received.sum(axis=1), received,
        received, yes, yes, False, np.array([utterances]), np.array([np.nan]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("printed", "deviation", "runs"),
    [
        (35.71, 0.00, [(5, 9)] * 5),  # Claude-3 Haiku, everywhere
        (21.43, 0.00, [(3, 9)] * 5),  # Llama-3-8B, fishery
        (28.57, 0.00, [(4, 9)] * 5),  # Llama-2-13B, pollution
        (59.72, 3.40, [(5, 4), (5, 4), (5, 3), (5, 3), (5, 3)]),  # Llama-2-70B, fishery
        (36.26, 1.10, [(5, 9)] * 4 + [(5, 8)]),  # Llama-3-70B, pollution
    ],
)
def test_the_papers_printed_over_usage(
    printed: float, deviation: float, runs: list[tuple[int, int]]
) -> None:
    legacy = [100 * measure(one_month(*run), "legacy").over_usage for run in runs]
    assert np.mean(legacy) == pytest.approx(printed, abs=0.005)
    assert np.std(legacy) == pytest.approx(deviation, abs=0.005)
    strict = [100 * measure(one_month(*run)).over_usage for run in runs]
    assert all(
        value == pytest.approx(20 * over) for value, (over, _) in zip(strict, runs, strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"a": 1}], "lacks 'round'"),
        ([3], "no row of a log"),
        ([{"round": 0, "agent_id": "p", "action": "harvesting"}], "lacks 'resource_in_pool"),
        ([{"round": "x", "agent_id": "p", "action": "utterance"}], "no row of a log"),
    ],
)
def test_rows_of_something_else_are_refused(rows: list, words: str, tmp_path: Path) -> None:
    log = tmp_path / "log_env.json"
    log.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=words):
        read_logs(log)
    packed = tmp_path / "runs.jsonl.gz"
    packed.write_bytes(b"not packed")
    with pytest.raises(InputError, match="is not JSON"):
        read_logs(packed)

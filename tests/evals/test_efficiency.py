"""The run from items to report, with an engine that is scripted, not a model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedEngine, letter_codec

from stretto.errors import ConfigError, InputError
from stretto.evals.config import EfficiencyConfig
from stretto.evals.efficiency import open_run, run_efficiency
from stretto.evals.latency import LatencyTable
from stretto.evals.records import Record
from stretto.evals.report import read_report, render_report
from stretto.evals.systems import conditions
from stretto.runs import Run
from stretto.streams.examples import Example

ITEMS = {
    "chain_sum": [
        Example(f"sum-{i}", "chain_sum", ("Sum?", f" {i}", " + 1"), ("Answer: ",), str(i + 1))
        for i in range(5)
    ]
}
CONFIG = EfficiencyConfig(
    tasks=("chain_sum",), rates=("instant", "20"), lags=("0", "1"), limit=5, wall_items=0, batch=2
)


def solve(stream: str, asked: str) -> str:
    """The tuned models are right, except on 3; the answer stream says one word more."""
    number = int(asked.partition("Sum? ")[2].split(" ")[0])
    right = number + (2 if number == 3 else 1)
    return f"Answer: {right}"


def start(folder: Path) -> Run:
    run = open_run(CONFIG, folder, resume=False)
    run.event("latency", **LatencyTable((1,), (64,), ((0.05,),)).to_dict())
    return run


def execute(run: Run, **options: Any) -> ScriptedEngine:
    engine = ScriptedEngine(letter_codec(), solve)
    run_efficiency(CONFIG, run, load=lambda name, config: engine, items=ITEMS, **options)
    return engine


def test_every_condition_once(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    execute(run)
    keys = [Record.from_dict(event).key for event in run.events("item")]
    # base, single and prefilled once an item; read and audit at two rates; lag 0 at 20 more.
    assert len(keys) == len(set(keys)) == 5 * (3 + 2 * 2 + 1)
    assert {k[2] for k in keys if k[0] in ("base", "single", "prefilled")} == {"any"}
    assert {k[3] for k in keys if k[0] == "read" and k[2] == "20"} == {"0", "1"}


def test_frontier_shares_what_read_has_done() -> None:
    names = [(system.name, rate, lag) for system, rate, lag in conditions(CONFIG)]
    assert names.count(("read", "20", "1")) == 1
    roles = [system.role for system, _, _ in conditions(CONFIG)]
    assert roles == sorted(roles, key=list(CONFIG.models()).index)


def test_facts_of_a_record(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    execute(run)
    records = {r.key: r for r in map(Record.from_dict, run.events("item"))}
    single = records["single", "chain_sum", "any", "", "sum-0"]
    assert (single.text, single.predicted, single.correct) == ("Answer: 1", "1", True)
    assert (single.first_row, single.last_row, single.output_tokens) == (0, 8, 9)
    assert single.input_tokens == len("Sum? 0 + 1")
    # One token a tick of 50 ms, nine letters and `end`; the next row after the input is row 1.
    assert single.delay_s == pytest.approx(0.45)
    assert (single.ttft_rows, single.delay_rows) == (1, 9)
    read = records["read", "chain_sum", "20", "1", "sum-3"]
    assert not read.correct
    assert read.answered
    assert read.input_end_row == 10
    assert read.ttft_rows == 1
    assert read.wake_ticks == 0


def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, broken = start(tmp_path / "whole"), start(tmp_path / "broken")
    execute(whole)

    def stop_at_seven(done: int, total: int, what: str) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(broken, progress=stop_at_seven)
    assert len(list(broken.events("item"))) == 7
    with (broken.path / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "type": "it')  # as a kill leaves it
    again = open_run(CONFIG, broken.path, resume=True)
    engine = execute(again)
    assert engine.opened == 40 - 7
    expected, found = (
        {r.key: r for r in map(Record.from_dict, run.events("item"))} for run in (whole, again)
    )
    assert found == expected
    assert len(list(again.events("item"))) == 40
    assert execute(again).opened == 0


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    start(tmp_path / "run")
    other = EfficiencyConfig(tasks=("chain_sum",), limit=7)
    with pytest.raises(ConfigError, match="limit"):
        open_run(other, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="holds a run"):
        open_run(CONFIG, tmp_path / "run", resume=False)


def test_report_of_the_run(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    execute(run, command="stretto eval efficiency")
    report = read_report(run)
    assert not report.finished
    lines = {(line.system, line.rate): line for line in report.lines}
    assert len(lines) == 5 * 2
    assert lines["single", "20"].accuracy == pytest.approx(0.8)
    assert lines["single", "20"].delay_s == pytest.approx(lines["single", "instant"].delay_s)
    assert [line.lag for line in report.frontier] == ["0", "1"]
    assert [goal.task for goal in report.goals] == ["chain_sum"]
    assert report.goals[0].difference.value == 0
    files = render_report(run, tmp_path / "out", plots=False)
    assert {path.name for path in files} == {
        "efficiency.md", "efficiency.csv", "efficiency.json",
    }  # fmt: skip


def test_goals_may_take_more_items_than_the_rest(tmp_path: Path) -> None:
    config = replace(CONFIG, limit=2, goal_limit=5)
    run = Run.create(tmp_path / "run", config, kind="efficiency")
    run.event("latency", **LatencyTable((1,), (64,), ((0.05,),)).to_dict())
    engine = ScriptedEngine(letter_codec(), solve)
    run_efficiency(config, run, load=lambda *_: engine, items=ITEMS)
    keys = [Record.from_dict(event).key for event in run.events("item")]
    of_model = [key[:4] for key in keys if key[0] in ("read", "audit", "prefilled")]
    assert of_model[:5] == [("read", "chain_sum", "20", "1")] * 5
    report = read_report(run)
    lines = {(line.system, line.rate): line for line in report.lines}
    assert {key: line.n for key, line in lines.items() if line.n == 5} == {
        ("single", "20"): 5, ("read", "20"): 5,
    }  # fmt: skip
    assert {line.n for line in lines.values()} == {2, 5}
    assert [line.n for line in report.frontier] == [2, 2]
    assert report.goals[0].n == 5
    # Of the first two sums both are right; of all five, one is wrong.
    assert lines["single", "instant"].accuracy == 1
    assert lines["single", "20"].accuracy == pytest.approx(0.8)


@pytest.mark.parametrize(("limit", "goal_limit"), [(0, 5), (5, 4), (5, -1)])
def test_goals_never_take_fewer(limit: int, goal_limit: int) -> None:
    with pytest.raises(ConfigError, match="goal_limit"):
        replace(CONFIG, limit=limit, goal_limit=goal_limit)


def test_wall_clock_check(tmp_path: Path) -> None:
    config = replace(CONFIG, wall_items=2, systems=("single", "read"))
    run = Run.create(tmp_path / "run", config, kind="efficiency")
    run.event("latency", **LatencyTable((1,), (64,), ((0.05,),)).to_dict())
    engine = ScriptedEngine(letter_codec(), solve)
    run_efficiency(config, run, load=lambda *_: engine, items=ITEMS)
    checks = {(w.system, w.rate): w for w in read_report(run).wall}
    assert set(checks) == {("single", "any"), ("read", "instant"), ("read", "20")}
    # The scripted engine takes 50 ms a tick by either clock.
    assert checks["single", "any"].ratio == pytest.approx(1)
    assert checks["single", "any"].same == checks["single", "any"].n == 2

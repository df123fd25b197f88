"""``stretto commons``: runs and sweeps of scripted villages, a person's seat, and exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("wordllama")

from stretto.cli import main
from stretto.cli.commons import _limits
from stretto.cli.commons_view import describe
from stretto.commons.driver import Progress
from stretto.commons.worker import Limits

ROOT = Path(__file__).resolve().parents[2]
RUN = "seats: [{model: 'script:threshold'}]\nrules: {months: 2}\ntalk: none\n"
SWEEP = """
run:
  seats: [{model: some}]
  rules: {months: 2}
factors:
  talk: [none, round]
seeds: 2
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    Path("sweep.yaml").write_text(SWEEP)

    def run(*argv):
        with pytest.raises(SystemExit) as raised:
            main(["commons", *argv])
        found = capsys.readouterr()
        return raised.value.code, found.out, found.err

    return run


def test_a_run_is_played_told_and_replayed(call):
    code, out, _ = call("run", "run.yaml", "-o", "r", "--set", "rules.months=3", "--seed", "7")
    assert code == 0
    assert out.startswith("month  1: 100 ->  50   Ana 10, Ben 10, Cleo 10, Dan 10, Eva 10\n")
    assert out.count("month ") == 3
    manifest = json.loads(Path("r/manifest.json").read_text())
    assert [one["seed"] for one in manifest["runs"]] == [7]
    code, out, _ = call("replay", "r")
    assert code == 0 and "Month 3" in out and "Ana: wants 10, gets 10" in out
    code, out, _ = call("run", "run.yaml", "-o", "other", "--json")
    told = json.loads(out[out.index("{") :])
    assert code == 0 and told["strict"]["survived"] and told["folder"] == "other"


def test_a_sweep_is_played_once_and_grows(call):
    given = ("sweep", "sweep.yaml", "-o", "s", "--model", "script:threshold")
    code, out, err = call(*given, "--json")
    assert code == 0
    assert [(row["condition"], row["runs"], row["survived"]) for row in json.loads(out)] == [
        ("talk=none", 2, 1.0), ("talk=round", 2, 1.0),
    ]  # fmt: skip
    assert "4/4 0 requests" in err and "wrote s" in err
    before = {path: path.stat().st_mtime_ns for path in Path("s/runs").glob("*/metrics.json")}
    code, out, _ = call(*given, "--seeds", "3", "--json")
    assert code == 0 and [row["runs"] for row in json.loads(out)] == [3, 3]
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert call("resume", "s")[0] == 0
    code, out, _ = call("report", "s", "--format", "latex")
    assert code == 0 and Path("s/report/tables.tex").exists() and "tables.tex" in out


def test_a_person_takes_a_seat(call, monkeypatch, tmp_path):
    typed = tmp_path / "typed"
    typed.write_text("5\nabc\n10\n")
    with typed.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        code, out, err = call("play", "--name", "Me", "-o", "p", "--set", "rules.months=3")
    assert code == 2 and "you left the village" in err
    assert "You are Me." in out and "give a whole number from 0 to 100" in out
    typed.write_text("9\n")
    with typed.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert call("resume", "p")[0] == 0
    ((_, metrics),) = [(p, json.loads(p.read_text())) for p in Path("p").rglob("metrics.json")]
    assert metrics["months"] == 3 and metrics["answers"] == {"ok": 3}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("run", "nope.yaml"), "nope.yaml: cannot be read"),
        (("run", "nope"), "experiment 'nope': there is none"),
        (("run", "run.yaml", "--set", "tal=none"), "did you mean talk?"),
        (("run", "run.yaml", "--model", "x"), "models play no seats"),
        (("sweep", "sweep.yaml"), "there is no model 'some'"),
        (("sweep", "sweep.yaml", "--model", "other=x"), "models play some"),
        (("sweep", "run.yaml", "--budget", "3apples"), "--budget 3apples: give"),
        (("sweep", "run.yaml", "--workers", "0"), "must be at least 1"),
        (("resume", "nope"), "holds no sweep"),
        (("replay", "nope"), "holds no run"),
        (("report", "nope"), "nope"),
        (("import", "nope"), "nope: is not there"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(call, argv, message):
    code, _, err = call(*argv)
    assert code == 2
    assert message in err and err.strip().count("\n") == 0


def test_budgets():
    assert _limits("") == Limits()
    assert _limits("$5") == _limits("5 dollars") == Limits(dollars=5.0)
    assert _limits("0.5,2000requests, 3e6tokens") == Limits(0.5, 2000, 3_000_000)


def test_progress_in_a_line():
    told = Progress(3, 9, 60.0, 1.234, 500, {"ok": 490, "invalid": 8}, 125.4, {"a": "x", "": "y"})
    assert describe(told) == "500 requests, $1.23, 8 invalid, 1 runs failed, 2:05 to go"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_ctrl_c_says_how_to_go_on(call):
    endpoint = pytest.importorskip("benchmarks.endpoint")
    pytest.importorskip("openai")
    with endpoint.Endpoint(latency=0.3) as mock:
        command = [sys.executable, "-m", "stretto", "commons", "sweep", "sweep.yaml", "-o", "c",
                   "--model", "m", "--base-url", mock.url]  # fmt: skip
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while not mock.asked:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        told = process.communicate()[1].decode()
    assert process.returncode == 130
    assert told.strip().endswith("go on with: stretto commons resume c")
    assert "Traceback" not in told

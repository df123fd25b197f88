import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.errors import InputError
from stretto.runs import Run, atomic_write, diff, flatten, list_runs


@dataclass(frozen=True)
class Config:
    seed: int = 1
    output: Path = Path("out")


def test_a_run_keeps_config_events_and_metrics(tmp_path):
    run = Run.create(tmp_path / "a", Config(seed=7), kind="train")
    run.event("step", step=1, loss=np.float32(0.5), shape=(1, 2), bad=float("nan"))
    run.write_metrics({"loss": {"content": 0.25}})
    again = Run.open(tmp_path / "a")
    assert again.kind == "train"
    assert again.config() == {"seed": 7, "output": "out"}
    assert again.metrics() == {"loss": {"content": 0.25}}
    (step,) = again.events("step")
    assert (step["v"], step["loss"], step["shape"], step["bad"]) == (1, 0.5, [1, 2], None)
    assert abs(step["time"] - time.time()) < 60


def test_status_follows_the_events(tmp_path):
    with Run.create(tmp_path / "good") as run:
        assert run.status == "running"
    assert run.status == "finished"
    with pytest.raises(ValueError, match="no"), Run.create(tmp_path / "bad") as run:
        raise ValueError("no")
    assert run.status == "failed"
    assert [event["error"] for event in run.events("failed")] == ["ValueError: no"]
    run.event("resumed")
    assert run.status == "running"


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    Run.create(tmp_path / "a")
    with pytest.raises(InputError, match="holds a run already"):
        Run.create(tmp_path / "a")
    first, second = (Run.create_in(tmp_path, kind="train") for _ in range(2))
    assert first.path != second.path


def test_a_folder_without_events_is_no_run(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        Run.open(tmp_path)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_left_out_and_mended_by_the_next_event(tmp_path, cut):
    run = Run.create(tmp_path / "a")
    run.event("step", step=1, text="äöü" * 10)
    run.event("step", step=2, text="äöü" * 10)
    path = run.path / "events.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    torn = path.read_bytes()
    again = Run.open(run.path)
    assert [event["step"] for event in again.events("step")] == [1]
    assert path.read_bytes() == torn  # reading changes nothing: the writer may be alive
    again.event("step", step=3)
    assert [event["step"] for event in again.events("step")] == [1, 3]


_WRITER = """
import sys
from stretto.runs import Run
run = Run.create(sys.argv[1])
for step in range(10**9):
    run.event("step", step=step, text="x" * 20000)
    run.write_metrics({"step": step, "text": "y" * 20000})
"""


def test_a_killed_writer_leaves_a_readable_run(tmp_path):
    path = tmp_path / "killed"
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)])
    deadline = time.monotonic() + 30
    while not (path / "metrics.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    run = Run.open(path)
    steps = [event["step"] for event in run.events("step")]
    assert steps == list(range(len(steps)))
    assert len(steps) > 1
    assert run.metrics()["step"] in (len(steps) - 1, len(steps) - 2)
    run.event("resumed")
    assert run.status == "running"
    assert len(list(run.events())) == len(steps) + 2


def test_damage_before_the_last_line_is_reported(tmp_path):
    run = Run.create(tmp_path / "a")
    path = run.path / "events.jsonl"
    path.write_bytes(b"{torn\n" + path.read_bytes())
    with pytest.raises(InputError, match="line 1 is not JSON"):
        list(run.events())
    path.write_text('{"v": 99, "time": 0, "type": "created"}\n')
    with pytest.raises(InputError, match="schema version 99"):
        list(run.events())
    path.write_text("[]\n")
    with pytest.raises(InputError, match="is not an event"):
        list(run.events())


def test_what_json_cannot_hold_is_refused(tmp_path):
    run = Run.create(tmp_path / "a")
    with pytest.raises(InputError, match="cannot keep a set"):
        run.event("step", values={1})
    with pytest.raises(InputError, match="'time' is set by the run"):
        run.event("step", time=1)
    assert len(list(run.events())) == 1


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    atomic_write(path, "one")
    atomic_write(path, b"two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode  # not mkstemp's private mode


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    atomic_write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_runs_are_listed_in_order_and_compared(tmp_path):
    b = Run.create(tmp_path / "b", Config(seed=1), kind="train")
    a = Run.create(tmp_path / "a", Config(seed=2), kind="eval")
    (tmp_path / "no_run").mkdir()
    b.write_metrics({"loss": {"content": 1.0}})
    assert [run.name for run in list_runs(tmp_path)] == ["b", "a"]
    assert list_runs(tmp_path / "none") == []
    assert diff(b, a) == {"config.seed": (1, 2), "metrics.loss.content": (1.0, None)}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)
names = st.from_regex(r"[a-z]{1,8}", fullmatch=True).filter(
    lambda name: name not in ("v", "time", "type", "self")
)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(names, json_values), max_size=5))
def test_events_round_trip(fields):
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run")
        for values in fields:
            run.event("step", **values)
        read = list(Run.open(run.path).events("step"))
        lines = (run.path / "events.jsonl").read_text().split("\n")
    assert [{k: e[k] for k in e if k not in ("v", "time", "type")} for e in read] == fields
    assert all(json.loads(line) for line in lines if line)


def test_flatten_keeps_empty_mappings_and_lists():
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}

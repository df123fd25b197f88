import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import stretto
from stretto import cli
from stretto.errors import LimitError
from stretto.runs import Run

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "peft", "pyarrow", "numpy", "pydantic")


def call(*arguments: str) -> int:
    """The exit code of ``stretto ARGUMENTS``."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.fixture
def runs(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        with Run.create(tmp_path / name, {"seed": seed}, kind="train") as run:
            run.event("step", loss=0.5, parts={"silence": 0.25})
    return tmp_path


def test_help_imports_nothing_heavy():
    code = (
        "import sys, stretto.cli\n"
        "try: stretto.cli.main(['--help'])\n"
        f"finally: print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in cli._COMMANDS:
        assert f" {command} " in done.stdout


def test_help_answers_within_the_goal():
    def seconds() -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "stretto", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start

    # the fastest of several: other work on the machine is not what is measured
    assert min(seconds() for _ in range(5)) < 0.4


def test_version(capsys):
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == stretto.__version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rums"], "stretto: unknown command 'rums', did you mean runs?\n"),
        (["zzz"], "stretto: unknown command 'zzz', choose from demo, chat,"),
        (["runs", "show", "none"], "stretto: no run 'none'"),
        (["runs", "list", "--no-such-option"], "--no-such-option"),
        (["runs", "compare", "one"], "requires an argument"),
    ],
)
def test_wrong_usage_exits_2_and_says_why_on_stderr(capsys, arguments, message):
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (LimitError("too many rows"), 2, "stretto: too many rows\n"),
        (KeyboardInterrupt(), 130, "stretto: interrupted\n"),
        (
            ModuleNotFoundError("No module named 'peft'", name="peft"),
            2,
            "stretto: this command needs more packages: pip install 'stretto[train]'\n",
        ),
    ],
)
def test_errors_become_one_line_and_an_exit_code(monkeypatch, capsys, error, code, line):
    def fail(argv: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert call("runs") == code
    assert capsys.readouterr().err == line


def test_a_defect_of_our_own_is_not_hidden(monkeypatch):
    def fail(argv: object) -> int:
        raise ModuleNotFoundError("No module named 'stretto.nothing'", name="stretto.nothing")

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["runs"])


def test_a_reader_that_goes_away_is_no_error(runs):
    command = f"{sys.executable} -m stretto runs export a --parent {runs} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_runs_list_as_table_and_json(runs, capsys):
    assert call("runs", "list", "--parent", str(runs)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["a", "train", "finished"],
        ["b", "train", "finished"],
    ]
    assert call("runs", "list", "--parent", str(runs), "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["a", "b"]


def test_runs_list_of_an_empty_folder(tmp_path, capsys):
    assert call("runs", "list", "--parent", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_runs_show_takes_a_name_or_a_folder(runs, capsys):
    for run in (("a", "--parent", str(runs)), (str(runs / "a"),)):
        assert call("runs", "show", *run, "--json") == 0
        facts = {row["key"]: row["value"] for row in json.loads(capsys.readouterr().out)}
        assert facts["config.seed"] == 1
        assert facts["status"] == "finished"


def test_runs_compare(runs, capsys):
    assert call("runs", "compare", "a", "b", "--parent", str(runs), "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"key": "config.seed", "a": 1, "b": 2}]


def test_runs_export(runs, capsys):
    where = ("--parent", str(runs), "--type", "step")
    assert call("runs", "export", "a", *where) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "v,time,type,loss,parts.silence"
    assert row.endswith(",step,0.5,0.25")
    target = runs / "a.json"
    assert call("runs", "export", "a", *where, "--format", "json", "-o", str(target)) == 0
    assert [event["loss"] for event in json.loads(target.read_text())] == [0.5]


def test_the_help_page_is_current():
    spec = spec_from_file_location("help_page", ROOT / "tools" / "help_page.py")
    assert spec is not None
    assert spec.loader is not None
    help_page = module_from_spec(spec)
    spec.loader.exec_module(help_page)
    assert help_page.PAGE.read_text(encoding="utf-8") == help_page.page(), "run: make docs"

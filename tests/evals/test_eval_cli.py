"""``stretto eval``: wrong options exit 2 with one line; a report needs no model."""

import json
import shutil
from pathlib import Path

import pytest

from stretto.cli import main

SAVED = Path(__file__).parent / "saved_run"


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *arguments])
    return exit_.value.code or 0  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no development pack


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "sudoku"], "sudoku"),
        (["--systems", "oracle"], "oracle"),
        (["--rates", "fast"], "fast"),
        (["--rates", "-5"], "-5"),
        (["--lags", "9"], "'9'"),
        (["--limit", "-1"], "limit"),
        (["--batch", "0"], "batch"),
        (["--tasks", "gsm8k"], "--source"),
        (["--source", "nowhere"], "nowhere"),
        (["--resume"], "--out"),
        (["--out", "nothing-here", "--resume"], "nothing-here"),
        (["--model", "no-such-model", "--tasks", "chain_sum", "--limit", "1",
          "--systems", "read", "--out", "run"], "no-such-model"),
    ],
)  # fmt: skip
def test_wrong_options(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("efficiency", *arguments) == 2
    assert said in capsys.readouterr().err


def test_report_from_a_saved_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SAVED, tmp_path / "run")
    assert call("report", "run", "-o", "results") == 0
    out = capsys.readouterr().out
    assert "leg_counting: met" in out
    assert "gsm8k: missed" in out
    page = (tmp_path / "results" / "efficiency.md").read_text()
    assert page.startswith("# Efficiency")
    assert call("report", "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["config"]["limit"] == 10


def test_report_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", "no-run") == 2
    assert "not a run folder" in capsys.readouterr().err

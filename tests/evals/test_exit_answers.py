"""``stretto eval exits --answers``: every exit writes its own answers, and they are graded."""

from pathlib import Path
from typing import Any

import pytest

from stretto.engine import Engine
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import InputError
from stretto.evals import exit_answers
from stretto.evals.exits import ExitEval, write_csv
from stretto.evals.items import GENERATED
from stretto.streams import SINGLE


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """How each engine was opened."""
    pytest.importorskip("reasoning_gym")
    monkeypatch.chdir(tmp_path)  # where there is no development pack
    monkeypatch.setattr(exit_answers, "load", lambda *_: tiny_lm(SINGLE))
    monkeypatch.setattr(exit_answers, "load_codec", lambda _: tiny_codec())
    monkeypatch.setattr(exit_answers, "MAX_TOKENS", 8)
    seen: list[Any] = []
    init = Engine.__init__

    def noted(self: Engine, *args: Any, **options: Any) -> None:
        seen.append(options.get("exit_layer"))
        init(self, *args, **options)

    monkeypatch.setattr(Engine, "__init__", noted)
    return seen


def test_every_exit_answers_every_task(
    opened: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = iter([True, False] * 20)
    found = exit_answers.record

    def graded(*of: Any) -> Any:
        record = found(*of)
        object.__setattr__(record, "correct", next(right))
        return record

    monkeypatch.setattr(exit_answers, "record", graded)
    rows = exit_answers.answers(ExitEval("tiny", layers=(1, 2)), 2)
    assert opened == [None, 1, 2]
    assert [(r["layer"], r["kind"]) for r in rows[:: len(GENERATED)]] == [
        (None, "model"), (1, "plain"), (2, "plain"),
    ]  # fmt: skip
    assert [r["task"] for r in rows[: len(GENERATED)]] == list(GENERATED)
    assert all(r["items"] == 2 and r["accuracy"] == 0.5 for r in rows)
    assert all(r["low"] < 0.5 < r["high"] for r in rows)
    path = write_csv(rows, exit_answers.COLUMNS, tmp_path / "answers.csv")
    assert len(path.read_text().splitlines()) == 1 + len(rows)


def test_given_texts_cannot_be_graded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give no --data or --text"):
        exit_answers.answers(ExitEval("tiny", text=tmp_path / "x.txt"), 2)

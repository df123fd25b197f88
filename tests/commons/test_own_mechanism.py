"""A mechanism in a file of one's own, as the guide shows it."""

import asyncio
from pathlib import Path

import pytest

from stretto import config
from stretto.commons.play import play
from stretto.commons.plugins import found
from stretto.commons.sweep import Sweep, plan
from stretto.errors import ConfigError

EXAMPLES = Path(__file__).parents[2] / "examples" / "commons"


def test_the_guides_sweep_plays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parents[1])
    planned = plan(config.load(Sweep, EXAMPLES / "tithe.yaml"))
    assert len(planned) == 40
    plain, tithed = (
        asyncio.run(play(next(p.config for p in planned if bool(p.config.mechanisms) == with_it)))
        for with_it in (False, True)
    )
    assert (plain.received == tithed.received).all()
    first = plain.received.sum(axis=0)
    moved = tithed.transfers.sum(axis=0)
    assert moved.sum() == pytest.approx(0)
    assert moved == pytest.approx(0.2 * (first.mean() - first))


def test_files_that_are_no_mechanisms(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        found("mechanisms", str(tmp_path / "x.py"), {})
    (tmp_path / "x.py").write_text("a = 1\n")
    with pytest.raises(ConfigError, match="has no class Plugin"):
        found("mechanisms", str(tmp_path / "x.py"), {})
    with pytest.raises(ConfigError, match="parts"):
        found("mechanisms", str(EXAMPLES / "tithe.py"), {"parts": 1})


def test_the_guide_shows_the_example_whole() -> None:
    guide = (EXAMPLES.parents[1] / "docs" / "guides" / "commons.md").read_text(encoding="utf-8")
    shown = guide.split("```python\n")[1].split("```")[0]
    assert shown == (EXAMPLES / "tithe.py").read_text(encoding="utf-8")

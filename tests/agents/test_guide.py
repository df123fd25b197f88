"""What the guide shows runs, and is what it says."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.endpoint import Endpoint
from stretto.cli.agent_tools import registry_of
from tests.agents.sandboxes import ON_LINUX

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "agents"


def test_the_guide_shows_the_example_whole() -> None:
    guide = (ROOT / "docs" / "guides" / "agents.md").read_text(encoding="utf-8")
    shown = guide.split("```python\n")[1].split("```")[0]
    assert shown == (EXAMPLES / "stock.py").read_text(encoding="utf-8")


def test_the_examples_tools_work() -> None:
    registry = registry_of([str(EXAMPLES / "stock.py")])
    assert asyncio.run(registry.get("in_stock").acall(what="coffee")) == 12
    assert registry.effects == {"in_stock": "read", "order": "write"}


@ON_LINUX
def test_the_example_of_an_endpoint_runs(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    with Endpoint() as endpoint:
        done = subprocess.run(
            [sys.executable, EXAMPLES / "endpoint.py", endpoint.url, "mock"],
            capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'outcome': 'answered', 'answer': 'The answer is 4.'" in done.stdout

"""What ``stretto doctor`` tells of machines that lack something: no sandbox is ever made up."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stretto.agents.sandbox import Guarantee, NoSandboxError, open_sandbox
from stretto.agents.sandbox.doctor import advice
from stretto.cli import main
from tests.agents.sandboxes import NEEDS_IT, ON_LINUX

ROOT = Path(__file__).resolve().parents[2]
HELD = [Guarantee("works here", True, "uid 7, folder /sandbox"), Guarantee("a", True)]
NOT_HERE = [Guarantee("works here", False, "no namespaces")]


@pytest.mark.parametrize("backend", ["auto", "bubblewrap", "landlock"])
def test_elsewhere_than_on_linux_nothing_is_run(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    async def run() -> None:
        async with open_sandbox(backend):  # type: ignore[arg-type]
            raise AssertionError("it opened")

    with pytest.raises(NoSandboxError, match=r"only Linux .* this is darwin; .* monty"):
        asyncio.run(run())


def test_doctor_on_macos_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit) as raised:
        main(["doctor"])
    found = capsys.readouterr()
    assert raised.value.code == 1
    assert found.out.count("NOT HELD") == 2 and "Traceback" not in found.err
    assert "cannot be confined on darwin" in found.err and "--backend monty" in found.err


def test_advice_names_what_code_runs_in() -> None:
    assert advice({"bubblewrap": HELD, "landlock": HELD}) == ["Code runs in bubblewrap."]
    told = " ".join(advice({"bubblewrap": NOT_HERE, "landlock": HELD}))
    assert told.startswith("Code runs in landlock.") and "lets users have namespaces" in told
    told = " ".join(advice({"bubblewrap": NOT_HERE, "landlock": NOT_HERE}))
    assert told.startswith("No sandbox works here, so no code is run.") and "monty" in told
    poor = [Guarantee("works here", True, "uid 7, no folder to write in")]
    assert "cannot write files" in advice({"bubblewrap": NOT_HERE, "landlock": poor})[-1]
    bad = [*HELD, Guarantee("no network", False)]
    assert advice({"bubblewrap": HELD, "landlock": bad}) == [
        "Do not run strangers' code here: not held are landlock: no network."
    ]


WITHOUT = """
import asyncio
from stretto.agents.sandbox.doctor import advice, doctor
found = {name: asyncio.run(doctor(name)) for name in ("bubblewrap", "landlock")}
print(found["bubblewrap"][0].held, found["landlock"][0].held)
print([row for rows in found.values() if rows[0].held for row in rows if row.held is False])
print(*advice(found), sep="\\n")
"""


def _in_a_container(script: str) -> list[str]:
    """What ``WITHOUT`` prints where root is a plain user's, after ``script``."""
    for name in ("unshare", "setpriv"):
        if not shutil.which(name):
            pytest.skip(f"needs {name}")
    done = subprocess.run(
        ["unshare", "-U", "-r", "sh", "-c", f'{script} "$@"', "sh", sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"such a container cannot be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


NO_NAMESPACES = "echo 0 > /proc/sys/user/max_user_namespaces || exit 77; exec"


@ON_LINUX
def test_a_container_without_user_namespaces_gets_landlock() -> None:
    """As such a container is: no capability, and the kernel refuses new namespaces."""
    drop = "setpriv --bounding-set -all --inh-caps -all --ambient-caps -all"
    works, broken, *told = _in_a_container(f"{NO_NAMESPACES} {drop}")
    assert (works, broken) == ("False True", "[]")
    assert told[0] == "Code runs in landlock."
    assert any("lets users have namespaces" in line for line in told)
    assert told[-1].endswith("code cannot write files.")


@ON_LINUX
def test_a_container_whose_root_is_a_plain_user_is_confined_too() -> None:
    """It has every capability, but no other uid to become and no groups to give up."""
    works, broken, *told = _in_a_container(f"{NO_NAMESPACES} env")
    assert (works, broken) == ("False True", "[]"), told
    assert told[0] == "Code runs in landlock."


@pytest.mark.slow
@ON_LINUX
@NEEDS_IT
def test_such_a_container_has_bubblewrap_where_namespaces_may_be_nested() -> None:
    works, broken, *told = _in_a_container("exec env")
    assert (works, broken) == ("True True", "[]"), told
    assert told == ["Code runs in bubblewrap."]

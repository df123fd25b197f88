"""The conformance kit, on every sandbox here, as the user who runs the tests and as a plain one."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stretto.agents.sandbox import Policy, open_sandbox, testing
from stretto.agents.sandbox.hostile import HARMLESS
from tests.agents.sandboxes import BOTH, NEEDS_IT, ON_LINUX

pytestmark = ON_LINUX
ROOT = Path(__file__).resolve().parents[2]
# Of each kind a few, so that the default run stays short; -m slow runs them all as a plain user.
SAMPLE = sorted(HARMLESS)[::4]


def test_the_suites_are_as_large_as_promised() -> None:
    assert len(testing.hostile_names()) >= 60
    assert len(testing.BENIGN) >= 100


@BOTH
def test_every_hostile_program_is_contained(backend: str) -> None:
    async def run() -> dict[str, str]:
        async with open_sandbox(backend, testing.POLICY) as box:
            return await testing.run_hostile(box)

    assert asyncio.run(run()) == {}


@BOTH
def test_every_ordinary_program_runs(backend: str) -> None:
    pytest.importorskip("numpy")
    policy = Policy(imports=("numpy",))

    async def run() -> dict[str, str]:
        async with open_sandbox(backend, policy) as box:
            return await testing.run_benign(box)

    assert asyncio.run(run()) == {}


def test_hostile_programs_get_out_where_there_is_no_sandbox() -> None:
    """What makes the suite worth anything: replaced by exec, the sandbox fails."""
    got_out = asyncio.run(testing.without_sandbox(SAMPLE))
    assert [name for name, out in got_out.items() if not out] == []


@pytest.mark.slow
def test_all_harmless_hostile_programs_get_out_without_a_sandbox() -> None:
    got_out = asyncio.run(testing.without_sandbox())
    assert [name for name, out in got_out.items() if not out] == []


def as_plain_user(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user with no rights; root's interpreter is made reachable for it first."""
    if os.geteuid() != 0:
        pytest.skip("not root: the other tests already run as a plain user")
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        pytest.skip("needs unshare and setpriv")
    base = Path(sys.base_prefix)
    script = 'cd "$0" && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"'
    if base.is_relative_to("/root"):
        script = (
            f"mount --bind {base} /mnt && mount -t tmpfs -o mode=755 none /root && "
            f"mkdir -p {base} && mount --bind /mnt {base} && umount /mnt && {script}"
        )
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(ROOT), sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=500,
    )


PLAIN = """
import asyncio, os
from stretto.agents.sandbox import open_sandbox, testing
async def main():
    assert os.getuid() == 65534
    for backend in ("bubblewrap", "landlock"):
        async with open_sandbox(backend, testing.POLICY) as box:
            assert await testing.run_hostile(box, {names!r}) == {{}}
            print(backend)
asyncio.run(main())
"""


@NEEDS_IT
def test_a_plain_user_is_safe_too() -> None:
    names = [*SAMPLE, "fork bomb", "thread bomb", "becomes root", "mounts", "fills the disk"]
    done = as_plain_user("-c", PLAIN.format(names=names))
    assert done.stdout.split() == ["bubblewrap", "landlock"], done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_everything_holds_for_a_plain_user() -> None:
    tests = [
        "tests/agents/test_sandbox.py",
        f"{__file__}::{test_every_hostile_program_is_contained.__name__}",
    ]
    done = as_plain_user("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]

"""How soon an IPython kernel gives its first result; in a virtual environment of its own.

``python -m benchmarks.agents sandbox`` uses it. The environment is made once by pip, in
``build/ipython-venv``; ``BENCH_IPYTHON`` names the interpreter of another that has ipykernel and
jupyter-client. Run as a file by that interpreter, this is the kernel's starter.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

VENV = Path("build/ipython-venv")
PACKAGES = ("ipykernel", "jupyter-client")
_INSTALL_SECONDS, _ANSWER_SECONDS = 600, 60


class NoIPythonError(Exception):
    """It cannot be measured here; one line says why."""


@contextmanager
def kernels() -> Iterator[Callable[[], float]]:
    """Seconds from asking for a kernel to the result of ``1 + 1``, each time it is called.

    Neither the interpreter that starts it nor its imports count.

    Raises:
        NoIPythonError: no such environment, and none can be made.
    """
    try:
        starter = subprocess.Popen(
            [_interpreter(), Path(__file__).resolve()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JUPYTER_PLATFORM_DIRS": "1"},
        )
    except OSError as error:
        raise NoIPythonError(str(error)) from None
    assert starter.stdin and starter.stdout and starter.stderr
    asked, told, complaints = starter.stdin, starter.stdout, starter.stderr

    def first_result() -> float:
        try:
            asked.write("go\n")
            asked.flush()
            return float(told.readline())
        except (OSError, ValueError):  # it ended
            why = complaints.read().strip().splitlines()
            raise NoIPythonError(why[-1] if why else "its starter ended") from None

    try:
        yield first_result
    finally:
        starter.kill()
        starter.communicate()


def _interpreter() -> str:
    """Of the environment, which is made if it is not there."""
    named = os.environ.get("BENCH_IPYTHON")
    if named:
        return named
    python = VENV / "bin/python"
    done = VENV / "installed"
    if not done.exists():
        print(f"  making {VENV} for the comparison", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(VENV)],
            [str(python), "-m", "pip", "install", "--quiet", "--no-input", *PACKAGES],
        ):
            try:
                made = subprocess.run(
                    command, capture_output=True, text=True, timeout=_INSTALL_SECONDS
                )
            except subprocess.TimeoutExpired:
                raise NoIPythonError(f"{' '.join(PACKAGES)}: pip takes too long") from None
            if made.returncode:
                lines = (made.stderr or made.stdout).strip().splitlines()
                raise NoIPythonError(lines[-1] if lines else f"{command[0]} failed")
        done.touch()
    return str(python)


def _start_kernels() -> None:
    """A kernel for each line of standard input; its seconds to standard output."""
    from jupyter_client.manager import KernelManager  # type: ignore[import-not-found]

    for _ in sys.stdin:
        started = time.perf_counter()
        manager = KernelManager()
        manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = manager.client()
        client.start_channels()
        # Asked at once, which is quicker than to wait until it is ready: the request waits for it.
        client.execute("", user_expressions={"sum": "1 + 1"})
        while True:
            answer = client.get_shell_msg(timeout=_ANSWER_SECONDS)
            if answer["msg_type"] == "execute_reply":
                break
        seconds = time.perf_counter() - started
        assert answer["content"]["user_expressions"]["sum"]["data"]["text/plain"] == "2"
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        print(seconds, flush=True)


if __name__ == "__main__":
    _start_kernels()

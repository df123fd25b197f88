"""Compiles the native back end into the wheel, or in place; without a compiler, leaves it out.

Hatchling calls the hook; ``python hatch_build.py`` compiles in place, as an editable install does.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "stretto" / "engine" / "backends" / "native"
SOURCE = FOLDER / "src" / "api.cpp"
COMMON = "-std=c++20 -O3 -fPIC -shared -pthread -fvisibility=hidden -fno-math-errno -Wno-psabi"
AVX2 = "-mavx2 -mfma -mf16c"
AVX512 = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512"
ISAS = {"avx2": AVX2, "avx512": f"{AVX2} {AVX512}"}
"""One library for each kind of processor; which one to open is decided when it is opened."""


class NativeBuildHook(BuildHookInterface):
    """Adds the compiled libraries to what is built."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile; a failure is told and leaves the package without the back end."""
        if self.target_name != "wheel":
            return
        if reason := why_not():
            self.app.display_warning(f"stretto: back end native is left out: {reason}")
            return
        try:
            compile_all()
        except (subprocess.CalledProcessError, OSError) as error:
            self.app.display_warning(f"stretto: back end native is left out: {told(error)}")
            return
        if version != "editable":
            from packaging.tags import platform_tags

            build_data["artifacts"] += [f"/{p.relative_to(Path(self.root))}" for p in built()]
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{next(iter(platform_tags()))}"


def why_not() -> str | None:
    """What keeps it from being compiled here; None if nothing does."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"it is written for Linux on x86-64, this is {sys.platform} {platform.machine()}"
    return None if compiler() else "no C++ compiler found (apt-get install g++)"


def compiler() -> list[str]:
    """The C++ compiler's command: ``CXX``, which may have words behind it, or a usual name."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        try:
            words = shlex.split(name)
        except ValueError:  # a quotation mark without its twin
            continue
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    return []


def told(error: subprocess.CalledProcessError | OSError) -> str:
    """What went wrong: the compiler's own words, or why it could not be started."""
    return str(error) if isinstance(error, OSError) else error.stderr.decode(errors="replace")


def built() -> list[Path]:
    """Where the libraries go."""
    return [FOLDER / f"stretto_{isa}.so" for isa in ISAS]


def compile_all() -> None:
    """Compile the libraries that are older than their sources, side by side.

    Raises:
        CalledProcessError: the compiler refuses.
        OSError: it cannot be started, or the libraries cannot be written.
    """
    newest = max(path.stat().st_mtime for path in [*SOURCE.parent.iterdir(), Path(__file__)])
    running: list[tuple[subprocess.Popen[bytes], Path, Path]] = []
    failures: list[subprocess.CalledProcessError | OSError] = []
    for target, (isa, flags) in zip(built(), ISAS.items(), strict=True):
        if target.exists() and target.stat().st_mtime >= newest:
            continue
        unfinished = target.with_suffix(f".{os.getpid()}")
        options = [*COMMON.split(), *flags.split(), f"-DSTRETTO_ISA={isa}"]
        command = [*compiler(), *options, str(SOURCE)]
        try:
            job = subprocess.Popen([*command, "-o", str(unfinished)], stderr=subprocess.PIPE)
        except OSError as error:
            failures.append(error)
            break  # the one that runs is waited for
        running.append((job, unfinished, target))
    for job, unfinished, target in running:
        _, errors = job.communicate()
        if job.returncode:
            unfinished.unlink(missing_ok=True)
            failures.append(subprocess.CalledProcessError(job.returncode, job.args, stderr=errors))
        else:
            unfinished.rename(target)  # a process that has the old one open keeps it
    if failures:
        raise failures[0]


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"back end native is left out: {reason}")
    try:
        compile_all()
    except (subprocess.CalledProcessError, OSError) as error:
        sys.exit(told(error))

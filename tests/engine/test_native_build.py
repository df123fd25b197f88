"""The native back end is compiled where it can be, and left out in one line where not."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hook, as if the package lay in a folder of the test."""
    monkeypatch.syspath_prepend(str(ROOT))
    import hatch_build

    source = tmp_path / "src" / "api.cpp"
    source.parent.mkdir()
    source.write_text("int stretto;")
    monkeypatch.setattr(hatch_build, "FOLDER", tmp_path)
    monkeypatch.setattr(hatch_build, "SOURCE", source)
    return hatch_build


def compiler(folder: Path, does: str) -> Path:
    """A compiler that does something with ``$out``, where its output should go."""
    path = folder / "fake-compiler"
    path.write_text(
        '#!/bin/bash\nout="${@: -1}"\nwhere=$(dirname "$0")\necho call >> $where/calls\n' + does
    )
    path.chmod(0o755)
    return path


def calls(folder: Path) -> int:
    return len((folder / "calls").read_text().split())


def test_without_a_compiler_it_says_how_to_get_one(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if sys.platform == "linux" and os.uname().machine == "x86_64":
        assert hook.why_not() == "no C++ compiler found (apt-get install g++)"
    path = compiler(tmp_path, "exit 0")
    monkeypatch.setenv("CXX", str(path))
    assert hook.compiler() == [str(path)]
    monkeypatch.setattr(hook.platform, "machine", lambda: "aarch64")
    assert hook.why_not() == "it is written for Linux on x86-64, this is linux aarch64"


def test_what_is_up_to_date_is_not_compiled_again(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(compiler(tmp_path, 'echo compiled > "$out"')))
    hook.compile_all()
    assert calls(tmp_path) == 2
    assert [path.read_text() for path in hook.built()] == ["compiled\n"] * 2
    hook.compile_all()
    assert calls(tmp_path) == 2
    later = hook.built()[0].stat().st_mtime + 10
    os.utime(hook.SOURCE, (later, later))
    hook.compile_all()
    assert calls(tmp_path) == 4


# The one that succeeds is slow: it must not be left behind when the other has failed.
@pytest.mark.parametrize("fails", ["avx2", "avx512"])
def test_a_compiler_that_fails_leaves_no_half_file(
    fails: str, hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    does = (
        'echo half > "$out"\n'
        f'if [[ "$*" == *STRETTO_ISA={fails}* ]]; then echo no such thing >&2; exit 1; fi\n'
        'sleep 0.3; echo compiled > "$out"'
    )
    monkeypatch.setenv("CXX", str(compiler(tmp_path, does)))
    with pytest.raises(subprocess.CalledProcessError) as caught:
        hook.compile_all()
    assert caught.value.stderr == b"no such thing\n"
    whole = [path.name for path in hook.built() if fails not in path.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*whole, "calls", "fake-compiler", "src"]
    )


class Told:
    """What the hook shows to whoever installs."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


@pytest.mark.parametrize(
    ("does", "words"),
    [("echo no such thing >&2; exit 1", "no such thing"), (None, "Exec format error")],
)
def test_a_compiler_that_does_not_work_leaves_the_back_end_out(
    does: str | None,
    words: str,
    hook: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = compiler(tmp_path, does or "")
    if does is None:
        path.write_bytes(b"\x7fELF no program")
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setattr(hook, "why_not", lambda: None)
    told, data = Told(), {"artifacts": []}
    build = hook.NativeBuildHook(str(tmp_path), {}, None, None, "", "wheel", app=told)
    build.initialize("standard", data)
    (warning,) = told.warnings
    assert "back end native is left out" in warning and words in warning
    assert data == {"artifacts": []}


def test_the_compiler_may_have_words_before_and_behind(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler(tmp_path, 'echo "$1 $2" > "$out"')
    monkeypatch.setenv("CXX", f"'{path}' g++ -fno-plt")
    hook.compile_all()
    assert hook.built()[0].read_text() == "g++ -fno-plt\n"
    monkeypatch.setenv("CXX", "'g++")
    assert "g++" not in hook.compiler()[1:]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_wheel_holds_both_libraries(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    assert re.search(r"-py3-none-(linux|manylinux_\d+_\d+)_x86_64\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (folder,) = [name for name in names if name.endswith("dist-info/WHEEL")]
        text = archive.read(folder).decode()
    assert "Root-Is-Purelib: false" in text
    for isa in ("avx2", "avx512"):
        assert f"stretto/engine/backends/native/stretto_{isa}.so" in names

"""``stretto skills``: admit, list, show, export, import, and exit codes."""

import json
import sys
from pathlib import Path

import pytest

from stretto.agents.skills import SkillLibrary
from stretto.cli import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

CODE = "def halve(x: int) -> float:\n    '''Half of a number.'''\n    return x / 2\n"
TESTS = (
    "def test_four():\n    assert halve(4) == 2\n\ndef test_odd():\n    assert halve(3) == 1.5\n"
)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("halve.py").write_text(CODE)
    Path("tests.py").write_text(TESTS)

    def run(*argv):
        with pytest.raises(SystemExit) as raised:
            main(["skills", *argv])
        found = capsys.readouterr()
        if "no sandbox works here" in found.err:
            pytest.skip(found.err)
        return raised.value.code, found.out, found.err

    return run


def test_a_skill_goes_round(call):
    assert call("admit", "halve.py", "--tests", "tests.py") == (
        0, "halve 1 (evidence: generated)\n", "",
    )  # fmt: skip
    code, out, _ = call("list", "number", "--json")
    assert code == 0 and json.loads(out)[0]["name"] == "halve"
    assert call("show", "halve")[1] == CODE
    assert json.loads(call("show", "halve", "--json")[1])["evidence"] == "generated"
    assert call("export", "halve", "--into", "out") == (0, "out/halve\n", "")
    assert call("import", "out", "--library", "other")[:2] == (
        0, "halve 1 (evidence: generated)\n",
    )  # fmt: skip
    library = SkillLibrary("skills", failures=3)
    for _ in range(3):
        library.note("halve", False, "halve(0)")
    assert "quarantine" in call("list")[1] and "halve(0)" in call("show", "halve")[2]
    assert call("list", "number", "--json")[1].strip() == "[]"


def test_refusals_exit_with_one_and_reasons(call):
    Path("checks.py").write_text("def test_big():\n    assert halve(10**30) == 7\n")
    code, out, err = call("admit", "halve.py", "--tests", "tests.py", "--checks", "checks.py")
    assert (code, out) == (1, "") and "halve: it fails 1 of 1 hidden checks" in err
    assert "10**30" not in err
    Path("halve.py").write_text(
        "import os\n" + CODE.replace("return", "os.remove('x')\n    return")
    )
    code, _, err = call("admit", "halve.py", "--tests", "tests.py")
    assert code == 1 and "counts as write" in err


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["list"], "no library there"),
        (["show", "x", "--library", "."], "no skill 'x'"),
        (["admit", "none.py", "--tests", "tests.py"], "none.py: No such file"),
        (["admit", "halve.py", "--tests", "halve.py"], "no functions test_"),
        (["export", "--into", "out"], "name the skills"),
        (["import", "nowhere"], "nowhere: no folder"),
        (["import", "."], "name a folder with a SKILL.md"),
    ],
)
def test_wrong_usage_is_one_line(call, argv, word):
    code, _, err = call(*argv)
    assert code == 2 and word in err and err.count("\n") == 1

"""``stretto sandbox exec``: values, exit codes, and output that cannot command the terminal."""

import json
import sys

import pytest

from stretto.cli import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def call(*argv: str) -> object:
    with pytest.raises(SystemExit) as raised:
        main(["sandbox", "exec", *argv, "--backend", "landlock"])
    return raised.value.code


def test_exec_prints_output_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("print('a\\x1b[2Jb\\u202e'); 1 + 1") == 0
    assert capsys.readouterr().out == "a\\x1b[2Jb\\u202e\n2\n"


def test_exec_fails_with_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("print(1)\n1 / 0") == 1
    found = capsys.readouterr()
    assert found.out == "1\n" and "ZeroDivisionError" in found.err
    assert call("while True: pass", "--cpu", "0.2", "--json") == 1
    assert json.loads(capsys.readouterr().out)["limit"] == "cpu"


def test_exec_refuses_a_bad_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("1", "--memory", "much") == 2
    assert "'much' is no size" in capsys.readouterr().err

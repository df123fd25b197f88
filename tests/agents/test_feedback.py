import asyncio

import pytest

pytest.importorskip("benchmarks.unsafe_fake")  # not in an installed package
from benchmarks.unsafe_fake import UnsafeFakeSession
from stretto.agents.feedback import (
    LEVELS,
    Feedback,
    Test,
    assertions,
    doctests,
    exit_state,
    names,
    output_difference,
    ranking,
    suspects,
    syntax,
    trace,
    unit_tests,
)
from stretto.errors import InputError

GOOD = "def double(x):\n    return 2 * x\n"
BAD = "def double(x):\n    return x + 2\n"
TESTS = [
    Test("one", "assert double(2) == 4"),
    Test("two", "assert double(5) == 10"),
    Test("secret", "assert double(7) == 14", hidden=True),
]


def collect(collector, *arguments, **more):
    session = UnsafeFakeSession([])
    told = asyncio.run(collector(*arguments, session, **more))
    assert session.living[0] == 1  # every fork was closed
    assert not set(session.names) - {"print"}
    return told


def test_syntax():
    assert syntax(GOOD).good
    told = syntax("x = 1\ny = (2\n")
    assert (told.good, told.line) == (False, 2)
    assert told.text == "line 2: SyntaxError: '(' was never closed"
    assert told.at("bit") == "fail"
    assert "^" in told.at("trace")
    assert "close the bracket" in told.at("explain")


@pytest.mark.parametrize(
    ("code", "good", "word"),
    [
        ("import json\nprint(json.dumps(1))", True, ""),
        ("def f(n):\n    return g(n)\ndef g(n):\n    return n\n", True, ""),
        ("class A:\n    x = 1\n    def m(self):\n        return self.x\nA()", True, ""),
        ("def f():\n    global z\n    z = 1\nf()\nprint(z)", True, ""),
        ("[q for q in range(3)]\nlambda a, *b: a", True, ""),
        ("from math import *\nprint(sqrt(4))", True, ""),
        ("print(search('a'), __name__)", True, ""),
        ("total = 1\nprint(totl)", False, "line 2: NameError: name 'totl'"),
        ("def f():\n    return missing\n", False, "line 2: NameError: name 'missing'"),
        ("import numpi", False, "line 1: ModuleNotFoundError: no module 'numpi'"),
        ("x = = 1", False, "SyntaxError"),
    ],
)
def test_names(code, good, word):
    told = names(code, known=["search"])
    assert told.good == good, told
    assert word in told.text


def test_names_guesses_what_was_meant():
    assert "did you mean total?" in names("total = 1\nprint(totl)").at("explain")


def test_exit_state():
    assert collect(exit_state, GOOD).good
    told = collect(exit_state, "print('hi')\nx = [1]\nx[3]\n")
    assert told.text == "line 3: IndexError: list index out of range"
    assert "hi" in told.at("trace")
    assert "beyond the end" in told.at("explain")
    assert "x[3]" in told.at("explain")


def test_assertions_tell_both_sides():
    assert collect(assertions, GOOD + "assert double(2) == 4\nassert 1 in [1]").good
    told = collect(assertions, BAD + "\nassert double(5) == 10\n")
    assert told.text == "line 4: AssertionError: double(5) == 10: 7 and 10"
    told = collect(assertions, "for i in range(3):\n    assert i not in [2], 'no two'\n")
    assert told.text == "line 2: AssertionError: no two"


DOCUMENTED = '''def double(x):
    """Twice.

    >>> double(2)
    4
    >>> double("a")
    {}
    """
    return 2 * x
'''
RAISES = '''def f():
    """
    >>> f()
    Traceback (most recent call last):
    ValueError: no
    """
    raise ValueError("no")
'''


def test_doctests():
    assert collect(doctests, DOCUMENTED.format("'aa'")).value == 1.0
    told = collect(doctests, DOCUMENTED.format("'a'"))
    assert told.value == 0.5
    assert told.line == 6
    assert "gives 'aa', not 'a'" in told.text
    assert collect(doctests, GOOD).confidence == 0.0
    assert collect(doctests, RAISES).value == 1.0
    assert collect(doctests, RAISES.replace("no\n", "yes\n")).value == 0.0


def test_unit_tests_keep_hidden_ones_hidden():
    assert collect(unit_tests, GOOD, TESTS).value == 1.0
    told = collect(unit_tests, BAD, TESTS)
    assert told.value == pytest.approx(1 / 3)
    assert told.text.startswith("1 of 2 tests pass; 0 of 1 hidden ones; two: AssertionError")
    for level in LEVELS:
        assert "secret" not in told.at(level)
        assert "14" not in told.at(level)


def test_a_test_must_reach_its_end():
    class Ended(UnsafeFakeSession):
        """Says that all went well, as a process that was left early may."""

        async def exec(self, code):
            result = await super().exec(code)
            if "assert" in code or "raise" in code:
                result.ok, result.value_repr, result.error = True, "'done'", None
            return result

        async def fork(self, *, on_call=None):
            twin = await super().fork(on_call=on_call)
            twin.__class__ = Ended
            return twin

    told = asyncio.run(unit_tests(BAD, TESTS, Ended([])))
    assert told.value == 0.0


def test_ways_to_cheat_lower_confidence():
    equal = "class X:\n    def __eq__(self, other):\n        return True\n"
    cheat = equal + "def double(x):\n    return X()\n"
    told = collect(unit_tests, cheat, TESTS)
    assert told.value == 1.0
    assert told.confidence == 0.5
    assert suspects("import sys\nsys.exit(0)")
    assert not suspects(GOOD)


def test_output_difference():
    assert collect(output_difference, "print('a ')\nprint('b')", "a\nb\n\n").good
    told = collect(output_difference, "print('a')\nprint('c')", "a\nb")
    assert told.text == "output line 2 is 'c', not 'b'"
    assert "-b\n+c" in told.at("trace")
    told = collect(output_difference, "print('a')", "a\nb")
    assert told.text == "output line 2 is nothing more, not 'b'"


def test_trace_is_a_short_table_of_what_changed():
    told = collect(trace, "def f(n):\n    m = n * 2\n    return m\nx = f(3)\ny = x / 0\n")
    table = told.value.splitlines()
    assert "line 2: m = 6" in table
    assert "line 4: x = 6" in table
    assert told.text.startswith("line 5: ZeroDivisionError")
    long = collect(trace, "for i in range(100):\n    j = i\n")
    assert len(long.value.splitlines()) == 20
    assert "more ..." in long.value
    assert "j = 99" in long.value


def test_levels_add_up():
    told = collect(exit_state, "1 / 0")
    texts = [told.at(level) for level in LEVELS]
    assert texts[0] == "fail"
    assert texts[2].startswith(texts[1])
    assert texts[3].startswith(texts[2])
    assert len({len(text) for text in texts}) == 4
    with pytest.raises(InputError, match="no level"):
        told.at("loud")


def test_the_same_bytes_every_time():
    code = BAD + "class A: pass\na = A()\nprint(a)\nassert double(5) == 10, a\n"
    for collector, arguments in [
        (exit_state, [code]),
        (assertions, [code]),
        (trace, [code]),
        (doctests, [code + 'def f():\n    """\n    >>> A()\n    1\n    """\n']),
        (unit_tests, [BAD + "class A: pass\n", [Test("t", "assert double(A()) == A()"), *TESTS]]),
        (output_difference, [BAD + "class A: pass\nprint(A())", "<A>"]),
    ]:
        told = {collect(collector, *arguments).to_json() for _ in range(20)}
        assert len(told) == 1, collector
    assert len({syntax("x = (").to_json() + names("y").to_json() for _ in range(20)}) == 1


def test_what_may_differ_is_labelled():
    assert collect(exit_state, "x = 1").deterministic
    assert not collect(exit_state, "import random\nx = random.random()").deterministic


def test_ranking():
    values = [Feedback("reward", v, "", "tests", cost=1) for v in (0.5, 1.0, 0.5, 0.0)]
    assert ranking(values).value == [1, 0, 2, 3]
    assert ranking(values).cost == 4

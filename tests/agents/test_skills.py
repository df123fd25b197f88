"""The skill library, with real sandboxes: what is admitted, refused, found, loaded and rests."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from stretto.agents import jsonl
from stretto.agents.feedback import Test
from stretto.agents.jsonl import FolderLock, JsonLog
from stretto.agents.sandbox import NoSandboxError, Policy
from stretto.agents.skill import digest, from_record, to_record
from stretto.agents.skill_probes import calls_in, variations
from stretto.agents.skills import Skill, SkillLibrary
from stretto.errors import InputError, LimitError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

SQUARE = Skill(
    "square",
    "def square(x: int) -> int:\n    '''A number times itself.'''\n    return x * x\n",
    (Test("two", "assert square(2) == 4"), Test("three", "assert square(3) == 9")),
)
CUBE = Skill(
    "cube",
    "def cube(x: int) -> int:\n    '''The third power of a number.'''\n    return square(x) * x\n",
    (Test("two", "assert cube(2) == 8"), Test("three", "assert cube(3) == 27")),
    deps=("square",),
)


def admit(library, skill, **more):
    try:
        return asyncio.run(library.admit(skill, **more))
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


def changed(code, skill=SQUARE, **more):
    return replace(skill, code=code, **more)


def test_a_skill_is_tested_stored_found_and_loaded(tmp_path):
    library = SkillLibrary(tmp_path / "new")
    verdict = admit(library, SQUARE)
    assert verdict.ok, verdict.reasons
    assert verdict.skill.version == 1 and verdict.skill.evidence == "generated"
    assert verdict.skill.signature == "def square(x: int) -> int:"
    assert ("(4)", "int 16") in verdict.skill.probes
    verdict = admit(library, CUBE, checks=[Test("four", "assert cube(4) == 64")])
    assert verdict.ok, verdict.reasons
    assert verdict.skill.evidence == "hidden"
    again = SkillLibrary(tmp_path / "new")
    assert [skill.name for skill in again] == ["cube", "square"] and len(again) == 2
    assert again.get("cube") == verdict.skill
    assert [skill.name for skill in again.find("third power")] == ["cube"]
    assert again.source(["cube"]) == again.source(["square", "cube"])
    assert again.source(["cube"]).index("def square") < again.source(["cube"]).index("def cube")
    assert "cube" not in again.source(["square"])
    assert again.stub(["cube"]) == (
        'def cube(x: int) -> int:\n    """The third power of a number."""\n    ...\n\n'
    )


@pytest.mark.parametrize(
    ("skill", "word"),
    [
        (replace(SQUARE, name="Square-it"), "name 'Square-it'"),
        (replace(SQUARE, name="sum"), "Python's own"),
        (replace(SQUARE, tests=()), "no tests"),
        (replace(SQUARE, tests=(Test("x", "assert True"),)), "does not use square"),
        (replace(SQUARE, tests=(replace(SQUARE.tests[0], hidden=True),)), "as checks"),
        (changed("def square(x:\n"), "line 1: SyntaxError"),
        (changed("def other(x): return 1\n"), "defines no function square"),
        (changed("def square(x): return x * x\n"), "no description"),
        (changed("def square(x):\n    return x * y\n", doc="d"), "name 'y' is not assigned"),
        (changed("import torch\ndef square(x):\n    return x * x\n", doc="d"), "no module 'torch'"),
        (changed("print(1)\ndef square(x):\n    return x * x\n", doc="d"), "line 1: only imports"),
        (changed("from os import *\ndef square(x):\n    return x * x\n", doc="d"), "one by one"),
        (
            changed("import os\ndef square(x):\n    os.remove('a')\n    return x * x\n", doc="d"),
            "counts as write; it declares pure",
        ),
        (changed("def square(x):\n    open('a', 'w')\n    return x * x\n", doc="d"), "may write"),
        (changed("def square(x):\n    return int(open('a').read())\n", doc="d"), "may read"),
        (
            changed("seen = square(2)\ndef square(x):\n    return x * x\n", doc="d"),
            "loading it would do more",
        ),
        (
            changed("import math\ndef square(x):\n    math.pi = 3\n    return x * x\n", doc="d"),
            "line 3: it changes math",
        ),
        (
            changed("def len(x):\n    return 9\ndef square(x):\n    return x * x\n", doc="d"),
            "hide Python's own len",
        ),
        (
            changed("import sys\ndef square(x):\n    sys._getframe()\n    return x * x\n", doc="d"),
            "deceive its tests",
        ),
        (
            changed("import inspect\ndef square(x):\n    return x * x\n", doc="d", effect="write"),
            "see its tests by inspect",
        ),
        (
            changed("def square(x):\n    return eval('x*x')\n", doc="d", effect="write"),
            "see its tests by eval",
        ),
        (changed(f"def square(x):\n    return {'x + ' * 150}x\n", doc="d"), "more than 100 deep"),
        (changed("def square(x):\n    return 1\0\n", doc="d"), "null"),
        (changed("def square(x):\n    return '\ud800'\n", doc="d"), "surrogates not allowed"),
        (replace(SQUARE, tests=(Test("a\nb", "square(1)"),)), "a name of one line"),
        (replace(SQUARE, provenance={"a": {1}}), "JSON values"),
        (replace(SQUARE, deps=("root",)), "no skill 'root', which square needs"),
        (replace(SQUARE, deps=("square",)), "in a circle: square -> square"),
        (replace(SQUARE, tools=("search",)), "no tool 'search'"),
    ],
)
def test_reading_refuses(tmp_path, skill, word):
    library = SkillLibrary(tmp_path, sandbox="none such")  # nothing may be run for it
    verdict = asyncio.run(library.admit(skill))
    assert not verdict.ok and word in "\n".join(verdict.reasons)
    assert all("\n" not in reason for reason in verdict.reasons)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("skill", "checks", "word"),
    [
        (changed("def square(x):\n    return x + x\n", doc="d"), [], "1 of 2 tests pass; three"),
        (replace(SQUARE, tests=(Test("x", "square(2)"),)), [], "they test nothing"),
        (
            changed("def square(x):\n    'd\\n\\n>>> square(4)\\n15'\n    return x*x\n"),
            [],
            "its docstring: 0 of 1 examples",
        ),
        # Poisoned: right where its own tests look, wrong elsewhere.
        (
            changed("def square(x):\n    return {2: 4, 3: 9}[x]\n", doc="d"),
            [],
            "only: raises KeyError, never number",
        ),
        (
            changed("def square(x):\n    if x < 4:\n        return x * x\n", doc="d"),
            [Test("secret", "assert square(1234) == 1522756")],
            "fails 1 of 1 hidden checks",
        ),
        (
            changed("def square(x):\n    if x > 3: return z\n    z = 1\n    return x * x\n",
                    doc="d"),
            [],
            "raises UnboundLocalError",
        ),
        (
            replace(SQUARE, tests=(Test("x", "n = 2\nassert square(n) == 4"),)),
            [],
            "give hidden checks",
        ),
    ],
)  # fmt: skip
def test_running_refuses(tmp_path, skill, checks, word):
    verdict = admit(SkillLibrary(tmp_path), skill, checks=checks)
    assert not verdict.ok
    told = "\n".join(verdict.reasons)
    assert word in told and "1522756" not in told and "secret" not in told
    assert list(tmp_path.glob("*.json")) == []


def test_what_was_poisoned_cunningly_is_quarantined_and_released_by_checks(tmp_path):
    library = SkillLibrary(tmp_path, failures=2)
    sly = changed("def square(x):\n    return x * x if x < 9 else 0\n", doc="Square.")
    assert admit(library, sly).ok  # nobody knew better
    assert admit(library, CUBE).ok
    assert not library.note("square", False, "square(12) gave 0")
    assert library.note("square", True) is False
    assert library.note("square", False, "square(30) gave 0")
    assert "square(30) gave 0" in library.quarantined()["square"]
    other = SkillLibrary(tmp_path, failures=2)
    assert other.find("square power number") == []  # nor the skill that needs it
    for load in (other.source, other.stub):
        with pytest.raises(InputError, match="square rests in quarantine: 2 of the last 3"):
            load(["cube"] if load == other.source else ["cube", "square"])
    checks = [Test("twelve", "assert square(12) == 144")]
    assert "by hidden checks only" in admit(other, sly).reasons[0]
    assert "fails 1 of 1" in admit(other, sly, checks=checks).reasons[0]
    renamed = replace(
        sly,
        name="power_two",
        code=sly.code.replace("square", "power_two"),
        tests=(Test("two", "assert power_two(2) == 4"),),
    )
    assert "same code as square but for names, which is in qu" in admit(other, renamed).reasons[0]
    assert "needs square, which is in quarantine" in admit(other, CUBE).reasons[0]
    verdict = admit(other, SQUARE, checks=checks)
    assert verdict.ok and verdict.skill.version == 2, verdict.reasons
    assert library.quarantined() == {} and "x * x\n" in library.source(["cube"])
    assert library.get("square", 1).code == sly.code  # versions only grow
    assert library.get("square", 1).stats.uses == 3 and library.get("square").stats.uses == 0


def test_a_new_version_may_not_break_what_uses_it(tmp_path):
    library = SkillLibrary(tmp_path)
    assert admit(library, SQUARE).ok and admit(library, CUBE).ok
    assert "nothing is new: it is version 1" in admit(library, SQUARE).reasons[0]
    wrong = Skill(
        "square", "def square(x):\n    return [x, x]\n",
        (Test("two", "assert square(2) == [2, 2]"),), "A pair.",
    )  # fmt: skip
    assert "cube, which uses it, fails with it" in admit(library, wrong).reasons[0]
    circle = changed("def square(x):\n    return cube(x) // x\n", doc="d", deps=("cube",))
    assert "in a circle: square -> cube -> square" in admit(library, circle).reasons[0]
    better = changed("def square(x: int) -> int:\n    return x**2\n", doc="Square.")
    assert admit(library, better).skill.version == 2
    assert "x**2" in SkillLibrary(tmp_path).source("cube")


def test_duplicates_and_collisions_are_refused(tmp_path):
    library = SkillLibrary(tmp_path)
    assert admit(library, SQUARE).ok
    tests = (Test("two", "assert times_self(2) == 4"), Test("three", "assert times_self(3) == 9"))
    same = Skill(
        "times_self", "def times_self(n):  # but\n\n    return n*n\n", tests, "Self times."
    )
    assert "same code as square" in admit(library, same).reasons[0]
    alike = replace(
        same, code="def times_self(n):\n    return sum(n for _ in range(n)) or n ** 2\n"
    )
    assert "gives what square gives on all" in admit(library, alike).reasons[0]
    power = Skill(
        "fourth", "def square(x):\n    return x\ndef fourth(x):\n    return x ** 4\n",
        (Test("two", "assert fourth(2) == 16"),), "Fourth power.",
    )  # fmt: skip
    assert "square means another thing in the skill square" in admit(library, power).reasons[0]


def test_tools_are_declared_and_stood_in_for(tmp_path):
    library = SkillLibrary(tmp_path, tools={"search": "read", "send": "irreversible"})
    skill = Skill(
        "first_hit",
        "def first_hit(q: str) -> str:\n    return search(q)[0]\n",
        (Test("a", "assert first_hit('a') == 'hit a'"),),
        "The first thing found.",
        effect="read",
    )
    told = "\n".join(admit(library, skill).reasons)
    assert "calls the tool search, which it does not declare" in told
    skill = replace(skill, tools=("search",))
    assert "it may read" in admit(library, replace(skill, effect="pure")).reasons[0]
    assert "give on_call" in admit(library, skill).reasons[0]

    async def stand_in(name, args, kwargs):
        return [f"hit {args[0]}"]

    verdict = admit(library, skill, on_call=stand_in)
    assert verdict.ok and verdict.skill.probes == (), verdict.reasons
    hand = replace(
        skill, code="def first_hit(q):\n    f = send\n    f(q)\n    return search(q)[0]\n"
    )
    told = "\n".join(admit(library, hand, on_call=stand_in).reasons)
    assert "calls the tool send" in told and "it may write; it declares read" in told


def test_packages_that_are_not_here_are_not_loaded(tmp_path):
    code = "def square(x):\n    import numpy.linalg\n    return x\n"
    skill = replace(SQUARE, code=code, doc="d", version=1, signature="def square(x):")
    (tmp_path / "square.1.json").write_text(json.dumps(to_record(skill)))
    assert SkillLibrary(tmp_path).source("square") == code
    assert SkillLibrary(tmp_path, policy=Policy(imports=("numpy",))).find("square")
    poorer = SkillLibrary(tmp_path, policy=Policy())
    assert poorer.find("square") == []
    with pytest.raises(InputError, match="square needs the package numpy"):
        poorer.source("square")


def test_examples_speak_for_a_skill_and_limits_hold(tmp_path):
    library = SkillLibrary(tmp_path, policy=Policy(wall=1.0, cpu=1.0))
    code = (
        "def square(x):\n    '''Square.\n\n    >>> square(5)\n    25\n    '''\n    return x * x\n"
    )
    assert admit(library, changed(code)).skill.evidence == "examples"
    hang = changed("def square(x):\n    while x == 3: pass\n    return x * x\n", doc="d")
    assert "1 of 2 tests pass" in admit(library, hang).reasons[0]


def test_a_file_that_was_changed_rests(tmp_path):
    library = SkillLibrary(tmp_path)
    assert admit(library, SQUARE).ok
    path = tmp_path / "square.1.json"
    path.write_text(path.read_text().replace("x * x", "x * 2"))
    fresh = SkillLibrary(tmp_path)
    assert "changed since" in fresh.quarantined()["square"] and list(fresh) == []
    with pytest.raises(InputError, match="changed since"):
        fresh.get("square")
    with pytest.raises(InputError, match="rests in quarantine"):
        fresh.source(["square"])
    assert admit(fresh, SQUARE).skill.version == 2
    assert fresh.quarantined() == {}


def stored(library_path, count):
    for number in range(count):
        words = ["fetch", "sort", "parse", "count", "merge", "draw", "clean"]
        name = f"{words[number % 7]}_item_{number}"
        doc = f"{words[number % 7].title()} the item number {number} " + "of a long list " * 40
        code = f"def {name}(x: int) -> int:\n    return x + {number}\n"
        skill = Skill(name, code, SQUARE.tests, doc, signature=f"def {name}(x: int) -> int:")
        record = to_record(replace(skill, version=1))
        (library_path / f"{name}.1.json").write_text(json.dumps(record))


def test_a_thousand_skills(tmp_path):
    stored(tmp_path, 1000)
    library = SkillLibrary(tmp_path)
    assert len(library.find("parse item 702")) == 5
    seconds = []
    for number in range(2, 702, 70):
        begun = time.perf_counter()
        found = library.find(f"please parse item {number}")
        seconds.append(time.perf_counter() - begun)
        assert f"parse_item_{number}" in [skill.name for skill in found] or number % 7 != 2
    assert min(seconds) < 0.1  # the goal is 20 ms on a quiet machine
    stub = library.stub([skill.name for skill in found])
    assert stub.count("def ") == 5 and len(stub) < 3000  # some 750 tokens; the goal is 1,500
    everything = library.stub([skill.name for skill in library])
    assert len(everything) <= 4000 and "more do not fit" in everything


def test_uses_change_the_order(tmp_path):
    stored(tmp_path, 14)
    library = SkillLibrary(tmp_path)
    names = [skill.name for skill in library.find("sort item", 2)]
    for _ in range(2):
        library.note(names[0], False)
        library.note(names[1], True)
    assert [skill.name for skill in library.find("sort item", 2)] == names[::-1]
    assert library.get(names[1]).stats.successes == 2
    with pytest.raises(InputError, match="no skill 'sing'"):
        library.note("sing", True)


WORKER = """
import asyncio, sys
from stretto.agents.feedback import Test
from stretto.agents.skills import Skill, SkillLibrary
library, me = SkillLibrary(sys.argv[1]), int(sys.argv[2])
async def main():
    for number in range(2):
        n = me * 10 + number
        code = f"def shared(x):\\n    return x + {n}\\n"
        tests = (Test("a", f"assert shared(1) == {1 + n}"),)
        verdict = await library.admit(Skill("shared", code, tests, "d"))
        assert verdict.ok, verdict.reasons
    for _ in range(50):
        library.note("shared", True)
asyncio.run(main())
"""


def test_two_processes_share_a_library(tmp_path):
    admit(SkillLibrary(tmp_path / "x"), SQUARE)  # skips where there is no sandbox
    argv = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen([*argv, str(i)], stderr=subprocess.PIPE) for i in (1, 2)]
    for worker in workers:
        assert worker.wait(60) == 0, worker.stderr.read().decode()
    library = SkillLibrary(tmp_path)
    versions = {library.get("shared", number).code for number in (1, 2, 3, 4)}
    assert len(versions) == 4 and library.get("shared").version == 4
    assert sum(library.get("shared", number).stats.uses for number in (1, 2, 3, 4)) == 100
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".shared")]


def test_what_changes_during_an_admission_is_tested_again(tmp_path, monkeypatch):
    library, other = SkillLibrary(tmp_path), SkillLibrary(tmp_path)
    assert admit(library, SQUARE).ok
    run, seen = library._run, []

    async def meanwhile(skill, checks, on_call):
        seen.append(library.get("square").version)
        found = await run(skill, checks, on_call)
        if len(seen) == 1:
            wrong = changed("def square(x):\n    return x * x if x < 3 else 9\n", doc="d")
            assert (await other.admit(wrong)).ok
        return found

    monkeypatch.setattr(library, "_run", meanwhile)
    verdict = admit(library, CUBE, checks=[Test("four", "assert cube(4) == 64")])
    assert seen == [1, 2] and verdict.reasons == ("it fails 1 of 1 hidden checks",)


def test_a_lock_that_nobody_gives_back_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_LOCK_SECONDS", 0.1)
    one, other = FolderLock(tmp_path), FolderLock(tmp_path)
    with one.held(), one.held(), pytest.raises(LimitError, match="keeps it locked"), other.held():
        pass
    with other.held():
        pass


def test_the_log_mends_and_passes_over_torn_lines(tmp_path):
    lock = FolderLock(tmp_path)
    log, reader = JsonLog(tmp_path / "a.jsonl", lock), JsonLog(tmp_path / "a.jsonl", lock)
    assert reader.news() == (False, [])
    log.append({"a": 1}, {"a": 2})
    assert reader.news() == (False, [{"a": 1}, {"a": 2}])
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"a": 3')
    assert reader.news() == (False, [])
    log.append({"a": 4})
    assert reader.news() == (False, [{"a": 4}])
    (tmp_path / "b").write_text('{"a": 5}\n[1]\n')
    (tmp_path / "b").replace(tmp_path / "a.jsonl")
    assert reader.news() == (True, [{"a": 5}])


def test_digests_and_inputs():
    assert digest("def f(x):\n  'doc'\n  return x+1") == digest("def g(yy) -> int: return (yy + 1)")
    assert digest("def f(x): return x + 1") != digest("def f(x): return x + 2")
    assert digest("def f(x, y): return x - y") != digest("def f(x, y): return y - x")
    texts = ["assert f(2, k=[1]) == f(y)", "f('a')", "f(", "g(3)"]
    assert calls_in(texts, "f") == ["(2, k=[1])", "('a')"]
    made = variations(["(2, k=[1])", "('ab')"])
    assert made[:3] == ["(3, k=[1])", "('abab')", "(2, k=[1, 1])"]
    assert len(made) <= 12 and not {"(2, k=[1])", "('ab')"} & set(made)
    assert variations(["(1.7e308)"]) == ["(0.0)", "(-1.7e+308)"]
    assert calls_in(["f(" + "[" * 150 + "]" * 150 + ")", "f(1)"], "f")[-1] == "(1)"
    assert from_record(json.loads(json.dumps(to_record(CUBE)))) == CUBE

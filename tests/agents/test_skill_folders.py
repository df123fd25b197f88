"""Skills as folders: out and in again, and what a stranger's folder may not do."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.agents import skill_folders
from stretto.agents.feedback import Test
from stretto.agents.sandbox import NoSandboxError
from stretto.agents.skill_folders import export, read_folder, skill_from
from stretto.agents.skills import Skill, SkillLibrary
from stretto.errors import InputError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

HEAD = "---\nname: add-up\ndescription: Adds numbers up. Use for sums.\n---\n# How\n\nCall it.\n"
SCRIPT = "def add_up(xs: list) -> int:\n    return sum(xs)\n"
TESTS = (
    Test("some", "assert add_up([1, 2]) == 3"),
    Test("fence", "text = '''\n```python\n'''\nassert add_up([len(text)]) == 11\n"),
)


def folder(root, head=HEAD, name="add-up", **files):
    path = root / name
    for file, text in ({"scripts/add_up.py": SCRIPT} | files).items():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text)
    (path / "SKILL.md").write_text(head)
    return path


def admit(library, skill):
    try:
        verdict = asyncio.run(library.admit(skill))
    except NoSandboxError as error:
        pytest.skip(f"no sandbox here: {error}")
    assert verdict.ok, verdict.reasons
    return verdict.skill


def test_out_and_in_again(tmp_path):
    library = SkillLibrary(tmp_path / "library")
    add = admit(library, Skill("add_up", SCRIPT, TESTS, 'Adds: "numbers"\n\n--- up.'))
    mean = Skill(
        "mean_of",
        "def mean_of(xs: list) -> float:\n    '''The mean.'''\n    return add_up(xs) / len(xs)\n",
        (Test("one", "assert mean_of([1, 2]) == 1.5"),),
        deps=("add_up",),
        provenance={"license": "MIT"},
    )
    mean = admit(library, mean)
    paths = export(library, ["mean_of"], tmp_path / "out")
    assert [path.name for path in paths] == ["add-up", "mean-of"]
    assert sorted(p.name for p in (paths[1] / "scripts").iterdir()) == ["add_up.py", "mean_of.py"]
    text = (paths[1] / "SKILL.md").read_text()
    assert text.startswith("---\nname: mean-of\ndescription: The mean.\n")
    assert "`scripts/add_up.py`, then `scripts/mean_of.py`" in text and "license: MIT" in text
    other = SkillLibrary(tmp_path / "other")
    for path, before in zip(paths, (add, mean), strict=True):
        candidate = skill_from(read_folder(path))
        assert candidate.version == 0 and candidate.provenance["trusted"] is False
        after = admit(other, candidate)
        same = replace(before, provenance={}, doc="", tests=())
        assert replace(after, provenance={}, doc="", tests=()) == same
        assert [(t.name, t.code.strip()) for t in after.tests] == [
            (t.name, t.code.strip()) for t in before.tests
        ]
    with pytest.raises(InputError, match="there already"):
        export(library, ["add_up"], tmp_path / "out")
    with pytest.raises(InputError, match="no skill 'sing'"):
        export(library, ["sing"], tmp_path / "out")


def test_a_folder_of_another_maker(tmp_path):
    head = HEAD.replace(
        "---\n#",
        "license: MIT\ncompatibility: any\nallowed-tools: Bash(git:*) Read\nmodel: x\n"
        "metadata:\n  version: 1.0\n---\n#",
    ).replace("\n", "\r\n")
    found = read_folder(folder(tmp_path, head, **{"assets/a/b.txt": "hello"}))
    assert found.description == "Adds numbers up. Use for sums." and found.body.endswith("Call it.")
    assert found.metadata == {"version": "1.0"} and found.unknown == ("model",)
    assert found.allowed_tools == ("Bash(git:*)", "Read") and found.license == "MIT"
    assert found.files["assets/a/b.txt"] == b"hello"
    skill = skill_from(found)
    assert skill.signature == "def add_up(xs: list) -> int:" and skill.effect == "pure"
    assert asyncio.run(SkillLibrary(tmp_path / "l").admit(skill)).reasons == ("it has no tests",)
    assert skill_from(found, tests=TESTS).tests == TESTS
    with pytest.raises(InputError, match=r"0 scripts define main \(Python scripts: scripts/add_up"):
        skill_from(found, function="main")


@pytest.mark.parametrize(
    ("head", "word"),
    [
        ("# no head\n", "has to begin with front matter"),
        ("---\nname: add-up\n", "has to begin with front matter"),
        ("---\nname: add-up\n---\n", "needs description"),
        ("---\n- a\n---\n", "fields with values"),
        ("---\na: [\n---\n", "no YAML"),
        (HEAD.replace("add-up", "add-down"), "the folder has to be called so"),
        (HEAD.replace("add-up", "Add-Up"), "use a-z"),
        (HEAD.replace("add-up", "../add-up"), "use a-z"),
        (HEAD.replace("add-up", "add--up"), "use a-z"),
        (HEAD.replace("Use", "Use" * 400), "1 to 1024"),
        (HEAD.replace("---\n#", "metadata: [1]\n---\n#"), "texts by name"),
        (HEAD.replace("---\n#", "a: &x [1]\nb: *x\n---\n#"), "aliases"),
        (HEAD.replace("---\n#", "a: " + "x" * 20_000 + "\n---\n#"), "more than 16384"),
    ],
)
def test_the_specification_is_kept(tmp_path, head, word):
    with pytest.raises(InputError, match=word) as raised:
        read_folder(folder(tmp_path, head))
    assert "\n" not in str(raised.value)


def plant(path, how):
    outside = path.parent / "secret.txt"
    outside.write_text("secret")
    (path / "scripts").mkdir(exist_ok=True)
    if how == "link":
        (path / "scripts" / "b.py").symlink_to(outside)
    elif how == "folder link":
        (path / "assets").symlink_to(path.parent)
    elif how == "link for SKILL.md":
        (path / "SKILL.md").unlink()
        (path / "SKILL.md").symlink_to(outside)
    elif how == "fifo":
        os.mkfifo(path / "scripts" / "b.py")
    elif how == "large":
        (path / "big").write_bytes(b"x" * (skill_folders.MAX_FILE_BYTES + 1))
    elif how == "much":
        for number in range(9):
            (path / f"b{number}").write_bytes(b"x" * skill_folders.MAX_FILE_BYTES)
    elif how == "many":
        for number in range(skill_folders.MAX_FILES):
            (path / f"f{number}").touch()
    elif how == "deep":
        (path / "/".join("abcdefgh")).mkdir(parents=True)
    elif how == "odd name":
        (path / "a\nb").touch()
    elif how == "bytes":
        (path / "scripts" / "add_up.py").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("link", "links are not followed"),
        ("folder link", "links are not followed"),
        ("link for SKILL.md", "links are not followed"),
        ("fifo", "neither file nor folder"),
        ("large", "larger than 1 MiB"),
        ("much", "more than 8 MiB"),
        ("many", "more than 200 files"),
        ("deep", "too deep"),
        ("odd name", "odd characters"),
        ("bytes", "no UTF-8 at byte 0"),
    ],
)
def test_hostile_folders_are_refused(tmp_path, how, word):
    path = folder(tmp_path)
    plant(path, how)
    with pytest.raises(InputError, match=word) as raised:
        skill_from(read_folder(path))
    assert "\n" not in str(raised.value)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(InputError, match=r"no SKILL\.md"):
        read_folder(tmp_path)
    (tmp_path / "link").symlink_to(folder(tmp_path))
    with pytest.raises(InputError, match="no folder"):
        read_folder(tmp_path / "link")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "add_up.py/.."])
def test_metadata_cannot_lead_out(tmp_path, name):
    head = HEAD.replace("---\n#", f"metadata:\n  stretto-function: {name}\n---\n#")
    with pytest.raises(InputError, match="0 scripts define"):
        skill_from(read_folder(folder(tmp_path, head)))


def test_what_is_put_there_meanwhile_is_not_followed(tmp_path, monkeypatch):
    path = folder(tmp_path)
    (tmp_path / "secret").write_text("secret")
    seen = os.stat

    def swap(name, *args, **more):
        found = seen(name, *args, **more)
        if name == "add_up.py":
            (path / "scripts/add_up.py").unlink()
            (path / "scripts/add_up.py").symlink_to(tmp_path / "secret")
        return found

    monkeypatch.setattr(skill_folders.os, "stat", swap)
    with pytest.raises(InputError, match="symbolic links"):
        read_folder(path)


@given(code=st.text("`a\n# p", max_size=60), name=st.text(min_size=1, max_size=20))
def test_any_tests_survive(code, name):
    from stretto.agents.skill_folders import SkillFolder, _test, _tests

    tests = [Test(name, code), Test("second", "assert f(1)")]
    text = "\n".join(["# Tests\n", *map(_test, tests)])
    files = {"references/tests.md": text.encode("utf-8", "replace")}
    found = list(_tests(SkillFolder("f", "d", "", "", {}, (), (), "", files), "here"))
    assert [test.code.rstrip() for test in found] == [test.code.rstrip() for test in tests]


def test_nothing_of_a_script_runs_here(tmp_path):
    mark = tmp_path / "ran"
    script = f"open({str(mark)!r}, 'w')\ndef add_up(xs):\n    return sum(xs)\n"
    path = folder(tmp_path, **{"scripts/add_up.py": script})
    skill = skill_from(read_folder(path), tests=TESTS)
    verdict = asyncio.run(SkillLibrary(tmp_path / "l").admit(skill))
    assert not verdict.ok and "only imports" in verdict.reasons[0]
    assert not mark.exists() and Path(path).exists()

"""``stretto skills``: what agents have learnt to do, as tested functions in a folder."""

import ast
import asyncio
import json as json_module
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from stretto.agents.feedback import Test
from stretto.agents.sandbox import Policy
from stretto.agents.skill import Skill, to_record
from stretto.agents.skill_checks import closure
from stretto.agents.skill_folders import export, read_folder, skill_from
from stretto.agents.skills import SkillLibrary
from stretto.cli.output import console, emit
from stretto.errors import InputError

app = App(name="skills", help="Keep functions that agents wrote, each tested before it is taken.")

Library = Annotated[Path, Parameter(help="The library's folder.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
_TESTS = Parameter(
    help="A Python file; each function test_... in it is a test, which calls "
    "the skill without importing it."
)
Tests = Annotated[Path, _TESTS]
Checks = Annotated[
    Path | None, Parameter(help="More tests, which are neither stored nor told of in reasons.")
]
Imports = Annotated[
    list[str] | None,
    Parameter(name="--import", negative="", help="An installed package that it may import."),
]
_FOLDER = Path("skills")


@app.command(name="list")
def list_(
    query: Annotated[str, Parameter(help="Only what fits these words, best first.")] = "",
    /,
    *,
    library: Library = _FOLDER,
    json: AsJson = False,
) -> None:
    """List skills; those in quarantine are named, and never loaded by an agent."""
    skills = _open(library)
    resting = skills.quarantined()
    rows = [
        {
            "name": skill.name,
            "version": skill.version,
            "effect": skill.effect,
            "evidence": skill.evidence,
            "uses": skill.stats.uses,
            "well": skill.stats.successes,
            "state": "quarantine" if skill.name in resting else "",
            "what it does": " ".join(skill.doc.split())[:80],
        }
        for skill in (skills.find(query, 20) if query else skills)
    ]
    known = {row["name"] for row in rows}
    if not query:
        damaged = [name for name in sorted(resting) if name not in known]
        rows += [{"name": name, "state": "quarantine"} for name in damaged]
    columns = ["name", "version", "effect", "evidence", "uses", "well", "state", "what it does"]
    emit(rows, columns, "json" if json else "table")


@app.command
def show(
    name: Annotated[str, Parameter(help="Which skill.")],
    /,
    *,
    version: Annotated[int | None, Parameter(help="The latest if not given.")] = None,
    library: Library = _FOLDER,
    json: AsJson = False,
) -> None:
    """Print a skill's code; with --json all that is stored of it."""
    skills = _open(library)
    skill = skills.get(name, version)
    if json:
        sys.stdout.write(json_module.dumps(to_record(skill), indent=2) + "\n")
        return
    sys.stdout.write("".join(c if c in "\n\t" or c.isprintable() else "?" for c in skill.code))
    if name in (resting := skills.quarantined()):
        console.print(f"in quarantine: {resting[name]}", style="yellow", markup=False)


@app.command
def admit(
    file: Annotated[Path, Parameter(help="A Python file with the function and what it needs.")],
    /,
    *,
    tests: Tests,
    checks: Checks = None,
    name: Annotated[
        str | None, Parameter(help="The function, if the file is not named so.")
    ] = None,
    dep: Annotated[
        list[str] | None, Parameter(negative="", help="A skill of the library that it calls.")
    ] = None,
    effect: Annotated[
        Literal["pure", "read", "write"], Parameter(help="The most that it may do.")
    ] = "pure",
    imports: Imports = None,
    library: Library = _FOLDER,
) -> int:
    """Take a function in if it stands every check, run in a fresh sandbox.

    Exits with 1 and the reasons if it does not.
    """
    skill = Skill(
        name or file.stem,
        _read(file),
        tuple(_tests(tests)),
        deps=tuple(dep or ()),
        effect=effect,
        provenance={"file": str(file)},
    )
    return _admit(library, [skill], checks, imports)


@app.command(name="export")
def export_(
    *names: Annotated[str, Parameter(help="Skills; those they call come with them.")],
    into: Annotated[Path, Parameter(help="Where the folders are made.")],
    library: Library = _FOLDER,
) -> None:
    """Write skills as Agent Skills folders (SKILL.md, scripts, tests)."""
    if not names:
        raise InputError("name the skills to export")
    for path in export(_open(library), names, into):
        sys.stdout.write(f"{path}\n")


@app.command(name="import")
def import_(
    *folders: Annotated[Path, Parameter(help="Agent Skills folders, or folders of such folders.")],
    function: Annotated[
        str | None, Parameter(help="The function, where a folder does not say; one folder only.")
    ] = None,
    tests: Annotated[Path | None, _TESTS] = None,
    checks: Checks = None,
    imports: Imports = None,
    library: Library = _FOLDER,
) -> int:
    """Take the skills of folders in, each only if it stands every check, in a fresh sandbox.

    Tests come from the folder if stretto wrote it, else from --tests. Exits with 1 and the
    reasons at the first that does not stand them.
    """
    paths = [path for folder in folders for path in _skill_folders(folder)]
    if not paths:
        raise InputError("name a folder with a SKILL.md")
    if len(paths) > 1 and (function or tests or checks):
        raise InputError(f"--function, --tests and --checks are for one folder, not {len(paths)}")
    given = tuple(_tests(tests)) if tests else ()
    skills: dict[str, Skill] = {}
    for path in paths:
        folder = read_folder(path)
        if folder.unknown:
            console.print(f"{path}: passed over: {', '.join(folder.unknown)}", markup=False)
        skill = skill_from(folder, function=function, tests=given)
        if skill.name in skills:
            raise InputError(f"{path}: another folder given has a skill {skill.name} too")
        skills[skill.name] = skill
    known = {skill.name: skill for skill in SkillLibrary(library)}
    order = closure({**known, **skills}, skills)
    return _admit(library, [skills[name] for name in order if name in skills], checks, imports)


def _admit(
    library: Path, skills: Sequence[Skill], checks: Path | None, imports: Sequence[str] | None
) -> int:
    policy = Policy(wall=5.0, cpu=4.0, imports=tuple(imports or ()))
    into = SkillLibrary(library, policy=policy)
    hidden = list(_tests(checks)) if checks else []
    for skill in skills:
        verdict = asyncio.run(into.admit(skill, checks=hidden))
        if not verdict.ok or verdict.skill is None:
            for reason in verdict.reasons:
                console.print(f"{skill.name}: {reason}", markup=False, highlight=False)
            return 1
        known = verdict.skill
        sys.stdout.write(f"{known.name} {known.version} (evidence: {known.evidence})\n")
    return 0


def _open(folder: Path) -> SkillLibrary:
    if not folder.is_dir():
        raise InputError(f"{folder}: no library there; `stretto skills admit` makes one")
    return SkillLibrary(folder)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no UTF-8 at byte {error.start}") from None


def _tests(path: Path) -> Iterator[Test]:
    """One test for each function ``test_...``: the whole file, then a call of it."""
    text = _read(path)
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None
    names = [n.name for n in body if isinstance(n, ast.FunctionDef) and n.name.startswith("test")]
    if not names:
        raise InputError(f"{path}: no functions test_... in it")
    for name in names:
        yield Test(name, f"{text.rstrip()}\n{name}()\n")


def _skill_folders(path: Path) -> list[Path]:
    """The folder, or those directly in it that have a SKILL.md."""
    if not path.is_dir() or (path / "SKILL.md").exists():
        return [path]
    return sorted(each.parent for each in path.glob("*/SKILL.md"))

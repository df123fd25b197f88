"""Skills as Agent Skills folders (https://agentskills.io/specification): ``SKILL.md``, scripts.

What a folder holds is a stranger's word: it is read, never run, and becomes a candidate that a
library may admit. Only plain files inside the folder are read, and not too many or too large ones.
"""

import ast
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import yaml

from stretto.agents.feedback import Test
from stretto.agents.skill import FUNCTIONS, Skill, SkillEffect, described
from stretto.agents.skills import SkillLibrary
from stretto.errors import InputError
from stretto.runs import atomic_write

MAX_FILES = 200
MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 8 << 20
MAX_DEPTH = 6
_MAX_HEAD = 16 << 10
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HEAD = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_LIMITS = {"name": 64, "description": 1024, "compatibility": 500}
_FIELDS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
_TESTS = "references/tests.md"
_TEST = re.compile(r"^## ([^\n]+)\n+(`{3,})python\n(.*?)^\2$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class SkillFolder:
    """What a folder holds.

    Attributes:
        name, description, license, compatibility: of the front matter; empty if not there.
        metadata: texts by name.
        allowed_tools: as the folder wishes; nothing is allowed by it.
        unknown: fields that the specification does not have; they are passed over.
        body: the instructions.
        files: content by path, ``/`` between its parts; without ``SKILL.md``.
    """

    name: str
    description: str
    license: str
    compatibility: str
    metadata: Mapping[str, str]
    allowed_tools: tuple[str, ...]
    unknown: tuple[str, ...]
    body: str
    files: Mapping[str, bytes]


def read_folder(path: str | Path) -> SkillFolder:
    """Read a folder and hold it to the specification.

    Raises:
        InputError: it does not keep the specification, or holds links, devices, or too much.
    """
    root = Path(path)
    files = dict(_files(root))
    if "SKILL.md" not in files:
        raise InputError(f"{root}: no skill folder: it has no SKILL.md")
    where = f"{root / 'SKILL.md'}"
    text = _text(files.pop("SKILL.md"), where).replace("\r\n", "\n")
    head = _HEAD.match(text)
    if head is None:
        raise InputError(f"{where}: it has to begin with front matter between lines of ---")
    fields = _front_matter(head[1], where)
    if fields["name"] != root.resolve().name:
        raise InputError(f"{where}: name is {fields['name']!r}; the folder has to be called so")
    return SkillFolder(
        name=fields["name"],
        description=fields["description"],
        license=fields.get("license", ""),
        compatibility=fields.get("compatibility", ""),
        metadata=fields.get("metadata", {}),
        allowed_tools=tuple(fields.get("allowed-tools", "").split()),
        unknown=tuple(sorted(fields.keys() - set(_FIELDS))),
        body=text[head.end() :].strip(),
        files=files,
    )


def skill_from(
    folder: SkillFolder, *, function: str | None = None, tests: Sequence[Test] = ()
) -> Skill:
    """A candidate made of a folder's script; nothing is known of it until a library admits it.

    Args:
        folder: as read; what :func:`export` wrote comes back with its tests and dependencies.
        function: the function wanted, where the folder does not say; defined by one script.
        tests: in place of the folder's own, which few folders of others have.

    Raises:
        InputError: no script defines the function, or it is not said which.
    """
    where = f"skill folder {folder.name}"
    metadata = folder.metadata
    scripts = {
        file: _text(data, f"{where}: {file}").replace("\r\n", "\n")
        for file, data in sorted(folder.files.items())
        if PurePosixPath(file).parts[0] == "scripts" and file.endswith(".py")
    }
    name = function or metadata.get("stretto-function") or folder.name.replace("-", "_")
    own = f"scripts/{name}.py"
    fitting = [own] if own in scripts else [f for f in scripts if _defines(scripts[f], name)]
    if len(fitting) != 1:
        known = ", ".join(scripts) or "none"
        raise InputError(
            f"{where}: {len(fitting)} scripts define {name} (Python scripts: {known}); "
            "name the function wanted"
        )
    said = metadata.get("stretto-effect", "pure")
    effect: SkillEffect | None = next((e for e in get_args(SkillEffect) if e == said), None)
    if effect is None:
        raise InputError(f"{where}: stretto-effect is {said!r}; it has to be pure, read or write")
    skill = Skill(
        name=name,
        code=scripts[fitting[0]],
        tests=tuple(tests) or tuple(_tests(folder, where)),
        doc=folder.description,
        deps=tuple(metadata.get("stretto-deps", "").split()),
        tools=tuple(metadata.get("stretto-tools", "").split()),
        effect=effect,
        provenance={"folder": folder.name, "license": folder.license, "trusted": False},
    )
    return described(skill)


def export(library: SkillLibrary, names: Sequence[str], into: str | Path) -> list[Path]:
    """Write skills and those they need as folders under ``into``; returns them, needed ones first.

    A folder's ``scripts/`` hold its own function and copies of those it calls; its tests are in
    ``references/tests.md``. An existing folder of the name is not touched.

    Raises:
        InputError: a skill is not there or rests in quarantine, or a folder is there already.
    """
    order: list[str] = []
    for name in names:
        order += [each for each in library.needed(name) if each not in order]
    paths = [Path(into) / name.replace("_", "-") for name in order]
    for path in paths:
        if path.exists() or path.is_symlink():
            raise InputError(f"{path}: there already; remove it first or choose another folder")
    for name, path in zip(order, paths, strict=True):
        skill = library.get(name)
        needed = [library.get(each) for each in library.needed(name)]
        for each in needed:
            atomic_write(path / "scripts" / f"{each.name}.py", each.code)
        atomic_write(path / _TESTS, "\n".join(["# Tests\n", *map(_test, skill.tests)]))
        # Last, so that what a kill left behind is no skill folder.
        atomic_write(path / "SKILL.md", _skill_md(skill, [each.name for each in needed]))
    return paths


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every file below, read without following a link, even one put there meanwhile."""
    if root.is_symlink() or not root.is_dir():
        raise InputError(f"{root}: no folder")
    count = total = 0
    for place, folders, names, descriptor in os.fwalk(root, onerror=_raise):
        inside = Path(place).relative_to(root)
        if len(inside.parts) > MAX_DEPTH:
            raise InputError(f"{place}: too deep: at most {MAX_DEPTH} folders in each other")
        folders.sort()
        for name in (*folders, *sorted(names)):
            shown = f"{root}: {(inside / name).as_posix()!r}"
            if not name.isprintable() or "\\" in name:
                raise InputError(f"{shown}: a name with odd characters")
            mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise InputError(f"{shown}: neither file nor folder; links are not followed")
        count += len(names) + len(folders)
        if count > MAX_FILES:
            raise InputError(f"{root}: more than {MAX_FILES} files and folders")
        for name in sorted(names):
            path = (inside / name).as_posix()
            data = _content(name, descriptor, f"{root}: {path!r}")
            total += len(data)
            if total > MAX_BYTES:
                raise InputError(f"{root}: more than {MAX_BYTES >> 20} MiB in all")
            yield path, data


def _raise(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}")


def _content(name: str, folder: int, shown: str) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        raise InputError(f"{shown}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{shown}: no plain file")
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{shown}: larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def _front_matter(text: str, where: str) -> dict[str, Any]:
    if len(text) > _MAX_HEAD:
        raise InputError(f"{where}: front matter of more than {_MAX_HEAD} characters")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise InputError(f"{where}: aliases are not read in front matter")
        fields = yaml.load(text, yaml.BaseLoader)  # texts stay texts: version: 1.0
    except (yaml.YAMLError, RecursionError) as error:
        line = str(error).partition("\n")[0]
        raise InputError(f"{where}: front matter is no YAML: {line}") from None
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        raise InputError(f"{where}: front matter has to be fields with values")
    for name in _FIELDS:
        value = fields.get(name)
        if name in ("name", "description") and not (isinstance(value, str) and value.strip()):
            raise InputError(f"{where}: front matter needs {name}")
        if value is None:
            continue
        if name == "metadata":
            if not isinstance(value, dict) or any(not isinstance(v, str) for v in value.values()):
                raise InputError(f"{where}: metadata has to be texts by name")
        elif not isinstance(value, str):
            raise InputError(f"{where}: {name} has to be a text")
        elif len(value) > _LIMITS.get(name, _MAX_HEAD) or (name in _LIMITS and not value.strip()):
            raise InputError(f"{where}: {name} has to have 1 to {_LIMITS[name]} characters")
    if not _NAME.fullmatch(fields["name"]):
        raise InputError(f"{where}: name {fields['name']!r}: use a-z, 0-9 and single - between")
    return fields


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: no UTF-8 at byte {error.start}") from None


def _defines(code: str, name: str) -> bool:
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, FUNCTIONS) and node.name == name for node in body)


def _tests(folder: SkillFolder, where: str) -> Iterator[Test]:
    text = _text(folder.files.get(_TESTS, b""), f"{where}: {_TESTS}").replace("\r\n", "\n")
    for name, _, code in _TEST.findall(text):
        yield Test(name.strip(), code)


def _test(test: Test) -> str:
    longest = max((len(run) for run in re.findall("`+", test.code)), default=0)
    fence = "`" * max(3, longest + 1)
    name = " ".join(test.name.split()) or "test"
    return f"## {name}\n\n{fence}python\n{test.code.rstrip()}\n{fence}\n"


def _skill_md(skill: Skill, needed: Sequence[str]) -> str:
    doc = " ".join(skill.doc.split())
    head: dict[str, Any] = {
        "name": skill.name.replace("_", "-"),
        "description": doc if len(doc) <= 1024 else doc[:1021] + "...",
        "metadata": {
            "stretto-function": skill.name,
            "stretto-version": str(skill.version),
            "stretto-effect": skill.effect,
            "stretto-evidence": skill.evidence,
        },
    }
    if license_ := skill.provenance.get("license"):
        head["license"] = str(license_)
    for key, names in (("deps", skill.deps), ("tools", skill.tools)):
        if names:
            head["metadata"][f"stretto-{key}"] = " ".join(names)
    scripts = ", then ".join(f"`scripts/{name}.py`" for name in needed)
    tools = f" It calls these functions of the host: {', '.join(skill.tools)}." * bool(skill.tools)
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=10**6)}---\n\n"
        f"# {skill.name}\n\n{doc}\n\nLoad {scripts} into one Python session, then call\n"
        f"`{skill.signature.removesuffix(':')}`.{tools}\nTests are in `{_TESTS}`.\n"
    )

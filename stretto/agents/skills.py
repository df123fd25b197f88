"""A library of skills that were tested before they were taken in.

On disk: ``NAME.VERSION.json`` for every version, never changed, and ``uses.jsonl``, how uses went.
Any number of processes may use one folder. Skills run in sandboxes only, never in this process.
"""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stretto.agents import skill_checks
from stretto.agents.feedback import Test
from stretto.agents.jsonl import FolderLock, JsonLog
from stretto.agents.retrieval import TextIndex
from stretto.agents.sandbox import Backend, Policy, open_sandbox
from stretto.agents.sandbox.base import OnCall
from stretto.agents.skill import (
    Skill,
    Stats,
    Verdict,
    described,
    digest,
    from_record,
    to_record,
)
from stretto.errors import InputError
from stretto.runs import atomic_write

__all__ = ["Skill", "SkillLibrary", "Stats", "Verdict"]

_TRIES = 8  # of an admission while other processes change what it rests on
_PARTS = ("code", "tests", "doc", "deps", "tools", "effect")


@dataclass
class _Uses:
    """Of one version: the last ones, and all counted."""

    last: deque[bool]
    uses: int = 0
    successes: int = 0
    why: str = field(default="")


class SkillLibrary:
    """Skills by name, each in its latest version.

    A skill rests in quarantine, where nothing loads it, after ``failures`` failures among its last
    ``4 * failures`` uses, or when its file was changed. It comes out by being admitted again: with
    other code, or the same code and hidden checks.

    Args:
        folder: made by the first admission.
        tools: effect of each tool that skills may call. If given, what calls others is neither
            found nor loaded.
        sandbox: where admissions run.
        policy: limits there; ``imports`` are what skills may import beside the standard library.
            If given, what imports more is neither found nor loaded.
        failures: see above.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        tools: Mapping[str, str] | None = None,
        sandbox: Backend = "auto",
        policy: Policy | None = None,
        failures: int = 3,
    ) -> None:
        if failures < 1:
            raise InputError(f"failures={failures}: choose 1 or more")
        self._folder = Path(folder)
        self._tools = dict(tools or {})
        self._any_tools, self._any_imports = tools is None, policy is None
        self._sandbox: Backend = sandbox
        self._policy = policy or Policy(wall=5.0, cpu=4.0)
        self._failures = failures
        self._lock = FolderLock(self._folder)
        self._log = JsonLog(self._folder / "uses.jsonl", self._lock)
        self._skills: dict[str, Skill] = {}
        self._versions: dict[str, int] = {}  # the latest, damaged ones too
        self._damaged: dict[str, str] = {}
        self._uses: dict[tuple[str, int], _Uses] = {}
        self._index = TextIndex()

    def __len__(self) -> int:
        self._refresh()
        return len(self._versions)

    def __iter__(self) -> Iterator[Skill]:
        """The latest versions by name; quarantined ones too, damaged ones not."""
        self._refresh()
        return iter([self._with_stats(self._skills[name]) for name in sorted(self._skills)])

    def get(self, name: str, version: int | None = None) -> Skill:
        """A skill, to be looked at; in its latest version if none is given.

        Raises:
            InputError: there is none, or its file was changed.
        """
        self._refresh()
        if name not in self._versions:
            near = ", ".join(found.key for found in self._index.find(name, 3))
            raise InputError(f"there is no skill {name!r}" + (f"; there is {near}" if near else ""))
        if version is None:
            version = self._versions[name]
        if name in self._damaged and version == self._versions[name]:
            raise InputError(f"skill {name}: {self._damaged[name]}")
        return self._with_stats(self._read(name, version))

    def quarantined(self) -> dict[str, str]:
        """Names of the skills that rest in quarantine, with the reason."""
        self._refresh()
        return self._resting()

    async def admit(
        self, skill: Skill, *, checks: Sequence[Test] = (), on_call: OnCall | None = None
    ) -> Verdict:
        """Take a skill in, if it stands every check; it becomes the next version of its name.

        Read first: syntax, names, imports, effects, collisions with other skills, the same code.
        Then, in a fresh sandbox: its tests, its docstring's examples, ``checks``; without checks
        or examples that are no tests, inputs near those of the tests, for which no right answer is
        known: then only the *kind* of answer is judged, and ``evidence`` says ``generated``. At
        last: whether another skill gives the same answers, and whether the skills that use it
        still pass their tests.

        Args:
            skill: the candidate; its version, signature, evidence and probes are filled in.
            checks: tests its author has not seen; they are not stored, and no reason tells them.
            on_call: stands in for its tools while it is tested. Give no real tool that writes.

        Raises:
            SandboxError: no sandbox works here.
        """
        if wrong := skill_checks.form(skill):
            return _refused(skill, wrong)
        skill = described(replace(skill, stats=Stats(), probes=(), evidence=""))
        for _ in range(_TRIES):
            self._refresh()
            ground = self._ground(skill)
            if wrong := self._read_against(skill, checks):
                return _refused(skill, wrong)
            wrong, tested = await self._run(skill, checks, on_call)
            if wrong:
                return _refused(skill, wrong)
            with self._lock.held():
                self._refresh()
                if self._ground(skill) == ground and not self._read_against(skill, checks):
                    return Verdict(True, (), self._write(tested))
        return _refused(skill, ["other processes keep changing what it rests on: try again"])

    def find(self, text: str, top: int = 5) -> list[Skill]:
        """The skills that fit a request best and may be loaded; those that did well come first.

        How well one fits counts by half as much again when all its uses went well, by half when
        none did; what only generated inputs speak for begins a little lower.
        """
        self._refresh()
        resting = self._resting()
        found = []
        for key, fit in self._index.find(text, max(20, 4 * top)):
            try:
                needed = skill_checks.closure(self._skills, [key])
            except InputError:
                continue
            if not any(name in resting or self._lacks(name) for name in needed):
                skill = self._with_stats(self._skills[key])
                found.append((fit * _merit(skill), skill))
        found.sort(key=lambda pair: (-pair[0], pair[1].name))
        return [skill for _, skill in found[:top]]

    def stub(self, names: Iterable[str], max_chars: int = 4000) -> str:
        """Heads and descriptions for a prompt, in the order given, as many as fit; told if not all.

        Raises:
            InputError: one is not there or rests in quarantine.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        self._loadable(wanted)
        wanted = list(dict.fromkeys(wanted))
        text = ""
        for number, name in enumerate(wanted):
            rest = f"# {len(wanted) - number} more do not fit here\n"
            stub = self._skills[name].stub() + "\n\n"
            if len(text) + len(stub) + len(rest) > max_chars:
                return text + rest
            text += stub
        return text

    def source(self, names: Iterable[str]) -> str:
        """The code of these skills and of those they need, each after its dependencies.

        Raises:
            InputError: one is not there or rests in quarantine.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        self._loadable(wanted)
        return skill_checks.source(self._skills, wanted)

    def needed(self, name: str) -> list[str]:
        """The skill and all it depends on, each after its dependencies.

        Raises:
            InputError: one is not there or rests in quarantine.
        """
        return self._loadable([name])

    def note(self, name: str, ok: bool, why: str = "") -> bool:
        """Keep how a use of the latest version went. Returns whether it rests in quarantine now.

        Raises:
            InputError: there is no such skill.
        """
        self._refresh()
        if name not in self._versions:
            raise InputError(f"there is no skill {name!r}")
        record = {"skill": name, "version": self._versions[name], "ok": bool(ok), "why": why[:500]}
        self._log.append(record)
        self._refresh()
        return name in self._resting()

    def _read_against(self, skill: Skill, checks: Sequence[Test]) -> list[str]:
        resting = self._resting()
        wrong = skill_checks.read(skill, self._skills, self._tools, self._policy.imports, resting)
        present = self._skills.get(skill.name)
        if present is None:
            return wrong
        rests = skill.name in resting
        if not rests and all(getattr(present, part) == getattr(skill, part) for part in _PARTS):
            wrong.append(f"nothing is new: it is version {present.version} of {skill.name}")
        if rests and digest(skill.code) == digest(present.code) and not checks:
            wrong.append("it rests in quarantine: the same code comes out by hidden checks only")
        return wrong

    async def _run(
        self, skill: Skill, checks: Sequence[Test], on_call: OnCall | None
    ) -> tuple[list[str], Skill]:
        """Reasons against it, and the skill with what was found."""
        view = {**self._skills, skill.name: skill}
        order = skill_checks.closure(view, [skill.name])
        users = self._users(view, skill.name)
        tools = sorted({t for name in {*order, *users} for t in view[name].tools})
        if any(view[name].tools for name in order) and on_call is None:
            return ["it calls tools: give on_call, a stand-in for them in its tests"], skill
        async with open_sandbox(self._sandbox, self._policy, warm=0) as box:
            async with box.session(tools=tools, on_call=on_call) as session:
                before = await session.exec(skill_checks.source(view, skill.deps))
                if not before.ok:
                    return ["its dependencies cannot be loaded"], skill
                wrong, evidence, outcomes = await skill_checks.run(skill, checks, session)
                if skill.effect == "pure" and not wrong:
                    others = [view[name] for name in sorted(view)]
                    wrong = await skill_checks.twins(skill, others, session)
            for name in users:
                async with box.session(tools=tools, on_call=on_call) as session:
                    await session.exec(skill_checks.source(view, view[name].deps))
                    told = await skill_checks.unit_tests(view[name].code, view[name].tests, session)
                    if not told.good:
                        wrong.append(f"{name}, which uses it, fails with it: {told.text}")
        probes = tuple(outcomes.items()) if skill.effect == "pure" else ()
        return wrong, replace(skill, evidence=evidence, probes=probes)

    def _users(self, view: Mapping[str, Skill], name: str) -> list[str]:
        """The skills that load this one."""
        found, waiting = set(), [name]
        while waiting:
            wanted = waiting.pop()
            new = [each for each, s in view.items() if wanted in s.deps and each not in found]
            found |= set(new)
            waiting += new
        return sorted(found - {name})

    def _ground(self, skill: Skill) -> dict[str, int | None]:
        """The versions that an admission rests on: of what it needs and of what needs it."""
        view = {**self._skills, skill.name: skill}
        try:
            needed = skill_checks.closure(view, [skill.name])
        except InputError:
            needed = [skill.name, *skill.deps]
        return {
            name: self._versions.get(name) for name in (*needed, *self._users(view, skill.name))
        }

    def _write(self, skill: Skill) -> Skill:
        """Under the lock."""
        skill = replace(skill, version=self._versions.get(skill.name, 0) + 1)
        text = json.dumps(to_record(skill), indent=1)
        atomic_write(self._path(skill.name, skill.version), text)
        self._refresh()
        return self._with_stats(self._skills[skill.name])

    def _path(self, name: str, version: int) -> Path:
        return self._folder / f"{name}.{version}.json"

    def _read(self, name: str, version: int) -> Skill:
        path = self._path(name, version)
        try:
            skill = from_record(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"skill {name}, version {version}: {error.strerror}") from None
        except (ValueError, RecursionError):
            raise InputError(f"{path}: the file is damaged") from None
        if (skill.name, skill.version) != (name, version):
            raise InputError(f"{path}: the file was renamed")
        return skill

    def _refresh(self) -> None:
        """See what other processes wrote."""
        latest: dict[str, int] = {}
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                name, _, version = path.name.removesuffix(".json").partition(".")
                if name and version.isdigit() and path.suffix == ".json":
                    latest[name] = max(latest.get(name, 0), int(version))
        for name, version in latest.items():
            if self._versions.get(name) != version:
                self._take(name, version)
        for name in self._versions.keys() - latest.keys():
            self._forget(name)
        afresh, records = self._log.news()
        if afresh:
            self._uses.clear()
        for record in records:
            self._count(record)

    def _take(self, name: str, version: int) -> None:
        self._forget(name)
        self._versions[name] = version
        try:
            self._skills[name] = self._read(name, version)
        except InputError as error:
            self._damaged[name] = str(error)
        else:
            self._index.add(name, self._skills[name].text)

    def _forget(self, name: str) -> None:
        self._versions.pop(name, None)
        self._skills.pop(name, None)
        self._damaged.pop(name, None)
        self._index.remove(name)

    def _count(self, record: Mapping[str, object]) -> None:
        name, version, ok = record.get("skill"), record.get("version"), record.get("ok")
        if not isinstance(name, str) or not isinstance(version, int) or not isinstance(ok, bool):
            return
        new = _Uses(deque(maxlen=4 * self._failures))
        uses = self._uses.setdefault((name, version), new)
        uses.last.append(ok)
        uses.uses += 1
        uses.successes += ok
        if not ok:
            uses.why = str(record.get("why", ""))

    def _resting(self) -> dict[str, str]:
        resting = dict(self._damaged)
        for (name, version), uses in self._uses.items():
            failed = uses.last.count(False)
            if version == self._versions.get(name) and failed >= self._failures:
                why = f": {uses.why}" if uses.why else ""
                resting[name] = f"{failed} of the last {len(uses.last)} uses failed{why}"
        return resting

    def _with_stats(self, skill: Skill) -> Skill:
        uses = self._uses.get((skill.name, skill.version))
        return (
            skill
            if uses is None
            else replace(skill, stats=Stats(uses.uses, uses.successes, uses.why))
        )

    def _loadable(self, names: Sequence[str]) -> list[str]:
        self._refresh()
        resting = self._resting()
        known = {name: self._skills.get(name) or Skill(name, "") for name in self._versions}
        order = skill_checks.closure(known, names)
        for name in order:
            if name in resting:
                raise InputError(f"skill {name} rests in quarantine: {resting[name]}")
            if lacks := self._lacks(name):
                raise InputError(f"skill {name} needs {lacks}, which is not here")
        return order

    def _lacks(self, name: str) -> str:
        """A tool or a package that the skill needs and that is not here; "" if there is none."""
        skill = self._skills[name]
        lacking = []
        if not self._any_tools:
            lacking += [f"the tool {tool}" for tool in skill.tools if tool not in self._tools]
        if not self._any_imports:
            missing = skill_checks.packages(skill.code) - set(self._policy.imports)
            lacking += [f"the package {package}" for package in sorted(missing)]
        return lacking[0] if lacking else ""


def _merit(skill: Skill) -> float:
    doubts = 2 if skill.evidence == "generated" else 1
    return 0.5 + (skill.stats.successes + 1) / (skill.stats.uses + 1 + doubts)


def _refused(skill: Skill, reasons: Sequence[str]) -> Verdict:
    return Verdict(False, tuple(dict.fromkeys(reasons)), skill)

"""What a model is told before it begins: a small text by dialect, and stubs of its tools.

The texts are files in ``prompts/``; each run notes the hash of the one it used.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from string import Template
from typing import Any

from stretto.agents.dialects import Dialect
from stretto.agents.registry import Registry

MANY = 12
"""Tools that are shown at most; of more, those that fit the task, and those used before."""
FIND = "find_tools"
_FIND_STUB = f'''
def {FIND}(query: str) -> str:
    """There are more functions than these: stubs of those that fit a description."""
'''


@dataclass(frozen=True)
class Surroundings:
    """What a turn begins with.

    Attributes:
        system: first message.
        effects: of every tool, by the name that code calls.
        shown: tools that the model is told of.
        schemas: of these, for endpoints that take tools.
    """

    system: str
    effects: Mapping[str, str]
    shown: tuple[str, ...] = ()
    schemas: tuple[Mapping[str, Any], ...] = field(default=())


def template(dialect: Dialect) -> str:
    """The dialect's prompt, with places for tools, skills and memory."""
    return (files("stretto.agents") / "prompts" / f"{dialect.name}.md").read_text(encoding="utf-8")


def digest(dialect: Dialect) -> str:
    """SHA-256 of the prompt, in hexadecimal digits."""
    return hashlib.sha256(template(dialect).encode()).hexdigest()


def surroundings(
    dialect: Dialect,
    registry: Registry,
    about: str,
    *,
    used: Iterable[str] = (),
    skills: str = "",
    memory: str = "",
) -> Surroundings:
    """What the model is told now.

    Args:
        dialect: how it writes actions.
        registry: the tools as they are now.
        about: text that the tools shown should fit, if there are many.
        used: tools that are shown in any case.
        skills: stubs of skills.
        memory: what is remembered.
    """
    names = [tool.name for tool in registry]
    many = len(names) > MANY
    if many:
        fitting = [name for name in used if name in registry]
        fitting += [tool.name for tool in registry.find(about, top=MANY)]
        names = list(dict.fromkeys([*fitting, *names]))[:MANY] if fitting else names[:MANY]
    stubs = registry.stub(*names) if names else "(none)\n"
    system = Template(template(dialect)).substitute(
        tools=stubs + (_FIND_STUB if many and dialect.code else ""),
        skills=f"\nAlso defined already:\n\n{skills}\n" if skills else "",
        memory=f"\nWhat you know from before:\n{memory}\n" if memory else "",
    )
    effects = dict(registry.effects)
    if many and dialect.code:
        effects[FIND] = "read"
    schemas = tuple(registry.json_schema(name) for name in names) if dialect.schemas else ()
    return Surroundings(system.strip() + "\n", effects, tuple(names), schemas)

"""Trying a skill on inputs: those of its tests, and others made from them."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from stretto.agents.feedback import scrub
from stretto.agents.sandbox import Session
from stretto.agents.skill import Skill

Outcomes = dict[str, str]
"""By arguments as written, such as ``(2, k=3)``: ``int 8``, or ``raises ValueError``."""

_MAX_TRIED = 12
_MAX_TEXT = 200  # characters of arguments or of an outcome
_HELPER = """\
def _stretto_outcome(call):
    try:
        value = call()
    except Exception as error:
        return 'raises ' + type(error).__name__
    return (type(value).__name__ + ' ' + repr(value))[:1000]

"""


def calls_in(texts: Iterable[str], name: str) -> list[str]:
    """Arguments of the function's calls that are plain values, each once, in order."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    values = [*node.args, *(keyword.value for keyword in node.keywords)]
                    given = ast.unparse(node)[len(node.func.id) :]
                    plain = all(_is_plain(value) for value in values) and len(given) <= _MAX_TEXT
                    if node.func.id == name and plain:
                        found[given] = None
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return list(found)


def variations(calls: Sequence[str]) -> list[str]:
    """Other calls near these, at most twelve: one argument at a time is another one."""
    made: dict[str, None] = {}
    for step in zip_longest(*(_varied(call) for call in calls)):
        made |= dict.fromkeys(call for call in step if call and len(call) <= _MAX_TEXT)
    return [call for call in made if call not in calls][:_MAX_TRIED]


async def probe(
    skill: Skill, known: Sequence[str], new: Sequence[str], session: Session, *, apart: bool = True
) -> tuple[Outcomes, Outcomes]:
    """What the skill gives for inputs known and new.

    Outcomes that differ between runs (addresses), are long, or reach a limit are left out.

    Args:
        skill: whose dependencies are loaded in the session.
        known: arguments, as :func:`calls_in` writes them.
        new: more of them.
        session: runs in forks of it.
        apart: each new input in a fork of its own, until one reaches a limit; else all in one.
    """
    first, second = Outcomes(), Outcomes()
    copy = await session.fork()
    try:
        if not (await copy.exec(skill.code)).ok:
            return first, second
        first = await _together(copy, skill.name, known)
        if not apart:
            return first, await _together(copy, skill.name, new)
        for given in new:
            found = await _together(copy, skill.name, [given])
            if given not in found:
                break
            second |= found
    finally:
        await copy.close()
    return _stable(first), _stable(second)


async def _together(session: Session, name: str, calls: Sequence[str]) -> Outcomes:
    if not calls:
        return {}
    tries = ", ".join(f"_stretto_outcome(lambda: {name}{given})" for given in calls)
    copy = await session.fork()
    try:
        result = await copy.exec(f"{_HELPER}[{tries}]")
    finally:
        await copy.close()
    if not result.ok or not isinstance(result.value, list):
        return {}
    return {given: str(gave) for given, gave in zip(calls, result.value, strict=True)}


def _stable(outcomes: Outcomes) -> Outcomes:
    return {
        given: gave
        for given, gave in outcomes.items()
        if len(gave) <= _MAX_TEXT and scrub(gave) == gave
    }


def _is_plain(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _varied(call: str) -> Iterator[str]:
    node = ast.parse(f"f{call}", mode="eval").body
    assert isinstance(node, ast.Call)
    places: list[Any] = [(node.args, index) for index in range(len(node.args))]
    places += [(keyword, "value") for keyword in node.keywords]
    for values in zip_longest(*(_near(ast.literal_eval(_at(place))) for place in places)):
        for place, value in zip(places, values, strict=True):
            if value is None:
                continue
            before = _at(place)
            new = ast.parse(repr(value[0]), mode="eval").body
            if not _is_plain(new) or ast.unparse(new) == ast.unparse(before):
                continue  # inf has no literal; some values have no neighbour
            _put(place, new)
            yield ast.unparse(node)[1:]
            _put(place, before)


def _at(place: Any) -> ast.expr:
    holder, key = place
    return holder[key] if isinstance(holder, list) else getattr(holder, key)


def _put(place: Any, value: ast.expr) -> None:
    holder, key = place
    if isinstance(holder, list):
        holder[key] = value
    else:
        setattr(holder, key, value)


def _near(value: Any) -> Iterator[tuple[Any]]:
    """Values of the same type near this one, the most ordinary first; boxed, None being one."""
    if isinstance(value, bool):
        yield (not value,)
    elif isinstance(value, int):
        yield from ((value + 1,), (value + 2,), (0,), (-value,))
    elif isinstance(value, float):
        yield from ((value + 0.5,), (value * 2,), (0.0,), (-value,))
    elif isinstance(value, str | bytes):
        yield from ((value * 2,), (value[::-1],), (value[1:],), (value.upper(),))
    elif isinstance(value, list | tuple):
        yield from ((value * 2,), (value[::-1],), (value[1:],))
    elif isinstance(value, dict):
        yield (dict(list(value.items())[1:]),)
    elif isinstance(value, set | frozenset):
        yield (type(value)(sorted(value, key=repr)[1:]),)

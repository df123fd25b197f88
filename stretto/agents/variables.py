"""What a persistent session holds, told from within it; the values stay there."""

from collections.abc import Iterable
from dataclasses import dataclass

from stretto.agents.feedback import scrub
from stretto.agents.sandbox import Session

_MAX_REPR = 80


@dataclass(frozen=True)
class Variable:
    """A name of a session, its type and how its value begins; the value stays where it is."""

    name: str
    type: str
    short: str = ""


async def variables(session: Session, tools: Iterable[str] = ()) -> tuple[Variable, ...]:
    """Names, types and beginnings of what a session holds, without modules, ``_names`` and tools.

    A fork is asked, so nothing changes; if values are slow to show, only their types are told.
    """
    names = _NAMES.format(tools=sorted(tools))
    for with_values in (True, False):
        copy = await session.fork()
        try:
            result = await copy.exec(names + _LIST.format(max=_MAX_REPR, values=with_values))
        finally:
            await copy.close()
        if result.ok and isinstance(result.value, list):
            return tuple(Variable(*(scrub(part) for part in row)) for row in result.value)
    return ()


async def save(session: Session, tools: Iterable[str] = ()) -> tuple[str, tuple[str, ...]]:
    """Assignments that bring a session's plain values back, and the names they do not bring back:
    functions, classes, other objects, and what is more than 64 KiB of text in all.

    The text is the sandbox's own word: run it in a sandbox only. Within one process a session's
    ``checkpoint`` brings everything back.
    """
    names = _NAMES.format(tools=sorted(tools))
    copy = await session.fork()
    try:
        result = await copy.exec(names + _SAVE)
    finally:
        await copy.close()
    if not result.ok or not isinstance(result.value, list):
        return "", tuple(variable.name for variable in await variables(session, tools))
    source, lost = result.value
    return source, tuple(lost)


_NAMES = """\
def _stretto_names():
    import types
    for name, value in sorted(globals().items()):
        hidden = name.startswith('_') or isinstance(value, types.ModuleType)
        if not hidden and name not in {tools}:
            yield name, value

"""
_LIST = """\
def _stretto_short(value):
    import reprlib
    short = reprlib.Repr()
    short.maxstring = short.maxother = {max}
    if callable(value):
        return ''
    try:
        return short.repr(value)[:{max}]
    except Exception as error:
        return f'({{type(error).__name__}} when shown)'

[[n, type(v).__qualname__, _stretto_short(v) if {values} else ''] for n, v in _stretto_names()]"""
_SAVE = """\
def _stretto_save():
    import ast
    lines, lost, room = [], [], 1 << 16
    for name, value in _stretto_names():
        try:
            text = repr(value)
            plain = len(text) <= room and ast.literal_eval(text) == value
            plain = plain and type(ast.literal_eval(text)) is type(value)
        except Exception:
            plain = False
        if plain:
            room -= len(text)
            lines.append(f'{name} = {text}\\n')
        else:
            lost.append(name)
    return [''.join(lines), lost]

_stretto_save()"""

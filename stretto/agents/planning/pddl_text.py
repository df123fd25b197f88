"""Texts in PDDL, read far enough to say where a mistake is.

The solver's own messages name no line, and it takes a fact with too many arguments for one that
never holds. What is checked here: brackets, the heads of both texts, that predicates are declared
and have their number of arguments wherever they stand, and that formulae keep to STRIPS: ``and``,
and ``not`` in effects.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from stretto.errors import InputError

_TOKEN = re.compile(r";[^\n]*|\n|[()]|[^\s();]+")
_DEPTH = 100


class Word(NamedTuple):
    """A word and its line, from 1."""

    text: str
    line: int


class Form(NamedTuple):
    """What stands between two brackets."""

    parts: list["Word | Form"]
    line: int

    @property
    def head(self) -> str:
        """The first word in small letters, or ""."""
        first = self.parts[0] if self.parts else None
        return first.text.lower() if isinstance(first, Word) else ""


def check(domain: str, problem: str) -> None:
    """Find the first mistake.

    Raises:
        InputError: one line with text, line and what is wrong.
    """
    rules = _read(domain, "domain")
    arity = {"=": 2}
    for form in _forms(rules, ":predicates"):
        for each in form.parts[1:]:
            if isinstance(each, Word) or not each.head:
                raise InputError(f"pddl domain, line {each.line}: a predicate is written "
                                 "(name ?a ?b - type)")  # fmt: skip
            arity[each.head] = sum(_is_variable(part) for part in each.parts)
    actions = _forms(rules, ":action")
    if not actions:
        raise InputError("pddl domain: there is no (:action ...) in it")
    for action in actions:
        parts = action.parts
        for key, value in itertools.pairwise(parts):
            if isinstance(key, Word) and key.text.lower() in (":precondition", ":effect"):
                _formula(value, arity, "domain", key.text.lower() == ":effect")
    task = _read(problem, "problem")
    for name in (":init", ":goal"):
        if len(_forms(task, name)) != 1:
            raise InputError(f"pddl problem: there must be one ({name} ...)")
    for fact in _forms(task, ":init")[0].parts[1:]:
        _atom(fact, arity, "problem")
    goal = _forms(task, ":goal")[0]
    if len(goal.parts) != 2:
        raise InputError(f"pddl problem, line {goal.line}: a goal is one formula; write "
                         "(:goal (and ...))")  # fmt: skip
    _formula(goal.parts[1], arity, "problem", False)


def spelling(*texts: str) -> dict[str, str]:
    """Words as they were first written, by themselves in small letters."""
    found: dict[str, str] = {}
    for text in texts:
        for match in _TOKEN.finditer(text):
            if match[0][0] not in ";\n()":
                found.setdefault(match[0].lower(), match[0])
    return found


def _read(text: str, what: str) -> Form:
    """The one form of a text."""
    line, stack, done = 1, [Form([], 1)], 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "\n":
            line += 1
        elif token == "(":
            done += len(stack) == 1
            if len(stack) > _DEPTH or done > 1:
                raise InputError(f"pddl {what}, line {line}: " + (
                    "brackets are nested too deeply" if done <= 1 else
                    "the text goes on after its last bracket; is there a bracket too many?"
                ))  # fmt: skip
            stack.append(Form([], line))
        elif token == ")":
            if len(stack) == 1:
                raise InputError(f"pddl {what}, line {line}: there is a closing bracket too many")
            form = stack.pop()
            stack[-1].parts.append(form)
        elif token[0] != ";":
            if len(stack) == 1:
                raise InputError(f"pddl {what}, line {line}: {token!r} stands outside of brackets")
            stack[-1].parts.append(Word(token, line))
    if len(stack) > 1:
        raise InputError(f"pddl {what}, line {stack[-1].line}: this bracket is never closed")
    form = stack[0].parts[0] if stack[0].parts else Form([], 1)
    head = form.parts[1] if isinstance(form, Form) and len(form.parts) > 1 else None
    if not isinstance(form, Form) or form.head != "define" or getattr(head, "head", "") != what:
        raise InputError(f"pddl {what}: it begins with (define ({what} name) ...)")
    return form


def _forms(form: Form, head: str) -> list[Form]:
    return [each for each in form.parts if isinstance(each, Form) and each.head == head]


def _formula(form: Word | Form, arity: dict[str, int], what: str, is_effect: bool) -> None:
    for each in _literals(form, what, is_effect):
        _atom(each, arity, what)


def _literals(form: Word | Form, what: str, is_effect: bool) -> Iterator[Word | Form]:
    head = form.head if isinstance(form, Form) else ""
    if isinstance(form, Form) and head == "and":
        for each in form.parts[1:]:
            yield from _literals(each, what, is_effect)
    elif isinstance(form, Form) and head == "not" and is_effect and len(form.parts) == 2:
        yield form.parts[1]
    elif head in ("not", "or", "imply", "forall", "exists", "when"):
        allowed = "and, and not before a fact" if is_effect else "and"
        place = "an effect" if is_effect else "a precondition or a goal"
        raise InputError(f"pddl {what}, line {form.line}: {head!r} cannot stand here; in {place} "
                         f"write {allowed}")  # fmt: skip
    elif form != Form([], form.line):  # () is the empty condition
        yield form


def _atom(form: Word | Form, arity: dict[str, int], what: str) -> None:
    if isinstance(form, Word) or not form.head:
        shown = form.text if isinstance(form, Word) else "("
        raise InputError(f"pddl {what}, line {form.line}: {shown!r} is no fact; write (name a b)")
    if form.head not in arity:
        known = ", ".join(sorted(set(arity) - {"="})) or "none"
        raise InputError(f"pddl {what}, line {form.line}: there is no predicate {form.head!r}; "
                         f"declared are: {known}")  # fmt: skip
    given = len(form.parts) - 1
    if given != arity[form.head]:
        raise InputError(f"pddl {what}, line {form.line}: {form.head!r} takes {arity[form.head]} "
                         f"arguments, {given} are given")  # fmt: skip


def _is_variable(part: Word | Form) -> bool:
    return isinstance(part, Word) and part.text.startswith("?")

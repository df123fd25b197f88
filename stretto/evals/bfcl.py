"""BFCL simple: does a model fill the arguments of one tool as the Berkeley leaderboard accepts it?

Data and rules of BFCL v4 (Patil et al. 2025), category ``simple_python``. The rules are those of
its AST checker, written anew: each required argument is there, none is unknown, each is of its
type and is one of the values listed; texts are compared without case, spaces and ``,./-_*^``.
"""

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stretto.agents.grounding import Filling
from stretto.agents.schemas import grammar_schema
from stretto.errors import InputError

if TYPE_CHECKING:
    from stretto.engine import Engine, Session

CATEGORY = "simple_python"
MAX_TOKENS = 160  # of a call, or of one argument
_TYPES = {"string": str, "integer": int, "float": float, "boolean": bool, "array": list,
          "tuple": list, "dict": dict, "any": str}  # fmt: skip
_JSON = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_SHOWN = {"string": "str", "integer": "int", "number": "float", "boolean": "bool",
          "array": "list", "object": "dict"}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: of BFCL.
        question: what the user says.
        function: as BFCL describes it.
        answer: accepted values by argument; an empty text among them: may be left out.
    """

    id: str
    question: str
    function: dict[str, Any]
    answer: dict[str, list[Any]]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return json_schema(self.function["parameters"])


@dataclass(frozen=True)
class Filled:
    """What a model wrote for an item; ``why`` is empty if it is accepted."""

    item: Item
    text: str
    why: str


def load_items(folder: Path, category: str = CATEGORY) -> list[Item]:
    """The items of a category.

    Args:
        folder: holds ``BFCL_v4_CATEGORY.json`` and ``possible_answer/`` with the same names, as
            the package bfcl-eval ships them.
        category: ``simple_python``, or ``multiple``, of which the right function is given.

    Raises:
        InputError: a file is missing or is something else.
    """
    name = f"BFCL_v4_{category}.json"
    try:
        asked = [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]
        lines = (folder / "possible_answer" / name).read_text("utf-8").splitlines()
        answers = {data["id"]: data["ground_truth"] for data in map(json.loads, lines)}
        return [_item(data, answers[data["id"]][0]) for data in asked]
    except OSError as error:
        raise InputError(f"{folder}: no BFCL data ({error.strerror}: {error.filename})") from None
    except (ValueError, KeyError, IndexError, TypeError, StopIteration) as error:
        raise InputError(f"{folder / name}: not BFCL v4 data ({error!r})") from None


def _item(data: Mapping[str, Any], answer: Mapping[str, Any]) -> Item:
    """Of several functions the right one is given: which to call is another question."""
    ((name, accepted),) = answer.items()
    function = next(each for each in data["function"] if each["name"] == name)
    return Item(data["id"], data["question"][0][-1]["content"], function, accepted)


def json_schema(part: Mapping[str, Any]) -> dict[str, Any]:
    """BFCL's type names as JSON schema has them."""
    made: dict[str, Any] = {"type": _JSON.get(part["type"], part["type"])}
    made |= {key: part[key] for key in ("description", "enum") if key in part}
    if "items" in part:
        made["items"] = json_schema(part["items"])
    if "properties" in part:
        made["properties"] = {name: json_schema(p) for name, p in part["properties"].items()}
        made["required"] = list(part.get("required", ()))
    return made


# The rules.


def mismatch(function: Mapping[str, Any], arguments: Any, answer: Mapping[str, list[Any]]) -> str:
    """Why BFCL would not accept these arguments; empty if it would."""
    if not isinstance(arguments, Mapping):
        return "not an object"
    parameters = function["parameters"]
    for name in parameters["required"]:
        if name not in arguments:
            return f"{name}: missing"
    for name, value in arguments.items():
        if name not in parameters["properties"] or name not in answer:
            return f"{name}: unexpected"
        why = _value(value, parameters["properties"][name], answer[name])
        if why:
            return f"{name}: {why}"
    for name, accepted in answer.items():
        if name not in arguments and "" not in accepted:
            return f"{name}: left out"
    return ""


def _value(value: Any, part: Mapping[str, Any], accepted: list[Any]) -> str:
    kind = part["type"]
    expected = _TYPES[kind]
    inner = _TYPES[part["items"]["type"]] if kind in ("array", "tuple") else None
    if kind == "float" and type(value) is int:
        value = float(value)
    fits, is_variable = _fits(value, accepted, expected, inner)
    if not fits:
        return f"{value!r} is no {kind}"
    if is_variable:  # a value of the answers' type where the description has another
        is_right = value in accepted
    elif expected is dict:
        is_right = any(_dict(value, each) for each in accepted)
    elif expected is list and inner is dict:
        is_right = any(_dicts(value, each) for each in accepted)
    elif expected is str:
        is_right = plain(value) in [plain(each) for each in accepted if isinstance(each, str)]
    elif expected is list:
        is_right = list(map(plain, value)) in [list(map(plain, each)) for each in accepted]
    else:
        is_right = value in accepted
    return "" if is_right else f"{value!r} is none of {accepted!r}"


def _fits(
    value: Any, accepted: Sequence[Any], expected: type, inner: type | None
) -> tuple[bool, bool]:
    """Whether the type is right, and whether it is so only by the answers' type."""
    answered = next((type(each) for each in accepted if each != ""), None)
    if type(value) is expected:
        fits = inner is None or any(
            not isinstance(each, list) or all(_fits(v, each, inner, None)[0] for v in value)
            for each in accepted
        )
        return fits, answered is not None and answered is not expected
    return answered is not None and type(value) is answered, True


def _dict(value: Mapping[str, Any], accepted: Any) -> bool:
    if not isinstance(accepted, Mapping):
        return False
    return all(
        key in accepted and plain(item) in [plain(each) for each in accepted[key]]
        for key, item in value.items()
    ) and all(key in value or "" in items for key, items in accepted.items())


def _dicts(value: Sequence[Any], accepted: Sequence[Any]) -> bool:
    return len(value) == len(accepted) and all(map(_dict, value, accepted))


def plain(value: Any) -> Any:
    """A text as BFCL compares it; other values as they are."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')


# The method.

_EXAMPLE = (
    "Book a table for 4 people at Luigi's in Rome on May 5th, 2023.",
    "book_table",
    "Book a table at a restaurant.",
    {
        "properties": {
            "restaurant": {"type": "string", "description": "Name of the restaurant."},
            "city": {"type": "string", "description": "The city."},
            "guests": {"type": "integer", "description": "Number of guests."},
            "date": {"type": "string",
                     "description": "Date of the booking in the format YYYY-MM-DD."},
            "outside": {"type": "boolean",
                        "description": "Whether to sit outside. Default is False."},
        }
    },
    {"restaurant": "Luigi's", "city": "Rome", "guests": 4, "date": "2023-05-05"},
)  # fmt: skip


_HEAD = "Fill in the arguments of the function from the question.\n\n"


def prompt(item: Item, *, example: bool = True) -> str:
    """One made-up example, then the item; the arguments come next."""
    function = item.function
    asked = _block(item.question, function["name"], function["description"], item.schema)
    if not example:
        return f"{_HEAD}{asked}"
    question, name, doc, schema, arguments = _EXAMPLE
    return f"{_HEAD}{_block(question, name, doc, schema)} {json.dumps(arguments)}\n\n{asked}"


def plain_prompt(question: str, name: str, doc: str, schema: Mapping[str, Any]) -> str:
    """The same without an example, for a tool that is not BFCL's."""
    return f"{_HEAD}{_block(question, name, doc, schema)}"


def _block(question: str, name: str, doc: str, schema: Mapping[str, Any]) -> str:
    lines = [f"- {key} ({_SHOWN.get(part['type'], 'str')}): {part.get('description', '')}"
             for key, part in schema["properties"].items()]  # fmt: skip
    return "\n".join([f"Function: {name}", f"Description: {doc}", "Parameters:", *lines,
                      f"Question: {question}", "Arguments:"])  # fmt: skip


def fill_by_schema(
    engine: "Engine",
    items: Sequence[Item],
    progress: Callable[[str], None] = lambda _: None,
    *,
    example: bool = True,
) -> list[Filled]:
    """Each item in one session, whose grammar is the JSON schema of the arguments."""
    from stretto.engine import Grammar

    sessions = [_open(engine, prompt(item, example=example),
                      Grammar.json(grammar_schema(item.schema), pauses=False))
                for item in items]  # fmt: skip
    engine.run(sessions)
    progress(f"{len(sessions)} sessions")
    return [_judge(item, _text(engine, session))
            for item, session in zip(items, sessions, strict=True)]  # fmt: skip


def fill_grounded(
    engine: "Engine", items: Sequence[Item], progress: Callable[[str], None] = lambda _: None
) -> list[Filled]:
    """Argument by argument, each value one that the question mentions; see :class:`Filling`."""
    fillings = [Filling(item.schema, item.question) for item in items]
    broken: dict[int, str] = {}
    live = list(range(len(items)))
    while live:
        asked = [(number, schema) for number in live
                 if (schema := fillings[number].next()) is not None]  # fmt: skip
        sessions = [_open(engine, f"{prompt(items[number])} {fillings[number].written}",
                          _value_grammar(schema)) for number, schema in asked]  # fmt: skip
        engine.run(sessions)
        progress(f"{len(sessions)} sessions")
        for (number, _), session in zip(asked, sessions, strict=True):
            text = _text(engine, session)
            try:
                fillings[number].take(json.loads(text))
            except ValueError:
                broken[number] = f"{fillings[number].written}{text}"
        live = [number for number, _ in asked if number not in broken]
    return [
        _judge(item, broken.get(number, json.dumps(filling.arguments, ensure_ascii=False)))
        for number, (item, filling) in enumerate(zip(items, fillings, strict=True))
    ]


def fill_by_chance(items: Sequence[Item], seed: int = 0) -> list[Filled]:
    """As :func:`fill_grounded` with a die in place of the model: what the rules alone are worth."""
    rng, found = random.Random(seed), []
    for item in items:
        filling = Filling(item.schema, item.question)
        while (schema := filling.next()) is not None:
            filling.take(_draw(schema, rng))
        found.append(_judge(item, json.dumps(filling.arguments)))
    return found


def _draw(schema: Mapping[str, Any], rng: random.Random) -> Any:
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema.get("type"):
        case "object":
            return {n: _draw(part, rng) for n, part in schema.get("properties", {}).items()}
        case "array":
            return [_draw(schema["items"], rng)]
        case "integer" | "number":
            return rng.randint(0, 10)
        case "boolean":
            return rng.random() < 0.5
        case _:
            return ""


def _value_grammar(schema: Mapping[str, Any]) -> Any:
    from stretto.engine import Grammar
    from stretto.engine.grammar import WHITE_SPACE

    # The space is the model's to write: tokens of words and numbers begin with it.
    made = grammar_schema(schema) | {"x-guidance": WHITE_SPACE}
    source = f'start: " " value\nvalue: %json {json.dumps(made)}\n'
    return Grammar.lark(source, pauses=False)


def _open(engine: "Engine", text: str, grammar: Any) -> "Session":
    from stretto.engine import Limits, SamplingParams

    stream = engine.streams.names[-1]
    session = engine.open(
        prompts={stream: text},
        sampling=SamplingParams(temperature=0.0, grammar=grammar),
        limits=Limits(max_rows=MAX_TOKENS),
    )
    session.close()
    return session


def _text(engine: "Engine", session: "Session") -> str:
    return engine.codec.decode(session.table.column(session.table.streams.names[-1]))


def _judge(item: Item, text: str) -> Filled:
    try:
        arguments = json.loads(text)
    except ValueError:
        return Filled(item, text, "not JSON")
    return Filled(item, text, mismatch(item.function, arguments, item.answer))

"""SGD dialogues (Schema-Guided Dialogue, CC BY-SA 4.0) as tables of the set ``AGENT``.

While the user speaks, think notes each slot as soon as its value has been read; code then makes the
call; its result arrives in one burst; say answers. A dialogue is cut into windows of some turns,
each a table of its own whose prompt says what is known already.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from stretto.errors import InputError
from stretto.streams.sets import AGENT
from stretto.streams.table import StreamTable
from stretto.streams.ticks import TickWriter
from stretto.streams.tokens import StreamCodec

Sizes = Callable[[int, random.Random], Sequence[int]]
"""How many of ``n`` tokens arrive in each tick (0 is a pause)."""

_MAX_CELLS = 350
_MAX_PROMPT = 80
_MAX_RESULT = 60
_MAX_RESULTS = 2
_TODAY = "2019-03-01"  # the day on which all dialogues take place


def steady(n: int, rng: random.Random) -> list[int]:
    """One token a tick."""
    return [1] * n


@dataclass(frozen=True)
class _Exchange:
    """A user turn and the answer to it."""

    user: str
    new_slots: dict[str, str]
    call: Mapping[str, Any] | None
    results: tuple[Mapping[str, str], ...]
    answer: str


@dataclass(frozen=True)
class _Dialogue:
    id: str
    services: tuple[str, ...]
    exchanges: tuple[_Exchange, ...]


def tables(
    path: str | Path,
    codec: StreamCodec,
    *,
    seed: int = 0,
    limit: int | None = None,
    arrival: Sizes = steady,
    max_cells: int = _MAX_CELLS,
    every: int = 1,
) -> Iterator[StreamTable]:
    """Tables of the dialogues in ``path``, in order; a dialogue gives one or more.

    Args:
        path: a JSONL file of dialogues; the schema lies beside it (``X.jsonl``, ``X_schema.json``).
        codec: the tokeniser.
        seed: of the arrival; each dialogue draws on its own.
        limit: the most tables to give.
        arrival: sizes of the bursts in which the user's tokens arrive, from their number.
        max_cells: the most cells of a table, prompt included. An exchange is left out when it
            does not fit, or when its answer or call needs what its window cannot know.
        every: take every n-th dialogue only.

    Raises:
        InputError: a file is missing or malformed, naming the line.
    """
    path = Path(path)
    schema = _read_schema(path.with_name(f"{path.stem}_schema.json"))
    count = 0
    for dialogue in islice(_read_dialogues(path), None, None, every):
        rng = random.Random(f"{seed} {dialogue.id}")
        for table in _windows(dialogue, schema, codec, arrival, rng, max_cells):
            if limit is not None and count >= limit:
                return
            count += 1
            yield table


def _read_schema(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        return {service["service_name"]: service for service in json.loads(path.read_text("utf-8"))}
    except OSError as error:
        raise InputError(f"{path}: no schema of the services here ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a list of services ({error!r})") from None


def _read_dialogues(path: Path) -> Iterator[_Dialogue]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield _parse(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"{path}:{number}: not a dialogue ({error!r})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(data: Mapping[str, Any]) -> _Dialogue:
    known: dict[tuple[str, str], str] = {}
    exchanges = []
    turns = data["turns"]
    for user, system in zip(turns[::2], turns[1::2], strict=False):
        if (user["s"], system["s"]) != ("U", "S"):
            raise ValueError("user and system do not take turns")
        slots = {}
        for state in user["state"]:
            for name, value in state["slots"].items():
                if known.get((state["service"], name)) != value:
                    slots[name] = known[state["service"], name] = value
        results = tuple(system.get("results", ()))
        exchanges.append(_Exchange(user["u"], slots, system.get("call"), results, system["u"]))
    return _Dialogue(data["id"], tuple(data["services"]), tuple(exchanges))


def _windows(
    dialogue: _Dialogue,
    schema: Mapping[str, Mapping[str, Any]],
    codec: StreamCodec,
    arrival: Sizes,
    rng: random.Random,
    max_cells: int,
) -> Iterator[StreamTable]:
    start = 0
    while start < len(dialogue.exchanges):
        prompt = system_prompt(dialogue, schema, codec, start)
        ids, stop = codec.encode(prompt), start
        writer, seen = TickWriter(AGENT, codec, {"system": ids}), [prompt]
        if len(ids) >= _MAX_PROMPT:
            start += 1
            continue
        for i in range(start, len(dialogue.exchanges)):
            exchange, later = dialogue.exchanges[i], dialogue.exchanges[i:]
            result = _result_text(exchange, [e.answer for e in later], codec)
            seen += [exchange.user, result or ""]
            told = [r for e in dialogue.exchanges[: i + 1] for r in e.results]
            trial = writer.copy()
            _play(trial, exchange, result, arrival, rng)
            offered = exchange.call is None or f"{exchange.call['method']}(" in prompt
            grounded = offered and is_grounded(exchange.answer, told, seen)
            if trial.num_cells() > max_cells or not grounded:
                break
            seen.append(exchange.answer)
            writer, stop = trial, i + 1
        if stop > start:
            yield writer.table({"id": f"{dialogue.id}#{start}", "task": "sgd"})
        start = max(stop, start + 1)


def _play(
    writer: TickWriter,
    exchange: _Exchange,
    result: str | None,
    arrival: Sizes,
    rng: random.Random,
) -> None:
    """One exchange: listen and note, call, read the result, answer."""
    encode = writer.codec.encode
    ids = [*encode(exchange.user), writer.codec.special.end]
    notes = _notes(exchange, writer.codec)
    read = 0
    for size in arrival(len(ids), rng):
        if size or writer.has_live():
            writer.tick({"user": ids[read : read + size]})
        read += size
        while notes and notes[0][0] <= read:
            writer.queue("think", encode(notes.pop(0)[1]), end=False)
    writer.queue("think", encode("\n") if exchange.new_slots else [])
    if exchange.new_slots:
        writer.drain("think")
    writer.queue("code", encode(call_text(exchange.call)) if exchange.call else [])
    if result is not None:
        writer.drain("code")
        writer.tick({"result": [*encode(result), writer.codec.special.end]})
        writer.queue("think", [])
        writer.queue("code", [])
    writer.queue("say", encode(exchange.answer))
    writer.drain()


def _notes(exchange: _Exchange, codec: StreamCodec) -> list[tuple[int, str]]:
    """What think writes, each with the number of user tokens (`end` too) to be read before."""
    ends = _token_ends(exchange.user, codec)
    found = []
    for name, value in exchange.new_slots.items():
        match = find_value(value, exchange.user)
        # The token that completes the value; a value that is not said is known at `end` only.
        need = len(ends) + 1
        if match is not None:
            need = next(i for i, end in enumerate(ends, start=1) if end >= match.end())
        found.append((need, f"{name}={value}"))
    found.sort(key=lambda note: note[0])
    return [(need, text if i == 0 else f" {text}") for i, (need, text) in enumerate(found)]


def _token_ends(text: str, codec: StreamCodec) -> list[int]:
    """For each token of ``text`` the number of characters that are complete after it."""
    decoder, ends, total = codec.decoder(), [], 0
    for token in codec.encode(text):
        total += len(decoder.push(token))
        ends.append(total)
    if ends:
        ends[-1] = max(ends[-1], len(text))
    return ends


def find_value(value: str, text: str) -> re.Match[str] | None:
    """Where ``text`` says ``value``, in words of its own, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE)


def spoken(value: str) -> list[str]:
    """Ways to say a value of a result: dates and times are seldom said as they are stored."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        day = date.fromisoformat(value)
        suffix = (
            "th" if 11 <= day.day <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
        )
        month = day.strftime("%B")
        return [value, f"{month} {day.day}{suffix}", f"{month} {day.day}", f"{day.day}{suffix}"]
    if match := re.fullmatch(r"(\d\d):(\d\d)", value):
        hour, minute = int(match[1]), match[2]
        clock = str(hour % 12 or 12) + ("" if minute == "00" else f":{minute}")
        half = "am" if hour < 12 else "pm"
        return [value, f"{clock} {half}", f"{clock}{half}", f"{hour}:{minute}"]
    return [value]


def _says(text: str, value: str) -> bool:
    return any(find_value(form, text) for form in spoken(value))


def is_grounded(answer: str, results: Sequence[Mapping[str, str]], seen: Sequence[str]) -> bool:
    """Whether each value of ``results`` that ``answer`` tells occurs in a text already ``seen``."""
    return all(
        any(_says(text, value) for text in seen)
        for result in results
        for value in result.values()
        if _says(answer, value)
    )


def call_text(call: Mapping[str, Any]) -> str:
    """A call as a line of Python."""
    arguments = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in call["parameters"].items()
    )
    return f"{call['method']}({arguments})"


def _result_text(exchange: _Exchange, answers: Sequence[str], codec: StreamCodec) -> str | None:
    """Up to two results as JSON; first the fields that ``answers`` speak of, then others.

    None if there was no call. Fields are left out from the back until the text is short.
    """
    if exchange.call is None:
        return None
    asked = exchange.call["parameters"]

    def told(value: str) -> bool:
        return any(_says(answer, value) for answer in answers)

    rows = []
    for result in exchange.results[:_MAX_RESULTS]:
        fresh = [(k, v) for k, v in result.items() if asked.get(k) != v]
        rows.append(dict(sorted(fresh, key=lambda item: not told(item[1]))))
    while True:
        text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
        fields = [(row, key) for row in rows for key in row]
        if len(codec.encode(text)) < _MAX_RESULT or not fields:
            return text
        idle = [(row, key) for row, key in fields if not told(row[key])]
        row, key = (idle or fields)[-1]
        del row[key]


def system_prompt(
    dialogue: _Dialogue,
    schema: Mapping[str, Mapping[str, Any]],
    codec: StreamCodec,
    start: int = 0,
) -> str:
    """The day, the tools, and the slots known before exchange ``start``.

    Tools are dropped to stay under 80 tokens, those that are called soonest last.

    Raises:
        InputError: the schema lacks a service of the dialogue.
    """
    missing = [name for name in dialogue.services if name not in schema]
    if missing:
        raise InputError(f"dialogue {dialogue.id}: the schema has no service {missing[0]!r}")
    known: dict[str, str] = {}
    for exchange in dialogue.exchanges[:start]:
        known |= exchange.new_slots
    facts = "".join(f"; {name}={value}" for name, value in known.items())
    intents = [i for name in dialogue.services for i in schema[name]["intents"]]
    called = [e.call["method"] for e in dialogue.exchanges[start:] if e.call]
    order = {name: i for i, name in reversed(list(enumerate(called)))}
    intents.sort(key=lambda intent: order.get(intent["name"], len(called)))
    signatures = [f"{intent['name']}({', '.join(intent['required_slots'])})" for intent in intents]
    while True:
        text = f"today: {_TODAY}{facts}\ntools: {', '.join(signatures)}"
        if len(codec.encode(text)) < _MAX_PROMPT or len(signatures) < 2:
            return text
        signatures.pop()

"""A recorded game, read again: as a :class:`Game` for the measures, or as words to read.

Reading changes nothing: a last line that is not whole, of a game still being played, is left alone.
"""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stretto import config as configs
from stretto.commons.game import Game
from stretto.commons.journal import VERSION
from stretto.commons.resource import Rules
from stretto.errors import InputError

GAME = "game.jsonl"
Event = Mapping[str, Any]


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The whole lines of a ``game.jsonl``, or of that in a run folder.

    Raises:
        InputError: there is none, it is of another version, or a line is not JSON.
    """
    path = Path(path)
    path = path / GAME if path.is_dir() else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    events = []
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            event = json.loads(line.decode("utf-8", "surrogatepass"))
        except ValueError:
            raise InputError(f"{path}: line {number} is not JSON") from None
        if not isinstance(event, dict) or event.get("v") != VERSION:
            raise InputError(f"{path}: line {number} is not an event of version {VERSION}")
        events.append(event)
    if not events or events[0].get("type") != "start":
        raise InputError(f"{path}: is not the record of a game (its first line is no start)")
    return events


def read_journal(path: str | Path) -> Game:
    """What :func:`stretto.commons.play.play` returned when it wrote the record.

    Of a game that was broken off, the months whose harvest is over.

    Args:
        path: a ``game.jsonl`` or its run folder.

    Raises:
        InputError: there is no such record, or no month was harvested.
    """
    return game_of(read_events(path), str(path))


def game_of(events: Sequence[Event], where: str = "the record") -> Game:
    """The game of a record's events."""
    rules = configs.load(Rules, events[0]["config"]["rules"])
    harvests = [e for e in events if e["type"] == "harvest"]
    if not harvests:
        raise InputError(f"{where}: no month was harvested yet")
    evenings = {e["month"]: e for e in events if e["type"] == "evening"}
    names = list(dict.fromkeys(name for harvest in harvests for name in harvest["demands"]))
    grids = {
        field: np.array([[h[field].get(name) or 0 for name in names] for h in harvests], np.int64)
        for field in ("demands", "received")
    }
    talks = [evenings.get(h["month"], {"utterances": 0, "limit": None}) for h in harvests]
    return Game(
        rules, tuple(names),
        np.array([h["stock"] for h in harvests]), np.array([h["left"] for h in harvests]),
        grids["demands"], grids["received"],
        np.array([[name in h["demands"] for name in names] for h in harvests]),
        np.array([[h["demands"].get(name) is not None for name in names] for h in harvests]),
        bool(harvests[-1]["collapsed"]),
        np.array([talk["utterances"] for talk in talks]),
        np.array([np.nan if t["limit"] is None else float(t["limit"]) for t in talks]),
    )  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One thing that happened, in words.

    Attributes:
        kind: ``title``, ``month``, ``catch``, ``invalid``, ``report``, ``said``, ``limit``,
            ``thought``, ``note`` or ``end``.
        text: without control characters, so that what a model says cannot steer a terminal.
        who: did or said it, if somebody did.
    """

    kind: str
    text: str
    who: str = ""


def lines(events: Iterable[Event]) -> Iterator[Line]:
    """A record in words, in the order of the game."""
    for event in events:
        for line in _LINES.get(event["type"], _other)(event):
            yield Line(line.kind, clean(line.text), clean(line.who))


def transcript(events: Iterable[Event]) -> Iterator[Any]:
    """A record as renderables for a rich console; invalid answers in red."""
    from rich.padding import Padding
    from rich.rule import Rule
    from rich.text import Text

    for line in lines(events):
        if line.kind in ("month", "end"):
            yield Rule(Text(line.text, style="bold"), align="left")
            continue
        style = _STYLES.get(line.kind, "")
        text = Text()
        if line.who:
            text.append(f"{line.who}: ", style="bold red" if line.kind == "invalid" else "bold")
        text.append(line.text, style=style)
        yield text if line.kind == "title" else Padding(text, (0, 0, 0, 2))


def clean(text: str) -> str:
    """The text without what is no character to read: controls, halves of surrogate pairs."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs", "Cf") else "\ufffd"
        for c in str(text)
    )


_STYLES = {
    "title": "bold", "invalid": "red", "report": "dim", "limit": "bold cyan",
    "thought": "italic dim", "note": "yellow",
}  # fmt: skip


def _start(event: Event) -> Iterator[Line]:
    config = event["config"]
    yield Line("title", f"{config['scenario']}, seed {config['seed']}, stretto {event['stretto']}")
    for seat in event["seats"]:
        if seat["name"] != "framework":
            yield Line("thought", seat["model"], seat["name"])


def _month(event: Event) -> Iterator[Line]:
    yield Line(
        "month",
        f"Month {event['month']}: stock {event['stock']}, sustainable share {event['share']}",
    )


def _answer(event: Event) -> Iterator[Line]:
    if event["outcome"] != "ok":
        tries = f" after {event['attempts']} attempts" if event["attempts"] > 1 else ""
        why = f": {event['why']}" if event["why"] else ""
        said = f' It said: "{event["text"]}"' if event["text"] else ""
        text = f"{event['purpose']}: {event['outcome']}{tries}{why}.{said}"
        yield Line("invalid", text, event["agent"])


def _harvest(event: Event) -> Iterator[Line]:
    for name, wanted in event["demands"].items():
        got = event["received"][name]
        if wanted is None:
            yield Line("invalid", "no valid demand, takes nothing", name)
            continue
        over = ", above the share" if got > event["share"] else ""
        yield Line("catch", f"wants {wanted}, gets {got}{over}", name)
    fell = "; the stock has collapsed" if event["collapsed"] else ""
    yield Line("catch", f"{event['left']} left{fell}")


def _says(kind: str, who: str = "") -> Any:
    def tell(event: Event) -> Iterator[Line]:
        yield Line(kind, event["text"], event.get("agent", who))

    return tell


def _limit(event: Event) -> Iterator[Line]:
    yield Line("limit", f"agreed: at most {event['value']} each")


def _arrival(event: Event) -> Iterator[Line]:
    yield Line("note", f"comes to live in the village ({event['model']})", event["agent"])


def _end(event: Event) -> Iterator[Line]:
    strict = event["strict"]
    yield Line(
        "end",
        f"End by {event['reason']} after {strict['survival_time']} months: gain "
        f"{strict['gain']:.1f} each, efficiency {strict['efficiency']:.0%}, "
        f"over-usage {strict['over_usage']:.0%}, invalid answers {strict['invalid']:.0%}",
    )


def _other(event: Event) -> Iterator[Line]:
    """What a mechanism wrote."""
    data = {k: v for k, v in event.items() if k not in ("v", "type", "month")}
    told = ", ".join(f"{key} {_short(value)}" for key, value in data.items())
    yield Line("note", f"{event['type']}: {told}" if told else str(event["type"]))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _nothing(_: Event) -> Iterator[Line]:
    yield from ()


_LINES: dict[str, Any] = {
    "start": _start, "month": _month, "answer": _answer, "harvest": _harvest,
    "report": _says("report", "Moderator"), "utterance": _says("said"),
    "summary": _says("thought", "Record"), "thought": _says("thought"), "limit": _limit,
    "arrival": _arrival, "evening": _nothing, "end": _end,
}  # fmt: skip

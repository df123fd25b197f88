"""Villages of scripted villagers with words of their own, and their records."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stretto.commons.game import Game
from stretto.commons.play import play
from stretto.commons.policies import policy
from stretto.commons.resource import Rules
from stretto.commons.run_config import RunConfig, Seat
from stretto.commons.villager import ScriptedVillager
from stretto.protocols import Message
from tests.commons.talking import Letters, Talker

Words = Mapping[str, Callable[[Any, Any], Any]]


def crew(
    folder: Path,
    *,
    takes: str | Mapping[str, str] = "threshold",
    says: Mapping[str, Words] | None = None,
    months: int = 2,
    **settings: Any,
) -> tuple[Game, list[dict[str, Any]]]:
    """A game of five and its record; ``takes`` is a policy, or one by name."""

    def sit(name: str) -> ScriptedVillager:
        wanted = takes if isinstance(takes, str) else takes.get(name, "threshold")
        return ScriptedVillager(name, policy(wanted), wanted, (says or {}).get(name))

    config = RunConfig((Seat("human"),), rules=Rules(months=months), **settings)
    folder.mkdir(exist_ok=True)
    game = asyncio.run(play(config, {}, folder, human=sit, embedder=Letters()))
    return game, read(folder)


def read(folder: Path) -> list[dict[str, Any]]:
    """The record of a game."""
    return [json.loads(line) for line in (folder / "game.jsonl").read_text().splitlines()]


def of(events: Sequence[Mapping[str, Any]], type: str) -> list[dict[str, Any]]:  # noqa: A002
    """The events of a type."""
    return [dict(event) for event in events if event["type"] == type]


def _somebody(messages: Sequence[Message]) -> str:
    return re.findall(r"who \(one of ([^,)]+)", messages[-1].content)[0]


def _first(messages: Sequence[Message]) -> Any:
    text = re.findall(r"(?:election|choose from): ([^,.\n]+)", messages[-1].content)[0]
    return int(text) if text.isdigit() else text


def _way(messages: Sequence[Message]) -> str:
    return re.findall(r"what \((\w+)", messages[-1].content)[0]


def _trade(messages: Sequence[Message]) -> str:
    return "sell" if "Ana" in messages[0].content[:12] else "buy"


def voter(jitter: float = 0.0, **answers: Any) -> Talker:
    """A scripted chat model that answers every mechanism's questions."""
    usual = {
        "choice": _first, "choices": lambda messages: [_first(messages)], "delegate": True,
        "moves": lambda m: [{"who": _somebody(m), "what": _way(m), "spend": 1}],
        "side": _trade, "count": 2, "price": 1.5, "penalty": 3, "sign": True, "claim": 4,
        "ratings": lambda m: [{"who": _somebody(m), "rating": 2, "why": "They took a lot."}],
    }  # fmt: skip
    return Talker({**usual, **answers}, jitter=jitter)

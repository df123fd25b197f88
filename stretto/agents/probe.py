"""In which dialect a model calls tools best, found by asking it; the result is kept.

Twelve small requests, each answered once in each dialect; what counts is which calls are really
made. It costs 36 short completions, once for a model at an endpoint.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from stretto.agents.agent import Agent, AgentLimits
from stretto.agents.registry import Registry
from stretto.agents.sandbox import Backend, NoSandboxError
from stretto.agents.tool import Tool
from stretto.errors import LimitError
from stretto.protocols import ChatModel
from stretto.runs import atomic_write

VERSION = 1
AT_ONCE = 4
_OURS = ("turns", "tokens", "seconds", "calls")
DIALECTS = ("code", "json", "json-text")
"""Those that are tried; of equal ones the first is taken."""

Probed = Literal["code", "json", "json-text"]
Wanted = tuple[tuple[str, dict[str, Any]], ...]

ITEMS: tuple[tuple[str, Wanted], ...] = (
    ("What is the weather in Lisbon?", (("weather", {"city": "Lisbon"}),)),
    ("Is it raining in Oslo just now?", (("weather", {"city": "Oslo"}),)),
    ("How much is 250 EUR in JPY?",
     (("convert", {"amount": 250, "source": "EUR", "target": "JPY"}),)),
    ("Convert 80 US dollars (USD) to pounds (GBP).",
     (("convert", {"amount": 80, "source": "USD", "target": "GBP"}),)),
    ("Who are the authors of the book with number 17?", (("book", {"number": 17}),)),
    ("Look up book 204.", (("book", {"number": 204}),)),
    ("Set a timer of 12 minutes.", (("timer", {"minutes": 12}),)),
    ("Wake me in 45 minutes, please.", (("timer", {"minutes": 45}),)),
    ("Compare the weather in Rome with that in Cairo.",
     (("weather", {"city": "Rome"}), ("weather", {"city": "Cairo"}))),
    ("Look up the books 3 and 8.", (("book", {"number": 3}), ("book", {"number": 8}))),
    ("Set two timers, one of 5 and one of 20 minutes.",
     (("timer", {"minutes": 5}), ("timer", {"minutes": 20}))),
    ("What is the weather in Quito? Also set a timer of 9 minutes.",
     (("weather", {"city": "Quito"}), ("timer", {"minutes": 9}))),
)  # fmt: skip


async def choose_dialect(
    model: ChatModel,
    *,
    folder: Path | None = None,
    again: bool = False,
    sandbox: Backend = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> Probed:
    """The dialect in which a model makes most of the calls it should.

    Args:
        model: a scripted one is not asked: its answers are of no dialect; ``code``.
        folder: where results are kept; by default in the user's cache.
        again: ask even if there is a result.
        sandbox: where code runs.
        tell: is given a line of progress for each dialect.

    Raises:
        LimitError: a budget of the model is used up.
    """
    if model.scripted:
        return "code"
    place = (folder or _cache()) / f"{_key(model)}.json"
    if not again and (kept := _kept(place)) is not None:
        return kept
    scores: dict[str, int] = {}
    whole: set[str] = set()  # dialects in which every question was answered
    gate = asyncio.Semaphore(AT_ONCE)
    for dialect in DIALECTS:
        tell(f"asking {model.name} {len(ITEMS)} questions in the dialect {dialect}")
        made = await asyncio.gather(*(_ask(model, dialect, item, sandbox, gate) for item in ITEMS))
        scores[dialect] = sum(right for right, _ in made)
        whole |= {dialect} if all(did for _, did in made) else set()
    best: Probed = max(DIALECTS, key=lambda name: scores[name])
    if best in whole:  # an endpoint that is down says nothing of its model
        kept = {"version": VERSION, "model": model.name, "endpoint": _endpoint(model),
                "items": len(ITEMS), "scores": scores, "dialect": best}  # fmt: skip
        atomic_write(place, json.dumps(kept, indent=2) + "\n")
    return best


async def _ask(
    model: ChatModel,
    dialect: Any,
    item: tuple[str, Wanted],
    sandbox: Backend,
    gate: asyncio.Semaphore,
) -> tuple[bool, bool]:
    """Whether the right calls were made, and whether the model answered at all."""
    request, wanted = item
    made: list[tuple[str, dict[str, Any]]] = []
    agent = Agent(
        model, Registry(_tools(made)), sandbox=sandbox, dialect=dialect,
        limits=AgentLimits(turns=1, tokens=400, seconds=120.0, calls=10),
    )  # fmt: skip
    try:
        async with gate:
            result = await agent.run(request)
    except NoSandboxError:  # so code is not for this machine
        return False, False
    if result.outcome == "limit" and result.reason not in _OURS:
        raise LimitError(result.reason)
    right = sorted(made, key=repr) == sorted(wanted, key=repr)
    return right, result.outcome != "failed"


def _tools(made: list[tuple[str, dict[str, Any]]]) -> list[Tool]:
    """Tools that note how they are called."""

    def weather(city: str) -> str:
        """The weather in a city, just now."""
        made.append(("weather", {"city": city}))
        return "12 degrees, rain"

    def convert(amount: float, source: str, target: str) -> float:
        """Convert money from one currency to another; currencies by three letters."""
        made.append(("convert", {"amount": amount, "source": source, "target": target}))
        return 1.5 * amount

    def book(number: int) -> dict[str, str]:
        """Title and authors of a book by its number."""
        made.append(("book", {"number": number}))
        return {"title": f"Volume {number}", "authors": "A. Reader"}

    def timer(minutes: int) -> str:
        """Set a timer."""
        made.append(("timer", {"minutes": minutes}))
        return "set"

    # As if they wrote: a call that is made ahead, and then in earnest, would count twice.
    return [Tool(each, effect="write") for each in (weather, convert, book, timer)]


def _kept(place: Path) -> Probed | None:
    """The result of an earlier probe."""
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        found = data["dialect"]
        if data["version"] == VERSION and found in DIALECTS:
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or not ours: it is made again
    return None


def _endpoint(model: ChatModel) -> str:
    return str(getattr(model, "base_url", "") or "")


def _key(model: ChatModel) -> str:
    return hashlib.sha256(f"{model.name}\n{_endpoint(model)}".encode()).hexdigest()[:24]


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("stretto") / "dialects"

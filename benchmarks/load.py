"""Many sessions at once on one engine: what they make together, and how evenly."""

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

from stretto.engine import Engine, Limits, SamplingParams, Session, VirtualClock
from stretto.errors import StrettoError
from stretto.streams import StreamSet
from stretto.streams.examples import demo_items

FOUR = ("user", "think", "say", "code")
"""One input and three outputs of the shipped checkpoint."""
PROMPT = 32


@dataclass
class Load:
    """What a number of sessions made.

    Attributes:
        sessions: how many were live at once.
        seconds: of each step that made rows.
        tokens: sampled by each of these steps.
        gaps: seconds between two rows of the same session, over all sessions.
        rows: made by each session while it was measured.
        waits: seconds from opening to the first row, of sessions that came while others ran.
        cache_bytes: at the end, or None if the back end does not tell.
        rss_bytes: what the process grew by since no session was open.
    """

    sessions: int
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cache_bytes: int | None = None
    rss_bytes: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens sampled by the median step over what that step took."""
        rates = [n / s for n, s in zip(self.tokens, self.seconds, strict=True)]
        return statistics.median(rates)

    def gap_ms(self, percent: float) -> float:
        """A percentile of the gaps, in milliseconds."""
        return 1e3 * float(np.percentile(self.gaps, percent))

    def add(self, other: "Load") -> None:
        """Take in another measurement of as many sessions."""
        for name in ("seconds", "tokens", "gaps", "rows", "waits"):
            getattr(self, name).extend(getattr(other, name))


class Crowd:
    """Sessions of four streams that never stop talking, with a user who never stops either.

    Args:
        engine: of a checkpoint that knows the streams ``FOUR``.
        seed: of prompts and sampling.
    """

    def __init__(self, engine: Engine, seed: int = 0) -> None:
        self.engine, self._rng = engine, random.Random(seed)
        texts = (text for item in demo_items().values() for text in item.chunks)
        self._text = engine.codec.encode(" ".join(texts))
        self.streams = StreamSet([engine.streams[name] for name in FOUR])
        # Nobody falls silent or comes to an end, so every row has four cells.
        self._talk = SamplingParams(
            temperature=0.8, top_p=0.95, silence=False, banned=(engine.codec.special.end,)
        )

    def open(self, prompt: int = PROMPT, max_rows: int = 4096) -> Session:
        """One more session. By its clock a step takes a second, in which the user says a token."""
        draw = self._rng.randrange
        session = self.engine.open(
            self.streams,
            prompts={"user": self._words(prompt)},
            sampling=self._talk,
            limits=Limits(max_rows=max_rows),
            seed=draw(2**31),
            clock=VirtualClock(lambda cells, cached: 1.0),
        )
        session.send("user", self._words(min(max_rows, 512)), rate=1.0)
        return session

    def _words(self, number: int) -> list[int]:
        """Tokens of a text that somebody wrote, from anywhere in it."""
        start = self._rng.randrange(len(self._text))
        return [self._text[(start + i) % len(self._text)] for i in range(number)]

    def step(self, seen: dict[Session, float], load: Load) -> list[Session]:
        """One step of the engine, noted; returns who made a row."""
        start = time.perf_counter()
        made = [session for session, rows in self.engine.step() if rows]
        now = time.perf_counter()
        if made:
            load.seconds.append(now - start)
            load.tokens.append(len(self.streams.outputs) * len(made))
        for session in made:
            if session in seen:
                load.gaps.append(now - seen[session])
            seen[session] = now
        return made


def steady(engine: Engine, number: int, rows: int, seed: int = 0) -> Load:
    """``number`` sessions that all are there from the start to the end, for ``rows`` steps."""
    load, crowd = Load(number), Crowd(engine, seed)
    before = _rss()
    sessions = [crowd.open() for _ in range(number)]
    step_until(engine, sessions, 4)
    begun = {session: len(session.rows) for session in sessions}
    seen: dict[Session, float] = {}
    for _ in range(rows):
        crowd.step(seen, load)
    load.rows = [len(session.rows) - begun[session] for session in sessions]
    load.cache_bytes = cache_bytes(engine)
    load.rss_bytes = _rss() - before
    _dismiss(engine, sessions)
    return load


def coming_and_going(engine: Engine, number: int, steps: int, seed: int = 0) -> Load:
    """``number`` sessions of random prompts and lengths; who leaves is followed after a while.

    ``rows`` is the share in percent of the steps of its life in which a session made a row: the
    others are those in which a prompt was read.
    """
    load, crowd, rng = Load(number), Crowd(engine, seed), random.Random(seed)

    def newcomer() -> Session:
        return crowd.open(prompt=rng.randint(8, 96), max_rows=rng.randint(12, 60))

    live = [newcomer() for _ in range(number)]
    step_until(engine, live, 1)
    seen: dict[Session, float] = {}
    opened: dict[Session, float] = {}
    lived: defaultdict[Session, list[int]] = defaultdict(lambda: [0, 0])
    for _ in range(steps):
        made = set(crowd.step(seen, load))
        for session in live:
            if session in seen:
                lived[session][0] += 1
                lived[session][1] += session in made
        for session in made & opened.keys():
            load.waits.append(seen[session] - opened.pop(session))
        live = [session for session in live if session.finish_reason is None]
        while len(live) < number and rng.random() < 0.7:
            live.append(newcomer())
            opened[live[-1]] = time.perf_counter()
    load.rows = [round(100 * made / steps) for steps, made in lived.values() if steps >= 8]
    _dismiss(engine, live)
    return load


def step_until(engine: Engine, sessions: Sequence[Session], rows: int) -> None:
    """Step until each of these has so many rows.

    Raises:
        StrettoError: one of them is over before, as when the cache has no room for all.
    """
    while short := [session for session in sessions if len(session.rows) < rows]:
        for session in short:
            if session.finish_reason is not None:
                why = f": {session.error}" if session.error else ""
                raise StrettoError(
                    f"a session was over ({session.finish_reason}) after {len(session.rows)} of "
                    f"{rows} rows{why}"
                )
        engine.step()


def cache_bytes(engine: Engine) -> int | None:
    """Bytes of cached cells, if the back end tells."""
    return getattr(engine._backend, "cache_bytes", None)


def _dismiss(engine: Engine, sessions: list[Session]) -> None:
    for session in sessions:
        session.cancel()
    engine.step()  # lines are taken back in a step


def _rss() -> int:
    return psutil.Process().memory_info().rss

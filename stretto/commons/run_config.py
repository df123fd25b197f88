"""One run, as a config file says it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from stretto.commons.resource import Rules
from stretto.commons.switches import Switches
from stretto.errors import ConfigError

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ines", "Jon")
# Names in the record of those who are no villagers.
_TAKEN = ("framework", "moderator", "town hall")


@dataclass(frozen=True)
class Seat:
    """Who plays a villager.

    Attributes:
        model: name of a chat model (see the run's ``models``), or ``script:POLICY``, as in
            ``script:threshold``, or ``human``, or ``code:NAME``: the model NAME writes a program
            that decides, run in the sandbox.
        name: empty: the next of the usual names.
        goal: told to this villager only.
    """

    model: str
    name: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Newcomer:
    """Somebody who comes later.

    Attributes:
        month: before whose harvest.
        seat: who.
    """

    month: int
    seat: Seat


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides how a run goes, but for what models answer.

    Attributes:
        scenario: name, or a YAML file.
        rules: numbers of the game.
        seats: one a villager; a single one stands for all.
        profile: of villagers that are models. ``paper``: as there, many requests a month, and
            nobody is told at which stock all is over. ``lean``: one request a month.
        switches: the reference's defects.
        talk: ``meeting``: one after the other, the speaker names the next, as in the paper;
            ``round``: each once; ``townhall``: all at once, by one multi-stream model; ``none``.
            Lean villagers write one message with their harvest, which the others hear after it, in
            ``meeting`` and ``round`` alike.
        utterances: most in a meeting, without the report.
        rows: most in a town hall.
        sees_catches: everybody learns what each took.
        memory: villagers remember earlier months. Without, talk and catches, which come after the
            harvest, cannot change the next one.
        told_threshold: told and remembered at every question of the month: ``number``: the
            sustainable share; ``words``: the universal question without it; ``no``.
        newcomers: who comes later.
        mechanisms: institutions by name, each with its settings.
        adversaries: seats' behaviours by name, each with its settings.
        framework: model that runs the meeting's record; empty: the first villager's.
        attempts: how often a model is asked for a usable answer.
        timeout: seconds for each attempt, those in the queue of a busy endpoint included; none: an
            endpoint's client has a limit of its own for each request.
        temperature: of all models.
        max_tokens: of each answer; models that think before they answer need more.
        seed: of everything drawn.
    """

    seats: tuple[Seat, ...]
    scenario: str = "fishery"
    rules: Rules = field(default_factory=Rules)
    profile: Literal["paper", "lean"] = "lean"
    switches: Switches = field(default_factory=Switches)
    talk: Literal["meeting", "round", "townhall", "none"] = "meeting"
    utterances: int = 9
    rows: int = 200
    sees_catches: bool = True
    memory: bool = True
    told_threshold: Literal["no", "number", "words"] = "no"
    newcomers: tuple[Newcomer, ...] = ()
    mechanisms: dict[str, dict[str, Any]] = field(default_factory=dict)
    adversaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    framework: str = ""
    attempts: int = 3
    timeout: float | None = None
    temperature: float = 0.0
    max_tokens: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.seats) not in (1, self.rules.villagers):
            raise ConfigError(f"seats: {len(self.seats)} for {self.rules.villagers} villagers")
        names = self.names
        for name in names:
            if name.lower() in _TAKEN or name != " ".join(name.split()):
                raise ConfigError(f"seats: {name!r} cannot be a name; write it on one line")
        if len(set(names)) < len(names):
            raise ConfigError(f"seats: names must differ: {', '.join(names)}")
        if min(self.attempts, self.utterances, self.rows, self.max_tokens) < 1:
            raise ConfigError("attempts, utterances, rows and max_tokens: must be positive")
        if self.timeout is not None and self.timeout <= 0:
            raise ConfigError("timeout: must be positive, or none")
        for one in self.newcomers:
            if not 2 <= one.month <= self.rules.months:
                raise ConfigError(f"newcomers.month: must be 2 to {self.rules.months}")

    @property
    def everybody(self) -> tuple[Seat, ...]:
        """All seats with their names, newcomers last."""
        first = self.seats * self.rules.villagers if len(self.seats) == 1 else self.seats
        seats = [*first, *(one.seat for one in self.newcomers)]
        taken = {seat.name for seat in seats if seat.name}
        more = len(seats) + len(taken)
        free = iter(
            name
            for name in (*NAMES, *(f"Villager {i}" for i in range(1, more)))
            if name not in taken
        )
        return tuple(Seat(s.model, s.name or next(free), s.goal) for s in seats)

    @property
    def names(self) -> tuple[str, ...]:
        """Of everybody, newcomers last."""
        return tuple(seat.name for seat in self.everybody)

    @property
    def arrivals(self) -> dict[str, int]:
        """The month in which each newcomer comes, by name."""
        names = self.names[self.rules.villagers :]
        return {name: one.month for name, one in zip(names, self.newcomers, strict=True)}

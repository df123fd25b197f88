"""Who is measured: how each system is opened on an item, and what is noted when it is done."""

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stretto.evals.config import EfficiencyConfig
from stretto.evals.items import text_of
from stretto.evals.records import ANY_RATE, Record, arrival_end, parse_rate
from stretto.evals.wakeup import wake_ticks
from stretto.streams import StreamCodec, StreamTable
from stretto.streams.alignment import Lag, single_prompt, step_gates
from stretto.streams.examples import Example
from stretto.streams.grading import final_answer, is_correct

if TYPE_CHECKING:
    from stretto.engine import Engine, Session


@dataclass(frozen=True)
class System:
    """One way to have a model answer.

    Attributes:
        name: as in tables.
        role: which model: ``model``, ``baseline`` or ``base``.
        streams: shipped stream set.
        output: stream the answer is on.
        live: reads while the text arrives; otherwise starts when all of it is there.
        lenient: graded leniently, as the model was never told how to end an answer.
    """

    name: str
    role: str
    streams: str
    output: str
    live: bool = False
    lenient: bool = False


SYSTEMS = {
    system.name: system
    for system in (
        System("base", "base", "single", "text", lenient=True),
        System("single", "baseline", "single", "text"),
        System("read", "model", "read", "answer", live=True),
        System("audit", "model", "audit", "answer", live=True),
        System("prefilled", "model", "read", "answer"),
    )
}


@dataclass(frozen=True)
class Job:
    """One item to be answered by one system in one condition."""

    system: System
    item: Example
    rate: str
    lag: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """As :attr:`Record.key`."""
        return self.system.name, self.item.task, self.rate, self.lag, self.item.id


def conditions(config: EfficiencyConfig) -> list[tuple[System, str, str]]:
    """Every (system, rate, lag) of a run once, systems of the same model one after another.

    Of each model, what the goals compare comes first: a run that is stopped early has it.
    """
    found: dict[tuple[System, str, str], None] = {}
    for name in config.systems:
        if name == "frontier":
            for lag in config.lags:
                found[SYSTEMS["read"], config.frontier_rate, lag] = None
        elif SYSTEMS[name].live:
            for rate in config.rates:
                found[SYSTEMS[name], rate, config.lag] = None
        else:
            lag = "all" if name == "prefilled" else ""
            found[SYSTEMS[name], ANY_RATE, lag] = None
    roles = list(config.models())

    def order(condition: tuple[System, str, str]) -> tuple[int, bool]:
        system, rate, lag = condition
        return roles.index(system.role), not config.is_goal(system.name, rate, lag)

    return sorted(found, key=order)


def open_session(engine: "Engine", job: Job, config: EfficiencyConfig, clock: Any) -> "Session":
    """A session that has been sent the whole item; it only needs to be stepped."""
    from stretto.engine import Limits, SamplingParams

    limits = Limits(max_rows=config.max_rows, max_message_tokens=config.max_message_tokens)
    codec, text = engine.codec, text_of(job.item)
    if job.system.streams == "single":
        session = engine.open(
            streams="single",
            prompts={"text": single_prompt(text, codec)},
            sampling=SamplingParams(temperature=0.0),
            limits=limits,
            clock=clock,
        )
        session.close()
        return session
    prompts: dict[str, Any] = {"answer": f"lag {job.lag}:"}
    if not job.system.live:
        prompts["user"] = codec.encode(text)
    sampling = SamplingParams(temperature=0.0)
    session = engine.open(
        streams=job.system.streams, prompts=prompts, sampling=sampling, limits=limits, clock=clock
    )
    if job.system.live:
        session.send("user", text, rate=parse_rate(job.rate))
    session.close("user")
    return session


def record(session: "Session", job: Job, codec: StreamCodec) -> Record:
    """What a finished session gave."""
    table, output, live = session.table, job.system.output, job.system.live
    special = (table.special.silence, table.special.end)
    content = [r for r in session.rows if r.tokens.get(output, special[0]) not in special]
    text = codec.decode(table.column(output))
    lenient = job.system.lenient
    predicted = final_answer(text, task=job.item.task, lenient=lenient) or ""
    tokens = len(codec.encode(text_of(job.item)))
    return Record(
        system=job.system.name,
        task=job.item.task,
        item=job.item.id,
        rate=job.rate,
        lag=job.lag,
        correct=is_correct(text, job.item.answer, task=job.item.task, lenient=lenient),
        answered=bool(predicted),
        predicted=predicted,
        text=text,
        finish=session.finish_reason or "",
        input_tokens=tokens,
        output_tokens=len(content),
        input_end_row=_end_row(table) if live else -1,
        first_row=content[0].index if content else None,
        last_row=content[-1].index if content else None,
        input_end_s=arrival_end(tokens, job.rate) if live else 0.0,
        first_s=content[0].time if content else None,
        last_s=content[-1].time if content else None,
        total_s=session.rows[-1].time if session.rows else 0.0,
        rows=len(table),
        wake_ticks=_wake(table, job, codec) if live else None,
    )


def _end_row(table: StreamTable) -> int:
    """Row in which the user's `end` was read; the last one if the session stopped before."""
    column = table.rows[:, table.streams.index("user")]
    found = np.flatnonzero(column == table.special.end)
    return int(found[0]) if found.size else len(table) - 1


def _wake(table: StreamTable, job: Job, codec: StreamCodec) -> int | None:
    """Wake-up against what :func:`step_gates` allows for the first step."""
    lag: Lag = "all" if job.lag == "all" else int(job.lag)
    gate = step_gates(job.item, lag)[0]
    chunks = job.item.chunks
    if gate > len(chunks):
        return wake_ticks(table, None)
    _, ends = codec.encode_ends(text_of(job.item))
    characters = sum(map(len, chunks[:gate]))
    return wake_ticks(table, min(bisect_left(ends, characters) + 1, len(ends)))

"""The slow obvious twin: one session, no cache, a full forward pass over all cells each tick.

Plain Python that says what a table has to be. Every back end and every change of the engine is
tested against it; it shares no code with the engine but the parameters' types.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from stretto.engine.grammar import GrammarCompiler
from stretto.engine.params import Limits, SamplingParams
from stretto.errors import InputError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.streams import ABSENT, Cells, StreamCodec, StreamSet, StreamTable

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Event:
    """Something a caller does while a session runs.

    Attributes:
        tick: after how many ticks of the session, its prefill counted, it happens; earlier if
            otherwise nothing would happen any more.
        kind: ``send``, ``interrupt``, ``close`` or ``cancel``.
        stream: which input; empty closes all.
        tokens, rate, end: as in :meth:`stretto.engine.Session.send`.
    """

    tick: int
    kind: str
    stream: str = ""
    tokens: Sequence[int] = ()
    rate: float | None = None
    end: bool = False


@dataclass(frozen=True)
class Script:
    """What happens to one session.

    Attributes:
        streams: the session's streams.
        prompts: token ids by stream.
        arrivals: (second, stream, token id), in order for each stream.
        closed: whether all inputs are closed once everything has arrived.
        events: what happens later, in order.
        sampling: by output stream.
        limits: when to stop.
        seed: of the session's random numbers.
        latency: seconds of a forward pass, from its cells and those cached before it.
    """

    streams: StreamSet
    prompts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    arrivals: Sequence[tuple[float, str, int]] = ()
    closed: bool = True
    events: Sequence[Event] = ()
    sampling: Mapping[str, SamplingParams] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    latency: Callable[[int, int], float] = lambda cells, cached: 0.03


def run(lm: MultiStreamLM, script: Script, codec: StreamCodec | None = None) -> StreamTable:
    """The table of a session; ``meta["finish_reason"]`` says why it stopped.

    A script with a grammar needs the tokeniser, ``codec``.
    """
    return _Twin(lm, script, codec).run()


class _Twin:
    def __init__(self, lm: MultiStreamLM, script: Script, codec: StreamCodec | None) -> None:
        self.lm, self.script, self.limits = lm, script, script.limits
        self.grammars = GrammarCompiler(codec) if codec is not None else None
        self.silence, self.end = lm.special.silence, lm.special.end
        prompts = {name: list(ids) for name, ids in script.prompts.items() if ids}
        self.table = StreamTable(script.streams, lm.special, prompts)
        self.outputs = [script.streams[i].name for i in script.streams.outputs]
        self.inputs = [
            s.name for s in script.streams if s.name not in self.outputs and not s.prompt_only
        ]
        self.closed = dict.fromkeys(self.inputs, script.closed)
        self.events = list(script.events)
        positions = lm.config.max_position_embeddings - self.table.num_prompt_rows
        self.max_rows = min(script.limits.max_rows, positions)
        self.rng = np.random.default_rng(script.seed)
        self.waiting = {n: [(t, k) for t, s, k in script.arrivals if s == n] for n in self.inputs}
        self.pending: dict[str, int] = {}
        self.now, self.cached, self.quiet, self.ticks = 0.0, 0, 0, 0

    def run(self) -> StreamTable:
        reason = self.happen()
        if reason is None:
            self.begin()
        while reason is None:
            reason = self.happen() or self.tick()
        self.table.meta["finish_reason"] = reason
        return self.table

    def happen(self) -> str | None:
        """What callers do between two ticks."""
        while self.events and self.events[0].tick <= self.ticks:
            event = self.events.pop(0)
            if event.kind == "cancel":
                return "cancelled"
            for name in [event.stream] if event.stream else self.inputs:
                self.hear(name, event)
        return None

    def hear(self, name: str, event: Event) -> None:
        queue, gap = self.waiting[name], 0.0 if event.rate is None else 1 / event.rate
        if event.kind == "interrupt":
            queue[:] = [item for item in queue if item[0] <= self.now + _ROUNDING]
        if event.kind != "close":
            start = max(self.now, queue[-1][0] + gap) if queue else self.now
            queue += [(start + i * gap, token) for i, token in enumerate(event.tokens)]
        column = self.table.rows[:, self.table.streams.index(name)].tolist()
        heard = [*self.table.prompts.get(name, ()), *(t for t in column if t != ABSENT)]
        heard += [token for _, token in queue]
        is_message_open = bool(heard) and heard[-1] != self.end
        is_first_word = not heard and event.stream == name and event.kind == "close"
        wants_end = event.end or (event.kind == "close" and not self.closed[name])
        if wants_end and (is_message_open or is_first_word):
            queue.append((max([self.now, *(due for due, _ in queue)]), self.end))
        self.closed[name] = event.kind == "close"

    def begin(self) -> None:
        prompts = self.table.prompts
        asked = [n for n in self.outputs if n in prompts and prompts[n][-1] != self.end]
        if prompts:
            tokens = sum(map(len, prompts.values()))
            self.ask(asked, cells=tokens, visible=tokens)
            self.ticks += 1
        for name in self.outputs:
            if name not in prompts:
                self.pending[name] = self.silence

    def tick(self) -> str | None:
        read = {name: self.take(name) for name in self.inputs}
        num_read = max(map(len, read.values()), default=0)
        input_over = self.is_input_over()
        if not num_read and not self.pending:
            return self.wait(input_over)
        if self.limits.deadline_s is not None and self.now >= self.limits.deadline_s:
            return "deadline"
        before = len(self.table)
        num_rows = min(max(1, num_read), self.max_rows - before)
        for name in self.inputs:
            self.waiting[name] = read[name][num_rows:] + self.waiting[name]
        rows = [
            {name: read[name][r][1] for name in self.inputs if r < len(read[name])}
            for r in range(num_rows)
        ]
        said = dict(self.pending)
        if num_read:
            said |= {name: self.silence for name in self.outputs if name not in said}
        for row in rows[:-1]:
            self.table.append_row(row)
        self.table.append_row(rows[-1] | said)
        input_over = self.is_input_over()
        content = [token for token in said.values() if token not in (self.silence, self.end)]
        self.ticks += 1
        idle = not num_read and not content
        self.quiet = self.quiet + input_over if idle else 0
        reason = self.reason(said, input_over)
        if reason is None:
            num_cells = sum(map(len, rows)) + len(said)
            num_silent = list(said.values()).count(self.silence)
            asked = [n for n in self.outputs if n in said and said[n] != self.end]
            self.ask(asked, cells=num_cells, visible=num_cells - num_silent)
        return reason

    def is_input_over(self) -> bool:
        return all(self.closed.values()) and not any(self.waiting.values())

    def take(self, name: str) -> list[tuple[float, int]]:
        arrived = [item for item in self.waiting[name] if item[0] <= self.now + _ROUNDING]
        self.waiting[name] = self.waiting[name][len(arrived) :]
        return arrived

    def wait(self, input_over: bool) -> str | None:
        dues = [items[0][0] for items in self.waiting.values() if items]
        deadline = self.limits.deadline_s
        if input_over:
            return "end"
        if deadline is not None and self.now >= deadline:
            return "deadline"
        if not dues and self.events:
            self.ticks = max(self.ticks, self.events[0].tick)
            return None
        if not dues:
            return "quiet"
        self.now = max(self.now, min(dues))
        if deadline is not None and self.now >= deadline:
            return "deadline"
        return None

    def reason(self, said: dict[str, int], input_over: bool) -> str | None:
        if input_over and all(token == self.end for token in said.values()):
            return "end"
        if len(self.table) >= self.max_rows:
            return "max_rows"
        if self.quiet >= self.limits.quiet_rows:
            return "quiet"
        return None

    def ask(self, names: list[str], *, cells: int, visible: int) -> None:
        """Read the whole table; choose the next token of each stream asked."""
        table_cells = self.table.cells()
        with torch.inference_mode():
            logits = self.lm(StreamBatch.from_cells([self.to_model(table_cells)])).logits
        self.pending = {}
        for name in names:
            stream = self.table.streams.index(name)
            last = int(np.flatnonzero(table_cells.streams == stream)[-1])
            params = self.script.sampling.get(name, SamplingParams())
            row = logits[last].float().cpu().double().numpy()
            may = self.allowed_next(name, params)
            token = choose(row, params, self.rng.random(), self.heard(name), self.silence, may)
            self.pending[name] = self.end if token in params.stop_ids else token
            most = self.limits.max_message_tokens
            if most is not None and self.message_length(name) >= most:
                self.pending[name] = self.end
        self.now += self.script.latency(cells, self.cached)
        self.cached += visible

    def to_model(self, cells: Cells) -> Cells:
        """The same cells with stream numbers of the model's inventory."""
        inventory = [self.lm.streams.index(stream) for stream in self.table.streams]
        return replace(cells, streams=np.array(inventory, np.int32)[cells.streams])

    def allowed_next(self, name: str, params: SamplingParams) -> set[int] | None:
        """What a stream's grammar allows, from the beginning of its message."""
        if params.grammar is None:
            return None
        if self.grammars is None:
            raise InputError("script has a grammar: give run() the tokeniser")
        matcher = self.grammars.matcher(params.grammar, params.stop_ids)
        for token in self.message(name):
            matcher.advance(token)
        return set(np.flatnonzero(matcher.mask()).tolist())

    def heard(self, name: str) -> set[int]:
        """Content this stream has had, its prompt included."""
        prompt = [t for t in self.table.prompts.get(name, []) if t < self.silence]
        return {*prompt, *self.table.column(name)}

    def message_length(self, name: str) -> int:
        return len(self.message(name))

    def message(self, name: str) -> list[int]:
        """Content of a stream since its last ``end``."""
        column = self.table.rows[:, self.table.streams.index(name)].tolist()
        if self.end in column:
            column = column[len(column) - column[::-1].index(self.end) :]
        return [token for token in column if 0 <= token < self.silence]


def choose(
    logits: np.ndarray, params: SamplingParams, uniform: float, heard: set[int], silence: int,
    may: set[int] | None = None,
) -> int:  # fmt: skip
    """One token from logits (V,); see :func:`distribution`. ``end`` if there is none to choose."""
    probs = distribution(logits, params, heard, silence, may)
    if not probs:
        return silence + 1
    share = 0.0
    for token in sorted(probs):
        share += probs[token]
        if uniform < share:
            return token
    return max(probs)


def distribution(
    logits: np.ndarray, params: SamplingParams, heard: set[int], silence: int,
    may: set[int] | None = None,
) -> dict[int, float]:  # fmt: skip
    """Probability of every token that may be chosen, rule after rule.

    Args:
        logits: (V,).
        params: the rules; see :class:`SamplingParams`.
        heard: what the stream has had.
        silence: its id.
        may: what the grammar allows, if there is one.
    """
    single = logits.astype(np.float32)
    factor = np.float32(params.repetition_penalty)
    for token in heard if factor != 1 else ():
        single[token] = single[token] / factor if single[token] > 0 else single[token] * factor
    single[silence] += np.float32(params.silence_bias)
    # Neither NaN nor -inf is ever chosen; infinity counts as the largest number.
    largest = float(np.finfo(np.float32).max)
    value = {token: min(float(x), largest) for token, x in enumerate(single) if x > -np.inf}
    for tokens in (params.allowed, may):
        if tokens is not None:
            value = {token: value[token] for token in value if token in tokens}
    for token in (*(params.banned or ()), *(() if params.silence else (silence,))):
        value.pop(token, None)
    ranked = sorted(value, key=lambda token: (-value[token], token))
    if params.temperature == 0:
        return dict.fromkeys(ranked[:1], 1.0)
    if not ranked:
        return {}
    value = {token: value[token] / params.temperature for token in ranked}
    if params.top_k:
        ranked = ranked[: params.top_k]
    kept, share = [], 0.0
    probs = _softmax({token: value[token] for token in ranked})
    for token in ranked:
        if kept and params.top_p < 1 and share >= params.top_p - _ROUNDING:
            break
        kept.append(token)
        share += probs[token]
    least = params.min_p * max(probs.values()) * (1 - _ROUNDING)
    return _softmax({token: value[token] for token in kept if probs[token] >= least})


def _softmax(value: dict[int, float]) -> dict[int, float]:
    highest = max(value.values())
    weight = {token: float(np.exp(v - highest)) for token, v in value.items()}
    total = sum(weight.values())
    return {token: w / total for token, w in weight.items()}

"""The engine: many live tables, one forward pass a step."""

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stretto.engine.admission import Memory, Queue, default_bytes
from stretto.engine.backends import Backend, check_name, open_backend
from stretto.engine.clock import Clock, WallClock
from stretto.engine.exits import exit_shares
from stretto.engine.live import LiveLoop
from stretto.engine.params import Limits, SamplingParams
from stretto.engine.passes import Passes
from stretto.engine.prefix import PrefixCache
from stretto.engine.sampling import Sampler
from stretto.engine.scheduler import Scheduler
from stretto.engine.session import Session
from stretto.engine.setup import Checker
from stretto.engine.speculation import Speculation, Speculator
from stretto.engine.stats import Stats
from stretto.engine.tick import Tick
from stretto.engine.writer import Row
from stretto.errors import ConfigError, LimitError
from stretto.models import MultiStreamLM
from stretto.streams import StreamCodec, StreamSet, StreamTable

if TYPE_CHECKING:
    from stretto.models.exits import Exits


class Engine:
    """Opens sessions and steps them together.

    Args:
        lm: the model, in evaluation mode.
        codec: its tokeniser.
        backend: what runs the forward passes: a name (see ``open_backend``), or one that is open,
            which only one engine at a time may step.
        max_sessions: how many sessions are active at once; others wait for their turn.
        chunk: a tick with more cells (a long prompt or backlog) is read in parts of at most so
            many, each a step, while other sessions go on with their rows in between. What a
            session says does not depend on it. More is faster for long prompts, less makes others
            wait less.
        max_cache_bytes: what cached keys and values may take together; by default half of the
            memory that is free now (on the model's GPU, or on the computer). A session waits
            until its prompts and a reserve fit. When the cache is full, the youngest session of
            the lowest priority is evicted: it ends, with what it wrote.
        max_waiting: how many sessions may wait for their turn.
        prefix_cache: sessions whose prompts begin alike read the beginning once.
        speculation: rows are drafted and read together; None reads one row a step. What sessions
            say is the same (see :mod:`stretto.engine.speculation`).
        exits: the model's exit heads, if it has some and the back end can use them.
        exit_layer: run the first layers only, and that exit: fast, and no longer what the whole
            model would say. Not together with speculation.
        stop_ids: for a base model that has never seen streams: the ids it ends a text with. Then
            silence and ``end`` are never sampled. Empty for a multi-stream model.

    Raises:
        ConfigError: an unknown back end, or a number that is too small.
    """

    def __init__(
        self,
        lm: MultiStreamLM,
        codec: StreamCodec,
        *,
        backend: str | Backend = "auto",
        max_sessions: int = 64,
        chunk: int = 128,
        max_cache_bytes: int | None = None,
        max_waiting: int = 1024,
        prefix_cache: bool = True,
        speculation: Speculation | None = None,
        exits: "Exits | None" = None,
        exit_layer: int | None = None,
        stop_ids: Sequence[int] = (),
    ) -> None:
        if max_cache_bytes is None:
            max_cache_bytes = default_bytes(lm.device)
        least = {"max_sessions": max_sessions, "chunk": chunk, "max_cache_bytes": max_cache_bytes}
        for name, value in least.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; give 1 or more")
        if max_waiting < 0:
            raise ConfigError(f"max_waiting is {max_waiting}; give 0 or more")
        self.model, self.codec = lm, codec
        self._checker = Checker(lm, codec, tuple(stop_ids))
        self._backend = open_backend(backend, lm) if isinstance(backend, str) else backend
        rows = getattr(self._backend, "rows", None)  # most leave it to torch
        sampler = self._sampler = Sampler(lm.vocab_size + 2, lm.special, lm.device, rows)
        self._max_cache_bytes = max_cache_bytes
        self._memory = Memory(self._backend, max_cache_bytes)
        self._prefixes = PrefixCache(self._backend) if prefix_cache else None
        self._scheduler = Scheduler(
            self._backend, max_sessions, chunk, self._memory, Queue(max_waiting), self._prefixes
        )
        shares = exit_shares(self._backend, lm, exits, exit_layer, speculation)
        speculator = None
        if speculation is not None:
            speculator = Speculator(self._backend, speculation, shares)
        self._passes = Passes(self._backend, sampler, exit_layer, speculator)
        self.failed_passes = 0  # each ended the sessions that took part
        self._lock = threading.RLock()
        self._stepping = threading.Lock()
        self._news = threading.Condition()
        self._changes = 0
        self._live = LiveLoop(self)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        exits: str | Path | None = "auto",
        **options: Any,
    ) -> Self:
        """An engine of a base model or checkpoint: registered name, hub name or folder.

        A base model without stretto training runs as one ordinary stream, ``text``. Other options
        are the constructor's: ``max_sessions``, ``chunk``, ``max_cache_bytes`` and so on.

        Args:
            name_or_path: the model.
            backend, device, dtype: what runs it, where, and in which precision.
            exits: folder of exit heads; ``auto`` takes those that ship for the model, if any; only
                looked at where ``speculation`` or ``exit_layer`` is asked for.
            options: the constructor's.

        Raises:
            CheckpointError: the model cannot be loaded.
            ConfigError: as the constructor.
        """
        from stretto.models.checkpoint import is_checkpoint, load_codec

        check_name(backend)
        lm = MultiStreamLM.from_pretrained(name_or_path, device=device, dtype=dtype)
        stops = () if is_checkpoint(name_or_path) else _eos_ids(lm)
        codec = load_codec(name_or_path)
        if options.get("speculation") is not None or options.get("exit_layer") is not None:
            options["exits"] = _load_exits(lm, exits)
        return cls(lm, codec, backend=backend, stop_ids=stops, **options)

    @property
    def streams(self) -> StreamSet:
        """Every stream the model knows; a session uses some of them."""
        return self.model.streams

    def open(
        self,
        streams: str | StreamSet | None = None,
        *,
        prompts: Mapping[str, str | Sequence[int]] | None = None,
        sampling: SamplingParams | Mapping[str, SamplingParams] | None = None,
        limits: Limits | None = None,
        seed: int = 0,
        clock: Clock | None = None,
        priority: int = 0,
        speculate: bool = True,
    ) -> Session:
        """A new session. It begins with the next step, or when its turn comes.

        Args:
            streams: a set by name or value; by default the first set of the checkpoint, or all
                streams the model knows.
            prompts: by stream, text or token ids known at the start.
            sampling: for all output streams, or by stream (others: greedy).
            limits: when to stop.
            seed: of the session's own random numbers.
            clock: real time by default.
            priority: sessions of a higher one begin first and are evicted last; equal ones begin
                in the order in which they were opened.
            speculate: whether several rows may be written in one step, if the engine does that at
                all. Without, a caller who steps the engine can act between any two rows.

        Raises:
            InputError: a stream or token the model does not know, or prompts too long for it.
            ConfigError: sampling for no output stream, or a clock that is in use.
            LimitError: the prompts do not fit in the cache, or too many sessions wait already.
        """
        setup = self._checker.setup(streams, prompts or {}, sampling, limits or Limits(), seed)
        session = Session(setup, self.codec, clock or WallClock(), self, priority, speculate)
        with self._lock:
            self._scheduler.check(session)
            used = {int(i) for s in self._scheduler.live() for i in s.sampling_ids}
            for name, params in setup.sampling.items():
                number = self._sampler.register(params, used)
                session.sampling_ids[setup.streams.index(name)] = number
                used.add(number)
            session.clock.start()
            self._scheduler.add(session)
        return session

    def fork(self, session: Session, seed: int | None = None) -> Session:
        """A second session with the same past; see :meth:`Session.fork`."""
        with self._stepping, self._lock:
            # Before it is copied: one that is cancelled from now on keeps its line until the end.
            self._scheduler.retire()
            fork = session.copy(seed)
            self._scheduler.add_fork(fork, session)
        return fork

    def stats(self) -> Stats:
        """What the engine is doing now, and has done."""
        with self._lock:
            return Stats(
                active=len(self._scheduler.holders()),
                waiting=self._scheduler.num_waiting(),
                cached_bytes=self._backend.cache_bytes,
                max_cache_bytes=self._max_cache_bytes,
                steps=self._passes.steps,
                cells=self._passes.cells,
                prefix_hits=self._prefixes.hits if self._prefixes else 0,
                prefix_cells=self._prefixes.cells_saved if self._prefixes else 0,
                evictions=self._memory.evictions,
                drafted=self._passes.drafted(),
            )

    def forget_prefixes(self) -> None:
        """Give back what kept prompts take; if no session is live, the cache takes nothing then."""
        with self._stepping, self._lock:
            self._scheduler.retire()
            if self._prefixes is not None:
                self._prefixes.shrink(0)

    def step(self) -> list[tuple[Session, list[Row]]]:
        """One forward pass for all sessions that have something to do.

        Returns:
            the sessions that took part, each with its new rows (none for a prefill, or a further
            part of a long tick); empty if nobody had anything to do.

        Raises:
            BaseException: whatever the back end raises; the sessions that took part are over then,
                with ``error`` as their finish reason.
        """
        with self._stepping:
            ticks = self._plan()
            asked = [tick for tick in ticks if len(tick)]
            room = 0
            if self._passes.is_ahead:
                with self._lock:
                    room = self._scheduler.spare_cells()
            try:
                rows = self._passes.run(asked, room)
            except BaseException:
                self.failed_passes += 1
                raise
            with self._lock:
                self._scheduler.retire()
        return [(tick.session, rows.get(tick.session, tick.rows_done)) for tick in ticks]

    def run(self, sessions: Iterable[Session]) -> None:
        """Step until these sessions are over; look at ``finish_reason`` why.

        One in which every output rests and nothing is on its way, though an input is open, ends
        as ``quiet``.

        Raises:
            LimitError: they wait for a line of the cache, and all who hold one wait for input.
            Exception: what the work of one of them raised, when the others are over.
        """
        all_wanted = list(sessions)
        live = all_wanted
        while live := [s for s in live if s.finish_reason is None]:
            self._step_or_wait(live)
        for session in all_wanted:
            _raise_if_failed(session)

    def replay(self, table: StreamTable) -> StreamTable:
        """Run a saved table again; see :func:`stretto.engine.replay.replay`."""
        from stretto.engine.replay import replay

        return replay(self, table)

    def _plan(self) -> list[Tick]:
        with self._lock:
            ticks = self._scheduler.plan()
        for tick in ticks:
            self._live.announce(tick.session)
        return ticks

    def _step_or_wait(self, wanted: list[Session]) -> None:
        changes = self._changes
        if self.step():
            return
        live = [session for session in wanted if session.finish_reason is None]
        started = [session for session in live if session.line is not None]
        is_queued = len(started) < len(live)
        with self._lock:  # another thread may step
            blocked, holders = self._scheduler.why_blocked(), self._scheduler.holders()
        if is_queued and not blocked:
            return
        # Who waits for a line waits for all who hold one.
        watched = holders if is_queued else started
        waiting = [session for session in watched if session.next_arrival() is not None]
        seconds = min((_seconds_to_event(session) for session in waiting), default=0.0)
        with self._news:
            if self._changes != changes:
                return  # something was sent since the step found nothing to do
            if waiting:
                self._news.wait(min(max(0.0, seconds), threading.TIMEOUT_MAX))
                return
            if live and not started:
                raise LimitError(
                    f"all {len(watched)} sessions that may be active wait for input: close or "
                    f"cancel one of them, or give the engine more {blocked}"
                )
            for session in started:
                session.finish("quiet")

    # What sessions ask of it.

    def iterate(self, session: Session) -> Iterator[Row]:
        """Rows of a session from the first on, stepping while there is none."""
        seen = 0
        while True:
            while seen < len(session.rows):
                yield session.rows[seen]
                seen += 1
            if session.finish_reason is not None:
                return _raise_if_failed(session)
            self._step_or_wait([session])

    def iterate_async(self, session: Session) -> AsyncIterator[Row]:
        """Rows of a session that the background loop serves."""
        return self._live.iterate(session)

    def attach(self, session: Session) -> None:
        """Let the background loop serve a session."""
        self._live.attach(session)

    def changed(self, session: Session) -> None:
        """Something was sent, closed or cancelled."""
        with self._news:
            self._changes += 1
            self._news.notify_all()
        self._live.announce(session)


def _seconds_to_event(session: Session) -> float:
    due = session.next_event()
    return 0.0 if due is None else due - session.clock.now()


def _raise_if_failed(session: Session) -> None:
    if session.finish_reason == "error" and session.error is not None:
        raise session.error


def _eos_ids(lm: MultiStreamLM) -> tuple[int, ...]:
    """What the base model ends a text with."""
    ids: Any = lm.base.generation_config.eos_token_id
    if ids is None:
        ids = lm.config.eos_token_id
    return tuple(ids) if isinstance(ids, list | tuple) else () if ids is None else (int(ids),)


def _load_exits(lm: MultiStreamLM, exits: str | Path | None) -> "Exits | None":
    from stretto.models.exits import Exits

    if exits == "auto":
        return lm.exits
    return None if exits is None else Exits.load(exits, lm)

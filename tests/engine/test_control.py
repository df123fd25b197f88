"""The controller on a machine of invented speed: what pays is drafted, and little is lost else."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from stretto.engine.control import Able, Controller

MOST, WIDTH, PROMPT = 8, 4, 150
SEEDS = range(6)
HALF = {"lookup2": 0.35, "lookup3": 0.45, "lookup4": 0.8}
POOR = {"exit2": 0.15, "exit6": 0.2}
NONE = dict.fromkeys([*HALF, *POOR], 0.02)
EXITS = {2: 0.11, 6: 0.24}


def cpu(cells: int) -> float:
    """Milliseconds of ``native:int8`` on two cores, as measured, for steps of up to 40 cells."""
    return 6.0 + 0.15 * min(cells, 12) + 0.55 * max(0, cells - 12)


def linear(cells: int) -> float:
    """Nothing is to be had by reading together."""
    return 2.0 + 1.0 * cells


class Session:
    """What a weak reference can be made to."""


class World:
    """Sessions whose drafts come true as often as said, on a machine of invented speed.

    Args:
        seconds: of a step, by its cells.
        rates: how often a drafted row comes true, given those before it, by kind.
        offered: how often something is known of the next rows.
        sessions: all of the same kind.
        parts: by exit, the part of a step that a drafted row takes.
        stalls: how often a step takes four times as long.
    """

    def __init__(
        self,
        seconds: Callable[[int], float],
        rates: Mapping[str, float],
        *,
        offered: float = 0.6,
        sessions: int = 1,
        parts: Mapping[int, float] | None = None,
        stalls: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._seconds, self.rates, self._offered, self.stalls = seconds, rates, offered, stalls
        self._parts = parts or {}
        self.control = Controller(MOST, self._parts)
        self.sessions = [Session() for _ in range(sessions)]
        self._rng = np.random.default_rng(seed)
        self.rows, self.taken = 0, 0.0
        self.drafts: list[tuple[str, int]] = []
        self.control.begin(PROMPT, sessions)
        self._read(PROMPT, None, 0)

    def run(self, rows: int) -> float:
        """Make that many rows of all sessions; times as fast as without drafts, stalls left out."""
        before, start = self.rows, self.taken
        while self.rows < before + rows * len(self.sessions):
            self._step()
        plain = self._seconds(WIDTH * len(self.sessions))
        return (self.rows - before) / len(self.sessions) * plain / (self.taken - start)

    def _step(self) -> None:
        cells, known = WIDTH * len(self.sessions), [k for k in self.rates if "exit" not in k]
        able = []
        for session in self.sessions:
            kind = str(self._rng.choice(known)) if self._rng.random() < self._offered else None
            able.append(Able(session, WIDTH, kind, MOST if kind else 0))
        layer, chosen = None, [0] * len(able)
        if self.control.begin(cells, len(able)):
            layer, chosen = self.control.choose(able, 10_000)
        for one, number in zip(able, chosen, strict=True):
            self.rows += 1
            if not number:
                continue
            kind = f"exit{layer}" if layer is not None else one.kind or ""
            true = 0
            while true < number and self._rng.random() < self.rates[kind]:
                true += 1
            self.control.tested(one.session, kind, true, number)
            self.rows += true
            self.drafts.append((kind, number))
        self._read(cells + WIDTH * sum(chosen), layer, max(chosen))

    def _read(self, cells: int, layer: int | None, rows: int) -> None:
        took = self._seconds(cells)
        if layer is not None:
            took += rows * self._parts[layer] * self._seconds(WIDTH)
        self.taken += took
        seen = took * 4 if self._rng.random() < self.stalls else took
        self.control.measured(cells, seen * (1 + 0.1 * self._rng.random()), layer)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("stalls", [0.0, 0.03])
@pytest.mark.parametrize("exits", [False, True])
def test_what_pays_is_drafted_and_goes_on(seed: int, stalls: float, exits: bool) -> None:
    parts = EXITS if exits else {}
    world = World(cpu, HALF | POOR if exits else HALF, parts=parts, stalls=stalls, seed=seed)
    assert world.run(128) > 1.05, "the first answer"
    assert world.run(1000) > 1.2


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("seconds", "first"), [(cpu, 0.97), (linear, 0.92)], ids=["cpu", "linear"])
def test_where_nothing_pays_little_is_lost(
    seed: int, seconds: Callable[[int], float], first: float
) -> None:
    world = World(seconds, NONE, parts=EXITS, stalls=0.03, seed=seed)
    assert world.run(128) > first, "the first answer of an engine, which tries everything"
    assert world.run(1000) > 0.985


@pytest.mark.parametrize("seed", SEEDS)
def test_what_did_not_pay_is_tried_again(seed: int) -> None:
    world = World(cpu, dict.fromkeys(HALF, 0.02), stalls=0.03, seed=seed)
    world.run(1000)
    world.rates, world.sessions = HALF, [Session()]
    world.run(128)
    assert world.run(256) > 1.1


def test_one_stall_is_not_believed_for_ever() -> None:
    world = World(cpu, {"lookup4": 0.8}, stalls=0.0)
    world.run(1)
    world.stalls = 1.0
    while not world.drafts:
        world.run(1)
    world.stalls = 0.0
    world.run(100)
    assert world.run(128) > 1.2


@pytest.mark.parametrize("sessions", [1, 3])
def test_first_trials_are_short(sessions: int) -> None:
    world = World(cpu, {"silence": 1.0}, offered=1.0, sessions=sessions)
    world.run(60)
    numbers = [number for _, number in world.drafts]
    assert numbers[0] == 1 and max(numbers) == MOST
    assert all(number <= 1 + before for before, number in enumerate(numbers))


def test_a_prompt_does_not_fill_the_purse() -> None:
    """What may be lost is meant in steps, of which a prompt takes as long as many."""
    control = Controller(MOST, {})
    for cells in (PROMPT, WIDTH):
        control.begin(cells, 1)
        control.measured(cells, cpu(cells), None)
    trials = 0
    while control.may_guess:
        control.begin(WIDTH, 1)
        control.measured(5 * WIDTH, 2 * cpu(WIDTH), None)
        trials += 1
    assert trials <= 2


def test_an_exit_that_drafts_nothing_is_paid_for() -> None:
    control = Controller(MOST, {2: 0.1})
    session = Session()
    control.begin(1, 1)
    control.measured(1, 1.0, None)
    asked = 0
    for _ in range(200):
        control.begin(1, 1)
        layer, _ = control.choose([Able(session, 1, None, 0)], 99)
        control.measured(1, 1.0 if layer is None else 1.2, layer)
        asked += layer is not None
    assert 0 < asked < 25, "a purse of 1.5 steps and 1 % of 200"


def test_many_sessions_are_asked_again_after_a_while() -> None:
    world = World(linear, dict.fromkeys(HALF, 0.3), sessions=16, offered=1.0)
    asked = 0
    for _ in range(100):
        if world.control.begin(WIDTH * 16, 16):
            asked += 1
            world.control.choose([Able(s, WIDTH, "lookup2", 4) for s in world.sessions], 999)
        world.control.measured(WIDTH * 16, linear(WIDTH * 16), None)
    assert 3 < asked < 20


def steps_until_drafted(control: Controller, most: int) -> int:
    """Steps in which nothing is drafted for a session that something is known of."""
    session = Session()
    for step in range(most):
        control.begin(WIDTH, 1)
        if control.choose([Able(session, WIDTH, "lookup4", MOST)], 99)[1] != [0]:
            return step
        control.measured(WIDTH, 1.0, None)
    return most


def test_what_a_pass_cost_once_is_doubted_after_a_while() -> None:
    control = Controller(MOST, {})
    for cells, seconds in ((WIDTH, 1.0), (2 * WIDTH, 9.0)):
        control.begin(cells, 1)
        control.measured(cells, seconds, None)
    assert 0 < steps_until_drafted(control, 300) < 100


def test_what_other_sessions_found_wrong_is_tried_again() -> None:
    control, other = Controller(MOST, {}), Session()
    for cells in (WIDTH, 2 * WIDTH):
        control.begin(cells, 1)
        control.measured(cells, 1.0 if cells == WIDTH else 1.3, None)
    for _ in range(200):
        control.tested(other, "lookup4", 0, 1)
    assert 50 < steps_until_drafted(control, 1000) < 500

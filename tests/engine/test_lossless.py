"""Drafts change no answer, whatever an answer has to be like; and no probability."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from test_speculation import EARLY, EXITS, quiet_end

from stretto.engine import (
    Engine,
    Grammar,
    Limits,
    SamplingParams,
    Session,
    Speculation,
    VirtualClock,
)
from stretto.engine.backends import open_backend
from stretto.engine.backends.native import library
from stretto.engine.stats import Drafted
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import StrettoError
from stretto.models import MultiStreamLM, StreamBatch
from stretto.models.exits import Exits, plain_head
from stretto.streams import IGNORE, SINGLE, StreamTable

CODEC = tiny_codec()
S, E = CODEC.special.silence, CODEC.special.end
BACKENDS = (
    "native:float32", "native:bfloat16", "native:int8",
    "transformers", "prepacked:float32", "cpu:float32",
)  # fmt: skip
LMS = EARLY | {"single": quiet_end(tiny_lm(SINGLE, seed=5))}
EVERY_EXIT = EXITS | {"single": Exits.of(LMS["single"], {1: plain_head(LMS["single"], 1)}, {})}
TEXT = CODEC.encode("abcabcabd abcabc")
Opened = Callable[[Engine], Session]


def settings(rng: np.random.Generator) -> Speculation:
    """All drafters; always as many rows, or as many as they are worth."""
    rows = int(rng.integers(1, 6))
    return Speculation(max_rows=rows, adaptive=bool(rng.random() < 0.3))


def params(rng: np.random.Generator, grammars: bool) -> SamplingParams:
    """Any mixture of what can be asked of an output."""
    words = tuple(range(97, 105))
    chosen: dict[str, Any] = {
        "temperature": float(rng.choice([0.0, 0.0, 0.7, 1.5])),
        "repetition_penalty": float(rng.choice([1.0, 1.3])),
        "silence_bias": float(rng.choice([0.0, 2.0])),
        "banned": tuple(rng.integers(0, 256, 40).tolist()) if rng.random() < 0.4 else None,
        "stop_ids": tuple(range(0, 256, 9)) if rng.random() < 0.4 else (),
        "silence": bool(rng.random() < 0.7),
    }
    kind = rng.random()
    if kind < 0.3:  # few words, so that drafts come true
        chosen |= {"allowed": (*words[:3], S, E), "banned": None, "silence": True}
    elif kind < 0.6 and grammars:
        grammar = Grammar.regex("(abc|abd|[a-h]{2} ){1,9}")
        chosen |= {"grammar": grammar, "banned": None, "stop_ids": ()}
    return SamplingParams(**chosen)


def opener(lm: MultiStreamLM, rng: np.random.Generator, grammars: bool) -> Opened:
    """Opens the same session on any engine."""
    streams = lm.streams
    prompts = {s.name: TEXT[: int(rng.integers(0, len(TEXT)))] for s in streams}
    if len(streams) == 1:
        prompts = {streams[0].name: TEXT[: int(rng.integers(3, len(TEXT)))]}
    sampling = {streams[i].name: params(rng, grammars) for i in streams.outputs}
    limits = Limits(
        max_rows=int(rng.integers(5, 40)),
        quiet_rows=int(rng.integers(2, 8)),
        max_message_tokens=int(rng.integers(2, 20)) if rng.random() < 0.3 else None,
    )
    seed = int(rng.integers(0, 99))

    def opened(engine: Engine) -> Session:
        return engine.open(
            streams, prompts=prompts, sampling=sampling, limits=limits, seed=seed,
            clock=VirtualClock(lambda cells, cached: 0.01),
        )  # fmt: skip

    return opened


def disturbed(made: Engine, opened: Opened, rng: np.random.Generator) -> tuple[Session, list[Any]]:
    """A session that is interrupted now and then; at which rows, and how."""
    session, done = opened(made), []
    inputs = [session.streams[i] for i in session.streams.inputs]
    inputs = [stream.name for stream in inputs if not stream.prompt_only]
    for _ in range(int(rng.integers(0, 4)) if inputs else 0):
        for _ in range(int(rng.integers(1, 5))):
            made.step()
        if session.finish_reason is not None or not session.rows:
            break
        name, tokens = str(rng.choice(inputs)), TEXT[: int(rng.integers(1, 6))]
        session.interrupt(name, tokens)
        done.append((len(session.rows), name, tokens))
    if session.finish_reason is None:
        done.append((len(session.rows), None, []))
        session.close()
    made.run([session])
    return session, done


def replayed(plain: Engine, opened: Opened, done: Sequence[Any]) -> Session:
    """The same without drafts, disturbed at the same rows."""
    session = opened(plain)
    for rows, name, tokens in done:
        while len(session.rows) < rows:
            assert plain.step(), f"nothing happens before row {rows}"
        assert len(session.rows) == rows
        session.close() if name is None else session.interrupt(name, tokens)
    plain.run([session])
    return session


def has_grammars() -> bool:
    try:
        import llguidance  # noqa: F401
    except ImportError:
        return False
    return True


def check_generations(name: str, number: int, seed: int) -> None:
    """Random generations, one after the other, on all the models."""
    rng, grammars, total = np.random.default_rng(seed), has_grammars(), Drafted()
    for n in range(number):
        which = sorted(LMS)[n % len(LMS)]
        lm = LMS[which]
        try:
            backend = open_backend(name, lm)
        except StrettoError as error:
            pytest.skip(str(error))
        exits = EVERY_EXIT[which] if name.startswith("native") else None
        ahead = Engine(lm, CODEC, backend=backend, speculation=settings(rng), exits=exits)
        opened = opener(lm, rng, grammars)
        session, done = disturbed(ahead, opened, rng)
        other = replayed(Engine(lm, CODEC, backend=backend), opened, done)
        assert session.finish_reason == other.finish_reason, (which, n)
        assert session.table.rows.tolist() == other.table.rows.tolist(), (which, n)
        for count in ahead.stats().drafted.values():
            total.rows += count.rows
            total.true += count.true
    assert total.rows > total.true > number / 2, "drafts were tried, and some came true"


@pytest.mark.parametrize("name", BACKENDS)
def test_answers_are_those_of_plain_decoding(name: str) -> None:
    check_generations(name, 9, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", BACKENDS)
def test_many_answers_are_those_of_plain_decoding(name: str) -> None:
    check_generations(name, 90, seed=2)


def probabilities(
    lm: MultiStreamLM, prompts: dict[str, list[int]], rows: int, words: Sequence[int]
) -> dict[tuple[int, ...], float]:
    """How likely each outcome is, all rows and outputs in a line, by teacher forcing in float64."""
    outputs, outcomes = list(lm.streams.outputs), {}
    with torch.inference_mode():
        for said in product(words, repeat=rows * len(outputs)):
            grid = np.full((rows, len(lm.streams)), -1, np.int32)
            grid[:, outputs] = np.array(said).reshape(rows, -1)
            cells = StreamTable(lm.streams, lm.special, prompts, grid).cells()
            logits = lm(StreamBatch.from_cells([cells])).logits[:, list(words)].log_softmax(-1)
            where = np.flatnonzero(cells.labels != IGNORE)
            assert len(where) == len(said)
            labels = [words.index(token) for token in cells.labels[where].tolist()]
            outcomes[said] = float(logits[where, labels].sum().exp())
    assert sum(outcomes.values()) == pytest.approx(1.0)
    return outcomes


def chi_square(expected: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The statistic, and what it exceeds once in some ten thousand tries."""
    freedom = len(expected) - 1
    most = freedom * (1 - 2 / (9 * freedom) + 3.72 * (2 / (9 * freedom)) ** 0.5) ** 3
    return float(((counts - expected) ** 2 / expected).sum()), most


def check_distribution(which: str, rows: int, draws: int) -> None:
    """Sampled answers of few words against their exact probabilities."""
    words, lm = (97, 98, 99), LMS[which]
    if which != "single":
        words = words[:2]
    names = [lm.streams[i].name for i in lm.streams.outputs]
    prompts = {name: TEXT[: 7 + i] for i, name in enumerate(names)}
    double = quiet_end(tiny_lm(lm.streams, seed=5 if which == "single" else 0)).double()
    exact = probabilities(double, prompts, rows, words)
    # Drafts are of these words, so that some come true.
    exits = Exits.of(lm, {1: plain_head(lm, 1, torch.tensor(words))}, {})
    ahead = Engine(
        lm, CODEC, backend="native:float32", exits=exits, max_sessions=128, prefix_cache=False,
        speculation=Speculation(drafters=("exit",), max_rows=rows - 1, adaptive=False),
    )  # fmt: skip
    counts = dict.fromkeys(exact, 0)
    how, limits = SamplingParams(temperature=1.0, allowed=words), Limits(max_rows=rows)
    columns = list(lm.streams.outputs)
    for start in range(0, draws, 128):
        sessions = [
            ahead.open(prompts=prompts, sampling=how, limits=limits, seed=seed)
            for seed in range(start, min(start + 128, draws))
        ]
        for session in sessions:
            session.close()
        ahead.run(sessions)
        for session in sessions:
            counts[tuple(session.table.rows[:rows, columns].reshape(-1).tolist())] += 1
    drafted = ahead.stats().drafted.values()
    assert sum(c.true for c in drafted) > draws / 8, "some drafts came true"
    assert sum(c.tested - c.true for c in drafted) > draws / 8, "and some did not"
    expected = np.array([exact[said] * draws for said in counts])
    assert expected.min() > 5, "too few draws for the statistic"
    statistic, most = chi_square(expected, np.array(list(counts.values())))
    assert statistic < most


NATIVE = pytest.mark.skipif(library.why_not() is not None, reason="the native back end is not here")


@NATIVE
@pytest.mark.parametrize(("which", "rows"), [("single", 3), ("audit", 2)])
def test_answers_are_as_likely_as_they_should_be(which: str, rows: int) -> None:
    check_distribution(which, rows, 4000)


@NATIVE
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("which", "rows"), [("single", 3), ("audit", 2)])
def test_a_million_answers_are_as_likely_as_they_should_be(which: str, rows: int) -> None:
    check_distribution(which, rows, 1_000_000)


def real(name: str, how: Speculation | None) -> Engine:
    """A shipped model, its exits, and drafts or none."""
    return Engine.load(name, backend="native:int8", speculation=how, max_sessions=10)


def asked(number: int) -> list[str]:
    """Beginnings of many kinds."""
    whats = ("the moon", "bread", "a for loop in Python", "an old bicycle", "two and two",
             "owls, owls, owls", "a letter to a friend", "the number 12345")  # fmt: skip
    hows = ("Tell me about {}.", "A list of facts about {}:\n1.", "def explain():\n    # {}\n",
            "{}! {}! And once more:", "Why {}?")  # fmt: skip
    return [f"{n}. " + hows[n % 5].replace("{}", whats[n // 5 % 8]) for n in range(number)]


def many_ways(n: int, end: int) -> SamplingParams:
    """Greedy, as far as this goes with what else is asked for."""
    ways: list[dict[str, Any]] = [
        {}, {"repetition_penalty": 1.2}, {"banned": tuple(range(200, 260))}, {"silence_bias": 2.0},
        {"stop_ids": (198, 30)}, {"silence": False, "banned": (end,)},
    ]  # fmt: skip
    return SamplingParams(**ways[n % len(ways)])


@NATIVE
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["smollm2-135m", "stretto-smollm2-135m"])
def test_250_answers_of_a_real_model_are_the_same(name: str) -> None:
    plain = real(name, None)
    stream, end = plain.streams.names[0], plain.codec.special.end
    expected = generations(plain, stream, end)
    for how in (Speculation(), Speculation(adaptive=False, max_rows=4)):
        ahead = real(name, how)
        assert generations(ahead, stream, end) == expected
        assert sum(count.true for count in ahead.stats().drafted.values()) > 250


def generations(made: Engine, stream: str, end: int) -> list[list[list[int]]]:
    """Answers to many beginnings, ten at a time."""
    texts, tables = asked(250), []
    for start in range(0, len(texts), 10):
        sessions = [
            made.open(
                prompts={stream: text}, sampling=many_ways(start + i, end),
                limits=Limits(max_rows=20 + (start + i) % 30),
            )
            for i, text in enumerate(texts[start : start + 10])
        ]  # fmt: skip
        for session in sessions:
            session.close()
        made.run(sessions)
        tables += [session.table.rows.tolist() for session in sessions]
    return tables


@NATIVE
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_samples_of_a_real_model_are_alike_with_and_without_drafts() -> None:
    """Two samples of their own seeds each: how often each token is said at each place."""
    number, rows = 2000, 3
    counts = []
    for i, how in enumerate((None, Speculation(adaptive=False, max_rows=2))):
        made = Engine.load("smollm2-135m", backend="native:int8", speculation=how, max_sessions=64)
        said = []
        for start in range(i * number, (i + 1) * number, 64):
            sessions = [
                made.open(
                    prompts={"text": "The sky is blue and the grass is"}, seed=seed,
                    sampling=SamplingParams(temperature=1.0), limits=Limits(max_rows=rows),
                )
                for seed in range(start, min(start + 64, (i + 1) * number))
            ]  # fmt: skip
            made.run(sessions)
            said += [session.table.rows[:rows, 0] for session in sessions]
        counts.append([np.bincount([s[k] if k < len(s) else E for s in said], minlength=49160)
                       for k in range(rows)])  # fmt: skip
    for ours, theirs in zip(*counts, strict=True):
        both = ours + theirs
        often = both >= 20
        pairs = [(int(a), int(b)) for a, b in zip(ours[often], theirs[often], strict=True)]
        pairs.append((int(ours[~often].sum()), int(theirs[~often].sum())))
        seen = np.array(pairs, np.float64)
        expected = seen.sum(1, keepdims=True) / 2
        statistic, most = chi_square(expected[:, 0], seen[:, 0])
        assert 2 * statistic < most and len(pairs) > 5

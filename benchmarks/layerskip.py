"""The goals of self-speculation, measured now. ``FULL=1`` takes more prompts and longer answers.

Run as ``python -m benchmarks.layerskip``; with arguments, only those: ``... layerskip 3 rows``.
Prompts are of the development pack (``BENCH_SOURCE``, or where `stretto eval` finds it), else a few
of our own. ``BENCH_EXITS`` and ``BENCH_ROW_EXITS`` are folders of exit heads, if not those that
ship. What lies behind goes to ``build/bench/layerskip-tables.json``.
"""

import json
import os
import statistics
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.drafts import (
    Crowded,
    Race,
    Ratios,
    crowd_speed,
    show,
    transformers_tokens_per_second,
)
from benchmarks.goal import OUTPUT, Goal, bench, missing
from stretto.engine import SamplingParams, Speculation
from stretto.evals.drafting import TASKS, Shared, chat, generate, load_prompts, silent_pass
from stretto.evals.items import find_source
from stretto.streams import StreamSet

FULL = os.environ.get("FULL") == "1"
BASE, ROWS_MODEL = "smollm2-135m", "stretto-smollm2-135m"
FAST, OWN = "native:int8", "native:bfloat16"
SEED = 0
PROMPTS, LENGTH, REPEATS = (12, 256, 2) if FULL else (4, 128, 2)
WAYS = {
    "cascade": Speculation(),
    "lookup": Speculation(drafters=("silence", "lookup")),
    "exit": Speculation(drafters=("exit",)),
}
FOUR = ("answer", "think", "say", "code")
PAPER = OUTPUT / "layerskip-paper.json"
"""Figures of the paper's route: `{"what": ..., "cost": ..., "gain": ...}` a line, by training."""
_TABLES: dict[str, Any] = {"full": FULL, "tasks": TASKS}


def lossless() -> Iterator[Goal]:
    """What is said with drafts is what is said without."""
    most = (250, 48) if FULL else (30, 32)
    single, rows = _single(FAST), _rows()
    texts = [text for some in _prompts(most[0]).values() for text in some]
    for name, shared, streams in (("one stream", single, None), ("rows", rows, _four(rows))):
        plain, ahead = shared.engine(), shared.engine(Speculation(adaptive=False, max_rows=4))
        wrong = 0
        for seed, text in enumerate(texts[: most[0]]):
            said = [
                generate(engine, text, max_rows=most[1], streams=streams, seed=seed,
                         sampling=SamplingParams(repetition_penalty=1.1 if seed % 2 else 1.0)).rows
                for engine in (plain, ahead)
            ]  # fmt: skip
            wrong += said[0] != said[1]
        number = min(most[0], len(texts))
        what = f"{name}, {FAST}: greedy answers that differ from plain decoding, of {number}"
        yield Goal("1", what, wrong, "answers", "0", wrong == 0)


def speed() -> Iterator[Goal]:
    """Answers to chat, summaries and code: with drafts over plain, and over transformers."""
    shared = _single(FAST)
    found = _race(FAST, shared, PROMPTS, LENGTH)
    best = found.ratios("cascade")
    _tell(FAST, found)
    mean = statistics.mean(ratios.middle for ratios in best.values())
    what = f"{FAST}: cascade over plain decoding, mean of {len(best)} tasks"
    yield Goal("3", what, mean, "x", ">= 1.5", mean >= 1.5)
    task = max(best, key=lambda name: best[name].middle)
    what = f"{FAST}: cascade over plain decoding, best task ({task})"
    yield Goal("3", what, best[task].middle, "x", ">= 2.16", best[task].middle >= 2.16)
    theirs = transformers_tokens_per_second(
        shared.lm, BASE, [(chat(text), task) for task, texts in _prompts(1).items()
                          for text in texts], _exit_layer(shared), 24 if FULL else 12,
    )  # fmt: skip
    ours = found.tokens_per_second("cascade")
    _TABLES["tokens_per_s"] = {"ours": ours, "transformers": theirs}
    for way, rate in theirs.items():
        print(f"transformers bf16, {way}: {rate:.1f} tokens/s; ours {ours:.1f}")
    ratio = ours / theirs["assistant_early_exit"]
    what = f"{FAST}: tokens/s over transformers' assistant_early_exit in bf16, same prompts"
    yield Goal("3", what, ratio, "x", ">= 3", ratio >= 3)
    other = _race(OWN, _single(OWN), max(1, PROMPTS // 4), LENGTH // 2)
    _tell(OWN, other)
    for name, race in ((FAST, found), (OWN, other)):
        wrong = race.mismatches
        yield Goal("1", f"{name}: timed answers that differ", wrong, "answers", "0", wrong == 0)


def rows() -> Iterator[Goal]:
    """Four output streams, of which two talk."""
    shared, texts, fewer = _rows(), _prompts(PROMPTS), _prompts(max(1, PROMPTS // 2))
    streams, end = _four(shared), shared.lm.special.end
    hush = SamplingParams(allowed=(shared.lm.special.silence,))
    for how, temperature in (("greedy", 0.0), ("sampled at 0.8", 0.8)):
        talk = SamplingParams(temperature=temperature, silence=False, banned=(end,))
        sampling = {"think": talk, "say": talk, "answer": hush, "code": hush}
        race = Race(shared, {"cascade": WAYS["cascade"], "lookup": WAYS["lookup"]},
                    streams=streams, sampling=sampling)  # fmt: skip
        is_goal = how == "greedy"
        race.run(texts if is_goal else fewer, LENGTH, REPEATS)
        ratio = race.overall("cascade")
        show(f"rows, two of four streams talk, {how}", race)
        _TABLES[f"rows {how}"] = race.table()
        what = f"{FAST}: rows of 4 streams, 2 active, {how}: cascade over plain"
        if is_goal:
            yield Goal("3", what, ratio.middle, "x", ">= 1.3", ratio.middle >= 1.3)
        else:
            print(f"{what}: {ratio} (no goal)")
        wrong = race.mismatches
        yield Goal(
            "1", f"rows, {how}: timed answers that differ", wrong, "answers", "0", wrong == 0
        )
    natural = Race(shared, {"cascade": WAYS["cascade"]})
    natural.run(fewer, LENGTH, REPEATS)
    show("rows as the checkpoint writes them, set read, greedy", natural)
    _TABLES["rows natural"] = natural.table()


def never_slower() -> Iterator[Goal]:
    """Where drafts do not pay, they are not made."""
    shared, target = _single(FAST), ">= 0.97"
    warm = Race(shared, {"cascade": WAYS["cascade"]}, sampling=SamplingParams(temperature=1.0))
    warm.run({"chat": _prompts(PROMPTS)["chat"]}, LENGTH, REPEATS + 1)
    ratio = warm.overall("cascade")
    show("chat sampled at temperature 1", warm)
    what = f"{FAST}: chat sampled at temperature 1, cascade over plain"
    yield Goal("3", what, ratio.middle, "x", target, ratio.middle >= 0.97)
    many = _rows()
    engines = {"plain": many.engine(), "cascade": many.engine(WAYS["cascade"])}
    crowds = {name: Crowded() for name in engines}
    for turn in range(4 if FULL else 3):
        for name, engine in engines.items():
            crowd_speed(engine, 64, 24 if FULL else 10, SEED + turn, crowds[name])
    pairs = zip(crowds["plain"].ms, crowds["cascade"].ms, strict=True)
    ratio = Ratios([plain / ahead for plain, ahead in pairs])
    _TABLES["64 sessions"] = {name: crowd.ms for name, crowd in crowds.items()}
    what = f"{FAST}: 64 sessions of 4 streams at once, cascade over plain"
    print(f"{what}: {ratio}")
    yield Goal("3", what, ratio.middle, "x", target, ratio.middle >= 0.97)


def quality() -> Iterator[Goal]:
    """The frozen trunk says what the model says, to the bit; the paper's route has its price."""
    shared = Shared(BASE, FAST, _folder("BENCH_EXITS"))  # nothing was set on it yet
    if shared.exits is None:
        yield missing("4", "frozen trunk", "no exits: set BENCH_EXITS", "bit-equal")
        return
    weights = {name: value.clone() for name, value in shared.lm.state_dict().items()}
    before = _logits(shared)
    engine = shared.engine(WAYS["exit"])
    generate(engine, _prompts(1)["chat"][0], max_rows=32)
    after = _logits(shared)
    same = torch.equal(before, after) and all(
        torch.equal(value, weights[name]) for name, value in shared.lm.state_dict().items()
    )
    what = f"{FAST}: weights and logits of all layers with exits in use, bit-equal to those without"
    yield Goal("4", what, float(same), "(1: yes)", "1", same)
    if not PAPER.is_file():
        print(f"the paper's route: no figures ({PAPER} is not there)")
        return
    _TABLES["paper"] = json.loads(PAPER.read_text(encoding="utf-8"))
    print(json.dumps(_TABLES["paper"], indent=1))


def _race(name: str, shared: Shared, prompts: int, length: int) -> Race:
    ways = dict(WAYS)
    if shared.exits is None:
        print(f"{BASE} has no exits: set BENCH_EXITS", file=sys.stderr)
        del ways["exit"]
    race = Race(shared, ways)
    race.run(_prompts(prompts), length, REPEATS)
    return race


def _tell(name: str, race: Race) -> None:
    show(f"{name}, {BASE}, greedy", race)
    _TABLES[f"speed {name}"] = race.table()


def _logits(shared: Shared) -> torch.Tensor:
    line = shared.backend.open()
    try:
        return shared.backend.forward(silent_pass(shared.lm, line, 4, 0)).clone()
    finally:
        shared.backend.release(line)


def _exit_layer(shared: Shared) -> int:
    """Where transformers leaves: the middle one of our exits, or after 8 layers."""
    layers = shared.exits.layers if shared.exits else [8]
    return layers[len(layers) // 2]


def _four(shared: Shared) -> StreamSet:
    """The user, closed from the start, and four outputs."""
    return StreamSet([shared.lm.streams[name] for name in ("user", *FOUR)])


def _prompts(limit: int) -> dict[str, list[str]]:
    given = os.environ.get("BENCH_SOURCE")
    return load_prompts(find_source(Path(given) if given else None), limit)


def _folder(variable: str) -> Path | None:
    given = os.environ.get(variable)
    return Path(given) if given else None


@cache
def _single(backend: str) -> Shared:
    return Shared(BASE, backend, _folder("BENCH_EXITS"))


@cache
def _rows() -> Shared:
    return Shared(ROWS_MODEL, FAST, _folder("BENCH_ROW_EXITS"))


MEASURES = {
    "1": lossless,
    "3": speed,
    "rows": rows,
    "slower": never_slower,
    "4": quality,
}


if __name__ == "__main__":
    sys.exit(bench("layerskip", MEASURES, sys.argv[1:], SEED, _TABLES))

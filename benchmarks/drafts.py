"""Races of plain decoding against drafts, in turns on the same prompts."""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.load import Crowd, step_until
from stretto.engine import Engine, Speculation
from stretto.engine.stats import Drafted
from stretto.evals.drafting import Shared, generate
from stretto.models import MultiStreamLM, load_codec
from stretto.streams import StreamSet

Kinds = dict[str, Drafted]
PLAIN = "plain"


@dataclass
class Ratios:
    """How often as fast one side is, over many pairs."""

    values: list[float]

    @property
    def middle(self) -> float:
        """The median."""
        return statistics.median(self.values) if self.values else float("nan")

    def __str__(self) -> str:
        if len(self.values) < 2:
            return f"{self.middle:.2f}"
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return f"{self.middle:.2f} (quartiles {low:.2f} to {high:.2f}, {len(self.values)} pairs)"


class Race:
    """Plain decoding and some ways of drafting, on the same prompts one after the other.

    Args:
        shared: the model.
        ways: how to draft, by name.
        streams, sampling: of all sessions.
    """

    def __init__(
        self,
        shared: Shared,
        ways: Mapping[str, Speculation],
        *,
        streams: StreamSet | None = None,
        sampling: Any = None,
    ) -> None:
        self._engines = {PLAIN: shared.engine()}
        self._engines |= {name: shared.engine(how) for name, how in ways.items()}
        self._streams, self._sampling = streams, sampling
        self._ms: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._rows: dict[str, int] = defaultdict(int)
        self._passes: dict[str, int] = defaultdict(int)
        self._loops: dict[str, list[float]] = defaultdict(list)
        self.mismatches = 0

    def run(self, prompts: Mapping[str, Sequence[str]], length: int, repeats: int) -> None:
        """Let all sides answer, each prompt several times.

        Args:
            prompts: by task.
            length: rows of an answer, at most.
            repeats: of each prompt; sides take turns, forth and back.
        """
        warm = next(iter(prompts.values()))[0]
        for engine in self._engines.values():  # costs are measured while it runs
            generate(engine, warm, max_rows=length, streams=self._streams, sampling=self._sampling)
        for task, texts in prompts.items():
            for number, text in enumerate(texts):
                self._one(task, text, length, repeats, number)

    def _one(self, task: str, text: str, length: int, repeats: int, seed: int) -> None:
        times: dict[str, list[float]] = defaultdict(list)
        said: dict[str, list[list[int]]] = {}
        for turn in range(repeats):
            names = list(self._engines)[:: -1 if turn % 2 else 1]
            for name in names:
                timed = generate(
                    self._engines[name], text, max_rows=length, streams=self._streams,
                    sampling=self._sampling, seed=seed,
                )  # fmt: skip
                said[name] = timed.rows
                if timed.passes:
                    times[name].append(timed.ms)
                    self._rows[name] += len(timed.rows)
                    self._passes[name] += timed.passes + 1
        self.mismatches += sum(rows != said[PLAIN] for rows in said.values())
        self._loops[task].append(repeated(said[PLAIN]))
        for name, took in times.items():
            self._ms[task][name].append(min(took))  # stalls only ever add

    def ratios(self, name: str) -> dict[str, Ratios]:
        """Plain over a way of drafting, by task."""
        return {
            task: Ratios([p / m for p, m in zip(by[PLAIN], by[name], strict=True)])
            for task, by in self._ms.items()
        }

    def overall(self, name: str) -> Ratios:
        """The same over all prompts."""
        return Ratios([value for ratios in self.ratios(name).values() for value in ratios.values])

    def tokens_per_second(self, name: str) -> float:
        """Rows a second, at the median prompt of each task; their mean."""
        return statistics.mean(1e3 / statistics.median(by[name]) for by in self._ms.values())

    def drafted(self) -> dict[str, Kinds]:
        """What each way drafted, by kind; the warm-up counts."""
        return {name: e.stats().drafted for name, e in self._engines.items() if name != PLAIN}

    def table(self) -> dict[str, Any]:
        """All figures, for the file."""
        return {
            "ms": {task: dict(by) for task, by in self._ms.items()},
            "rows_per_pass": {n: self._rows[n] / self._passes[n] for n in self._rows},
            "drafted": {
                name: {kind: vars(count) for kind, count in kinds.items()}
                for name, kinds in self.drafted().items()
            },
            "repeated": {task: statistics.mean(each) for task, each in self._loops.items()},
            "mismatches": self.mismatches,
        }

    def lines(self) -> list[str]:
        """All figures, for people."""
        loops = (f"{task} {statistics.mean(each):.0%}" for task, each in self._loops.items())
        found = ["  of four tokens in a row these occurred before: " + ", ".join(loops)]
        for name in list(self._engines)[1:]:
            rows = self._rows[name] / max(1, self._passes[name])
            found.append(f"  {name}: {self.overall(name)}, {rows:.2f} rows a pass")
            for task, ratios in self.ratios(name).items():
                by = self._ms[task]
                ms = statistics.median(by[PLAIN]), statistics.median(by[name])
                found.append(f"    {task:8} {ratios}; {ms[0]:.2f} -> {ms[1]:.2f} ms a row")
            for kind, count in sorted(self.drafted()[name].items()):
                rates = count.true / max(1, count.tested), count.true / max(1, count.rows)
                found.append(f"    drafts of {kind:8} {count.rows:6} rows, acceptance "
                             f"{rates[0]:.2f} conditional, {rates[1]:.2f} per draft")  # fmt: skip
        return found


def repeated(rows: list[list[int]], length: int = 4) -> float:
    """The part of the runs of four tokens of an answer that it has said before.

    Small models go round in circles when greedy, where looking up is easy.
    """
    seen: set[tuple[int, ...]] = set()
    again = total = 0
    for column in zip(*rows, strict=True):
        for i in range(len(column) - length + 1):
            run = column[i : i + length]
            if len(set(run)) > 1:  # silence, and streams at rest
                again, total = again + (run in seen), total + 1
                seen.add(run)
    return again / max(1, total)


def show(title: str, race: Race) -> None:
    """Print a race."""
    print("\n".join([f"{title}; times as fast as plain decoding, medians", *race.lines()]))


@dataclass
class Crowded:
    """Milliseconds a row of all sessions together, of each turn."""

    ms: list[float] = field(default_factory=list)


def crowd_speed(engine: Engine, number: int, steps: int, seed: int, into: Crowded) -> None:
    """Time many sessions at once, all talking, while steps are made.

    Args:
        engine: of a checkpoint that knows the streams of ``load.FOUR``.
        number: of sessions.
        steps: that are timed.
        seed: of prompts and sampling.
        into: gets the figure.
    """
    crowd = Crowd(engine, seed)
    sessions = [crowd.open() for _ in range(number)]
    step_until(engine, sessions, 4)
    before, start = sum(len(s.rows) for s in sessions), time.perf_counter()
    for _ in range(steps):
        engine.step()
    seconds, rows = time.perf_counter() - start, sum(len(s.rows) for s in sessions) - before
    into.ms.append(1e3 * seconds / rows)
    for session in sessions:
        session.cancel()
    engine.step()


def transformers_tokens_per_second(
    lm: MultiStreamLM, base: str, prompts: Sequence[tuple[str, str]], layer: int, tokens: int
) -> dict[str, float]:
    """Tokens a second of transformers' ``generate``, greedy in bfloat16; means over tasks.

    Args:
        lm: any copy of the model: tells its end ids.
        base: the model, loaded anew in bfloat16.
        prompts: (text, task).
        layer: after which ``assistant_early_exit`` leaves.
        tokens: that are timed of each; prefill is subtracted by a shorter run.
    """
    model = MultiStreamLM.from_pretrained(base, device="cpu", dtype="bfloat16").base
    codec, few = load_codec(base), 2
    ways: dict[str, dict[str, int]] = {
        "plain": {},
        "assistant_early_exit": {"assistant_early_exit": layer},
        "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 8},
    }
    rates: dict[str, dict[str, list[float]]] = {way: {} for way in ways}
    for text, task in prompts:
        ids = torch.tensor([codec.encode(text)])
        for way, more in ways.items():
            took = []
            for number in (few, few + tokens):
                start = time.perf_counter()
                with torch.inference_mode():
                    out = model.generate(  # type: ignore[operator]
                        ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                        max_new_tokens=number, **more,
                    )  # fmt: skip
                took.append((time.perf_counter() - start, out.shape[1]))
            made = took[1][1] - took[0][1]
            if made > 0 and took[1][0] > took[0][0]:
                rates[way].setdefault(task, []).append(made / (took[1][0] - took[0][0]))
    return {
        way: statistics.mean(statistics.median(each) for each in by.values()) if by else 0.0
        for way, by in rates.items()
    }

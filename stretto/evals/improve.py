"""A model that learns from what it did right: attempts, execution, tuning, before and after.

Each round samples answers to the training problems from the model as it is, runs them, and tunes
the model one began with on all that ever ran to the right result (STaR, Zelikman et al. 2022).
Answers to the held-back slice, with its own tools and templates, are greedy, before and after each
round. A killed run goes on where it stopped.
"""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stretto.agents.export import supervised, write_completions
from stretto.agents.improve import Problem, judge, trajectories
from stretto.agents.repair import Attempt, Trajectory
from stretto.agents.sandbox import open_sandbox
from stretto.agents.schemas import grammar_schema
from stretto.config import dump
from stretto.errors import ConfigError
from stretto.evals.bfcl import fill_by_schema, load_items, plain_prompt
from stretto.evals.improve_report import Measured, Report
from stretto.evals.tool_family import Task, tasks
from stretto.runs import Run, atomic_write, flatten
from stretto.training.config import LoraSettings, OptimiserSettings, TrainConfig

if TYPE_CHECKING:
    from stretto.engine import Engine

MAX_TOKENS = 96  # of an answer
BATCH = 32  # problems between two notes of what is done
TOGETHER = 32  # sessions at once
PACK = 512  # cells of a packed sequence

Tell = Callable[[str], None]


@dataclass(frozen=True)
class ImproveConfig:
    """What a run of ``agent improve`` does.

    Attributes:
        model: to be improved; of one stream.
        backend: of the engine.
        problems: for training.
        held_back: for measuring.
        samples: answers to each training problem, in each round.
        temperature: of these.
        rounds: of attempts and tuning.
        most: right answers to a problem that are learnt.
        epochs: times a round goes through them.
        learning_rate: of the adapter (LoRA).
        rank: of the adapter.
        bfcl: folder of BFCL data, measured before and after too (the schema as grammar).
        sandbox: which one runs the calls.
        seed: of problems, samples and tuning.
    """

    model: str = "smollm2-135m"
    backend: str = "auto"
    problems: int = 320
    held_back: int = 192
    samples: int = 4
    temperature: float = 0.8
    rounds: int = 1
    most: int = 2
    epochs: float = 3
    learning_rate: float = 5e-4
    rank: int = 16
    bfcl: Path | None = None
    sandbox: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("problems", "held_back", "samples", "rounds", "most", "rank"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if self.temperature <= 0 or self.epochs <= 0:
            raise ConfigError("temperature and epochs: must be above 0")


def improve(config: ImproveConfig, folder: Path, *, resume: bool = False, tell: Tell) -> str:
    """Run it all; returns the report, which is in the folder too.

    Args:
        config: what to do.
        folder: of the run; what each stage has made is kept there.
        resume: go on with the run in the folder.
        tell: is given a line now and then.

    Raises:
        ConfigError: the run to be resumed had other settings.
        InputError: no attempt was good enough to learn from; the folder holds a run already.
    """
    run = _open_run(config, folder, resume)
    held_back, training = (
        [_problem(task) for task in tasks(count, held_back=kept, seed=config.seed)]
        for count, kept in ((config.held_back, True), (config.problems, False))
    )
    with run:
        model, passed, after = config.model, [], []
        learnt: dict[tuple[str, str], Trajectory] = {}
        before = _measure(config, model, held_back, folder / "before", tell)
        for number in range(1, config.rounds + 1):
            place = folder / f"round-{number}"
            seeds = [config.seed + 1_000_003 * number + each for each in range(config.samples)]
            attempts = _answers(config, model, training, place / "attempts.jsonl",
                                config.temperature, seeds, tell)  # fmt: skip
            passed.append(_share(attempts))
            tell(f"round {number}: {passed[-1]} attempts ran to the right result")
            for problem in training:
                good = trajectories(problem, attempts[problem.id], model=model, most=config.most)
                learnt |= {(each.task, each.attempts[-1].text): each for each in good}
            model = str(_tune(config, list(learnt.values()), place, tell))
            after.append(_measure(config, model, held_back, place / "after", tell))
            run.event("round", round=number, passed=passed[-1], learnt=len(learnt))
        report = Report(dump(config), passed, len(learnt), before, after)
        run.write_metrics(report.metrics())
        atomic_write(folder / "report.md", report.markdown())
    return report.markdown()


def _open_run(config: ImproveConfig, folder: Path, resume: bool) -> Run:
    if not resume:
        return Run.create(folder, config, kind="improve")
    run = Run.open(folder)
    was, wanted = flatten(run.config()), flatten(json.loads(json.dumps(dump(config), default=str)))
    if changed := [key for key in wanted if was.get(key) != wanted[key]]:
        raise ConfigError(f"{folder}: cannot resume with another {', '.join(changed)}")
    return run


def _problem(task: Task) -> Problem:
    tool = task.tool
    return Problem(
        id=task.id,
        prompt=plain_prompt(task.request, tool.name, tool.doc, tool.schema),
        schema=tool.schema,
        tool=tool.name,
        setup=tool.source,
        right=task.right,
    )


# Attempts.


def _answers(
    config: ImproveConfig,
    model: str,
    problems: Sequence[Problem],
    path: Path,
    temperature: float,
    seeds: Sequence[int],
    tell: Tell,
) -> dict[str, list[Attempt]]:
    """What is in the file, and what it lacks, which is appended batch by batch."""
    found = {problem.id: attempts for problem, attempts in _read(path, problems)}
    missing = [problem for problem in problems if problem.id not in found]
    if missing:
        engine = _engine(config, model)
        path.parent.mkdir(parents=True, exist_ok=True)
        start, done = time.monotonic(), 0
        for first in range(0, len(missing), BATCH):
            batch = missing[first : first + BATCH]
            texts = _write(engine, batch, temperature, seeds)
            judged = asyncio.run(_judge_all(config, batch, texts))
            with path.open("a", encoding="utf-8") as file:
                for problem, attempts in zip(batch, judged, strict=True):
                    file.write(_line(problem, attempts))
            found |= {p.id: attempts for p, attempts in zip(batch, judged, strict=True)}
            done += len(batch)
            left = (time.monotonic() - start) / done * (len(missing) - done)
            tell(f"{path.stem}: {len(found)} of {len(problems)} problems, {_clock(left)} left")
    return {problem.id: found[problem.id] for problem in problems}


def _engine(config: ImproveConfig, model: str) -> "Engine":
    from stretto.engine import Engine

    engine = Engine.load(model, backend=config.backend, max_sessions=TOGETHER)
    if len(engine.streams.names) != 1:
        raise ConfigError(f"{model} has {len(engine.streams.names)} streams; give one with one")
    return engine


def _write(
    engine: "Engine", problems: Sequence[Problem], temperature: float, seeds: Sequence[int]
) -> list[list[str]]:
    from stretto.engine import Grammar, Limits, SamplingParams

    (stream,) = engine.streams.names
    sessions = []
    for problem in problems:
        grammar = Grammar.json(grammar_schema(problem.schema), pauses=False)
        for seed in seeds:
            session = engine.open(
                prompts={stream: problem.prompt},
                sampling=SamplingParams(temperature=temperature, grammar=grammar),
                limits=Limits(max_rows=MAX_TOKENS),
                seed=seed,
            )
            session.close()
            sessions.append(session)
    engine.run(sessions)
    texts = [engine.codec.decode(session.table.column(stream)) for session in sessions]
    return [texts[i : i + len(seeds)] for i in range(0, len(texts), len(seeds))]


async def _judge_all(
    config: ImproveConfig, problems: Sequence[Problem], texts: Sequence[Sequence[str]]
) -> list[list[Attempt]]:
    async with open_sandbox(config.sandbox, warm=0) as box, box.session() as session:  # type: ignore[arg-type]
        return [await judge(p, t, session) for p, t in zip(problems, texts, strict=True)]


def _line(problem: Problem, attempts: Sequence[Attempt]) -> str:
    texts = [{"text": a.text, "code": a.code, "good": a.feedback.good, "told": a.feedback.text}
             for a in attempts]  # fmt: skip
    return json.dumps({"id": problem.id, "attempts": texts}, ensure_ascii=False) + "\n"


def _read(path: Path, problems: Sequence[Problem]) -> Iterator[tuple[Problem, list[Attempt]]]:
    """Whole lines; one that a kill cut short is cut off the file."""
    from stretto.agents.feedback import Feedback

    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        path.write_bytes(whole)
    known = {problem.id: problem for problem in problems}
    for data in map(json.loads, whole.decode().splitlines()):
        yield (
            known[data["id"]],
            [
                Attempt(
                    a["text"], a["code"], Feedback("binary", a["good"], a["told"], "call", cost=1)
                )
                for a in data["attempts"]
            ],
        )


def _share(attempts: dict[str, list[Attempt]]) -> str:
    passed = [each.reward == 1.0 for group in attempts.values() for each in group]
    return f"{sum(passed)} of {len(passed)}"


# Tuning.


def _tune(config: ImproveConfig, learnt: Sequence[Trajectory], place: Path, tell: Tell) -> Path:
    """The tuned checkpoint; made unless it is there."""
    from stretto.models.checkpoint import load_codec
    from stretto.training.run import train

    folder = place / "train"
    if (folder / "model" / "stretto.json").exists():
        return folder / "model"
    codec = load_codec(config.model)
    write_completions(place / "data", supervised(learnt), codec)
    tokens = sum(len(codec.encode(t.task + t.attempts[-1].text)) + 1 for t in learnt)
    # Packs are not quite full; with very few answers there is one pack, and a pass takes one.
    packs = 2 if tokens > 3 * PACK else 1
    steps = max(1, math.ceil(config.epochs * tokens / (0.95 * PACK * packs)))
    settings = TrainConfig(
        data="improve",
        base=config.model,
        lora=LoraSettings(rank=config.rank, alpha=2 * config.rank),
        optimiser=OptimiserSettings(
            learning_rate=config.learning_rate, warmup_steps=max(1, steps // 10)
        ),
        steps=steps,
        pack_cells=PACK,
        packs_per_batch=packs,
        holdout=min(16, len(learnt) // 4),
        eval_every=steps,
        save_every=20,
        log_every=5,
        seed=config.seed,
    )
    tell(f"tuning on {len(learnt)} answers, {tokens} tokens, {steps} steps")
    return train(settings, folder, data=place / "data", resume=(folder / "events.jsonl").exists())


# Measuring.


def _measure(
    config: ImproveConfig, model: str, problems: Sequence[Problem], path: Path, tell: Tell
) -> Measured:
    """Greedy answers."""
    found = _answers(config, model, problems, path.with_suffix(".jsonl"), 0.0, [0], tell)
    right = {name: attempts[0].reward == 1.0 for name, attempts in found.items()}
    tell(f"{path.stem}: {sum(right.values())} of {len(right)} held-back problems right")
    return Measured(right, _bfcl(config, model, path.with_name(f"{path.name}-bfcl.json"), tell))


def _bfcl(config: ImproveConfig, model: str, path: Path, tell: Tell) -> dict[str, bool]:
    if config.bfcl is None:
        return {}
    if not path.exists():
        filled = fill_by_schema(_engine(config, model), load_items(config.bfcl), example=False)
        atomic_write(path, json.dumps({each.item.id: not each.why for each in filled}))
        tell(f"{path.stem}: {sum(not each.why for each in filled)} of {len(filled)} right")
    return json.loads(path.read_text("utf-8"))


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"

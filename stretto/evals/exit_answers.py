"""What a model answers when it is always left at an exit: task accuracy by exit layer."""

from collections.abc import Callable
from typing import Any

from stretto.errors import InputError
from stretto.evals.config import EfficiencyConfig
from stretto.evals.exits import ExitEval
from stretto.evals.items import choose_tasks, find_source, load_items
from stretto.evals.metrics import wilson
from stretto.evals.systems import SYSTEMS, Job, System, open_session, record
from stretto.models.checkpoint import load, load_codec
from stretto.models.exits import Exits, plain_head
from stretto.models.wrapper import MultiStreamLM

COLUMNS: tuple[str, ...] = ("layer", "kind", "task", "items", "accuracy", "low", "high")
MAX_TOKENS = 160  # of an answer

Tell = Callable[[int, int, str], None]


def answers(
    config: ExitEval, items: int, tell: Tell = lambda done, total, what: None
) -> list[dict[str, Any]]:
    """Task accuracy of the whole model and of each of its exits, greedy.

    At an exit, the first layers alone write the answer, by the trained head where there is one and
    by the model's own norm and unembedding elsewhere.

    Args:
        config: model, exits, layers and the development pack.
        items: of each task.
        tell: told of every exit that is done.

    Returns:
        Rows with ``COLUMNS``; layer None is the whole model; accuracies 0 to 1 with Wilson's 95 %
        interval.

    Raises:
        InputError: texts or tables are given: there is nothing to grade.
    """
    from stretto.engine import Engine

    if config.data is not None or config.text is not None:
        raise InputError("answers are graded on the development tasks: give no --data or --text")
    lm, codec = load(MultiStreamLM, config.model), load_codec(config.model)
    exits = lm.exits if config.exits is None else Exits.load(config.exits, lm)
    heads = dict(exits.heads) if exits else {}
    layers = sorted({*config.layers, *heads})
    source = find_source(config.source)
    asked = EfficiencyConfig(
        tasks=choose_tasks(None, source), source=str(source or ""), limit=items,
        max_message_tokens=MAX_TOKENS,
    )  # fmt: skip
    examples, _ = load_items(asked)
    system = _system(lm)
    rows = []
    for number, layer in enumerate([None, *layers]):
        options: dict[str, Any] = {}
        if layer is not None:
            head = heads.get(layer) or plain_head(lm, layer)
            options = {"exit_layer": layer, "exits": Exits.of(lm, {layer: head}, {})}
        engine = Engine(lm, codec, **options)
        for task, some in examples.items():
            jobs = [Job(system, item, "instant", "all") for item in some]
            sessions = [open_session(engine, job, asked, None) for job in jobs]
            engine.run(sessions)
            pairs = zip(sessions, jobs, strict=True)
            right = sum(record(session, job, codec).correct for session, job in pairs)
            low, high = wilson(right, len(jobs))
            kind = "model" if layer is None else "head" if layer in heads else "plain"
            rows.append(
                {"layer": layer, "kind": kind, "task": task, "items": len(jobs),
                 "accuracy": right / len(jobs), "low": low, "high": high}
            )  # fmt: skip
        tell(number + 1, len(layers) + 1, "answers")
    return rows


def _system(lm: MultiStreamLM) -> System:
    """How such a model is asked: all is known before it begins."""
    if len(lm.streams) == 1:
        return SYSTEMS["base"]
    if not {"user", "answer"} <= set(lm.streams.names):
        raise InputError("the model has no streams user and answer: it cannot be asked")
    return SYSTEMS["prefilled"]

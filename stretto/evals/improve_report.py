"""Before and after a model was improved, in one table."""

import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from stretto import __version__
from stretto.evals.latency import machine_name
from stretto.evals.metrics import mcnemar, mean_difference, paired_bootstrap, wilson

_SLICES = {"held_back": "held-back tools", "bfcl": "BFCL simple"}


@dataclass(frozen=True)
class Measured:
    """Which items of a slice a model got right, by id: held-back problems, and BFCL's if given."""

    held_back: Mapping[str, bool]
    bfcl: Mapping[str, bool]


@dataclass(frozen=True)
class Report:
    """What a run found.

    Attributes:
        config: what it was told.
        passed: of each round, how many attempts ran to the right result, in words.
        learnt: right answers that the last round was tuned on.
        before: the model as it was.
        after: the model after each round.
    """

    config: Mapping[str, Any]
    passed: Sequence[str]
    learnt: int
    before: Measured
    after: Sequence[Measured]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each slice and round; shares in per cent."""
        return [
            {"slice": key, "round": number, **compare(before, getattr(measured, key), self._seed)}
            for key in _SLICES
            for number, measured in enumerate(self.after, 1)
            if (before := getattr(self.before, key))
        ]

    def metrics(self) -> dict[str, Any]:
        """As JSON, with the machine and versions."""
        about = {"passed": list(self.passed), "learnt": self.learnt, "machine": machine_name()}
        return about | {"versions": _versions(), "rows": self.rows()}

    def markdown(self) -> str:
        """For people."""
        columns = "slice | items | before | after | difference (paired) | gained, lost | p"
        lines = [f"| {columns} |", "|---|---|---|---|---|---|---|"]
        for row in self.rows():
            what = _SLICES[row["slice"]]
            cells = [
                f"{what}, round {row['round']}" if len(self.after) > 1 else what,
                str(row["items"]),
                f"{row['before']:.1f} % ({_span(row['before_95'])})",
                f"{row['after']:.1f} % ({_span(row['after_95'])})",
                f"{row['difference']:+.1f} ({_span(row['difference_95'], '+.1f')})",
                f"{row['gained']}, {row['lost']}",
                f"{row['p']:.2g}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join([*lines, "", *self._words()]) + "\n"

    @property
    def _seed(self) -> int:
        return self.config["seed"]

    def _words(self) -> list[str]:
        config = self.config
        words = [
            f"{row['tools']} held-back tools, round {row['round']}: {row['tools_better']} better, "
            f"{row['tools_worse']} worse; with the tools resampled instead of the items the "
            f"difference is {row['difference']:+.1f} ({_span(row['by_tool_95'], '+.1f')})."
            for row in self.rows()
            if row["slice"] == "held_back"
        ]
        words += [
            f"{config['model']}, greedy, the JSON schema as grammar, intervals of 95 %.",
            f"{config['problems']} training problems, {config['samples']} samples each at "
            f"temperature {config['temperature']}; right in each round: {', '.join(self.passed)}; "
            f"{self.learnt} different right answers learnt.",
            f"LoRA of rank {config['rank']}, rate {config['learning_rate']}, "
            f"{config['epochs']} epochs, seed {config['seed']}.",
            f"{machine_name()}; "
            + ", ".join(f"{name} {number}" for name, number in _versions().items())
            + ".",
        ]
        return words


def compare(before: Mapping[str, bool], after: Mapping[str, bool], seed: int) -> dict[str, Any]:
    """The same items before and after; an id is its tool's name, ``-`` and a number."""
    a, b = [after[key] for key in before], list(before.values())
    change = paired_bootstrap(a, b, mean_difference, seed=seed)
    groups: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for key, *pair in zip(before, a, b, strict=True):
        groups[key.rpartition("-")[0]].append((pair[0], pair[1]))
    means = np.array([np.mean(pairs, axis=0) for pairs in groups.values()])
    by_tool = paired_bootstrap(means[:, 0].tolist(), means[:, 1].tolist(), mean_difference,
                               seed=seed)  # fmt: skip
    return {
        "items": len(b),
        "before": 100 * float(np.mean(b)),
        "before_95": [100 * x for x in wilson(sum(b), len(b))],
        "after": 100 * float(np.mean(a)),
        "after_95": [100 * x for x in wilson(sum(a), len(a))],
        "difference": 100 * change.value,
        "difference_95": [100 * change.low, 100 * change.high],
        "gained": sum(x and not y for x, y in zip(a, b, strict=True)),
        "lost": sum(y and not x for x, y in zip(a, b, strict=True)),
        "p": mcnemar(a, b),
        "tools": len(groups),
        "tools_better": int((means[:, 0] > means[:, 1]).sum()),
        "tools_worse": int((means[:, 0] < means[:, 1]).sum()),
        "by_tool_95": [100 * by_tool.low, 100 * by_tool.high],
    }


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("torch", "transformers", "peft", "llguidance")}
    return {"stretto": __version__, "Python": platform.python_version(), **found}


def _span(limits: Sequence[float], form: str = ".1f") -> str:
    return " to ".join(format(limit, form) for limit in limits)

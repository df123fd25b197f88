"""What an efficiency run is told; kept in its run folder as ``config.yaml``."""

from dataclasses import dataclass

from stretto.errors import ConfigError
from stretto.evals.records import INSTANT, parse_rate

LAGS = ("0", "1", "2", "3", "all")
RATES = (INSTANT, "5", "20", "80")
SYSTEM_NAMES = ("base", "single", "read", "audit", "prefilled", "frontier")
DATA_TASKS = ("proofwriter", "pubmedqa", "gsm8k")
"""Tasks whose items come from the development pack."""


@dataclass(frozen=True)
class EfficiencyConfig:
    """An efficiency run.

    Attributes:
        tasks: names of tasks; those of ``DATA_TASKS`` need ``source``.
        systems: who is measured; ``frontier`` is ``read`` over ``lags`` at ``frontier_rate``.
        rates: ``instant`` or tokens per second at which the text arrives.
        lags: dial positions of the frontier.
        lag: dial position of ``read`` and ``audit``.
        frontier_rate: arrival rate of the frontier.
        goal_rate: arrival rate at which the goals are looked at.
        limit: items per task; 0 for all there are (500 of a generated family).
        goal_limit: the same for what the goals compare: ``single``, and ``read`` at ``goal_rate``
            and ``lag``; None for ``limit``.
        source: unpacked development pack; empty for generated tasks only.
        model, baseline, base: multi-stream, tuned single-stream and un-tuned model.
        batch: sessions that share a forward pass.
        wall_items: items per system that are also run alone in real time.
        latency: file of `stretto eval latency`, whose seconds are then used (then nothing is run
            in real time); empty measures on this machine.
        max_rows: rows after which a session is stopped.
        max_message_tokens: tokens after which a message of the answer is ended: the guard against
            endless repetition.
        device, dtype: as for the engine.
        seed: of generated items.
    """

    tasks: tuple[str, ...]
    systems: tuple[str, ...] = SYSTEM_NAMES
    rates: tuple[str, ...] = RATES
    lags: tuple[str, ...] = LAGS
    lag: str = "1"
    frontier_rate: str = "20"
    goal_rate: str = "20"
    limit: int = 50
    goal_limit: int | None = None
    source: str = ""
    model: str = "stretto-smollm2-135m"
    baseline: str = "stretto-smollm2-135m-single"
    base: str = "smollm2-135m"
    batch: int = 32
    wall_items: int = 3
    latency: str = ""
    max_rows: int = 4096
    max_message_tokens: int = 160
    device: str = "auto"
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _known("systems", self.systems, SYSTEM_NAMES)
        _known("lags", (*self.lags, self.lag), LAGS)
        if not self.tasks:
            raise ConfigError("tasks: name at least one")
        if not self.rates:
            raise ConfigError("rates: name at least one")
        for rate in (*self.rates, self.frontier_rate, self.goal_rate):
            parse_rate(rate)
        counts = {"limit": 0, "batch": 1, "wall_items": 0, "max_rows": 1, "max_message_tokens": 1}
        for name, least in counts.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: must be at least {least}, got {getattr(self, name)}")
        if self.goal_limit is not None and not _at_least(self.goal_limit, self.limit):
            raise ConfigError(
                f"goal_limit: must be at least limit ({self.limit or 'all'}), got {self.goal_limit}"
            )

    def is_goal(self, system: str, rate: str, lag: str) -> bool:
        """Whether the goals compare this condition."""
        return system == "single" or (system, rate, lag) == ("read", self.goal_rate, self.lag)

    def models(self) -> dict[str, str]:
        """Model name by role; what the goals compare comes first."""
        return {"baseline": self.baseline, "model": self.model, "base": self.base}


def _at_least(a: int, b: int) -> bool:
    """For limits, of which 0 is the largest."""
    return a == 0 or (a >= b > 0)


def _known(what: str, names: tuple[str, ...], choices: tuple[str, ...]) -> None:
    if not names:
        raise ConfigError(f"{what}: name at least one of {', '.join(choices)}")
    for name in names:
        if name not in choices:
            raise ConfigError(f"{what}: no {name!r}; choose from {', '.join(choices)}")

"""What running code tells: results, verdicts, explanations, rewards and rankings."""

from stretto.agents.feedback.kinds import LEVELS, Feedback, Kind, Level, explain_error, scrub
from stretto.agents.feedback.ran import (
    Test,
    assertions,
    doctests,
    exit_state,
    output_difference,
    ranking,
    suspects,
    unit_tests,
)
from stretto.agents.feedback.read import names, syntax
from stretto.agents.feedback.traced import trace

__all__ = [
    "LEVELS",
    "Feedback",
    "Kind",
    "Level",
    "Test",
    "assertions",
    "doctests",
    "exit_state",
    "explain_error",
    "names",
    "output_difference",
    "ranking",
    "scrub",
    "suspects",
    "syntax",
    "trace",
    "unit_tests",
]

"""What happens in an agent's run, as one append-only list of events.

The list is the run: lanes are drawn from it, a run is replayed and resumed from it, and feedback
and training data are made of it. Each event is one line of the run folder's ``events.jsonl``.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

VERSION = 1

Kind = Literal[
    "start",  # data: task, model, scripted, tools, dialect, policy, limits, seed
    "prompt",  # a turn's messages, as sent
    "completion",  # a turn's answer, as received: enough to replay it
    "text",  # text a model wrote on a stream; data: text
    "statement",  # code: complete; data: index, source, effect
    "held",  # code: waits for commit
    "commit",
    "abandon",
    "output",  # result: value_repr, stdout, stderr, ok, limit, error
    "call",  # a tool was called; data: the broker's record
    "feedback",
    "plan",
    "skill",
    "lesson",
    "interrupt",  # somebody spoke
    "end",  # data: outcome, answer, usage
]

Outcome = Literal["answered", "limit", "refused", "failed", "cancelled"]


@dataclass(frozen=True)
class AgentEvent:
    """Something that happened.

    Attributes:
        seq: number in the run, from 0, without gaps.
        time: seconds since the run began.
        stream: lane: user, think, say, code, result, or empty.
        kind: what happened.
        data: JSON values only; the fields are those named beside :data:`Kind`.
    """

    seq: int
    time: float
    stream: str
    kind: Kind
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As written to ``events.jsonl``."""
        return asdict(self)

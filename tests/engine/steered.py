"""A tiny random model that is steered by what it may sample."""

from stretto.engine import SamplingParams, VirtualClock
from stretto.engine.session import Session
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.streams import ABSENT, READ

LM, CODEC = tiny_lm(READ), tiny_codec()
S, E, _ = CODEC.special.silence, CODEC.special.end, ABSENT
HUSH = SamplingParams(allowed=(S,))
DONE = SamplingParams(allowed=(E,))
TALK = SamplingParams(allowed=(65,))
STEP = 0.1


def clock() -> VirtualClock:
    return VirtualClock(lambda cells, cached: STEP)


def rows(session: Session) -> list[list[int]]:
    return session.table.rows.tolist()

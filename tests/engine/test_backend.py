"""The conformance kit passes on the transformers back end, and can fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretto.engine import Engine, testing
from stretto.engine.backends import open_backend
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.streams import ABSENT, AGENT, AUDIT, READ

LMS = {
    (rule, len(streams)): testing.tiny_lm(streams, mask_rule=rule)
    for rule in ("inclusive", "strict")
    for streams in (READ, AUDIT, AGENT)
}


def test_the_transformers_backend_conforms() -> None:
    testing.check_backend(lambda lm: open_backend("transformers", lm))


@settings(max_examples=12)
@given(
    st.sampled_from(sorted(LMS)),
    st.lists(st.integers(1, 14), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_cached_rows_equal_one_forward(
    which: tuple[str, int], lengths: list[int], seed: int
) -> None:
    lm: MultiStreamLM = LMS[which]
    tables = [testing.random_table(lm, n, seed + i) for i, n in enumerate(lengths)]
    for table, logits in zip(
        tables, testing.read_in_ticks(open_backend("transformers", lm), tables), strict=True
    ):
        assert testing.max_difference(lm, table, logits) < 1e-3


def test_a_backlog_read_in_one_pass_equals_row_by_row() -> None:
    lm = LMS["inclusive", 2]
    tables = [testing.random_table(lm, n, n) for n in (12, 30)]
    for table in tables:
        # Outputs have cells in the last row of each pass of five rows only, as in catch-up.
        keep = (np.arange(len(table)) + table.num_prompt_rows) % 5 == 4
        table.rows[~keep, 1] = ABSENT
    for table, logits in zip(
        tables,
        testing.read_in_ticks(open_backend("transformers", lm), tables, num_rows=5),
        strict=True,
    ):
        assert testing.max_difference(lm, table, logits) < 1e-3


def test_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose from auto, transformers"):
        Engine(LMS["inclusive", 2], testing.tiny_codec(), backend="vllm")

import pytest

from stretto.errors import InputError
from stretto.evals.latency import LatencyTable, measure, overhead

TABLE = LatencyTable((1, 2, 10), (100, 300), ((0.01, 0.03), (0.02, 0.04), (0.10, 0.12)))


@pytest.mark.parametrize(
    ("cells", "cached", "seconds"),
    [
        (1, 100, 0.01),  # a grid point
        (1, 200, 0.02),  # half-way between caches
        (6, 100, 0.06),  # half-way between widths
        (6, 200, 0.07),  # both
        (1, 0, 0.01),  # below the grid: the nearest
        (1, 9999, 0.03),  # beyond the longest cache: the nearest
        (20, 100, 0.20),  # beyond the widest: the last slope
    ],
)
def test_lookup(cells: int, cached: int, seconds: float) -> None:
    assert TABLE(cells, cached) == pytest.approx(seconds)


def test_a_step_takes_its_overhead_too() -> None:
    steps = [(1, 100, 0.015), (2, 100, 0.024), (1, 300, 0.036)]
    assert overhead(TABLE, steps) == pytest.approx(0.005)
    assert overhead(TABLE, []) == 0
    table = LatencyTable(TABLE.cells, TABLE.cached, TABLE.seconds, overhead=0.005)
    assert table(1, 100) == pytest.approx(0.015)
    assert table(20, 100) == pytest.approx(0.205)


def test_round_trip() -> None:
    assert LatencyTable.from_dict({**TABLE.to_dict(), "type": "latency"}) == TABLE


def test_a_grid_without_its_values_is_refused() -> None:
    with pytest.raises(InputError, match="latency table"):
        LatencyTable((1, 2), (100,), ((0.01,),))


def test_measured_on_a_tiny_model() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from stretto.models import MultiStreamLM
    from stretto.streams import SINGLE

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    lm = MultiStreamLM(LlamaForCausalLM(config), SINGLE).eval()
    table = measure(lm, cells=(1, 2), cached=(4, 8), rounds=2)
    assert (table.cells, table.cached) == ((1, 2), (4, 8))
    assert all(0 < seconds < 10 for line in table.seconds for seconds in line)
    assert table.machine

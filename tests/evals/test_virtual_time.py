"""The real engine on a tiny random model, in virtual time that can be worked out by hand."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from scripted import letter_codec

from stretto.engine import Engine, Limits, SamplingParams, VirtualClock
from stretto.evals.config import EfficiencyConfig
from stretto.evals.efficiency import measure_latency, run_efficiency
from stretto.evals.latency import LatencyTable
from stretto.evals.records import Record
from stretto.evals.systems import SYSTEMS, Job, open_session, record
from stretto.runs import Run
from stretto.streams import AUDIT, SINGLE, StreamCodec
from stretto.streams.examples import Example
from stretto.streams.sets import union

ROW_S = 0.05
TEN = Example("ten", "chain_sum", ("Sum?", " 1 + 2"), ("Answer: 3",), "3")
CONFIG = EfficiencyConfig(
    tasks=("chain_sum",), systems=("single", "read", "audit", "prefilled"),
    rates=("instant", "20"), limit=3, wall_items=1, max_rows=60, max_message_tokens=6,
)  # fmt: skip


@cache
def tiny() -> tuple[Any, StreamCodec]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from stretto.models import MultiStreamLM

    codec = letter_codec()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=codec.special.silence, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=4096, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return MultiStreamLM(LlamaForCausalLM(config), union([SINGLE, AUDIT])).eval(), codec


def engine() -> Engine:
    lm, codec = tiny()
    return Engine(lm, codec, max_sessions=8)


def test_ten_tokens_at_twenty_a_second_with_rows_of_fifty_milliseconds() -> None:
    made, codec = engine(), letter_codec()
    session = made.open(
        streams="read",
        prompts={"answer": "lag 1:"},
        sampling=SamplingParams(allowed=tuple(codec.encode("x"))),
        limits=Limits(max_message_tokens=20),
        clock=VirtualClock(lambda cells, cached: ROW_S),
    )
    session.send("user", "Sum? 1 + 2", rate=20)
    session.close("user")
    made.run([session])
    found = record(session, Job(SYSTEMS["read"], TEN, "20", "1"), codec)
    # The prompt is read in the first 50 ms, in which two tokens arrive; then one comes a tick.
    # The tenth and `end` are read in the tick at 0.45 s, rows 9 and 10. The 20 words are said from
    # row 1 at 0.05 s on, one a tick; the last is known at 1.00 s.
    assert found.input_end_s == pytest.approx(0.45)
    assert (found.first_s, found.last_s) == (pytest.approx(0.05), pytest.approx(1.0))
    assert (found.first_row, found.input_end_row, found.last_row) == (1, 10, 21)
    assert found.output_tokens == 20
    assert (found.ttft_s, found.ttft_rows) == (0, 0)
    assert found.delay_s == pytest.approx(0.55)
    assert found.delay_rows == 11


def test_one_stream_waits_for_its_prefill() -> None:
    made, codec = engine(), letter_codec()
    session = made.open(
        streams="single",
        prompts={"text": "Sum? 1 + 2"},
        sampling=SamplingParams(allowed=tuple(codec.encode("x"))),
        limits=Limits(max_message_tokens=4),
        clock=VirtualClock(lambda cells, cached: 0.01 * cells),
    )
    session.close()
    made.run([session])
    found = record(session, Job(SYSTEMS["single"], TEN, "any", ""), codec)
    # Ten cells of prefill take 0.1 s; then one cell, 0.01 s, a word.
    assert found.first_s == pytest.approx(0.10)
    assert found.last_s == pytest.approx(0.13)
    assert (found.ttft_rows, found.delay_rows) == (1, 4)
    assert found.placed("20").delay_s == pytest.approx(0.13)


@pytest.mark.parametrize("name", ["single", "read", "audit", "prefilled"])
def test_every_system_opens_and_ends(name: str) -> None:
    made = engine()
    system = SYSTEMS[name]
    job = Job(system, TEN, "20" if system.live else "any", "1" if system.live else "all")
    session = open_session(made, job, CONFIG, VirtualClock(lambda *_: ROW_S))
    made.run([session])
    found = record(session, job, made.codec)
    assert found.finish in ("end", "quiet", "max_rows")
    assert found.input_tokens == 10
    if name == "prefilled":
        assert session.table.prompts["user"] == made.codec.encode("Sum? 1 + 2")


def test_company_changes_no_figure(tmp_path: Path) -> None:
    items = [replace(TEN, id=f"{i}", chunks=("Sum?", " 1" * (i + 1))) for i in range(3)]
    records: list[dict[Any, Record]] = []
    for batch in (1, 8):
        config = replace(CONFIG, batch=batch)
        run = Run.create(tmp_path / str(batch), config, kind="efficiency")
        run.event("latency", **LatencyTable((1, 9), (9,), ((0.05,), (0.09,))).to_dict())
        run_efficiency(config, run, load=lambda *_: engine(), items={"chain_sum": items})
        found = [Record.from_dict(event) for event in run.events("item")]
        records.append({r.key: r for r in found})
        assert len(list(run.events("wall"))) == 6
    assert records[0] == records[1]


def test_a_latency_table_is_measured() -> None:
    made = engine()
    made.model.eval()
    job = Job(SYSTEMS["read"], TEN, "20", "1")
    table = measure_latency(made, job, CONFIG)
    assert table.overhead >= 0
    assert table(2, 100) > 0

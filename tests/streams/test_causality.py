"""The causality check: on small examples, and on the packs with violations planted apart."""

import random

import pytest

from benchmarks.planting import plants
from stretto.evals.items import find_source
from stretto.streams.causality import Violation, check, chunks_needed
from stretto.streams.examples import Example, load_examples
from stretto.streams.quantities import quantities

PACKS = {
    "gsm8k": "gsm8k_dev473.jsonl",
    "pubmedqa": "pubmedqa_100.jsonl",
    "proofwriter": "proofwriter_dev.jsonl",
}


def example(chunks: list[str], steps: list[str]) -> Example:
    return Example("x", "test", tuple(chunks), tuple(steps), "")


EGGS = example(
    ["How much is earned?", " Janet's ducks lay 16 eggs.", " She eats three.", " Bo pays $9 each."],
    ["16 - 3 = 13 eggs are left.\n", "Bo pays 13*9 = $117.\n", "Answer: 117"],
)


def test_step_waits_for_its_numbers_and_names() -> None:
    assert chunks_needed(EGGS) == (3, 4, 4)
    assert check(EGGS, (3, 4, 4)) == []
    assert check(EGGS, (2, 4, 4)) == [Violation(0, "3", 2), Violation(0, "13", 2)]
    assert check(EGGS, (3, 3, 3)) == [Violation(1, item, 3) for item in ("Bo", "9", "117")]


@pytest.mark.parametrize(
    ("source", "step"),
    [
        ("It costs 20% more than $50.", "50 * 1.2 = $60"),
        ("A quarter of 80 birds left.", "80*.25 = 20 left"),
        ("He takes 2/3 of 30 pens.", "30 * 2/3 = 20 pens"),
        ("She runs 5 miles a day.", "In a week 5*7 = 35 miles"),
        ("There are twenty-five boxes.", "25 boxes"),
        ("It has 1,200 seats in 3 halls.", "1200 / 3 = 400 seats"),
        ("He had 20 and lost 5.", "He is left with 15"),
        ("It is 90 cents.", "It is $0.90"),
    ],
)
def test_what_a_reader_can_know(source: str, step: str) -> None:
    assert check(example(["How many?", f" {source}"], [step]), [2]) == []


@pytest.mark.parametrize(
    ("chunks", "step", "item"),
    [
        # A stated number is no result of a computation it is itself an operand of.
        (["How many?", " There are 30.", " 15 fewer are left."], "So 30-15 = 15", "15"),
        # Behind an equals sign, but copied.
        (["How many?", " He has some.", " He has 48."], "The total = 48", "48"),
        # A unit's number counts only once its unit has been read.
        (["How many?", " He has 3.", " He has 60 a day."], "60 in all", "60"),
        (["Who?", " Ann came.", " Then Zoe came."], "It was Zoe", "Zoe"),
        (["Who?", " Ann came.", " Then Zoe came."], "Zoe came", "Zoe"),
    ],
)
def test_what_a_reader_cannot_know_yet(chunks: list[str], step: str, item: str) -> None:
    broken = example(chunks, [step])
    assert [v.item for v in check(broken, [2])] == [item]
    assert check(broken, [3]) == []


def test_a_step_that_no_text_explains_waits_for_all() -> None:
    unknown = example(["How many?", " One.", " Two."], ["There are 977 of them"])
    assert chunks_needed(unknown) == (3,)
    assert [v.item for v in check(unknown, [3])] == ["977"]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError):
        check(EGGS, (1, 2))


def test_units_stand_for_their_numbers() -> None:
    assert {7.0, 52.0} <= quantities("every week")
    assert 7.0 not in quantities("every hour")


def _pack(task: str, limit: int) -> list[Example]:
    folder = find_source(None)
    if folder is None:
        pytest.skip("the development pack ../shared/data/dev.tar.xz is not here")
    return load_examples(task, folder / PACKS[task], limit=limit)


@pytest.mark.parametrize("task", ["gsm8k", "pubmedqa"])
def test_finds_planted_violations(task: str) -> None:
    planted = [(item, *plant) for item in _pack(task, 300) for plant in plants(item)]
    assert len(planted) > 100
    found = [any(v.step == i for v in check(item, reads)) for item, i, reads in planted]
    # The few not found can be derived after all ("100 - 60 = 40%" where 40% is stated later on).
    assert sum(found) >= 0.99 * len(found)
    assert sum(random.Random(0).sample(found, 50)) == 50


@pytest.mark.parametrize("task", list(PACKS))
def test_passes_clean_samples(task: str) -> None:
    items = _pack(task, 150)
    for reads in (lambda e: e.needs or chunks_needed(e), lambda e: [len(e.chunks)] * len(e.steps)):
        assert sum(not check(item, reads(item)) for item in items) >= 0.95 * len(items)

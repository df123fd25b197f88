"""SGD dialogues as tables: what is said when, and that nothing is said before it can be known."""

import itertools
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stretto.errors import InputError
from stretto.streams import AGENT, SpecialIds, StreamCodec, StreamTable
from stretto.streams.sgd import find_value, is_grounded, spoken, tables
from stretto.streams.ticks import validate

REAL = Path(os.environ.get("STRETTO_TRAIN_DATA", "no-pack")) / "sgd_train.jsonl"
SCHEMA = [
    {
        "service_name": "Food_1",
        "intents": [
            {"name": "ReserveTable", "required_slots": ["name", "time"]},
            {"name": "FindFood", "required_slots": ["city", "cuisine"]},
        ],
    }
]
USERS = (
    "I would like Punjabi food in Milpitas please, as soon as you can.",
    "Where is it?",
    "Book it for seven in the evening.",
)
ANSWERS = ("How about Bird Dog at 7 pm?", "It is at 420 Ramona Street.", "It is booked.")
RESULT = {"city": "Milpitas", "has_music": "False", "name": "Bird Dog", "open": "19:00"}
RESULT |= {"phone": "650-656-8180", "street": "420 Ramona Street"}


def user(text: str, **slots: str) -> dict[str, Any]:
    state = {"service": "Food_1", "intent": "FindFood", "slots": slots}
    return {"s": "U", "u": text, "state": [state]}


def call(method: str, result: dict[str, str], **parameters: str) -> dict[str, Any]:
    called = {"service": "Food_1", "method": method, "parameters": parameters}
    return {"call": called, "results": [result]}


SLOTS = {"city": "milpitas", "cuisine": "Punjabi", "budget": "low"}
DIALOGUE: dict[str, Any] = {
    "id": "1_00007",
    "services": ["Food_1"],
    "turns": [
        user(USERS[0], **SLOTS),
        {"s": "S", "u": ANSWERS[0]}
        | call("FindFood", RESULT, city="Milpitas", cuisine="Punjabi"),
        user(USERS[1], **SLOTS),
        {"s": "S", "u": ANSWERS[1]},
        user(USERS[2], **SLOTS, time="seven in the evening"),
        {"s": "S", "u": ANSWERS[2]}
        | call("ReserveTable", {"name": "Bird Dog"}, name="Bird Dog", time="19:00"),
    ],
}  # fmt: skip


def word_codec() -> StreamCodec:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([json.dumps(DIALOGUE), *USERS, *ANSWERS] * 5, trainer)
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(800))


CODEC = word_codec()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "sgd.jsonl").write_text(json.dumps(DIALOGUE) + "\n", encoding="utf-8")
    (tmp_path / "sgd_schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    return tmp_path / "sgd.jsonl"


def text_until(table: StreamTable, name: str, row: int) -> str:
    """What stream ``name`` has said before ``row``."""
    return StreamTable(AGENT, CODEC.special, rows=table.rows[:row], codec=CODEC).text(name)


def first_row(table: StreamTable, name: str) -> int:
    return int(table.is_content()[:, AGENT.index(name)].argmax())


def row_saying(table: StreamTable, name: str, text: str) -> int:
    """The row in which ``name`` begins to say ``text``."""
    before = table.text(name).index(text)
    return next(r for r in range(len(table)) if len(text_until(table, name, r + 1)) > before)


def test_a_dialogue_in_its_streams(path: Path) -> None:
    (table,) = tables(path, CODEC, max_cells=2000)
    validate(table)
    prompt = CODEC.decode(table.prompts["system"])
    assert prompt == "today: 2019-03-01\ntools: FindFood(city, cuisine), ReserveTable(name, time)"
    assert table.text("user") == "".join(USERS)
    assert table.text("say") == "".join(ANSWERS)
    calls = ['FindFood(city="Milpitas", cuisine="Punjabi")']
    calls += ['ReserveTable(name="Bird Dog", time="19:00")']
    assert [text for ids in table.messages("code") if (text := CODEC.decode(ids))] == calls
    assert "cuisine=Punjabi city=milpitas budget=low\n" in table.text("think")


def test_think_notes_a_slot_after_its_value_was_read_and_before_the_user_is_done(
    path: Path,
) -> None:
    (table,) = tables(path, CODEC, max_cells=2000)
    user_end = int((table.rows[:, AGENT.index("user")] == CODEC.special.end).argmax())
    for note, value in (("cuisine=", "Punjabi"), (" city=", "Milpitas")):
        row = row_saying(table, "think", note)
        assert value in text_until(table, "user", row)
        assert row < user_end
    # "low" is never said: only the end of the turn tells that nothing more will come.
    assert row_saying(table, "think", " budget=") == user_end + 1


def test_call_result_and_answer_follow_each_other(path: Path) -> None:
    (table,) = tables(path, CODEC, max_cells=2000)
    think, code, result, say = (first_row(table, n) for n in ("think", "code", "result", "say"))
    assert think < code < result < say
    ends = table.rows == CODEC.special.end
    assert ends[code - 1, AGENT.index("think")]
    assert ends[result - 1, AGENT.index("code")]
    assert ends[say - 1, AGENT.index("result")]


def test_a_result_keeps_what_the_answers_tell(path: Path) -> None:
    (table,) = tables(path, CODEC, max_cells=2000)
    (result,) = json.loads(CODEC.decode(table.messages("result")[0]))
    assert {"name", "open", "street"} <= result.keys()
    assert "city" not in result  # the call says it already
    assert all(len(ids) < 60 for ids in table.messages("result"))


def test_windows_know_what_was_said_before_them(path: Path) -> None:
    whole = next(tables(path, CODEC, max_cells=2000))
    split = list(tables(path, CODEC, max_cells=len(whole.cells()) - 1))
    assert [t.meta["id"] for t in split] == ["1_00007#0", "1_00007#2"]
    prompt = CODEC.decode(split[1].prompts["system"])
    assert "city=milpitas" in prompt and "ReserveTable(" in prompt
    for table in split:
        validate(table)
        assert len(table.cells()) < len(whole.cells())


def test_an_answer_from_a_result_of_an_earlier_window_is_left_out(path: Path) -> None:
    first = next(tables(path, CODEC, max_cells=2000))
    one = first.rows[:, AGENT.index("say")] == CODEC.special.end
    after_first_answer = int(one.argmax()) + 1
    cells = first.num_prompt_rows + int((first.rows[:after_first_answer] != -1).sum())
    split = list(tables(path, CODEC, max_cells=cells))
    assert [t.meta["id"] for t in split] == ["1_00007#0", "1_00007#2"]
    assert all("Ramona" not in t.text("say") for t in split)


def in_bursts(n: int, rng: random.Random) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(rng.randint(0, 4), n - sum(sizes)))
    return sizes


def test_arrival_is_drawn_from_the_seed(path: Path) -> None:
    one, same, other = (
        next(tables(path, CODEC, seed=seed, arrival=in_bursts, max_cells=2000))
        for seed in (1, 1, 2)
    )
    validate(one)
    assert one == same != other
    assert one.text("user") == other.text("user")


def test_limit(path: Path) -> None:
    assert list(tables(path, CODEC, limit=0)) == []


def test_values_are_found_as_words_and_as_they_are_said() -> None:
    assert find_value("2", "12 of 20") is None
    assert find_value("san jose", "In San Jose.") is not None
    assert "March 3rd" in spoken("2019-03-03") and "March 12th" in spoken("2019-03-12")
    assert "7 pm" in spoken("19:00") and "12:30 am" in spoken("00:30")


def test_an_answer_is_grounded_in_what_was_seen() -> None:
    results = [{"time": "19:00", "name": "Bird Dog"}]
    assert is_grounded("At 7 pm.", results, ['{"time":"19:00"}'])
    assert not is_grounded("At Bird Dog.", results, ['{"time":"19:00"}'])
    assert is_grounded("Goodbye.", results, [])


def test_bad_files_are_refused(path: Path) -> None:
    with pytest.raises(InputError, match="no schema"):
        next(tables(path.with_name("other.jsonl"), CODEC))
    path.write_text(json.dumps(DIALOGUE | {"services": ["Taxi_1"]}), encoding="utf-8")
    with pytest.raises(InputError, match="no service 'Taxi_1'"):
        next(tables(path, CODEC))
    path.write_text(json.dumps({"id": "1"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"sgd\.jsonl:1: not a dialogue"):
        next(tables(path, CODEC))


@pytest.mark.skipif(not REAL.exists(), reason="STRETTO_TRAIN_DATA names no unpacked training pack")
def test_real_dialogues_keep_the_rules_of_ticks() -> None:
    for table in itertools.islice(tables(REAL, CODEC, arrival=in_bursts, max_cells=1200), 40):
        validate(table)
        assert len(table.cells()) <= 1200

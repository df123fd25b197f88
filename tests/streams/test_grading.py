"""Grading: closed answers are one value, phrases count in every word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.streams.grading import final_answer, is_correct, normalise

CLOSED = ("gsm8k", "proofwriter", "pubmedqa", "needle_haystack", "chain_sum", "leg_counting")
WORDS = st.sampled_from(["true", "false", "unknown", "yes", "no", "maybe"])
NAMES = st.from_regex(r"[a-z]{2,12}", fullmatch=True)
PHRASES = st.lists(NAMES.filter(lambda w: w not in ("an", "the")), min_size=1, max_size=6)


@pytest.mark.parametrize("task", [*CLOSED, None])
@pytest.mark.parametrize(
    ("written", "gold"),
    [
        ("$1,010.00", "1010"),
        ("-7.", "-7"),
        ("4.50 dollars", "4.5"),
        ("**Yes**.", "yes"),
        ("Unknown, as nothing is said", "unknown"),
        ("John.", "john"),
        ("John, who came last", "John"),
    ],
)
def test_closed_answers(task: str | None, written: str, gold: str) -> None:
    assert is_correct(f"a step\nAnswer: {written}", gold, task=task)
    assert not is_correct(f"a step\nAnswer: {written}", f"{gold}9", task=task)
    assert not is_correct(f"Answer: {written}\nAnswer: other", gold, task=task)
    assert not is_correct(written, gold, task=task)  # a tuned model says "Answer:"


@given(st.sampled_from(CLOSED), st.integers(-(10**9), 10**9), st.sampled_from(["", ".", ".00"]))
def test_numbers_keep_their_value(task: str, number: int, tail: str) -> None:
    text = f"Answer: {number:,}{tail}"
    assert final_answer(text, task=task) == str(number)
    assert is_correct(text, str(number), task=task)
    assert not is_correct(text, str(number + 1), task=task)


@given(st.sampled_from(CLOSED), WORDS | NAMES, st.sampled_from(["", ".", "!", ", it is so"]))
def test_words_and_names_are_the_first_word(task: str, word: str, tail: str) -> None:
    assert final_answer(f"Answer: {word.title()}{tail}", task=task) == word
    assert not is_correct(f"Answer: x{word}{tail}", word, task=task)


@pytest.mark.parametrize("lead", ["", "Answer: ", "The answer is "])
def test_a_phrase_counts_in_every_word(lead: str) -> None:
    gold = "None of the above choices ."
    assert is_correct(f"{lead}none of  the above choices.", gold, task="t0")
    for wrong in ("none", "none of these", "none of the above", "none of the above choices fit"):
        assert not is_correct(lead + wrong, gold, task="t0")
        assert not is_correct(f"Answer: {wrong}", gold)  # seen from the gold answer alone
    assert is_correct(f"Answer: {gold}", gold)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("Lake Mahoe\n", "the lake mahoe"),
        ("A", "a"),
        ("- name\n\n- birth  date", "- name \n\n\n\n- birth date"),
        ("1,010.50 kg", "1010.5 kg"),
        ("It said: the answer is hidden", "it said: the answer is hidden"),
        ("Matthew 's grandma", "Matthew's grandma"),
        ("?!", "?!"),
        ("हिन्दी भाषा।", "हिन्दी भाषा"),
    ],
)
def test_equal_phrases(text: str, gold: str) -> None:
    assert is_correct(text, gold, task="t0")


@pytest.mark.parametrize(
    ("text", "gold"),
    [("-7", "7"), ("1.0.5", "1.5"), ("1.5", "15"), ("2006", "2007"), ("", "a"), ("हिन", "हिन्दी")],
)
def test_different_phrases(text: str, gold: str) -> None:
    assert not is_correct(text, gold, task="t0")


@given(PHRASES, NAMES, st.sampled_from([" ", "  ", " \n"]), st.sampled_from(["", ".", " !", '"']))
def test_phrases(words: list[str], other: str, gap: str, tail: str) -> None:
    gold = " ".join(words)
    assert is_correct(gap.join(words).upper() + tail, gold, task="t0")
    assert final_answer(gap.join(words) + tail, task="t0") == gold
    assert not is_correct(f"{gold} {other}", gold, task="t0")
    assert not is_correct(gold, f"{gold} {other}", task="t0")
    assert is_correct(f"I think {gold}, no less", gold, task="t0", lenient=True)


@given(st.text(max_size=30), st.sampled_from([*CLOSED, "t0"]))
def test_normalising_again_changes_nothing(answer: str, task: str) -> None:
    once = normalise(answer, task=task)
    if task == "t0":
        assert normalise(once, task=task) == once
    assert is_correct(f"{answer}", answer, task="t0")


def test_a_phrase_needs_no_words_before_it() -> None:
    assert final_answer("Lake Mahoe.", task="t0") == "lake mahoe"
    assert final_answer("Lake Mahoe.") is None
    assert final_answer(" ", task="t0") is None
    assert final_answer("Answer: New York") == "new york"
    assert final_answer("Answer: New York", task="needle_haystack") == "new"


def test_a_lenient_reading_of_closed_answers() -> None:
    assert final_answer("It is 3 or 12", task="gsm8k", lenient=True) == "12"
    assert is_correct("So Bob likes it", "bob", task="needle_haystack", lenient=True)
    assert not is_correct("So Bob likes it", "bob", task="needle_haystack")

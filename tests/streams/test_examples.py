"""Loaders: rows of each data set, bad files, generated splits, the items that travel along."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stretto.errors import InputError
from stretto.evals.items import find_source
from stretto.streams.causality import check
from stretto.streams.examples import GENERATED, Example, demo_items, load_examples, task_names
from stretto.streams.examples.proofwriter import derived_label
from stretto.streams.examples.t0 import split_question
from stretto.streams.grading import final_answer, is_correct

GSM8K = {
    "question": "Weng earns $12 an hour. She worked 50 minutes. How much did she earn?",
    "answer": "She earns 12/60 = $<<12/60=0.2>>0.2.\n0.2 x 50 = $<<0.2*50=10>>10.\n#### 1,010",
}
PUBMEDQA = {
    "id": "7",
    "QUESTION": "Does tea help sleep?",
    "CONTEXTS": ["We asked 40 people. Tea was drunk.", "Sleep with tea was longer."],
    "final_decision": "maybe",
    "LONG_ANSWER": "SECRET",
}
T0 = {"prompt": "Read this. It is red.\nWhich colour?\n", "completion": "red<|endoftext|>"}
RULES = (
    "The cat sees the dog. Anne is cold. Anne is not kind. All cold things are rough. "
    "If someone is rough and they are not kind then they see the dog. "
    "Rough, cold people are not big."
)


def proofwriter(statement: str, answer: str) -> dict[str, str]:
    question = f"Is the following statement true, false, or unknown? {statement}"
    return {"id": "p", "context": RULES, "question": question, "answer": answer}


def load(tmp_path: Path, task: str, *rows: dict) -> list[Example]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_examples(task, path)


def test_gsm8k(tmp_path: Path) -> None:
    (item,) = load(tmp_path, "gsm8k", GSM8K)
    assert item.chunks == (
        "How much did she earn?", " Weng earns $12 an hour.", " She worked 50 minutes.",
    )  # fmt: skip
    assert item.steps == ("She earns 12/60 = $0.2.\n", "0.2 x 50 = $10.\n", "Answer: 1010")
    assert item.answer == "1010"


def test_pubmedqa_notes_use_only_their_part(tmp_path: Path) -> None:
    (item,) = load(tmp_path, "pubmedqa", PUBMEDQA)
    assert item.chunks[0] == "Does tea help sleep?"
    assert item.steps == ("Tea was drunk\n", "Sleep with tea was longer\n", "Answer: maybe")
    assert item.needs == (2, 3, 3)
    (other,) = load(tmp_path, "pubmedqa", PUBMEDQA | {"LONG_ANSWER": "Tea asked 40"})
    assert other == item


def test_t0(tmp_path: Path) -> None:
    long = T0 | {"prompt": "word " * 500}
    (item,) = load(tmp_path, "t0", T0, long)
    assert item.chunks == ("Which colour?", " Read this.", " It is red.")
    assert (item.steps, item.needs) == (("red",), (3,))


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Use the text.\nQuestion: Who came?\nContext: Bob came. Why?\nAnswer:\n",
         "Question: Who came?"),
        ("Process:\n- rain\nQuestion:\nsuppose it rains, then what.\n- A: more\n- B: less",
         "Question: suppose it rains, then what."),
        ("It is red. Which colour is it?\n\nPossible answers: red, blue", "Which colour is it?"),
        ("It is red.\nWhich  is it?\nA. red\nB. blue\n", "Which is it?"),
        ("It is red.\nAnswer this:\nWhich is it?\nAnswer:", "Answer this: Which is it?"),
        ('It is. Given "Is it?", is "no" right?', 'Given "Is it?", is "no" right?'),
        ("It is. Question: It was. True or False?", "True or False?"),
    ],
)  # fmt: skip
def test_t0_question_comes_first(tmp_path: Path, prompt: str, question: str) -> None:
    (item,) = load(tmp_path, "t0", T0 | {"prompt": prompt})
    assert item.chunks[0] == question
    assert sorted("".join(item.chunks).split()) == sorted(prompt.split())
    assert item.needs == (len(item.chunks),)


@pytest.mark.parametrize(
    "prompt",
    [
        "Which colour? It is red.",  # stands first
        "Is it red? It is. Is it blue?",  # two
        'Ask something about "It is red. Is it?"',  # quoted
        'Ask something about "It is red. All of it."?',
        "Question: Who? Question 2: Why?\nQuestion: What?",
        "Think.\nQuestion:",
        "Is the answer red, given that\nit is blue?",  # begins on the line before
        "It was made by Warner Bros. Television in which year?",
        "It is red.\nName the colour.",
        "- red\n- blue\n",
    ],
)
def test_t0_keeps_its_order_where_no_question_can_be_told(tmp_path: Path, prompt: str) -> None:
    (item,) = load(tmp_path, "t0", T0 | {"prompt": prompt})
    assert "".join(item.chunks) == " ".join(prompt.split())


@given(st.lists(st.sampled_from(["Is it?", "It is.", "Question:", "A. red", '"', "\n", "x"])))
def test_t0_loses_no_word(words: list[str]) -> None:
    prompt = " ".join(words)
    assert sorted(" ".join(split_question(prompt)).split()) == sorted(prompt.split())


def test_proofwriter_proof_in_order_of_arrival(tmp_path: Path) -> None:
    (item,) = load(tmp_path, "proofwriter", proofwriter("Anne sees the dog.", "A"))
    assert item.steps == (
        "Anne is cold.\n", "Anne is not kind.\n", "So Anne is rough.\n", "So Anne sees the dog.\n",
        "Answer: true",
    )  # fmt: skip
    assert item.needs == (3, 4, 5, 6, 7)


@pytest.mark.parametrize(
    ("statement", "label"),
    [
        ("Anne is rough.", "true"),
        ("Anne is not rough.", "false"),
        ("Anne is big.", "false"),
        ("The cat is big.", "unknown"),
        ("The cat is not kind.", "unknown"),
    ],
)
def test_proofwriter_open_world(statement: str, label: str) -> None:
    assert derived_label(proofwriter(statement, "A")) == label


def test_proofwriter_without_a_proof_keeps_the_label(tmp_path: Path) -> None:
    (item,) = load(tmp_path, "proofwriter", proofwriter("Anne is big.", "A"))
    assert item.steps == ("Answer: true",)


@pytest.mark.parametrize("task", ["gsm8k", "proofwriter", "pubmedqa", "t0"])
@pytest.mark.parametrize("line", ["{}", '{"question": 3, "QUESTION": 3, "prompt": 3}'])
def test_bad_row_names_file_and_line(tmp_path: Path, task: str, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 2"):
        load_examples(task, path)


@pytest.mark.parametrize("content", ["{", "[1]", "\ufeff{"])
def test_not_json_lines(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(GSM8K)}\n{content}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.jsonl"):
        load_examples("gsm8k", path)


def test_refusals(tmp_path: Path) -> None:
    for arguments in [
        ("poems", None),
        ("gsm8k", None),
        ("gsm8k", tmp_path / "no"),
        ("t0", tmp_path),
    ]:
        with pytest.raises(InputError):
            load_examples(*arguments)
    with pytest.raises(InputError, match="limit"):
        load_examples("chain_sum")
    with pytest.raises(InputError, match="split"):
        load_examples("chain_sum", limit=1, split="test")


@pytest.mark.parametrize("task", GENERATED)
def test_generated_families(task: str) -> None:
    pytest.importorskip("reasoning_gym")
    train, dev = (load_examples(task, limit=150, split=split) for split in ("train", "dev"))
    assert load_examples(task, limit=20, split="dev") == dev[:20]
    assert len({item.chunks for item in train}) == len(train) == len(dev) == 150
    assert not {"".join(i.chunks) for i in train} & {"".join(i.chunks) for i in dev}
    for item in [*train, *dev]:
        assert is_correct("".join(item.steps), item.answer)
        assert len(item.chunks) == len(item.steps) == len(item.needs)
        if task != "needle_haystack":  # the worked steps come to the generator's own answer
            assert item.steps[-2].split()[-1] == item.answer


def test_demo_items() -> None:
    items = demo_items()
    assert sorted(items) == [f"{t}-{i}" for t in ("gsm8k", "pubmedqa") for i in range(1, 5)]
    for item in items.values():
        assert item.task in task_names()
        assert is_correct("".join(item.steps), item.answer)
        assert all(step.endswith("\n") for step in item.steps[:-1])
        assert check(item, item.needs) == []


def test_derived_labels_agree() -> None:
    folder = find_source(None)
    if folder is None:
        pytest.skip("the development pack ../shared/data/dev.tar.xz is not here")
    path = folder / "proofwriter_dev.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = random.Random(0).sample(rows, 100)
    labels = {"A": "true", "B": "false", "C": "unknown"}
    agree = sum(derived_label(row) == labels[row["answer"]] for row in rows)
    assert agree >= 0.95 * len(rows)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: $1,010.00", "1010"),
        ("Answer: 3\nAnswer: 4.50", "4.5"),
        ("so the answer is **Yes**.", "yes"),
        ("Answer: -7.", "-7"),
        ("nothing", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_lenient_grading() -> None:
    assert not is_correct("It is 3 or 12", "12")
    assert is_correct("It is 3 or 12", "12.0", lenient=True)
    assert is_correct("The 3 dogs: yes", "yes", lenient=True)
    assert not is_correct("yes, or rather no", "yes", lenient=True)


def test_names_are_said_as_the_text_has_them() -> None:
    """A model can copy them; in lower case they are other tokens."""
    pytest.importorskip("reasoning_gym")
    for example in load_examples("needle_haystack", None, limit=20, split="dev"):
        name = example.steps[-1].removeprefix("Answer: ").strip()
        assert name.lower() == example.answer
        assert any(f"{name} " in chunk for chunk in example.chunks)

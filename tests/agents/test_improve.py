import asyncio
import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

pytest.importorskip("benchmarks.unsafe_fake")  # not in an installed package
from benchmarks.unsafe_fake import UnsafeFakeSession
from stretto.agents import export
from stretto.agents.feedback import Test
from stretto.agents.repair import extract, repair
from stretto.agents.scripted import ScriptedChat
from stretto.agents.selection import Sample, select
from stretto.errors import InputError
from stretto.streams import SpecialIds, StreamCodec, chat
from stretto.streams.convert import convert
from stretto.streams.shards import load_shards

RIGHT = "def f(x):\n    return x * x"
ALSO_RIGHT = "def f(x):\n    return x ** 2"
WRONG = "def f(x):\n    return x + x"
BROKEN = "def f(x):\n    return y"
TESTS = [
    Test("two", "assert f(2) == 4"),
    Test("three", "assert f(3) == 9"),
    Test("four", "assert f(4) == 16", hidden=True),
]
SAMPLES = [Sample(WRONG, -1.0), Sample(RIGHT, -3.0), Sample(BROKEN, -2.0), Sample(ALSO_RIGHT, -2.5)]


def choose(samples, by, **more):
    session = UnsafeFakeSession([])
    chosen = asyncio.run(select(samples, by, session=session, **more))
    assert session.living[0] == 1
    return chosen


def mend(*texts, **more):
    model = ScriptedChat(texts)
    session = UnsafeFakeSession([])
    told = asyncio.run(repair(model, "Square x as f(x).", TESTS, session, **more))
    return told, model


def test_by_tests():
    chosen = choose(SAMPLES, "tests", tests=TESTS)
    assert chosen.order == (3, 1, 0, 2)  # equals by log-probability
    assert chosen.grades == (0.5, 1.0, 0.0, 1.0)


def test_hidden_tests_do_not_choose():
    trap = "def f(x):\n    return x * x if x < 4 else 0"
    assert choose([Sample(trap), Sample(RIGHT)], "tests", tests=TESTS).best == 0


def test_by_majority():
    chosen = choose(SAMPLES, "majority", inputs=["f(2)", "f(3)"])
    assert chosen.grades == (1.0, 2.0, 0.0, 2.0)
    assert chosen.best == 3


def test_one_input_leaves_nothing_for_the_next():
    stateful = "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)"
    plain = "def f(x):\n    return 1"
    chosen = choose([Sample(stateful), Sample(plain)], "majority", inputs=["f(1)", "f(2)"])
    assert chosen.grades == (2.0, 2.0)


def test_by_dual_agreement():
    written = [*TESTS[:2], Test("wrong", "assert f(5) == 10")]  # a model's tests may be wrong
    chosen = choose(SAMPLES, "codet", tests=written)
    # Two samples pass the same two tests; one passes another two, alone.
    assert chosen.grades == (2.0, 4.0, 0.0, 4.0)


def test_by_verifier():
    async def verifier(sample, values):
        return {WRONG: 0.6, RIGHT: 0.4, ALSO_RIGHT: 0.4}.get(sample.code, 0.9)

    alone = choose([SAMPLES[0], SAMPLES[1], SAMPLES[3]], "verifier", verifier=verifier)
    assert alone.best == 0
    summed = choose(SAMPLES, "verifier", verifier=verifier, inputs=["f(3)"])
    assert summed.grades == pytest.approx((0.6, 0.8, 0.0, 0.8))


def test_by_logprob():
    assert choose(SAMPLES, "logprob").order == (0, 2, 3, 1)


@pytest.mark.parametrize(
    ("samples", "by", "more", "word"),
    [
        ([], "logprob", {}, "nothing to select"),
        (SAMPLES, "luck", {}, "no selection by 'luck'"),
        (SAMPLES, "tests", {"tests": TESTS[2:]}, "visible tests"),
        (SAMPLES, "majority", {}, "inputs"),
        (SAMPLES, "verifier", {}, "verifier"),
        ([Sample(RIGHT)], "logprob", {}, "has none"),
    ],
)
def test_what_is_missing_is_told(samples, by, more, word):
    with pytest.raises(InputError, match=word):
        choose(samples, by, **more)
    if by == "tests":
        with pytest.raises(InputError, match="session"):
            asyncio.run(select(samples, by, tests=TESTS))


def test_repair_shows_what_is_wrong_and_stops_when_it_is_right():
    told, model = mend(f"Here:\n```python\n{WRONG}\n```\n", RIGHT, "never asked")
    assert told.solved
    assert [a.reward for a in told.attempts] == [pytest.approx(1 / 3), 1.0]
    assert "f(3) == 9: 6 and 9" in model.asked[1][-1].content
    assert told.model == "scripted"
    assert told.scripted
    for message in told.messages:
        assert "16" not in message.content  # of the hidden test


def test_repair_gives_up_after_its_rounds():
    told, model = mend(WRONG, BROKEN, "x = = 1", RIGHT, max_repairs=2)
    assert not told.solved
    assert len(told.attempts) == 3
    assert "NameError: name 'y'" in model.asked[2][-1].content
    assert told.attempts[2].feedback.source == "syntax"


def test_hidden_tests_do_not_stop_repair_and_are_not_shown():
    trap = "def f(x):\n    return x * x if x < 4 else 0"
    told, _ = mend(trap, RIGHT)
    assert len(told.attempts) == 1
    assert not told.solved
    with pytest.raises(InputError, match="visible"):
        asyncio.run(repair(ScriptedChat([]), "", TESTS[2:], UnsafeFakeSession([])))


def test_a_bit_tells_only_that_it_is_wrong():
    _, model = mend(WRONG, RIGHT, level="bit")
    assert model.asked[1][-1].content == "That is not right. Write the whole code again."


def test_code_of_an_answer():
    assert extract("a\n```python\nx = 1\n```\nb\n```\ny = 2\n```") == "x = 1\n\ny = 2\n"
    assert extract("x = 1") == "x = 1"


def byte_codec():
    """A token a byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([""], trainer)
    return StreamCodec(tokenizer.to_str(), SpecialIds.after(256), name="bytes")


@pytest.fixture
def trajectories():
    return [mend(WRONG, RIGHT)[0], mend(WRONG, WRONG, WRONG)[0]]


def test_supervised(trajectories):
    (item,) = export.supervised(trajectories)
    assert [m["role"] for m in item["messages"]] == ["system", "user", "assistant"]
    assert item["messages"][-1]["content"] == RIGHT
    (item,) = export.supervised(trajectories, whole=True)
    assert len(item["messages"]) == 5
    assert len(list(export.supervised(trajectories, least=0.3))) == 2
    with pytest.raises(InputError, match="0 to 1"):
        list(export.supervised(trajectories, least=2))


def test_preference(trajectories):
    (item,) = export.preference(trajectories)  # the same answer twice makes no pair
    assert item["chosen"][0]["content"] == RIGHT
    assert item["rejected"][0]["content"] == WRONG
    assert item["margin"] == pytest.approx(2 / 3)


def test_reward(trajectories):
    items = list(export.reward(trajectories))
    assert [item["reward"] for item in items] == pytest.approx([1 / 3, 1.0, 1 / 3, 1 / 3, 1 / 3])
    assert all(item["completion"][0]["role"] == "assistant" for item in items)
    assert len(items[1]["prompt"]) == 4


def test_what_is_written_is_what_stretto_reads(trajectories, tmp_path):
    codec = byte_codec()
    conversations = list(export.supervised(trajectories))
    path = tmp_path / "good.jsonl"
    assert export.write_jsonl(path, conversations) == 1
    (table,) = convert("chat", path, codec)
    assert chat.to_messages(table) == conversations[0]["messages"]
    assert export.write_shards(tmp_path / "shards", conversations, codec) == 1
    shards = load_shards(tmp_path / "shards")
    assert shards.table(0, codec).text("say") == table.text("say")
    with pytest.raises(InputError, match="lower"):
        export.write_shards(tmp_path / "none", [], codec)
    export.write_jsonl(path, export.reward(trajectories))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5

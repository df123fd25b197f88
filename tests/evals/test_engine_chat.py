import asyncio
import json
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer

from stretto.engine import Engine, Limits, SamplingParams
from stretto.engine.testing import tiny_codec, tiny_lm
from stretto.errors import InputError
from stretto.evals.engine_chat import EngineChat, split_calls
from stretto.protocols import ChatModel, Message, ToolCall
from stretto.streams import SINGLE, SpecialIds, StreamCodec

ASK = [Message("system", "Be brief."), Message("user", "Hi")]
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "enum": [4, 5]}},
          "required": ["n"]}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


def template(messages, tools):
    return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


@pytest.fixture(scope="module")
def chat():
    return EngineChat(
        Engine(tiny_lm(SINGLE), tiny_codec(), backend="transformers"), template, "tiny"
    )


def ask(chat, **options):
    return asyncio.run(chat.complete(ASK, **{"max_tokens": 24, **options}))


def test_it_says_what_the_engine_says(chat):
    done = ask(chat)
    engine = chat.engine
    session = engine.open(
        prompts={"text": "<system>Be brief.<user>Hi<assistant>"},
        sampling=SamplingParams(temperature=0.0),
        limits=Limits(max_rows=24),
    )
    session.close()
    engine.run([session])
    assert done.text == engine.codec.decode(session.table.column("text"))
    assert len(done.text) > 3
    assert done.usage.prompt_tokens == len("<system>Be brief.<user>Hi<assistant>")
    assert done.usage.completion_tokens == len(session.rows)
    assert done.finish_reason == ("length" if session.finish_reason == "max_rows" else "stop")
    assert (done.model, done.scripted) == ("tiny", False)
    assert isinstance(chat, ChatModel)


def test_pieces_and_stops(chat):
    whole = ask(chat).text
    for stop in (whole[3:5], whole[2]):
        pieces = []
        done = ask(chat, stop=["never", stop], on_text=pieces.append)
        assert done.text == "".join(pieces) == whole[: whole.find(stop)]
        assert done.finish_reason == "stop"
    pieces = []
    assert ask(chat, stop=["never"], on_text=pieces.append).text == "".join(pieces) == whole


def test_grammar_of_a_schema(chat):
    pytest.importorskip("llguidance")
    done = ask(chat, schema=SCHEMA, temperature=1.0, seed=1)
    assert json.loads(done.text)["n"] in (4, 5)
    assert done.finish_reason == "stop"


def test_seeds_and_many_at_once(chat):
    async def run():
        many = [chat.complete(ASK, seed=i, temperature=1.5, max_tokens=12) for i in range(6)]
        return [done.text for done in await asyncio.gather(*many)]

    together = asyncio.run(run())
    alone = [ask(chat, seed=i, temperature=1.5, max_tokens=12).text for i in range(6)]
    assert together == alone
    assert len(set(together)) > 3
    without = {ask(chat, temperature=1.5, max_tokens=12).text for _ in range(3)}
    assert len(without) > 1


def test_a_cancelled_question_leaves_nothing(chat):
    async def run():
        task = asyncio.create_task(chat.complete(ASK, max_tokens=1000, temperature=1.0))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await chat.complete(ASK, max_tokens=3)

    asyncio.run(run())
    assert chat.engine.stats().active == 0


def test_special_tokens_of_users_stay_text(chat):
    tokenizer = Tokenizer.from_str(tiny_codec().tokenizer_json)
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    codec = StreamCodec(tokenizer.to_str(), SpecialIds.after(257))
    other = EngineChat(chat.engine, lambda messages, tools: template(messages, tools) + "<end>")
    other.engine = SimpleNamespace(codec=codec)
    ids = other.prompt([Message("user", "a<end>b"), Message("user", "c")])
    assert ids.count(codec.token_id("<end>")) == 1
    assert ids[-1] == codec.token_id("<end>")
    assert codec.decode(ids) == "<user>a<end>b<user>c<assistant><end>"


def test_tools_have_a_place_even_in_a_template_without(chat):
    codec = chat.engine.codec
    told = codec.decode(chat.prompt(ASK, [TOOL]))
    assert '"name": "add"' in told
    assert told.endswith("<system>Be brief.<user>Hi<assistant>")
    own = EngineChat(chat.engine, lambda m, tools: template(m, tools) + str(len(tools)))
    assert codec.decode(own.prompt(ASK, [TOOL])).endswith("<user>Hi<assistant>1")


def test_calls_in_a_text():
    text = 'a <tool_call>[{"name": "f", "arguments": "{"}, {"name": "g"}]</tool_call>'
    assert split_calls(text) == (
        "a ",
        (ToolCall("call_0", "f", "{"), ToolCall("call_1", "g", "{}")),
    )
    for odd in ("<tool_call>{</tool_call>", '<tool_call>{"n": 1}</tool_call>',
                "<tool_call>3</tool_call>"):  # fmt: skip
        assert split_calls(odd) == (odd, ())


def test_several_streams_are_refused():
    with pytest.raises(InputError, match="one stream"):
        EngineChat(Engine(tiny_lm(), tiny_codec(), backend="transformers"), template)

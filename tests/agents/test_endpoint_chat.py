import asyncio
import json
import pickle
import warnings

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("benchmarks.endpoint")  # not in an installed package
from benchmarks.endpoint import Endpoint
from stretto.agents import chat as chat_module
from stretto.agents.chat import Budget, EndpointChat, EndpointError, Prices
from stretto.agents.chat_errors import retry_after
from stretto.agents.scripted import ScriptedChat
from stretto.errors import ConfigError, InputError
from stretto.protocols import ChatModel, Completion, Message, ToolCall, Usage

KEY = "sk-secret-abcdef"
ASK = [Message("system", "Be brief."), Message("user", "What is 2 + 2?")]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
CALLS = {
    "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"n": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "add", "arguments": '{"n": 2'}},
    ]
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(chat_module, "_BACK_OFF", lambda state: 0.01)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be used
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def ask(endpoint, *, messages=ASK, model="m", on_text=None, **settings):
    """One completion; what is no setting of the chat is an argument of the question."""
    wanted = ("tools", "schema", "seed", "stop", "max_tokens", "temperature")
    question = {key: settings.pop(key) for key in wanted if key in settings}

    async def run():
        async with EndpointChat(model, base_url=endpoint.url, api_key=KEY, **settings) as chat:
            return await chat.complete(messages, on_text=on_text, **question)

    return asyncio.run(run())


def test_answer_with_usage_and_cost():
    with Endpoint() as endpoint:
        done = ask(endpoint, prices=Prices(1e6, 2e6), seed=3, stop=["x"], max_tokens=9,
                   temperature=0.0)  # fmt: skip
    assert (done.text, done.finish_reason, done.model) == ("The answer is 4.", "stop", "m-mock")
    assert done.usage == Usage(7, 4, 7 + 8)
    assert not done.scripted
    assert not done.cached
    asked = endpoint.asked[0]
    assert asked["messages"] == [{"role": m.role, "content": m.content} for m in ASK]
    assert (asked["seed"], asked["stop"], asked["max_tokens"]) == (3, ["x"], 9)
    assert asked["temperature"] == 0.0
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert isinstance(EndpointChat("m", base_url=endpoint.url), ChatModel)


def test_what_is_not_given_is_not_sent():
    with Endpoint() as endpoint:
        ask(endpoint, extra={"top_p": 0.5})
    assert set(endpoint.asked[0]) == {"model", "messages", "top_p"}


def test_streaming_gives_pieces():
    pieces = []
    with Endpoint() as endpoint:
        done = ask(endpoint, on_text=pieces.append)
    assert "".join(pieces) == done.text == "The answer is 4."
    assert len(pieces) > 3
    assert done.usage == Usage(7, 4)


@pytest.mark.parametrize("on_text", [None, lambda text: None])
def test_tool_calls(on_text):
    messages = [
        *ASK,
        Message("assistant", "", (ToolCall("c", "add", '{"n": 0}'),)),
        Message("tool", "0", tool_call_id="c"),
    ]
    with Endpoint(answer=lambda body: CALLS) as endpoint:
        done = ask(endpoint, messages=messages, tools=[TOOL], on_text=on_text)
    assert done.tool_calls == (ToolCall("a", "add", '{"n": 1}'), ToolCall("b", "add", '{"n": 2'))
    assert done.finish_reason == "tool_calls"
    assert done.text == ""
    sent = endpoint.asked[0]
    assert sent["tools"] == [TOOL]
    assert sent["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"n": 0}'
    assert sent["messages"][2]["content"] is None
    assert sent["messages"][3]["tool_call_id"] == "c"


def test_schema_and_logprobs():
    with Endpoint() as endpoint:
        done = ask(endpoint, schema=SCHEMA, logprobs=True)
    assert json.loads(done.text) == {"n": 0}
    assert done.logprob == -1.0
    form = endpoint.asked[0]["response_format"]["json_schema"]
    assert form == {"name": "answer", "schema": SCHEMA, "strict": True}


def test_open_schema_is_not_strict():
    with Endpoint() as endpoint:
        ask(endpoint, schema={**SCHEMA, "required": []})
    assert endpoint.asked[0]["response_format"]["json_schema"]["strict"] is False


@pytest.mark.parametrize(("forms", "tries"), [(("json_object",), 2), ((), 3)])
def test_endpoint_without_schemas_is_probed_once(forms, tries):
    async def run():
        async with EndpointChat("m", base_url=endpoint.url) as chat:
            with pytest.warns(UserWarning, match="schema"):
                await chat.complete(ASK, schema=SCHEMA)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                await chat.complete(ASK, schema={"type": "integer"})

    with Endpoint(forms=forms) as endpoint:
        asyncio.run(run())
    assert len(endpoint.asked) == tries + 1
    last = endpoint.asked[-1]
    assert last.get("response_format") == ({"type": "json_object"} if forms else None)
    assert '{"type": "integer"}' in last["messages"][-1]["content"]


def test_parameters_an_endpoint_lacks():
    with Endpoint(refuses=("max_tokens", "seed")) as endpoint, pytest.warns(UserWarning) as told:
        done = ask(endpoint, max_tokens=5, seed=1)
    assert done.text
    assert endpoint.asked[-1]["max_completion_tokens"] == 5
    assert "seed" not in endpoint.asked[-1]
    assert len(told) == 2


def test_a_refusal_for_another_reason_changes_nothing():
    async def run():
        async with EndpointChat("m", base_url=endpoint.url) as chat:
            with pytest.raises(EndpointError, match="Maximum context length"):
                await chat.complete(ASK, schema=SCHEMA)
            await chat.complete(ASK, schema=SCHEMA)

    with Endpoint(fails=["context"] * 3) as endpoint:
        asyncio.run(run())
    assert endpoint.asked[-1]["response_format"]["type"] == "json_schema"


def test_a_schema_that_is_refused_says_nothing_about_others():
    async def run():
        async with EndpointChat("m", base_url=endpoint.url) as chat:
            with pytest.warns(UserWarning, match="schema"):
                await chat.complete(ASK, schema=SCHEMA)
            await chat.complete(ASK, schema=SCHEMA)
            await chat.complete(ASK, schema={"type": "integer"})

    with Endpoint(fails=["schema"]) as endpoint:
        asyncio.run(run())
    forms = [asked["response_format"]["type"] for asked in endpoint.asked]
    assert forms == ["json_schema", "json_object", "json_object", "json_schema"]


@pytest.mark.parametrize("failure", ["429", "500", "503", "drop", "bad_json", "html", "error_200"])
def test_passing_failures_are_tried_again(failure):
    with Endpoint(fails=[failure, failure, ""]) as endpoint:
        assert ask(endpoint).text == "The answer is 4."
    assert len(endpoint.asked) == 3


def test_retries_end():
    with Endpoint(fails=["500"] * 5) as endpoint, pytest.raises(EndpointError, match="3 tries"):
        ask(endpoint, retries=2)
    assert len(endpoint.asked) == 3


def test_silence_is_a_timeout():
    with Endpoint(fails=["hang", ""]) as endpoint:
        assert ask(endpoint, timeout=0.3).text
        assert len(endpoint.asked) == 2
    with Endpoint(fails=["hang"]) as endpoint, pytest.raises(EndpointError, match="without a word"):
        ask(endpoint, timeout=0.2, retries=0)


def test_nobody_there():
    class Nowhere:
        url = "http://127.0.0.1:9/v1"

    with pytest.raises(EndpointError, match="is it running"):
        ask(Nowhere, retries=1)


def test_retry_after_holds_back_everybody():
    async def run():
        loop = asyncio.get_running_loop()
        async with EndpointChat("m", base_url=endpoint.url) as chat:
            start = loop.time()
            first = asyncio.create_task(chat.complete(ASK))
            while not endpoint.asked or endpoint.fails:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # until the refusal has come back
            await chat.complete(ASK)
            assert loop.time() - start >= 0.8
            await first

    with Endpoint(fails=["429"], retry_after="0.8") as endpoint:
        asyncio.run(run())
    assert len(endpoint.asked) == 3


def test_retry_after_is_a_number_or_a_date():
    assert retry_after({"retry-after": "2"}) == 2.0
    assert retry_after({"retry-after-ms": "1500"}) == 1.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_what_no_patience_mends_fails_at_once():
    with Endpoint(fails=["quota"]) as endpoint, pytest.raises(EndpointError, match="quota"):
        ask(endpoint)
    assert len(endpoint.asked) == 1
    with (
        Endpoint(fails=["429"], retry_after="86400") as endpoint,
        pytest.raises(EndpointError, match="86400"),
    ):
        ask(endpoint)


@pytest.mark.parametrize("on_text", [None, lambda text: None])
@pytest.mark.parametrize(
    ("failure", "finish", "text"),
    [
        ("empty", "stop", ""),
        ("refusal", "refusal", "I will not."),
        ("filter", "content_filter", ""),
        ("filter_error", "content_filter", ""),
    ],
)
def test_outcomes_that_are_no_errors(failure, finish, text, on_text):
    with Endpoint(fails=[failure]) as endpoint:
        done = ask(endpoint, on_text=on_text)
    assert (done.text, done.finish_reason) == (text, finish)
    assert len(endpoint.asked) == 1


def test_no_choice_is_an_empty_answer():
    with Endpoint(fails=["nothing"]) as endpoint:
        assert ask(endpoint).text == ""


def test_cut_stream_goes_on_where_it_was():
    pieces = []
    with Endpoint(fails=["cut", "cut"]) as endpoint:
        done = ask(endpoint, on_text=pieces.append)
    assert "".join(pieces) == done.text == "The answer is 4."
    assert len(endpoint.asked) == 3


def test_cut_stream_that_goes_on_otherwise():
    answers = iter(["The answer is 4.", "No, it is something else."])
    with (
        Endpoint(answer=lambda body: next(answers), fails=["cut"]) as endpoint,
        pytest.raises(EndpointError, match="otherwise"),
    ):
        ask(endpoint, on_text=lambda text: None)


def test_what_on_text_raises_comes_through():
    def stop(text):
        raise json.JSONDecodeError("mine", "", 0)

    with Endpoint() as endpoint, pytest.raises(json.JSONDecodeError, match="mine"):
        ask(endpoint, on_text=stop)
    assert len(endpoint.asked) == 1


def test_key_is_never_told(tmp_path, caplog):
    caplog.set_level("DEBUG")
    cache = tmp_path / "cache.jsonl"
    with Endpoint(fails=["401", ""]) as endpoint:
        with pytest.raises(EndpointError, match=r"Incorrect API key provided: \[key\]") as told:
            ask(endpoint)
        assert KEY not in str(told.value)
        ask(endpoint, cache=cache)
        url = endpoint.url.replace("//", f"//me:{KEY}@")
        chat = EndpointChat("m", base_url=url, api_key=KEY)
    assert KEY not in cache.read_text()
    assert KEY not in repr(chat) + str(vars(chat))
    assert KEY not in caplog.text


def test_concurrency_is_shared_by_models_of_an_endpoint():
    async def run():
        async with (
            EndpointChat("a", base_url=endpoint.url, concurrency=8) as a,
            EndpointChat("b", base_url=endpoint.url, concurrency=3) as b,
        ):
            await b.complete(ASK)
            await asyncio.gather(*(chat.complete(ASK) for chat in (a, b) for _ in range(10)))

    with Endpoint(latency=0.03) as endpoint:
        asyncio.run(run())
    assert endpoint.most == 3
    assert len(endpoint.asked) == 21


def test_a_cancelled_request_gives_its_place_back():
    async def run():
        async with EndpointChat("a", base_url=endpoint.url, concurrency=1) as chat:
            tasks = [asyncio.create_task(chat.complete(ASK)) for _ in range(6)]
            await asyncio.sleep(0.02)
            for task in tasks[:5]:
                task.cancel()
            return (await asyncio.wait_for(tasks[5], 10)).text

    with Endpoint(latency=0.1) as endpoint:
        assert asyncio.run(run())


def test_requests_per_minute(monkeypatch):
    monkeypatch.setattr("stretto.agents.chat_gate._MINUTE", 0.5)

    async def run():
        loop = asyncio.get_running_loop()
        async with EndpointChat("a", base_url=endpoint.url, requests_per_minute=4) as chat:
            start = loop.time()
            await asyncio.gather(*(chat.complete(ASK) for _ in range(9)))
            return loop.time() - start

    with Endpoint() as endpoint:
        assert asyncio.run(run()) >= 1.0


def test_one_chat_in_several_event_loops():
    with Endpoint() as endpoint:
        chat = EndpointChat("m", base_url=endpoint.url)

        async def run():
            async with chat:
                return await chat.complete(ASK)

        assert asyncio.run(run()).text == asyncio.run(run()).text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "no key"),
        ({"base_url": "127.0.0.1:80"}, "http"),
        ({"base_url": "http://x", "concurrency": 0}, "concurrency"),
        ({"base_url": "http://x", "requests_per_minute": 0}, "requests_per_minute"),
        ({"base_url": "http://x", "timeout": 0}, "timeout"),
        ({"base_url": "http://x", "budget": Budget(dollars=1.0)}, "prices"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(ConfigError, match=told):
        EndpointChat("m", **settings)


def test_client_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    chat = EndpointChat("m", base_url="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"stretto\[agents\]"):
        asyncio.run(chat.complete(ASK))


def test_endpoint_in_a_process_of_its_own():
    async def run():
        async with EndpointChat("m", base_url=endpoint.url, concurrency=100) as chat:
            return await asyncio.gather(*(chat.complete(ASK) for _ in range(100)))

    with Endpoint(latency=0.05, in_process=False) as endpoint:
        assert len(asyncio.run(run())) == 100
    pickle.dumps(Endpoint())


def test_scripted():
    model = ScriptedChat(["one two END three", Completion("x", model="gpt", logprob=-1.0)])
    pieces = []
    assert isinstance(model, ChatModel)
    assert model.scripted
    first = asyncio.run(model.complete(ASK, stop=["END"], on_text=pieces.append))
    assert first.text == "".join(pieces) == "one two "
    assert len(pieces) == 2
    second = asyncio.run(model.complete(ASK[1:]))
    assert (second.model, second.scripted, second.logprob) == ("scripted", True, -1.0)
    assert model.asked == [tuple(ASK), tuple(ASK[1:])]
    with pytest.raises(InputError, match="only 2"):
        asyncio.run(model.complete(ASK))
    with pytest.raises(InputError, match="list"):
        ScriptedChat("one")


def test_scripted_by_a_function():
    model = ScriptedChat(lambda messages: messages[-1].content.upper(), name="shouts")
    assert asyncio.run(model.complete(ASK)).text == "WHAT IS 2 + 2?"

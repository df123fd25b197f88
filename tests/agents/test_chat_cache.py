import asyncio
import multiprocessing
import time

import pytest

pytest.importorskip("openai")
pytest.importorskip("uvicorn")
pytest.importorskip("benchmarks.endpoint")  # not in an installed package
from benchmarks.endpoint import Endpoint
from stretto.agents.chat import Budget, EndpointChat, EndpointError
from stretto.agents.chat_cache import ChatCache
from stretto.agents.chat_gate import Gate
from stretto.errors import ConfigError, InputError, LimitError
from stretto.protocols import Completion, Message, Usage

KEY = "sk-secret-abcdef"
ASK = [Message("system", "Be brief."), Message("user", "What is 2 + 2?")]
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
CALL = {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{}"}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("stretto.agents.chat._BACK_OFF", lambda state: 0.01)
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


def test_cache_answers_the_same_question(tmp_path):
    cache = tmp_path / "cache.jsonl"
    pieces = []
    with Endpoint(answer=lambda body: {"tool_calls": [CALL], "content": "hm"}) as endpoint:
        first = ask(endpoint, cache=cache, seed=1, prices=(1.0, 1.0))
        again = ask(endpoint, cache=cache, seed=1, on_text=pieces.append)
        assert len(endpoint.asked) == 1
        ask(endpoint, cache=cache, seed=2)
        ask(endpoint, cache=cache, seed=1, temperature=0.5)
        ask(endpoint, cache=cache, seed=1, model="other")
        ask(endpoint, cache=cache, seed=1, extra={"top_p": 0.1})
        ask(endpoint, cache=cache, seed=1, schema=SCHEMA)
        assert len(endpoint.asked) == 6
    assert (again.cached, again.usage) == (True, Usage())
    assert (again.text, again.tool_calls) == (first.text, first.tool_calls)
    assert pieces == ["hm"]


def test_the_same_question_at_once_is_asked_once(tmp_path):
    async def run():
        async with EndpointChat("a", base_url=endpoint.url, cache=tmp_path / "c.jsonl") as chat:
            return await asyncio.gather(*(chat.complete(ASK) for _ in range(20)))

    with Endpoint(latency=0.05) as endpoint:
        done = asyncio.run(run())
    assert len(endpoint.asked) == 1
    assert sum(not each.cached for each in done) == 1


def test_failures_are_not_cached(tmp_path):
    cache = tmp_path / "c.jsonl"
    with Endpoint(fails=["404"]) as endpoint:
        with pytest.raises(EndpointError, match="model and base_url"):
            ask(endpoint, cache=cache)
        assert not ask(endpoint, cache=cache).cached


class SlowCache(ChatCache):
    """Leaves others time to get in between."""

    def _catch_up(self):
        super()._catch_up()
        time.sleep(0.001)


def _fill(path, start):
    cache = SlowCache(path)
    for number in range(start, start + 60):
        cache.put(f"key {number}", Completion(f"text {number} " * 50))


def test_cache_of_many_processes(tmp_path):
    path = tmp_path / "c.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_fill, args=(path, 30 * i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    cache = ChatCache(path)
    assert len(cache) == 150
    assert all(cache.get(f"key {i}").text == f"text {i} " * 50 for i in range(150))
    assert len(path.read_text().splitlines()) == 150


def test_cache_after_a_killed_writer(tmp_path):
    path = tmp_path / "c.jsonl"
    ChatCache(path).put("a", Completion("one"))
    whole = path.read_bytes()
    longer = whole.replace(b"one", b"two" * 100)
    for end in (1, len(longer) - 1):
        path.write_bytes(whole + longer[:end])
        cache = ChatCache(path)
        assert len(cache) == 1
        cache.put("b", Completion("three"))
        assert [ChatCache(path).get(key).text for key in "ab"] == ["one", "three"]
        assert path.read_bytes().endswith(b"\n")


def test_cache_that_is_none(tmp_path):
    with pytest.raises(InputError, match="folder"):
        ChatCache(tmp_path)
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(InputError, match="no entry"):
        ChatCache(tmp_path / "notes.txt").get("a")


def test_budget_of_requests_is_shared_and_exact():
    budget = Budget(requests=5)

    async def run():
        async with (
            EndpointChat("a", base_url=endpoint.url, budget=budget) as a,
            EndpointChat("b", base_url=endpoint.url, budget=budget) as b,
        ):
            waiting = [chat.complete(ASK) for chat in (a, b) for _ in range(5)]
            return await asyncio.gather(*waiting, return_exceptions=True)

    with Endpoint(fails=["500", "500"]) as endpoint:
        told = asyncio.run(run())
    assert sum(isinstance(each, Completion) for each in told) == 5
    assert sum(isinstance(each, LimitError) for each in told) == 5
    assert len(endpoint.asked) == 7
    assert budget.spent_requests == 5


@pytest.mark.parametrize("budget", [Budget(dollars=20.0), Budget(tokens=15)])
def test_budget_of_dollars_and_tokens(budget):
    with Endpoint() as endpoint:
        for _ in range(2):
            ask(endpoint, budget=budget, prices=(1e6, 1e6))
        with pytest.raises(LimitError, match="used up"):
            ask(endpoint, budget=budget, prices=(1e6, 1e6))
    assert len(endpoint.asked) == 2
    assert (budget.spent_dollars, budget.spent_tokens) == (22.0, 22)


def test_a_budget_holds_though_usage_is_not_told():
    budget = Budget(tokens=10)
    with Endpoint(usage=False) as endpoint:
        with pytest.warns(UserWarning, match="no usage"):
            done = ask(endpoint, budget=budget)
        with pytest.raises(LimitError):
            ask(endpoint, budget=budget)
    assert done.usage == Usage()


def test_a_cached_answer_costs_nothing(tmp_path):
    budget = Budget(requests=1)
    with Endpoint() as endpoint:
        for _ in range(3):
            ask(endpoint, budget=budget, cache=tmp_path / "c.jsonl")
    assert budget.spent_requests == 1


def test_negative_budget():
    with pytest.raises(ConfigError, match="tokens"):
        Budget(tokens=-1)


def test_a_place_at_the_gate_is_never_lost_nor_given_twice():
    async def run():
        gate, at_once, release = Gate(None), [0, 0], asyncio.Event()
        gate.limit(1, None)

        async def use(wait):
            async with gate.turn():
                at_once[0] += 1
                at_once[1] = max(at_once)
                await wait()
                at_once[0] -= 1

        first = asyncio.create_task(use(release.wait))
        await asyncio.sleep(0)
        others = [asyncio.create_task(use(lambda: asyncio.sleep(0))) for _ in range(6)]
        await asyncio.sleep(0)
        others[3].cancel()  # while it stands in line
        for _ in range(5):
            await asyncio.sleep(0)
        release.set()
        await asyncio.sleep(0)
        others[0].cancel()  # its turn has come, and it does not know yet
        told = await asyncio.wait_for(
            asyncio.gather(first, *others, return_exceptions=True), timeout=5
        )
        assert sum(isinstance(each, asyncio.CancelledError) for each in told) == 2
        assert at_once == [0, 1]

    asyncio.run(run())

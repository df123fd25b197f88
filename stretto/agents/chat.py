"""Chat models behind any OpenAI-compatible endpoint, by the official client.

    >>> import asyncio
    >>> from stretto.protocols import Message
    >>> async def ask():  # doctest: +SKIP
    ...     async with EndpointChat("qwen3", base_url="http://127.0.0.1:8000/v1") as model:
    ...         return await model.complete([Message("user", "What is 2 + 2?")], seed=1)
    >>> asyncio.run(ask()).text  # doctest: +SKIP
    '4'

Nothing is taken from the environment but ``OPENAI_API_KEY`` and ``OPENAI_BASE_URL`` (and, for
OpenAI's own address, its organisation and project); proxies are used only where one is given.
"""

import asyncio
import json
import os
import warnings
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from stretto.agents import chat_wire as wire
from stretto.agents import trace
from stretto.agents.chat_cache import ChatCache
from stretto.agents.chat_errors import (
    EndpointError,
    Hidden,
    PassingError,
    RefusedError,
    retry_after,
)
from stretto.agents.chat_gate import Budget, Gate, Gates
from stretto.agents.chat_wire import Prices
from stretto.errors import ConfigError
from stretto.protocols import Completion, Message, Usage

__all__ = ["Budget", "EndpointChat", "EndpointError", "Prices"]

OPENAI = "https://api.openai.com/v1"
PATIENCE = 600.0
"""Seconds: an endpoint that asks for a longer pause is given up at once."""

_GATES = Gates()
_HINTS = {401: "; check the key", 403: "; check the key", 404: "; check model and base_url"}
_BACK_OFF = wait_random_exponential(multiplier=0.5, max=30.0)


class EndpointChat:
    """A chat model behind an endpoint; a :class:`stretto.protocols.ChatModel`.

    Models of the same endpoint and key share connections, and the strictest of their limits.

    Args:
        model: as the endpoint names it.
        base_url: up to and with ``/v1``; by default ``OPENAI_BASE_URL``, or OpenAI's own.
        api_key: by default ``OPENAI_API_KEY``; servers of one's own need none. It appears in no
            log, representation, cache or error.
        cache: file to keep answers in, or a cache that is shared. The same question with the same
            seed is answered from it; another sample needs another seed.
        concurrency: requests under way at once.
        requests_per_minute: sent at most; None: any number.
        budget: that all its models share.
        prices: without them costs are 0.
        timeout: seconds without a word from the endpoint.
        retries: after rate limits, server errors, time-outs and cut streams, with growing pauses or
            those the endpoint asks for.
        logprobs: ask for log-probabilities.
        extra: further fields of each request, such as ``{"top_p": 0.9}``.
        proxy: its address.

    Raises:
        ConfigError: a setting is out of range, or OpenAI's address without a key.
    """

    scripted = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        cache: str | Path | ChatCache | None = None,
        concurrency: int = 16,
        requests_per_minute: int | None = None,
        budget: Budget | None = None,
        prices: Prices | tuple[float, float] | None = None,
        timeout: float = 120.0,
        retries: int = 6,
        logprobs: bool = False,
        extra: Mapping[str, Any] | None = None,
        proxy: str | None = None,
    ) -> None:
        self.name = model
        url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")
        key = api_key or os.environ.get("OPENAI_API_KEY") or ""
        self._hide = Hidden(key, url)
        self._prices = prices if isinstance(prices, Prices | None) else Prices(*prices)
        self._check(model, concurrency, requests_per_minute, budget, timeout, retries)
        self._cache = cache if isinstance(cache, ChatCache | None) else ChatCache(cache)
        self._limits = concurrency, requests_per_minute
        self._budget = budget or Budget()
        self._timeout, self._retries, self._proxy = timeout, retries, proxy
        self._logprobs, self._extra = logprobs, dict(extra or {})
        self._endpoint = wire.digest([url, key, proxy])
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, Gate] = WeakKeyDictionary()
        # What the endpoint does not take: under "" of any request, otherwise of a schema's.
        self._conceded: dict[str, set[str]] = {"": set()}

    def __repr__(self) -> str:
        return f"EndpointChat({self.name!r}, base_url={self._hide.url!r})"

    @property
    def base_url(self) -> str:
        """The endpoint's address, without what is secret in it."""
        return self._hide.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections, unless another model uses them."""
        if self._gates.pop(asyncio.get_running_loop(), None) is not None:
            await _GATES.leave(self._endpoint)

    @trace.chat
    async def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Completion:
        """Answer; see :meth:`stretto.protocols.ChatModel.complete`.

        An endpoint that forces no schema is asked for it in words, after a warning: the text may
        then be anything, fences around the JSON included. An answer from a cache is given to
        ``on_text`` in one piece.

        Raises:
            EndpointError: no answer after all tries, or the request is refused.
            LimitError: the budget is used up.
            ConfigError: the extra ``agents`` is not installed.
        """
        body = wire.request(
            self.name,
            messages,
            tools=tools,
            schema=schema,
            logprobs=self._logprobs,
            seed=seed,
            stop=list(stop),
            max_tokens=max_tokens,
            temperature=temperature,
        )
        if self._cache is None:
            return await self._ask(body, on_text)
        key = wire.digest([self._hide.url, body, self._extra])
        async with self._cache.alone(key):
            if (kept := self._cache.get(key)) is not None:
                if on_text is not None and kept.text:
                    on_text(kept.text)
                return kept
            done = await self._ask(body, on_text)
            self._cache.put(key, done)
            return done

    @property
    def traced(self) -> Mapping[str, Any]:
        """What traces tell of the endpoint."""
        parts = urlsplit(self._hide.url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return {trace.PROVIDER: "openai" if self._hide.url == OPENAI else "openai_compatible",
                "server.address": parts.hostname or "", "server.port": port}  # fmt: skip

    def _check(
        self, model: str, concurrency: int, per_minute: int | None, budget: Budget | None,
        timeout: float, retries: int,
    ) -> None:  # fmt: skip
        if self._hide.address == OPENAI and not self._hide.key:
            raise ConfigError(f"model {model}: no key; set OPENAI_API_KEY, or give base_url")
        if urlsplit(self._hide.address).scheme not in ("http", "https"):
            raise ConfigError(f"base_url is {self._hide.url!r}; give http://... or https://...")
        if concurrency < 1 or (per_minute is not None and per_minute < 1):
            raise ConfigError(f"model {model}: concurrency is {concurrency}, requests_per_minute "
                              f"{per_minute}; give 1 or more")  # fmt: skip
        if timeout <= 0 or retries < 0:
            raise ConfigError(f"model {model}: timeout is {timeout}, retries {retries}; give a "
                              "timeout above 0 and 0 or more retries")  # fmt: skip
        if budget is not None and budget.dollars is not None and self._prices is None:
            raise ConfigError(f"model {model}: a budget in dollars needs prices; give prices=("
                              "prompt, completion) in dollars per million tokens")  # fmt: skip

    async def _ask(self, body: wire.Body, on_text: Callable[[str], None] | None) -> Completion:
        """Ask, with less and less of what the endpoint refuses."""
        if on_text is not None:
            body = body | {"stream": True, "stream_options": {"include_usage": True}}
        schema = wire.digest(body.get("response_format"))
        conceded = self._conceded[""] | self._conceded.get(schema, set())
        given, first = set(conceded), ""
        said = wire.Said(on_text) if on_text is not None else None
        while True:
            try:
                done = await self._try(wire.adapt(body, given), said, counts=not first)
                break
            except RefusedError as refused:
                first = first or str(refused)
                step = wire.concede(body, given, str(refused))
                if step is None:
                    self._fail(f"refuses the request: {first}")
                given.add(step)
        for step in sorted(given - conceded):
            warnings.warn(f"{self.name} at {self._hide.url} {wire.CONCESSIONS[step]}", stacklevel=2)
        # A schema that is invalid in the endpoint's eyes says nothing about others.
        place = schema if "invalid schema" in first.lower() else ""
        self._conceded.setdefault(place, set()).update(given - conceded)
        self._budget.book(self._upper_bound(done, body) if self._is_untold(done) else done.usage)
        return done

    def _is_untold(self, done: Completion) -> bool:
        """Whether a budget depends on a usage that the endpoint did not tell."""
        matters = self._budget.tokens is not None or self._budget.dollars is not None
        return matters and done.usage == Usage() and done.finish_reason != "content_filter"

    def _upper_bound(self, done: Completion, body: wire.Body) -> Usage:
        """A token has a byte at least, so that the budget holds."""
        warnings.warn(f"{self.name} at {self._hide.url} tells no usage: its budget is charged a "
                      "token a byte", stacklevel=2)  # fmt: skip
        prompt = len(str(body["messages"]).encode())
        made = len((done.text + "".join(c.arguments for c in done.tool_calls)).encode())
        return Usage(prompt, made, self._prices.cost(prompt, made, 0) if self._prices else 0.0)

    async def _try(self, body: wire.Body, said: wire.Said | None, counts: bool) -> Completion:
        """One request, as often as it takes."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._retries + 1),
            retry=retry_if_exception_type(PassingError),
            wait=_pause,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                is_first = attempt.retry_state.attempt_number == 1
                with attempt:
                    return await self._send(body, said, counts and is_first)
        except PassingError as error:
            tries = f"{self._retries + 1} tries" if self._retries else "one try"
            self._fail(f"gave no answer in {tries}: {error}; is it running, and is it too busy?")
        raise AssertionError("a try ends in an answer or an error")

    async def _send(self, body: wire.Body, said: wire.Said | None, counts: bool) -> Completion:
        openai = _openai()
        gate = self._gate()
        async with gate.turn() as client:
            self._budget.take(again=not counts)
            try:
                send = client.chat.completions
                more = {"timeout": self._timeout, "extra_body": self._extra or None}
                if said is None:
                    told = await send.with_raw_response.create(**body, **more)
                    answer = wire.parse(told.http_response.text)
                else:
                    async with await send.create(**body, **more) as stream:
                        answer = await self._listen(stream, said)
            except openai.APIStatusError as error:
                done = wire.filtered(error.code, str(error), self.name)
                return done or self._judge(error, gate)
            except openai.APITimeoutError:
                raise PassingError(f"{self._timeout:g} s without a word") from None
            except openai.APIError as error:  # no connection, or an error within a stream
                cause = error.__cause__ or error
                told = self._hide.clean(f"{type(cause).__name__}: {cause}")
                raise PassingError(told) from None
            except openai.OpenAIError as error:
                self._fail(str(error))
        return wire.completion(answer, self.name, self._prices)

    async def _listen(self, stream: Any, said: wire.Said) -> wire.Body:
        pieces = wire.Pieces()
        async for chunk in _chunks(stream):
            pieces.add(chunk)
            if not said.tell(pieces.text):
                self._fail("cut its stream and then answered otherwise: ask again")
        if not pieces.is_whole:
            raise PassingError("the stream was cut")
        return pieces.answer()

    def _judge(self, error: Any, gate: Gate) -> NoReturn:
        """What an HTTP error means."""
        status, told = error.status_code, self._hide.clean(str(error))
        if status in (400, 422):
            raise RefusedError(told) from None
        passing = status in (408, 409, 425, 429) or status >= 500
        if not passing or error.code == "insufficient_quota":
            hint = {
                401: "; check the key",
                403: "; check the key",
                404: "; check model and base_url",
            }
            self._fail(f"says {told}{hint.get(status, '')}")
        seconds = retry_after(error.response.headers)
        if seconds is not None:
            if seconds > PATIENCE:
                self._fail(f"asks for a pause of {seconds:.0f} s: {told}; come back later")
            gate.pause(seconds)
        raise PassingError(told, seconds) from None

    def _gate(self) -> Gate:
        """The endpoint's gate in this event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._gates:
            gate = _GATES.enter(self._endpoint, self._client)
            gate.limit(*self._limits)
            self._gates[loop] = gate
        return self._gates[loop]

    def _client(self) -> Any:
        openai = _openai()
        limits = httpx2.Limits()  # none: the gate keeps them
        http = openai.DefaultAsyncHttpxClient(
            trust_env=False, proxy=self._proxy, limits=limits, verify=_tls()
        )
        client = openai.AsyncOpenAI(
            api_key=self._hide.key or "none",
            base_url=self._hide.address,
            max_retries=0,
            http_client=http,
        )
        if self._hide.address != OPENAI:
            client.organization = client.project = None
        return client

    def _fail(self, told: str) -> NoReturn:
        text = " ".join(self._hide.clean(told).split())
        raise EndpointError(f"{self.name} at {self._hide.url} {text}") from None


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise ConfigError(
            "chat endpoints need the client openai; install stretto[agents]"
        ) from None
    return openai


@cache
def _tls() -> Any:
    """Certificates take 40 ms to read: once is enough."""
    return httpx2.create_ssl_context(trust_env=False)


async def _chunks(stream: Any) -> AsyncIterator[wire.Body]:
    try:
        async for chunk in stream:
            yield chunk.to_dict()
    except json.JSONDecodeError:
        raise PassingError("a piece of the stream is not JSON") from None


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    seconds = getattr(error, "seconds", None)
    return _BACK_OFF(state) if seconds is None else seconds

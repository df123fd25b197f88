"""An OpenAI-compatible endpoint on this machine that behaves as badly as it is told to.

No model answers: its texts are written beforehand. For tests (in a thread, so that they see what it
was asked) and for benchmarks (in a process of its own, so that it takes no time from the client)::

    with Endpoint(latency=0.2, in_process=False) as endpoint:
        EndpointChat("mock", base_url=endpoint.url)
"""

import asyncio
import contextlib
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

FAILURES = (
    "429", "500", "503", "401", "404", "context", "hang", "drop", "cut", "empty", "nothing",
    "refusal", "filter", "filter_error", "bad_json", "html", "error_200", "quota", "schema",
)  # fmt: skip


def say_four(body: dict[str, Any]) -> str:
    """The answer to everything, or to what its schema asks."""
    form = body.get("response_format", {}).get("json_schema", {}).get("schema")
    return json.dumps(example(form)) if form else "The answer is 4."


def example(schema: dict[str, Any]) -> Any:
    """A small value that satisfies a simple schema."""
    if "const" in schema or schema.get("enum"):
        return schema["const"] if "const" in schema else schema["enum"][0]
    if schema.get("anyOf"):
        return example(schema["anyOf"][0])
    if schema.get("type") == "object":
        return {key: example(part) for key, part in schema.get("properties", {}).items()}
    if schema.get("type") == "array":
        return [example(schema.get("items", {}))] * schema.get("minItems", 0)
    least = schema.get("minimum", 0)
    return {"string": "text", "boolean": True, "null": None}.get(schema.get("type", ""), least)


@dataclass
class Endpoint:
    """See the module.

    Attributes:
        answer: text, or a whole message (a mapping), of a request's body.
        latency: seconds before an answer begins.
        fails: what goes wrong with the first requests, in order: one of FAILURES, or "" for none.
        forms: the ``response_format`` types it takes; others are refused with 400.
        refuses: fields of a request that it refuses with 400.
        retry_after: what a 429 says.
        usage: whether it tells usage.
        in_process: in a thread of this process; otherwise it is a process of its own.
        asked: bodies of all requests, in order of arrival (in a thread only).
        keys: their Authorization headers.
        most: requests under way at once, at most.
    """

    answer: Callable[[dict[str, Any]], str | dict[str, Any]] = say_four
    latency: float = 0.0
    fails: Iterable[str] = ()
    forms: tuple[str, ...] = ("json_schema", "json_object")
    refuses: tuple[str, ...] = ()
    retry_after: str = "0.05"
    usage: bool = True
    in_process: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    most: int = 0

    def __post_init__(self) -> None:
        self.fails = list(self.fails)
        self._running = 0
        self._number = count(1)
        self._server: Any = None

    @property
    def url(self) -> str:
        """As ``base_url``."""
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._port = listening.getsockname()[1]
        if self.in_process:
            self._server = _server(self)
            run = lambda: asyncio.run(self._server.serve(sockets=[listening]))  # noqa: E731
            self._worker: Any = threading.Thread(target=run, daemon=True)
        else:
            context = multiprocessing.get_context("spawn")
            self._worker = context.Process(target=_serve, args=(self, listening), daemon=True)
        self._worker.start()
        if not self.in_process:
            listening.close()
        _wait_until_up(self._port)
        return self

    def __exit__(self, *error: object) -> None:
        if self.in_process:
            self._server.should_exit = self._server.force_exit = True  # it ends by itself
        else:
            self._worker.terminate()
            self._worker.join(10)

    async def complete(self, request: Request) -> Response:
        """The one route."""
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization", ""))
        failure = self.fails.pop(0) if self.fails else ""  # type: ignore[attr-defined]
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            await asyncio.sleep(self.latency)
            return await self._respond(body, failure)
        finally:
            self._running -= 1

    async def _respond(self, body: dict[str, Any], failure: str) -> Response:
        if failure == "hang":
            await asyncio.sleep(3600)
        if failure == "drop":
            return StreamingResponse(_broken([b'{"choices": [']), media_type="application/json")
        if failure == "html":
            return PlainTextResponse("<html>gateway</html>", media_type="text/html")
        if failure == "bad_json":
            return PlainTextResponse('{"choices": [', media_type="application/json")
        if (refused := self._refusal(body, failure)) is not None:
            return refused
        message, finish = self._message(body, failure)
        if not body.get("stream"):
            return JSONResponse(self._whole(body, message, finish, failure))
        return StreamingResponse(self._stream(body, message, finish, failure),
                                 media_type="text/event-stream")  # fmt: skip

    def _refusal(self, body: dict[str, Any], failure: str) -> Response | None:
        form = body.get("response_format", {}).get("type")
        if form and form not in self.forms:
            return _error(400, f"response_format of type {form} is not supported")
        for name in self.refuses:
            if name in body:
                return _error(400, f"Unsupported parameter: '{name}' is not supported")
        told = {
            "429": (429, "Too many requests", {"retry-after": self.retry_after}),
            "quota": (429, "You exceeded your quota", {}, "insufficient_quota"),
            "500": (500, "Internal error", {}),
            "503": (503, "Busy", {}),
            "401": (401, f"Incorrect API key provided: {self.keys[-1][7:]}", {}),
            "404": (404, "The model does not exist", {}),
            "context": (400, "Maximum context length is 8 tokens", {}),
            "filter_error": (
                400,
                "Filtered by the content policy",
                {},
                "content_filter",
            ),
            "schema": (400, "Invalid schema for response_format 'answer'"),
            "error_200": (200, "Provider returned error", {}),
        }
        return _error(*told[failure]) if failure in told else None

    def _message(self, body: dict[str, Any], failure: str) -> tuple[dict[str, Any], str]:
        if failure == "empty":
            return {"role": "assistant", "content": ""}, "stop"
        if failure == "refusal":
            return {"role": "assistant", "content": None, "refusal": "I will not."}, "stop"
        if failure == "filter":
            return {"role": "assistant", "content": ""}, "content_filter"
        said = self.answer(body)
        message = said if isinstance(said, dict) else {"content": said}
        return {"role": "assistant", "content": None, **message}, "stop"

    def _whole(self, body: dict[str, Any], message: Any, finish: str, failure: str) -> Any:
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}] * 2}
        head = {
            "id": f"mock-{next(self._number)}",
            "object": "chat.completion",
            "created": 0,
            "model": f"{body['model']}-mock",
            "choices": [choice] if failure != "nothing" else [],
        }
        return head | self._usage(body, message)

    def _usage(self, body: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        if not self.usage:
            return {}
        asked = sum(len((m["content"] or "").split()) for m in body["messages"])
        made = len((message.get("content") or "").split())
        return {"usage": {"prompt_tokens": asked, "completion_tokens": made,
                          "total_tokens": asked + made}}  # fmt: skip

    async def _stream(self, body: dict[str, Any], message: Any, finish: str, failure: str) -> Any:
        head = {"id": f"mock-{next(self._number)}", "object": "chat.completion.chunk", "created": 0,
                "model": f"{body['model']}-mock"}  # fmt: skip

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return f"data: {json.dumps(head | {'choices': [choice]})}\n\n".encode()

        text = message.get("content") or ""
        pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        for number, piece in enumerate(pieces):
            if failure == "cut" and number >= len(pieces) // 2:
                return
            yield chunk({"content": piece})
        if message.get("refusal"):
            yield chunk({"refusal": message["refusal"]})
        for index, call in enumerate(message.get("tool_calls", ())):
            whole = call["function"]["arguments"]
            first = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            yield chunk({"tool_calls": [first]})
            for i in range(0, len(whole), 4):
                part = {"index": index, "function": {"arguments": whole[i : i + 4]}}
                yield chunk({"tool_calls": [part]})
        yield chunk({}, finish)
        if body.get("stream_options", {}).get("include_usage"):
            told = head | {"choices": []} | self._usage(body, message)
            yield f"data: {json.dumps(told)}\n\n".encode()
        yield b"data: [DONE]\n\n"


def _error(status: int, text: str, headers: Any = None, code: str | None = None) -> Response:
    body = {"error": {"message": text, "type": "mock", "param": None, "code": code}}
    return JSONResponse(body, status_code=status, headers=headers)


async def _broken(parts: list[bytes]) -> Any:
    for part in parts:
        yield part
    await asyncio.sleep(0.01)
    raise ConnectionResetError("as told")


def _server(endpoint: Endpoint) -> uvicorn.Server:
    app = Starlette(routes=[Route("/v1/chat/completions", endpoint.complete, methods=["POST"])])
    return uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", backlog=2048))


def _serve(endpoint: Endpoint, listening: socket.socket) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_server(endpoint).serve(sockets=[listening]))


def _wait_until_up(port: int, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0) as s:
            s.sendall(b"GET / HTTP/1.0\r\n\r\n")
            s.settimeout(seconds)
            if s.recv(1):
                return
        time.sleep(0.02)
    raise TimeoutError("the endpoint did not start")

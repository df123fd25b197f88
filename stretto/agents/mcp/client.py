"""Tools of MCP servers as our tools, which code actions call like any other.

What a server says of itself is believed only where it is trusted: otherwise its tools count as
writing, and whoever has read what they gave as tainted. Stricter hints are believed of anybody.
"""

import asyncio
import base64
import os
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import httpx2
from mcp import Client, MCPError, StdioServerParameters, types
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    KNOWN_PROTOCOL_VERSIONS,
    MODERN_PROTOCOL_VERSIONS,
)

from stretto.agents.broker import CallError
from stretto.agents.chat_errors import EndpointError
from stretto.agents.refs import KEY
from stretto.agents.registry import Registry
from stretto.agents.schemas import Schema
from stretto.agents.tool import Effect, Tool
from stretto.errors import ConfigError

PAGES = 100  # of a server's list of tools
DOC = 2000  # characters of a description that are shown
RELISTEN = 1.0  # seconds until a lost subscription is asked for again


class Media:
    """An image or a sound that a tool gave: it stays on the host, code has a reference.

    Attributes:
        mime_type: as ``image/png``.
        data: the file's bytes.
    """

    def __init__(self, mime_type: str, data: bytes) -> None:
        self.mime_type, self.data = mime_type, data

    def __stretto_summary__(self) -> str:
        return f"{self.mime_type}, {len(self.data)} bytes"


class McpTools:
    """The tools of a connected server, as they are now.

    Attributes:
        revision: of the protocol that is spoken.
        name: of the server, as it calls itself.
    """

    def __init__(
        self, client: Client, registry: Registry | None, *, trusted: bool, prefix: str,
        timeout: float,
    ) -> None:  # fmt: skip
        self.revision = client.protocol_version
        self.name = client.server_info.name if client.server_info is not None else "MCP server"
        self._client, self._registry = client, registry
        self._trusted, self._prefix, self._timeout = trusted, prefix, timeout
        self._tools: dict[str, tuple[types.Tool, Tool]] = {}  # by the server's name
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[Tool]:
        return iter([tool for _, tool in self._tools.values()])

    def __len__(self) -> int:
        return len(self._tools)

    async def refresh(self) -> None:
        """Ask which tools there are; the registry follows.

        Raises:
            ConfigError: a name is taken in the registry.
        """
        offered = {tool.name: tool for tool in await self._list()}
        for name, (known, tool) in list(self._tools.items()):
            if offered.get(name) != known:
                del self._tools[name]
                self._drop(tool)
        for name, found in offered.items():
            if name not in self._tools and (tool := self._tool(found)) is not None:
                if self._registry is not None:
                    self._registry.add(tool)
                self._tools[name] = found, tool

    def changed(self) -> None:
        """The server said that its tools are others now."""
        self._changed.set()

    async def follow(self) -> None:
        """Refresh whenever the tools have changed, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self.refresh()
            except (ConfigError, MCPError) as error:
                warnings.warn(f"{self.name}: its changed tools are not all here: {error}",
                              stacklevel=1)  # fmt: skip

    async def listen(self) -> None:
        """Hear of changes, for ever; before 2026-07-28 they come without being asked for."""
        while True:
            with suppress(SubscriptionLost):
                try:
                    async with self._client.listen(tools_list_changed=True) as news:
                        self.changed()  # what happened before
                        async for _ in news:
                            self.changed()
                except (ListenNotSupportedError, MCPError):
                    return  # a server whose tools stay as they are
            await asyncio.sleep(RELISTEN)

    def drop_all(self) -> None:
        """Take the tools out of the registry."""
        for _, tool in self._tools.values():
            self._drop(tool)
        self._tools = {}

    def _drop(self, tool: Tool) -> None:
        if self._registry is not None and any(each is tool for each in self._registry):
            self._registry.remove(tool.name)

    async def _list(self) -> list[types.Tool]:
        found: list[types.Tool] = []
        cursor = None
        for _ in range(PAGES):
            page = await self._client.list_tools(cursor=cursor, cache_mode="bypass")
            found += page.tools
            cursor = page.next_cursor
            if not cursor:
                break
        return found

    def _tool(self, found: types.Tool) -> Tool | None:
        hints = found.annotations or types.ToolAnnotations()

        async def call(**arguments: Any) -> Any:
            return _value(await self._client.call_tool(found.name, arguments))

        try:
            return Tool.from_schema(
                self._prefix + found.name,
                " ".join((found.description or found.title or "").split())[:DOC] or found.name,
                _object(found.input_schema),
                call,
                effect=_effect(hints, self._trusted),
                timeout=self._timeout,
                untrusted=not self._trusted or hints.open_world_hint is not False,
            )
        except (ConfigError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            told = " ".join(str(error).split())
            warnings.warn(f"{self.name}: tool {found.name} is left out, its schema cannot be read "
                          f"({told})", stacklevel=1)  # fmt: skip
            return None


@asynccontextmanager
async def mcp_tools(
    server: Any,
    registry: Registry | None = None,
    *,
    trusted: bool = False,
    prefix: str = "",
    timeout: float = 60.0,
    revision: str = "auto",
    headers: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
) -> AsyncIterator[McpTools]:
    """Connect to a server; its tools are there within the block.

    With a registry they are added to it, follow the server's changes, and leave it at the end::

        async with mcp_tools(["python", "-m", "their_server"], registry):
            ...

    Args:
        server: a URL (streamable HTTP), a command (a list; standard input and output), or a server
            or transport of the SDK.
        registry: takes the tools in.
        trusted: believe the server's hints: read-only tools count as ``read``, tools of a closed
            world taint nobody.
        prefix: of the tools' names.
        timeout: seconds a call may take.
        revision: of the protocol: ``auto``, ``2026-07-28``, or an earlier one, which is offered by
            handshake.
        headers: of each HTTP request, such as an authorisation.
        env: of the command, besides what the SDK passes on (no keys).
        cwd: of the command.

    Raises:
        EndpointError: the server cannot be reached.
        ConfigError: a name is taken in the registry, or the revision is unknown.
    """
    if revision not in ("auto", *KNOWN_PROTOCOL_VERSIONS):
        told = ", ".join(KNOWN_PROTOCOL_VERSIONS)
        raise ConfigError(f"MCP revision is {revision!r}; give auto, {told}")
    options = {"trusted": trusted, "prefix": prefix, "timeout": timeout}
    ready: asyncio.Future[McpTools] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()

    async def connect() -> None:
        """The whole connection: the SDK's task groups would wrap what the block raises."""
        async with AsyncExitStack() as stack:
            target = await _target(stack, server, headers, env, cwd)
            await _serve(target, revision, registry, options, ready, stop)

    connection = asyncio.create_task(connect(), name="MCP")
    try:
        await asyncio.wait([connection, ready], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            _translate(connection, server)
        tools = ready.result()
        try:
            yield tools
        finally:
            tools.drop_all()
    finally:
        stop.set()
        if not ready.done():
            connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)


async def _serve(
    target: Any, revision: str, registry: Registry | None, options: Mapping[str, Any],
    ready: "asyncio.Future[McpTools]", stop: asyncio.Event,
) -> None:  # fmt: skip
    """Be connected until told to stop."""
    tools: McpTools | None = None

    async def heard(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification) and tools is not None:
            tools.changed()

    mode = "legacy" if revision in HANDSHAKE_PROTOCOL_VERSIONS else "auto"
    async with Client(target, mode=mode, message_handler=heard) as client:
        if revision in MODERN_PROTOCOL_VERSIONS and client.protocol_version != revision:
            raise ConfigError(f"the server speaks MCP {client.protocol_version}, not {revision}")
        tools = McpTools(client, registry, **options)
        try:
            await tools.refresh()
        except BaseException:
            tools.drop_all()
            raise
        ready.set_result(tools)
        tasks = [asyncio.create_task(tools.follow()), asyncio.create_task(tools.listen())]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _translate(connection: "asyncio.Task[None]", server: Any) -> NoReturn:
    """Why there is no connection, in one line."""
    error = connection.exception()
    while isinstance(error, BaseExceptionGroup):  # what lies at the bottom
        error = error.exceptions[0]
    if isinstance(error, ConfigError):
        raise error from None
    told = " ".join(str(error).split())
    shown = " ".join(map(str, server)) if isinstance(server, list | tuple) else server
    shown = shown if isinstance(shown, str) else type(shown).__name__
    raise EndpointError(f"MCP server {shown}: cannot be reached ({told})") from None


async def _target(
    stack: AsyncExitStack, server: Any, headers: Mapping[str, str] | None,
    env: Mapping[str, str] | None, cwd: str | Path | None,
) -> Any:  # fmt: skip
    """What the SDK's client takes."""
    if isinstance(server, str):
        if not server.startswith(("http://", "https://")):
            raise ConfigError(f"MCP server is {server!r}; give a URL, or a command as a list")
        wait = httpx2.Timeout(30.0, read=300.0)  # as the SDK's own
        http = httpx2.AsyncClient(headers=dict(headers or {}), timeout=wait, trust_env=False)
        await stack.enter_async_context(http)
        return streamable_http_client(server, http_client=http)
    if isinstance(server, list | tuple):
        command, *args = [os.fspath(part) for part in server]
        return StdioServerParameters(command=command, args=args, env=dict(env or {}), cwd=cwd)
    return server


def _effect(hints: types.ToolAnnotations, trusted: bool) -> Effect:
    if trusted and hints.read_only_hint:
        return "read"
    return "irreversible" if hints.destructive_hint and not hints.read_only_hint else "write"


def _object(schema: Mapping[str, Any]) -> Schema:
    """A schema of arguments; one that says nothing takes none."""
    return {"type": "object", "properties": {}, **schema}


def _value(result: types.CallToolResult) -> Any:
    """What a tool gave: its structured value, or its contents.

    Raises:
        CallError: the tool failed.
    """
    blocks = [_block(block) for block in result.content]
    if result.is_error:
        texts = [block for block in blocks if isinstance(block, str)]
        raise CallError(" ".join(" ".join(texts).split()) or "the tool failed")
    if result.structured_content is not None:
        value = result.structured_content
        # What is no object is wrapped by servers, as revisions before 2026 ask.
        is_wrapped = isinstance(value, dict) and list(value) == ["result"]
        return _without_references(value["result"] if is_wrapped else value)
    if all(isinstance(block, str) for block in blocks):
        return "\n".join(map(str, blocks))
    return blocks[0] if len(blocks) == 1 else blocks


def _block(block: types.ContentBlock) -> Any:
    if isinstance(block, types.TextContent):
        return block.text
    if isinstance(block, types.ImageContent | types.AudioContent):
        return Media(block.mime_type, base64.b64decode(block.data))
    if isinstance(block, types.EmbeddedResource):
        resource = block.resource
        if isinstance(resource, types.TextResourceContents):
            return resource.text
        return Media(resource.mime_type or "application/octet-stream",
                     base64.b64decode(resource.blob))  # fmt: skip
    return {"uri": str(block.uri), "name": block.name}


def _without_references(value: Any) -> Any:
    """Strangers may not name objects of this host."""
    if isinstance(value, dict):
        return {f"{key}_" if key == KEY else key: _without_references(item)
                for key, item in value.items()}  # fmt: skip
    return [_without_references(item) for item in value] if isinstance(value, list) else value

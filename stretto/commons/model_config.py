"""The models of a run or sweep, as a config file says them."""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from stretto.agents.chat import Budget, EndpointChat
from stretto.agents.chat_cache import ChatCache
from stretto.errors import ConfigError
from stretto.protocols import ChatModel


@dataclass(frozen=True)
class ModelConfig:
    """A chat model.

    Attributes:
        model: as its endpoint names it; ``local:NAME``: a model on this machine.
        base_url: of the endpoint; empty: ``OPENAI_BASE_URL``, or OpenAI's own.
        key_env: environment variable that holds its key.
        concurrency: requests under way at once, in each process.
        requests_per_minute: in each process; 0: any number.
        prices: dollars per million tokens of prompts and of answers; both 0: not known.
        retries: after failures that may pass.
    """

    model: str
    base_url: str = ""
    key_env: str = "OPENAI_API_KEY"
    concurrency: int = 16
    requests_per_minute: int = 0
    prices: tuple[float, float] = (0.0, 0.0)
    retries: int = 6


# Opens the model of a name on this machine; given as "module:function" to other processes.
OpenLocal = Callable[[str], ChatModel]


async def open_models(
    stack: AsyncExitStack,
    models: Mapping[str, ModelConfig],
    *,
    cache: Path | None = None,
    budget: Budget | None = None,
    local: str = "",
) -> dict[str, ChatModel]:
    """Open models, to be closed with the stack.

    Args:
        stack: closes them.
        models: by the names that seats give.
        cache: file that keeps every paid answer.
        budget: of all of them together.
        local: ``module:function`` that opens a model on this machine by its name.

    Raises:
        ConfigError: a local model, and nothing that opens one.
    """
    kept = ChatCache(cache) if cache is not None else None
    opened: dict[str, ChatModel] = {}
    for name, one in models.items():
        if one.model.startswith("local:"):
            if not local:
                raise ConfigError(f"models.{name}: local models are not available here")
            module, _, function = local.partition(":")
            opener: OpenLocal = getattr(import_module(module), function)
            opened[name] = opener(one.model.removeprefix("local:"))
            continue
        chat = EndpointChat(
            one.model, base_url=one.base_url or None, api_key=os.environ.get(one.key_env),
            cache=kept, concurrency=one.concurrency, budget=budget, retries=one.retries,
            requests_per_minute=one.requests_per_minute or None,
            prices=one.prices if any(one.prices) else None,
        )  # fmt: skip
        opened[name] = await stack.enter_async_context(chat)
    return opened

"""An agent behind an OpenAI-compatible endpoint, with a rule for what it may do."""

import asyncio
import sys

import stock

from stretto.agents import Agent, AgentLimits, EndpointChat, Registry
from stretto.agents.broker import Call, Decision
from stretto.agents.tool import Tool


def authorise(call: Call, tool: Tool) -> Decision:
    """Reading is free; whatever changes something needs small numbers."""
    if tool.effect in ("pure", "read") or call.arguments.get("packets", 0) <= 20:
        return Decision("allow")
    return Decision("deny", "more than 20 packets need a person")


async def main(base_url: str, model: str) -> None:
    """One task, from beginning to end."""
    registry = Registry([stock.in_stock, stock.order])
    async with EndpointChat(model, base_url=base_url) as chat:
        agent = Agent(chat, registry, limits=AgentLimits(turns=5), authorise=authorise)
        async for event in agent.stream(
            "Is there enough tea for ten people? Order what is missing."
        ):
            print(event.stream, event.kind, event.data)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))

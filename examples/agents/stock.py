from typing import Annotated

from pydantic import Field

from stretto.agents import tool

STOCK = {"tea": 3, "coffee": 12, "sugar": 7}


@tool(effect="read")
def in_stock(what: Annotated[str, Field(description="what to look for")]) -> int:
    """How many packets of something are in stock."""
    return STOCK[what]


@tool(effect="write")
def order(what: str, packets: Annotated[int, Field(ge=1, le=100)]) -> str:
    """Order packets of something."""
    STOCK[what] = STOCK.get(what, 0) + packets
    return f"{packets} packets of {what} are ordered"

"""A tool's result in a sentence, by a small one-stream model that was shown two examples."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stretto.engine import Engine

MODEL = "smollm2-135m"
_EXAMPLES = """Question: How far is it from Rome to Paris?
Result: distance: 1106, unit: km
Answer: It is 1106 km from Rome to Paris.

Question: Open the door of the garage.
Result: door: garage, state: open
Answer: The door of the garage is open.

"""
_MAX_TOKENS = 48


def prompt(request: str, value: Any) -> str:
    """Two made-up examples, then the request and the result; the answer comes next."""
    found = value if isinstance(value, Mapping) else {"result": value}
    told = ", ".join(f"{key}: {item}" for key, item in found.items())
    return f"{_EXAMPLES}Question: {' '.join(request.split())}\nResult: {told}\nAnswer:"


async def phrase(
    engine: "Engine", request: str, value: Any, on_text: Callable[[str], None] = lambda _: None
) -> str:
    """One line, greedily; whether it is true of the result is not checked.

    Args:
        engine: of a base model, with one stream.
        request: what was asked.
        value: what the tool returned.
        on_text: is given pieces as they are written.
    """
    from stretto.engine import Grammar, Limits, SamplingParams

    stream = engine.streams.names[-1]
    session = engine.open(
        prompts={stream: prompt(request, value)},
        sampling=SamplingParams(grammar=Grammar.regex(r" [^\n]{1,200}\n?", pauses=False)),
        limits=Limits(max_rows=_MAX_TOKENS),
    )
    session.close()
    text = ""
    async with session:
        async for row in session:
            piece = row.text.get(stream, "")
            text += piece
            on_text(piece)
            if "\n" in piece:
                break
    return text.strip()

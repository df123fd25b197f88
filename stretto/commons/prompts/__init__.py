"""What models are told, one file a purpose; the hash of each stands in every log."""

import hashlib
from functools import lru_cache
from importlib import resources
from typing import Any

import jinja2

from stretto.errors import InputError


@lru_cache(maxsize=1)
def _sources() -> dict[str, str]:
    folder = resources.files(__name__)
    return {
        f.name.removesuffix(".md"): f.read_text(encoding="utf-8")
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".md")
    }


def hashes() -> dict[str, str]:
    """sha256 of each prompt's text, by purpose."""
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in _sources().items()}


@lru_cache(maxsize=64)
def _template(name: str) -> jinja2.Template:
    sources = _sources()
    if name not in sources:
        raise InputError(f"prompt {name!r}: there is none; there are {', '.join(sources)}")
    return _environment().from_string(sources[name])


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    # What villagers say is data: nothing in it is ever read as a template.
    return jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )  # fmt: skip


def render(purpose: str, /, **data: Any) -> str:
    """A prompt, filled in.

    Raises:
        InputError: there is no such prompt, or something it needs is missing.
    """
    try:
        return _template(purpose).render(**data).strip()
    except jinja2.UndefinedError as error:
        raise InputError(f"prompt {purpose!r}: {error}") from None

"""The compiled decoder, as ctypes sees it; the fields mirror ``src/decoder.h``."""

import ctypes
import platform
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from stretto.errors import ConfigError

FOLDER = Path(__file__).parent
ISAS = {"avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"), "avx2": ()}
"""Builds, best first, and what a processor must have besides AVX2, FMA and F16C."""
_ALWAYS = ("avx2", "fma", "f16c")


class Sizes(Structure):
    """``StrettoSizes``."""

    _fields_ = [
        *((name, c_int32) for name in (
            "layers", "hidden", "heads", "kv_heads", "head_size", "inner", "outputs", "kind",
            "strict", "window",
        )),
        ("eps", c_float),
        ("scale", c_float),
    ]  # fmt: skip


LAYER_FIELDS = (
    "norm_attention", "qkv", "qkv_bias", "norm_query", "norm_key", "out", "out_bias",
    "norm_mlp", "gate_up", "gate_up_bias", "down", "down_bias",
)  # fmt: skip


class LayerPointers(Structure):
    """``StrettoLayer``; a null pointer where a model has no such tensor."""

    _fields_ = [(name, c_void_p) for name in LAYER_FIELDS]


class Pass(Structure):
    """``StrettoPass``."""

    _fields_ = [
        *((name, c_int32) for name in ("cells", "sessions", "queries", "first_layer", "end_layer")),
        *((name, c_void_p) for name in (
            "embeds", "cos", "sin", "rows", "slots", "first", "old", "length", "line_rows",
            "blocks", "select", "logits", "hidden", "tokens", "shares",
        )),
    ]  # fmt: skip


class ExitPointers(Structure):
    """``StrettoExit``."""

    _fields_ = [
        *((name, c_int32) for name in ("size", "inner")),
        *((name, c_void_p) for name in (
            "norm_in", "gate_up", "down", "norm", "unembed", "ids",
        )),
    ]  # fmt: skip


class DraftPass(Structure):
    """``StrettoDraft``."""

    _fields_ = [
        ("first_pass", Pass),
        *((name, c_int32) for name in ("rows", "table_kind", "vocab")),
        *((name, c_void_p) for name in (
            "table", "special", "streams", "cos", "sin", "asked", "query_streams", "most",
        )),
        ("confidence", c_double),
        *((name, c_void_p) for name in ("tokens", "shares", "places", "drafted", "hidden")),
    ]  # fmt: skip


class Choice(Structure):
    """``StrettoChoice``."""

    _fields_ = [
        *((name, c_int32) for name in ("rows", "size")),
        *((name, c_void_p) for name in (
            "logits", "which", "temperature", "top_k", "top_p", "min_p", "uniforms", "tokens",
        )),
    ]  # fmt: skip


def features() -> frozenset[str]:
    """What the processor can do, in the words of Linux; empty where nobody says."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return frozenset()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def why_not(isa: str | None = None) -> str | None:
    """What keeps the library from being used here, as the end of a sentence; None if nothing."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"is written for x86-64, this is {platform.machine()}"
    if isa is None and _best() is None:
        return "needs a processor with AVX2, FMA and F16C"
    if not path(isa or _best() or "avx2").exists():
        return "was not compiled when stretto was installed: with a C++ compiler, install it again"
    return None


def path(isa: str) -> Path:
    """Where the build for a kind of processor lies."""
    return FOLDER / f"stretto_{isa}.so"


def _best() -> str | None:
    has = features()
    if not has.issuperset(_ALWAYS):
        return None
    return next(isa for isa, needs in ISAS.items() if has.issuperset(needs))


@cache
def load_library(isa: str | None = None) -> Any:
    """The library for this processor, or the build named.

    Raises:
        ConfigError: it cannot be used here.
    """
    if reason := why_not(isa):
        raise ConfigError(f"backend native {reason}")
    lib = ctypes.CDLL(str(path(isa or _best() or "avx2")))
    for name, result, arguments in (
        ("new", c_void_p, [POINTER(Sizes), c_int]),
        ("set_layer", c_int, [c_void_p, c_int, POINTER(LayerPointers)]),
        ("set_head", c_int, [c_void_p, c_void_p, c_void_p, c_void_p]),
        ("weight_bytes", c_int64, [c_void_p]),
        ("block_bytes", c_int64, [c_void_p]),
        ("set_exit", c_int, [c_void_p, c_int, POINTER(ExitPointers)]),
        ("forward", c_int, [c_void_p, POINTER(Pass)]),
        ("draft", c_int, [c_void_p, POINTER(DraftPass)]),
        ("choose", c_int, [c_void_p, c_int, POINTER(Choice)]),
        ("read_seconds", c_double, [c_void_p, c_void_p, c_int64]),
        ("delete", None, [c_void_p]),
    ):
        function = getattr(lib, f"stretto_{name}")
        function.restype, function.argtypes = result, arguments
        if result is c_int or name == "new":
            function.errcheck = _check_memory
    return lib


def _check_memory(result: Any, function: Any, arguments: Any) -> Any:
    if not result:
        raise MemoryError(f"backend native: no memory left in {function.__name__}")
    return result

"""llama.cpp by its C interface: a model, and a context that grows."""

import ctypes
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stretto.errors import CheckpointError, LimitError

# Its own types promise more than ctypes keeps, and it may be missing where types are checked.
c: Any = import_module("llama_cpp.llama_cpp")

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

FIRST_CELLS = 1024
FIRST_SEQUENCES = 32
_POSITIONS = 4
"""How many positions a token has in the architectures that are used here."""


class Context:
    """A model and its cache; both are freed with this object.

    Args:
        path: the GGUF file.
        width: how many tokens may be read at once.
        exact: keep keys and values in float32, not float16.

    Attributes:
        cells: how many tokens the cache has room for.
        sequences: how many sequences it knows; a token may belong to several.

    Raises:
        CheckpointError: the file cannot be loaded.
        LimitError: the memory for the cache is not to be had.
    """

    def __init__(self, path: Path, width: int, *, exact: bool) -> None:
        start()
        self._width, self._exact = width, exact
        self._model: Any = c.llama_model_load_from_file(
            str(path).encode(), c.llama_model_default_params()
        )
        if not self._model:
            raise CheckpointError(
                f"{path}: llama.cpp cannot load it ({_last()}); delete it to have it written anew"
            )
        self._held: list[Any] = []
        weakref.finalize(self, _free, self._model, self._held)
        self.cells, self.sequences = FIRST_CELLS, FIRST_SEQUENCES
        self._hidden = int(c.llama_model_n_embd(self._model))
        self._vocab = int(c.llama_vocab_n_tokens(c.llama_model_get_vocab(self._model)))
        self._use(self._make(self.cells, self.sequences))

    def copy(self, source: int, target: int, first: int = -1, end: int = -1) -> None:
        """Let a sequence have another's tokens from position ``first`` to before ``end`` too."""
        c.llama_memory_seq_cp(self._memory, source, target, first, end)

    def remove(self, sequence: int, first: int = -1, end: int = -1) -> None:
        """Take a sequence's tokens from it; a token without a sequence is gone."""
        c.llama_memory_seq_rm(self._memory, sequence, first, end)

    def decode(
        self, embeds: Floats, positions: Ints, owners: list[list[int]], asked: npt.NDArray
    ) -> Floats:
        """Read tokens; logits (N, V) of those that are asked.

        Args:
            embeds: (T, D).
            positions: (4, T): who sees whom, then three of which the second turns pairs.
            owners: the sequences of each token, T lists.
            asked: (T).

        Raises:
            LimitError: no room.
            RuntimeError: llama.cpp refuses the tokens.
        """
        embeds = np.ascontiguousarray(embeds, np.float32)
        positions = np.ascontiguousarray(positions, np.int32)
        counts = np.fromiter(map(len, owners), np.int32, len(owners))
        flat = np.fromiter((s for own in owners for s in own), np.int32, int(counts.sum()))
        pointers = np.zeros(len(owners) + 1, np.uintp)  # the last is null
        pointers[:-1] = flat.ctypes.data + 4 * (np.cumsum(counts) - counts)
        flags = asked.astype(np.int8)
        batch = c.llama_batch(
            n_tokens=len(owners),
            embd=_at(embeds, ctypes.c_float),
            pos=_at(positions, c.llama_pos),
            n_seq_id=_at(counts, ctypes.c_int32),
            seq_id=_at(pointers, ctypes.POINTER(c.llama_seq_id)),
            logits=_at(flags, ctypes.c_int8),
        )
        if code := c.llama_decode(self._context, batch):
            if code == 1:
                raise LimitError(f"llama.cpp: no room for {len(owners)} cells in {self.cells}")
            raise RuntimeError(f"llama_decode returned {code}: {_last()}")
        number = int(flags.sum())
        if not number:
            return np.zeros((0, self._vocab), np.float32)
        logits = c.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (number, self._vocab)).copy()

    def grow(self, cells: int, sequences: int) -> None:
        """Have room for more; what is cached stays.

        A context cannot change its size, so another takes its place and its state; for a moment
        there are both.

        Raises:
            LimitError: the memory is not to be had; all is as before.
        """
        if cells <= self.cells and sequences <= self.sequences:
            return
        cells, sequences = max(cells, self.cells), max(sequences, self.sequences)
        size = c.llama_state_get_size(self._context)
        try:
            state = (ctypes.c_uint8 * size)()
        except MemoryError:
            raise LimitError(f"llama.cpp: no memory to move a cache of {size} bytes") from None
        context = self._make(cells, sequences)
        c.llama_state_get_data(self._context, state, size)
        if c.llama_state_set_data(context, state, size) != size:
            c.llama_free(context)
            raise LimitError(f"llama.cpp: the cache could not be moved ({_last()})")
        self._use(context)
        self.cells, self.sequences = cells, sequences

    def shrink(self) -> None:
        """Give back what has grown; nothing may be cached."""
        if self.cells > FIRST_CELLS or self.sequences > FIRST_SEQUENCES:
            self._use(self._make(FIRST_CELLS, FIRST_SEQUENCES))
            self.cells, self.sequences = FIRST_CELLS, FIRST_SEQUENCES

    def _make(self, cells: int, sequences: int) -> Any:
        params = c.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, sequences
        # Fewer than there are sequences, and llama.cpp ends the process.
        params.n_batch = params.n_ubatch = max(self._width, sequences)
        params.n_threads = params.n_threads_batch = torch.get_num_threads()
        if self._exact:  # its flash attention is exact to 1e-2 only
            params.flash_attn_type = c.LLAMA_FLASH_ATTN_TYPE_DISABLED
            params.type_k = params.type_v = c.GGML_TYPE_F32
        params.kv_unified = True  # a token may belong to several sequences
        params.no_perf = True
        context = c.llama_init_from_model(self._model, params)
        if not context:
            raise LimitError(
                f"llama.cpp: no memory for {cells} cells ({_last()}); run fewer or shorter sessions"
            )
        return context

    def _use(self, context: Any) -> None:
        for old in self._held:
            c.llama_free(old)
        self._held[:] = [context]
        self._context, self._memory = context, c.llama_get_memory(context)


_messages: list[str] = []


def _last() -> str:
    """The last complaint of llama.cpp, one line."""
    return _messages[-1] if _messages else "no reason given"


@c.llama_log_callback
def _log(level: int, text: bytes, _: object) -> None:
    if level in (3, 4):  # warnings and errors
        _messages[:] = [" ".join(text.decode(errors="replace").split())]


def _free(model: Any, contexts: list[Any]) -> None:
    for context in contexts:
        c.llama_free(context)
    c.llama_model_free(model)


def start() -> None:
    """Ready the library; safe to call again."""
    # By default every layer of a model that is loaded is announced on stderr.
    c.llama_log_set(_log, ctypes.c_void_p(0))
    c.llama_backend_init()


def _at(array: npt.NDArray, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

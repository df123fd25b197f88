"""What a pass begins with: embeddings and rotary positions, looked up without torch.

Torch would wake its own threads for some of it, and these look for more work for milliseconds
afterwards, on the processors that the decoder's threads need.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Inputs:
    """Tables of a model.

    Args:
        lm: gives embeddings; they are read in place.
        decoder: gives rotary positions.
    """

    def __init__(self, lm: MultiStreamLM, decoder: FamilyDecoder) -> None:
        self._decoder, self._vocab_size = decoder, lm.vocab_size
        table = lm.base.get_input_embeddings().weight.detach().contiguous()
        if table.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            table = table.float()
        # numpy has no bfloat16.
        self._is_bfloat = table.dtype == torch.bfloat16
        self._table = (table.view(torch.uint16) if self._is_bfloat else table).numpy()
        self._special = lm.special_in.detach().float().contiguous().numpy()
        self._streams = lm.stream_embedding.detach().float().contiguous().numpy()
        self._turns: list[Floats] = [np.empty((0, decoder.head_size), np.float32)] * 2

    def embed(self, tokens: Ints, streams: Ints) -> Floats:
        """Token embedding plus stream vector (N, D)."""
        own = tokens - self._vocab_size
        found = self._table[np.minimum(tokens, self._vocab_size - 1)]
        if self._is_bfloat:
            found = (found.astype(np.uint32) << 16).view(np.float32)
        is_own = (own >= 0)[:, None]
        embeds = np.where(is_own, self._special[np.clip(own, 0, 1)], found.astype(np.float32))
        return np.ascontiguousarray(embeds + self._streams[streams])

    def rotary(self, rows: Ints) -> list[Floats]:
        """Cosines and sines (N, E) each of rows (N)."""
        return [x[rows] for x in self.turns(int(rows.max()) + 1)]

    def turns(self, rows: int) -> list[Floats]:
        """Cosines and sines of at least so many rows from the first on."""
        if rows > len(self._turns[0]):
            size = max(512, 1 << (rows - 1).bit_length())
            self._turns = [
                np.ascontiguousarray(x[0].numpy())
                for x in self._decoder.rotary(torch.arange(size)[None])
            ]
        return self._turns

    def tables(self) -> dict[str, npt.NDArray[Any]]:
        """What :meth:`embed` adds: token embeddings, those of silence and end, stream vectors."""
        names = ("table", "special", "streams")
        return dict(zip(names, (self._table, self._special, self._streams), strict=True))

    @property
    def table_kind(self) -> int:
        """What embeddings are stored in: 0 float32, 1 bfloat16, 2 float16."""
        return 1 if self._is_bfloat else 0 if self._table.dtype == np.float32 else 2

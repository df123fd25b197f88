"""What a pass begins with: embeddings and rotary positions, looked up without torch.

Torch would wake its own threads for some of it, and these look for more work for milliseconds
afterwards, on the processors that the decoder's threads need.
"""

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
        table = lm.base.get_input_embeddings().weight.detach()
        # numpy has no bfloat16.
        self._is_bfloat = table.dtype == torch.bfloat16
        self._table = (table.view(torch.uint16) if self._is_bfloat else table).numpy()
        self._special = lm.special_in.detach().float().numpy()
        self._streams = lm.stream_embedding.detach().float().numpy()
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
        if (most := int(rows.max()) + 1) > len(self._turns[0]):
            size = max(512, 1 << (most - 1).bit_length())
            self._turns = [x[0].numpy() for x in self._decoder.rotary(torch.arange(size)[None])]
        return [x[rows] for x in self._turns]

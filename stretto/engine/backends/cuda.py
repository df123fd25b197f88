"""The back end on NVIDIA GPUs: the Llama family in fixed shapes, a CUDA graph for each.

What a session's cache holds, and so every shape, is known on the host; the device is told in one
transfer a step and asked for nothing until the sampler takes the tokens.

It has never run on a GPU yet: all but the recording itself is tested on the CPU.
"""

import torch
from torch import Tensor

from stretto.engine.backends import PRECISIONS
from stretto.engine.backends.cuda_decoder import StaticDecoder
from stretto.engine.backends.cuda_passes import Bucket, Passes
from stretto.engine.backends.cuda_pool import CAPACITY, LINES, Pool
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError
from stretto.models import MultiStreamLM
from stretto.models.family import FamilyDecoder, has_dynamic_rope


class CudaBackend:
    """Cache lines at fixed addresses on the model's device, behind recorded passes.

    The matrices are held a second time, joined where they read the same.

    Args:
        lm: a model of the Llama family.
        precision: ``float32``, ``bfloat16`` or ``float16``; None is the model's own dtype.
        capture: record passes as CUDA graphs; without, it runs on any device.
        lines: sessions there is room for at first. When there are more, or one has more cells than
            fit, the cache doubles and passes are recorded anew.
        capacity: cells of a session there is room for at first.

    Attributes:
        precision: what it computes in.

    Raises:
        ConfigError: a model of another family, on a device without CUDA graphs, or an unknown
            precision.
    """

    def __init__(
        self,
        lm: MultiStreamLM,
        precision: str | None = None,
        *,
        capture: bool = True,
        lines: int = LINES,
        capacity: int = CAPACITY,
    ) -> None:
        self.precision = precision or str(lm.base.dtype).removeprefix("torch.")
        if self.precision not in PRECISIONS["cuda"]:
            known = ", ".join(PRECISIONS["cuda"])
            raise ConfigError(f"backend cuda in {self.precision}: choose from {known}")
        if capture and lm.device.type != "cuda":
            raise ConfigError(
                f"backend cuda: the model is on {lm.device}; load it with device cuda"
            )
        if has_dynamic_rope(lm):
            raise ConfigError(
                "backend cuda: the model's rotary positions depend on the longest session; take "
                "backend transformers"
            )
        decoder, dtype = FamilyDecoder(lm), getattr(torch, self.precision)
        self._decoder = StaticDecoder(decoder, dtype, lm.mask_rule)
        self._passes = Passes(self._run, lm.device, capture=capture)
        self._pool = Pool(
            decoder, dtype, lm.device, lm.special.silence, self._passes.clear,
            lines=lines, capacity=capacity,
        )  # fmt: skip

    @property
    def cell_bytes(self) -> int:
        """Bytes that one cached cell takes, keys and values of all layers."""
        return self._pool.cell_bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that live sessions hold."""
        return int(self._pool.lengths.sum()) * self.cell_bytes

    @property
    def weight_bytes(self) -> int:
        """Bytes of matrices that every pass reads."""
        return self._decoder.weight_bytes

    @torch.inference_mode()
    def open(self) -> int:
        """Give an empty cache line."""
        return self._pool.open()

    @torch.inference_mode()
    def fork(self, line: int, cells: int) -> int:
        """A new line with a copy of the first visible cells of another; both go on alone.

        Raises:
            InputError: the other has fewer.
        """
        return self._pool.fork(line, cells)

    @torch.inference_mode()
    def crop(self, line: int, cells: int) -> None:
        """Forget all but the first visible cells of a line."""
        self._pool.crop(line, cells)

    @torch.inference_mode()
    def release(self, line: int) -> None:
        """Take a line back and empty it; its memory is kept for the next."""
        self._pool.release(line)

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        """Read the cells; logits of the queries, float32 (N, V + 2). Does not wait for them."""
        places = self._pool.place(batch)
        bucket = Bucket.of(batch, places.width)
        nowhere = self._pool.number * self._pool.capacity
        logits = self._passes(bucket, bucket.pack(batch, places, nowhere))
        self._pool.keep(batch.lines, places)
        # The next pass writes its answer into the same memory.
        return logits[: len(batch.select)].to(torch.float32, copy=True)

    def _run(self, bucket: Bucket, packed: Tensor) -> Tensor:
        return self._decoder(self._pool, bucket, packed)

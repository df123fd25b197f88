"""Hidden states of a model on texts, kept on disk: what exit heads are trained on and judged by.

The model reads each sample once. At every labelled cell its states after some layers are kept,
with its last state and the token it would say greedily. A part of the samples is held out. Parts
are files of their own, so a pass that was stopped goes on.

Letters: N labelled cells, D hidden, L layers that are kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stretto.errors import InputError
from stretto.models.batch import StreamBatch
from stretto.models.wrapper import MultiStreamLM
from stretto.streams import IGNORE
from stretto.streams.packing import pack
from stretto.streams.shards import Sample

Tell = Callable[[int, int, str], None]
_PACKS_PER_FILE = 16


@dataclass(frozen=True)
class States:
    """N labelled cells of some samples.

    Attributes:
        at: states after each layer that is kept (N, D), bfloat16.
        final: last states, normed (N, D), bfloat16.
        top: what the model would say greedily (N).
        said: what was said next, which is the label (N).
        stream: in the model's inventory (N).
        sample: number of the sample (N).
        row: of the cell in its table (N).
    """

    at: dict[int, Tensor]
    final: Tensor
    top: Tensor
    said: Tensor
    stream: Tensor
    sample: Tensor
    row: Tensor

    def __len__(self) -> int:
        return len(self.top)

    def where(self, keep: Tensor) -> "States":
        """Those cells for which ``keep`` (N) is true, or that it numbers."""
        at = {layer: states[keep] for layer, states in self.at.items()}
        few = (self.final, self.top, self.said, self.stream, self.sample, self.row)
        return States(at, *(tensor[keep] for tensor in few))


def held_out(samples: Sequence[Sample], share: float, seed: int) -> np.ndarray:
    """Which samples are not trained on (bool); samples of one id go together."""
    ids = [str(sample.meta.get("id", number)) for number, sample in enumerate(samples)]
    unique = sorted(set(ids))
    order = np.random.default_rng(seed).permutation(len(unique))
    chosen = {unique[i] for i in order[: round(share * len(unique))]}
    return np.array([name in chosen for name in ids])


@torch.inference_mode()
def collect(
    lm: MultiStreamLM,
    samples: Sequence[Sample],
    folder: Path,
    layers: Sequence[int],
    *,
    max_cells: int,
    pack_cells: int = 768,
    seed: int = 0,
    tell: Tell = lambda done, total, what: None,
) -> None:
    """Read samples; keep the states of their labelled cells in ``folder``.

    Args:
        lm: the model.
        samples: longer ones than ``pack_cells`` are left out.
        folder: files that it holds already are kept.
        layers: after which states are wanted.
        max_cells: stop after about that many; which samples come first is random.
        pack_cells: cells a forward pass.
        seed: of the packing.
        tell: told how many passes of all are done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    packs = pack([len(sample.cells) for sample in samples], pack_cells, seed=seed)
    # Packing puts long samples first.
    order = np.random.default_rng(seed).permutation(len(packs))
    packs = [packs[i] for i in order[: max(2, max_cells // pack_cells)]]
    for start in range(0, len(packs), _PACKS_PER_FILE):
        path = folder / f"states-{start // _PACKS_PER_FILE:05d}.safetensors"
        if path.exists():
            continue
        group = packs[start : start + _PACKS_PER_FILE]
        parts = []
        for done, numbers in enumerate(group, start=start + 1):
            parts.append(_read(lm, [samples[i] for i in numbers], numbers, layers))
            tell(done, len(packs), "passes read")
        whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        temporary = path.with_suffix(".part")
        save_file(whole, temporary)
        temporary.replace(path)


def load_states(folder: Path) -> States:
    """All that :func:`collect` kept.

    Raises:
        InputError: nothing is there, or a file is damaged.
    """
    paths = sorted(folder.glob("states-*.safetensors"))
    if not paths:
        raise InputError(f"{folder}: no states; collect some first")
    parts = []
    for path in paths:
        try:
            parts.append(load_file(path))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it and resume") from None
    whole = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
    at = {int(k.removeprefix("exit.")): v for k, v in whole.items() if k.startswith("exit.")}
    names = ("final", "top", "said", "stream", "sample", "row")
    return States(dict(sorted(at.items())), *(whole[name] for name in names))


def _read(
    lm: MultiStreamLM, samples: list[Sample], numbers: list[int], layers: Sequence[int]
) -> dict[str, Tensor]:
    batch = StreamBatch.from_packs([[sample.cells for sample in samples]])
    assert batch.labels is not None
    asked = (batch.labels.flatten() != IGNORE).nonzero()[:, 0]
    out = lm(batch, select=asked.to(lm.device), exits=layers)

    def kept(states: Tensor) -> Tensor:
        return states.flatten(0, 1)[asked].to("cpu", torch.bfloat16)

    def cells(values: Tensor) -> Tensor:
        return values.flatten()[asked].to(torch.int32)

    found: dict[str, Any] = {f"exit.{layer}": kept(out.exits[layer]) for layer in layers}
    return found | {
        "final": kept(out.hidden),
        "top": out.logits.argmax(-1).to("cpu", torch.int32),
        "said": cells(batch.labels),
        "stream": cells(batch.streams),
        "sample": torch.tensor(numbers, dtype=torch.int32)[cells(batch.samples).long()],
        "row": cells(batch.rows),
    }

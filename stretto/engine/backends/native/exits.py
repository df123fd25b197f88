"""Early exits of the compiled decoder: plain ones, and drafts that the other layers check."""

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stretto.engine.backends.drafting import Draft
from stretto.engine.backends.native.blocks import Blocks
from stretto.engine.backends.native.inputs import Inputs
from stretto.engine.backends.native.library import DraftPass, ExitPointers
from stretto.engine.backends.native.passes import Cells, make_pass, run, starts, with_lengths
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError
from stretto.models.exits import ExitHead
from stretto.models.family import FamilyDecoder

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Drafted:
    """What is known of a session's line.

    Attributes:
        old: cells it held before the draft.
        tokens, streams: of its cells, those of the row that was not read included, visible ones
            first (T).
        places: where their hidden states are, -1 if they were not read (T).
    """

    old: int
    tokens: Ints
    streams: Ints
    places: Ints


class NativeExits:
    """Exit heads at work in a compiled decoder.

    Args:
        library, handle: the decoder.
        inputs: gives embeddings and positions.
        blocks: the lines.
        decoder: the model's sizes and matrices.
        heads: exit heads by layer.
        silence: id of silence.

    Raises:
        ConfigError: a head does not fit the model.
    """

    def __init__(
        self,
        library: Any,
        handle: int,
        inputs: Inputs,
        blocks: Blocks,
        decoder: FamilyDecoder,
        heads: dict[int, ExitHead],
        silence: int,
    ) -> None:
        self._library, self._handle = library, handle
        self._inputs, self._blocks, self._silence = inputs, blocks, silence
        self._hidden_size, self._num_layers = decoder.hidden, decoder.num_layers
        self._ids: dict[int, Ints] = {}
        for layer, head in heads.items():
            _check(head, layer, decoder)
            self._ids[layer] = _set(library, handle, layer, head, decoder.unembed.weight)
        self._hidden = np.empty((0, decoder.hidden), np.float32)

    def early(self, batch: RowBatch, layer: int, logits: Floats) -> None:
        """See :class:`~stretto.engine.backends.drafting.Drafting`; writes logits (N, V + 2)."""
        ids, cells = self._shortlist(layer), Cells.of(batch, self._silence)
        embeds = self._inputs.embed(cells.tokens, cells.streams)
        cos, sin = self._inputs.rotary(cells.rows)
        lines = with_lengths(cells.append(self._blocks, batch.lines), np.diff(cells.kept))
        found = np.empty((len(cells.select), len(ids)), np.float32)
        run(self._library, self._handle, make_pass(
            cells.rows, cells.slots(lines[:, 0]), cells.first, lines, (0, layer),
            embeds=embeds, cos=cos, sin=sin, select=cells.select, logits=found,
        ))  # fmt: skip
        logits.fill(-np.inf)
        logits[:, ids] = found

    def draft(self, batch: RowBatch, layer: int, rows: int | Ints, confidence: float) -> Draft:
        """See :class:`~stretto.engine.backends.drafting.Drafting`."""
        size, cells = len(self._shortlist(layer)), Cells.of(batch, self._silence)
        embeds = self._inputs.embed(cells.tokens, cells.streams)
        number = len(cells.select)
        sessions = np.repeat(np.arange(len(batch.lines)), np.diff(cells.first))
        asked = starts(np.bincount(sessions[cells.select], minlength=len(batch.lines)))
        most = np.broadcast_to(rows, batch.lines.shape).astype(np.int32)
        deepest = max(1, int(most.max()))
        cos, sin = self._inputs.turns(int(cells.rows.max()) + 1 + deepest)
        room = np.maximum(most - 1, 0) * np.diff(asked)
        if (needed := len(cells.rows) + int(room.sum())) > len(self._hidden):
            self._hidden = np.empty((2 * needed, self._hidden_size), np.float32)
        before = [self._blocks.length(line) for line in batch.lines.tolist()]
        try:
            lines = cells.append(self._blocks, batch.lines, spare=room)
            lines = with_lengths(lines, np.diff(cells.kept))
            made = make_pass(
                cells.rows, cells.slots(lines[:, 0]), cells.first, lines, (0, layer),
                embeds=embeds, cos=cos[cells.rows], sin=sin[cells.rows], select=cells.select,
                logits=np.empty((number, size), np.float32), tokens=np.empty(number, np.int64),
                shares=np.empty(number, np.float32),
            )  # fmt: skip
            tokens = np.empty((deepest, number), np.int64)
            shares = np.empty((deepest, number), np.float32)
            places = np.empty((deepest, number), np.int32)
            drafted = np.empty(len(lines), np.int32)
            query_streams = cells.streams[cells.select]
            arrays = {
                **self._inputs.tables(), "cos": cos, "sin": sin, "asked": asked.astype(np.int32),
                "query_streams": query_streams.astype(np.int32), "most": most, "tokens": tokens,
                "shares": shares, "places": places, "drafted": drafted, "hidden": self._hidden,
            }  # fmt: skip
            self._library.stretto_draft(self._handle, ctypes.byref(DraftPass(
                first_pass=made[0], rows=deepest, table_kind=self._inputs.table_kind,
                vocab=self._silence, confidence=confidence,
                **{name: array.ctypes.data for name, array in arrays.items()},
            )))  # fmt: skip
            known = []
            for b, line in enumerate(batch.lines.tolist()):
                session = slice(cells.first[b], cells.first[b + 1])
                where = np.s_[: drafted[b], asked[b] : asked[b + 1]]
                known.append(self._note(
                    line, before[b], cells, session,
                    tokens[where], places[where], query_streams[asked[b] : asked[b + 1]],
                ))  # fmt: skip
        except MemoryError:
            for line, length in zip(batch.lines.tolist(), before, strict=True):
                self._blocks.crop(line, length)
            raise
        spans = [np.s_[: drafted[b], asked[b] : asked[b + 1]] for b in range(len(lines))]
        return Draft(layer, [tokens[s] for s in spans], [shares[s] for s in spans], known,
                     self._hidden)  # fmt: skip

    def _note(
        self, line: int, old: int, cells: Cells, session: slice,
        tokens: Ints, places: npt.NDArray[np.int32], streams: Ints,
    ) -> _Drafted:  # fmt: skip
        """Put a session's drafted rows (R, S) behind its tick; what was read is in its line."""
        visible = tokens != self._silence
        read = visible & (places >= 0)
        start = int(cells.rows[session].max()) + 1
        self._blocks.append(line, start + np.nonzero(read)[0])
        tick = np.arange(session.start, session.stop)
        stays = cells.is_kept[session]
        streams = np.broadcast_to(streams, tokens.shape)

        def joined(tick: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return np.concatenate([tick[stays], rows[visible], tick[~stays], rows[~visible]])

        return _Drafted(
            old,
            joined(cells.tokens[session], tokens),
            joined(cells.streams[session], streams),
            joined(tick, places),
        )

    def finish(self, batch: RowBatch, draft: Draft, logits: Floats) -> None:
        """See :class:`~stretto.engine.backends.drafting.Drafting`; writes logits (N, V + 2)."""
        cells, known = Cells.of(batch, self._silence), draft.lines
        if len(known) != len(batch.lines):
            raise ValueError(f"the draft is of {len(known)} sessions, not {len(batch.lines)}")
        for name in ("tokens", "streams"):
            drafted = np.concatenate([getattr(one, name) for one in known])
            if not np.array_equal(drafted, getattr(cells, name)):
                raise ValueError(f"finish: its cells have other {name} than the draft")
        places = np.concatenate([one.places for one in known])
        old, unread = np.array([one.old for one in known]), places < 0
        read = starts(cells.is_kept & ~unread)[cells.first]
        held = [self._blocks.length(line) for line in batch.lines.tolist()]
        if not np.array_equal(held, old + np.diff(read)):
            raise ValueError("finish: lines have changed since the draft")
        cos, sin = self._inputs.rotary(cells.rows)
        slots, lines = cells.slots(old), []
        for b, line in enumerate(batch.lines.tolist()):
            rest = slice(cells.first[b], cells.first[b + 1])
            new = cells.rows[rest][unread[rest] & cells.is_kept[rest]]
            lines.append((*self._blocks.append(line, new), self._blocks.length(line)))
        now = np.array(lines)
        hidden = draft.hidden[places]
        if unread.any():
            number = np.add.reduceat(unread, cells.first[:-1])
            some = number > 0
            found = np.empty((int(number.sum()), self._hidden_size), np.float32)
            run(self._library, self._handle, make_pass(
                cells.rows[unread], slots[unread], starts(number[some]), now[some],
                (0, draft.layer), hidden=found, cos=cos[unread], sin=sin[unread],
                embeds=self._inputs.embed(cells.tokens[unread], cells.streams[unread]),
            ))  # fmt: skip
            hidden[unread] = found
        now[:, 0] = old
        run(self._library, self._handle, make_pass(
            cells.rows, slots, cells.first, now, (draft.layer, self._num_layers), embeds=hidden,
            cos=cos, sin=sin, select=cells.select, logits=logits,
        ))  # fmt: skip

    def _shortlist(self, layer: int) -> Ints:
        if layer not in self._ids:
            known = ", ".join(map(str, sorted(self._ids)))
            raise ConfigError(f"no exit head for layer {layer}; there are heads for {known}")
        return self._ids[layer]


def _check(head: ExitHead, layer: int, decoder: FamilyDecoder) -> None:
    where, hidden = f"exit head for layer {layer}", decoder.hidden
    if not 1 <= layer < decoder.num_layers:
        raise ConfigError(f"{where}: the model has {decoder.num_layers}, an exit is before the end")
    if head.norm.shape != (hidden,):
        raise ConfigError(f"{where}: made for hidden states of {len(head.norm)}, not {hidden}")
    if head.eps != decoder.eps:
        raise ConfigError(f"{where}: its norms have eps {head.eps}, the model's {decoder.eps}")
    if not len(head.ids) or not 0 <= int(head.ids.min()) <= int(head.ids.max()) < len(
        decoder.unembed.weight
    ):
        raise ConfigError(f"{where}: its shortlist is empty or has tokens the model lacks")


def _set(library: Any, handle: int, layer: int, head: ExitHead, unembedding: Tensor) -> Ints:
    """Hand a head over; its shortlist (K)."""
    tensors = {"norm": head.norm, "unembed": unembedding[head.ids.to(unembedding.device)]}
    if head.gate_up is not None:
        tensors |= {"norm_in": head.norm_in, "gate_up": head.gate_up, "down": head.down}
    held = {
        name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in tensors.items()
    }
    ids = head.ids.cpu().numpy().copy()
    inner = 0 if head.gate_up is None else len(head.gate_up) // 2
    library.stretto_set_exit(handle, layer, ctypes.byref(ExitPointers(
        size=len(ids), inner=inner, ids=ids.ctypes.data,
        **{name: array.ctypes.data for name, array in held.items()},
    )))  # fmt: skip
    return ids

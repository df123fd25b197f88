"""Checks everything a session is opened with, before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stretto.engine.grammar import GrammarCompiler
from stretto.engine.params import Limits, SamplingParams, Setup
from stretto.errors import ConfigError, InputError
from stretto.models import MultiStreamLM
from stretto.streams import StreamCodec, StreamSet, stream_set

Sampling = SamplingParams | Mapping[str, SamplingParams] | None


class Checker:
    """Knows the model; turns a caller's wishes into a :class:`Setup`.

    Args:
        lm: the model.
        codec: its tokeniser.
        stop_ids: not empty for a base model that knows neither silence nor ``end``.

    Raises:
        ConfigError: the tokeniser belongs to another model.
    """

    def __init__(self, lm: MultiStreamLM, codec: StreamCodec, stop_ids: tuple[int, ...]) -> None:
        if codec.special != lm.special:
            raise ConfigError(
                f"{codec.name}: made for {codec.special.silence} tokens, the model has "
                f"{lm.vocab_size}; load both from the same place"
            )
        self._lm, self._codec, self._stop_ids = lm, codec, stop_ids
        self._grammars = GrammarCompiler(codec)

    def setup(
        self,
        streams: str | StreamSet | None,
        prompts: Mapping[str, str | Sequence[int]],
        sampling: Sampling,
        limits: Limits,
        seed: int,
    ) -> Setup:
        """A checked setup.

        Raises:
            InputError: streams, prompts or token ids that the model does not know; a grammar that
                cannot be read, or llguidance is not installed.
            ConfigError: sampling for a stream that is none or no output.
        """
        used = self._stream_set(streams)
        ids = {name: self._encode(used, name, text) for name, text in prompts.items()}
        ids = {name: tokens for name, tokens in ids.items() if tokens}
        most = int(getattr(self._lm.config, "max_position_embeddings", 0) or 2**31)
        length = sum(map(len, ids.values()))
        if length >= most:
            raise InputError(f"prompts of {length} tokens; the model has {most} positions")
        chosen = self._sampling(used, sampling)
        return Setup(
            streams=used,
            inventory=np.array([self._lm.streams.index(s) for s in used], np.int64),
            prompts=ids,
            sampling=chosen,
            limits=limits,
            max_positions=most,
            seed=seed,
            matchers={
                name: self._grammars.matcher(params.grammar, params.stop_ids)
                for name, params in chosen.items()
                if params.grammar is not None
            },
        )

    def _stream_set(self, streams: str | StreamSet | None) -> StreamSet:
        sets, known = self._lm.sets, self._lm.streams
        if streams is None:
            used = next(iter(sets.values()), known)
        elif isinstance(streams, str):
            used = sets[streams] if streams in sets else stream_set(streams)
        else:
            used = streams
        for stream in used:
            if stream.name not in known:
                raise InputError(
                    f"this model has no stream {stream.name!r}; it has {', '.join(known.names)}"
                )
            if known[known.index(stream.name)] != stream:
                raise InputError(f"stream {stream.name!r} is defined otherwise in this model")
        return used

    def _encode(self, streams: StreamSet, name: str, text: str | Sequence[int]) -> list[int]:
        streams.index(name)
        ids = self._codec.encode(text) if isinstance(text, str) else [int(t) for t in text]
        special = self._codec.special
        wrong = [t for t in ids if not 0 <= t <= special.end or t == special.silence]
        if wrong:
            raise InputError(f"prompt of {name!r}: {wrong[0]} is no token a prompt can hold")
        return ids

    def _sampling(self, streams: StreamSet, sampling: Sampling) -> dict[str, SamplingParams]:
        names = [streams[i].name for i in streams.outputs]
        if sampling is None or isinstance(sampling, SamplingParams):
            chosen = dict.fromkeys(names, sampling or SamplingParams())
        else:
            odd = [name for name in sampling if name not in names]
            if odd:
                raise ConfigError(
                    f"sampling for {odd[0]!r}: the output streams are {', '.join(names)}"
                )
            chosen = {name: sampling.get(name, SamplingParams()) for name in names}
        if not self._stop_ids:
            return chosen
        # Its vectors of silence and end mean nothing yet.
        return {name: self._as_base(params) for name, params in chosen.items()}

    def _as_base(self, params: SamplingParams) -> SamplingParams:
        stops = (*params.stop_ids, *(i for i in self._stop_ids if i not in params.stop_ids))
        banned = (*(params.banned or ()), self._codec.special.end)
        return replace(params, silence=False, banned=banned, stop_ids=stops)

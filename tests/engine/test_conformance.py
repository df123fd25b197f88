"""Every back end that is installed passes the conformance suite within its tolerance."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stretto.engine import conformance, testing
from stretto.engine.backends import open_backend
from stretto.engine.backends.lines import Lines
from stretto.engine.backends.transformers import TransformersBackend
from stretto.engine.batch import RowBatch
from stretto.errors import ConfigError
from stretto.models.family import FamilyDecoder

# Only exact arithmetic is held to the twin; what the reduced precisions cost is not measured yet.
TOLERANCES = {
    "transformers": 1e-3,
    "native:float32": 1e-3,
    "cpu:float32": 1e-3,
    "prepacked:float32": 1e-3,
    "llamacpp:float32": 1e-3,
}
PACKAGES = {"cpu": "openvino", "llamacpp": "llama_cpp"}


def need_package(name: str) -> None:
    """Skip where the back end's package is not installed."""
    kind = name.partition(":")[0]
    if kind in PACKAGES:
        pytest.importorskip(PACKAGES[kind])


@pytest.fixture(autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled graphs stay out of the user's cache."""
    monkeypatch.setenv("STRETTO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("name", TOLERANCES)
@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
def test_backend_conforms(name: str, check: Callable[..., None]) -> None:
    need_package(name)
    check(partial(open_backend, name), TOLERANCES[name])


@pytest.mark.parametrize("name", ["native:float32", "cpu:float32", "prepacked:float32"])
def test_whole_sessions_equal_the_slow_twin(name: str) -> None:
    need_package(name)
    testing.check_backend(partial(open_backend, name))


@pytest.mark.parametrize("name", [name for name in TOLERANCES if name != "llamacpp:float32"])
@pytest.mark.parametrize("check", conformance.RULES, ids=lambda check: check.__name__)
def test_backend_conforms_under_the_strict_rule(name: str, check: Callable[..., None]) -> None:
    need_package(name)
    check(partial(open_backend, name), TOLERANCES[name], rule="strict")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tensorrt", "choose from auto, transformers, native, cpu, prepacked, llamacpp, cuda"),
        ("transformers:int8", "no such precision; choose from transformers$"),
        ("prepacked:int8", "choose from prepacked, prepacked:float32, prepacked:bfloat16$"),
    ],
)
def test_a_backend_that_cannot_be_had_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_backend(name, testing.tiny_lm())


@pytest.mark.skipif(find_spec("openvino") is not None, reason="OpenVINO is installed")
def test_without_openvino_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'stretto\[cpu\]'"):
        open_backend("cpu:int8", testing.tiny_lm())


@pytest.mark.skipif(find_spec("llama_cpp") is not None, reason="llama-cpp-python is installed")
def test_without_llama_cpp_the_extra_is_named() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'stretto\[llamacpp\]'"):
        open_backend("llamacpp:q4_0", testing.tiny_lm())


def test_a_dtype_that_a_backend_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match="in float16: choose from float32, bfloat16"):
        open_backend("prepacked", testing.tiny_lm().half())
    lm = testing.tiny_lm().half()
    assert isinstance(open_backend("auto", lm), TransformersBackend)


def test_a_forked_line_keeps_the_rows_of_its_cells() -> None:
    """They matter to sliding windows."""
    lm = testing.tiny_lm()
    lines = Lines(FamilyDecoder(lm), "inclusive", lm.special.silence)
    line = lines.open()
    cells = np.array([[1, 2, 3]])
    batch = RowBatch(np.array([line]), cells, cells * 0, cells + 6, cells * 0, cells[0],
                     cells[0], np.zeros(3), [])  # fmt: skip
    keys = np.ones((3, 1, 2, 3, 8), np.float32)
    lines.append(batch, keys, keys)
    fork = lines.fork(line, 2)
    assert lines.rows[fork, :2].tolist() == [7, 8] and lines.lengths.tolist() == [3, 2]


def test_lines_that_cannot_grow_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = testing.tiny_lm()
    lines = Lines(FamilyDecoder(lm), "inclusive", lm.special.silence)
    lines.open()
    before, left, zeros = lines.keys, 1, np.zeros

    def scarce(shape: Any, dtype: Any = float) -> np.ndarray:
        nonlocal left
        if len(shape) == 5:
            left -= 1
        if left < 0:
            raise MemoryError
        return zeros(shape, dtype)

    monkeypatch.setattr(np, "zeros", scarce)
    with pytest.raises(MemoryError):
        lines.open()
    monkeypatch.undo()
    assert lines.keys is before and lines.number == 1
    assert lines.open() == 1 and lines.keys.shape[1] == 2


class Careless(TransformersBackend):
    """Takes lines back without emptying them when they are given again."""

    @torch.inference_mode()
    def open(self) -> int:
        lengths = self._cache.lengths.clone()
        line = super().open()
        if line < len(lengths):
            self._cache.lengths[line] = lengths[line]
        return line


class Hoarder(TransformersBackend):
    """Keeps silence."""

    @torch.inference_mode()
    def forward(self, batch: RowBatch) -> Tensor:
        before = self._cache.lengths.clone()
        logits = super().forward(batch)
        cells = torch.from_numpy((batch.samples == 0).sum(1))
        self._cache.lengths[batch.lines] = before[batch.lines] + cells
        return logits


class Blind(TransformersBackend):
    """Reads all sessions of a pass as if they were on the line of the first."""

    def forward(self, batch: RowBatch) -> Tensor:
        object.__setattr__(batch, "lines", np.full_like(batch.lines, batch.lines[0]))
        return super().forward(batch)


class Siamese(TransformersBackend):
    """A fork is the same line under the same number."""

    def fork(self, line: int, cells: int) -> int:
        return line


class Greedy(TransformersBackend):
    """A fork takes all that the other line holds."""

    def fork(self, line: int, cells: int) -> int:
        return super().fork(line, int(self._cache.lengths[line]))


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Siamese, conformance.forks_go_their_own_way),
        (Greedy, conformance.forks_go_their_own_way),
        (Careless, conformance.lines_are_given_again_empty),
        (Hoarder, conformance.silence_leaves_no_trace),
        (Hoarder, conformance.ragged_batches),
        (Blind, conformance.ragged_batches),
    ],
)
def test_a_broken_backend_does_not_conform(
    broken: type[TransformersBackend], check: Callable[..., None]
) -> None:
    with pytest.raises(AssertionError, match="differ"):
        check(broken, 1e-3)


def test_whole_sessions_find_a_backend_that_keeps_silence() -> None:
    with pytest.raises(AssertionError, match="logits differ"):
        testing.check_backend(Hoarder)

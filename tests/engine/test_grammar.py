"""Grammar-constrained streams against the twin, on bytes and on a real tokeniser; every refusal."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from stretto.engine import Engine, Grammar, Limits, SamplingParams, VirtualClock, reference
from stretto.engine.batch import RowBatch
from stretto.engine.grammar import KEPT, GrammarCompiler
from stretto.engine.reference import Script
from stretto.engine.sampling import Sampler
from stretto.engine.testing import play, tiny_codec, tiny_lm
from stretto.errors import ConfigError, InputError, StrettoError
from stretto.models.store import resolve
from stretto.streams import StreamCodec

CODEC, LM = tiny_codec(), tiny_lm()
SPECIAL = CODEC.special
TOOLS = [
    {"name": "add", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": False}},
    {"type": "function", "function": {"name": "stop"}},
]  # fmt: skip


@pytest.fixture
def compiler() -> GrammarCompiler:
    pytest.importorskip("llguidance")
    return GrammarCompiler(CODEC)


def texts(mask: np.ndarray) -> set[str]:
    return {CODEC.decode([i]) for i in np.flatnonzero(mask[: SPECIAL.silence]).tolist()}


def test_only_the_latest_grammars_are_kept(compiler: GrammarCompiler) -> None:
    for n in range(KEPT + 3):
        compiler.matcher(Grammar.regex(f"a{{{n + 1}}}"))
        compiler.matcher(Grammar.regex("a"))  # asked for again and again
    assert len(compiler._made) == KEPT and Grammar.regex("a") in compiler._made


def test_a_message_goes_from_waking_to_end(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar.regex("ab?"))
    for _ in range(2):  # end starts over
        assert texts(matcher.mask()) == {"a"} and not matcher.mask()[SPECIAL.end]
        matcher.advance(CODEC.encode("a")[0])
        matcher.advance(SPECIAL.silence)
        assert texts(matcher.mask()) == {"b"} and matcher.mask()[SPECIAL.end]
        saved = matcher.copy()
        matcher.advance(CODEC.encode("b")[0])
        assert texts(matcher.mask()) == set() and matcher.mask()[SPECIAL.end]
        assert texts(saved.mask()) == {"b"}
        matcher.advance(SPECIAL.end)


def test_silence_stands_where_the_grammar_says(compiler: GrammarCompiler) -> None:
    for pauses in (True, False):
        matcher = compiler.matcher(Grammar.regex("ab", pauses=pauses))
        assert matcher.mask()[SPECIAL.silence]
        matcher.advance(CODEC.encode("a")[0])
        assert matcher.mask()[SPECIAL.silence] == pauses


def test_once_leaves_later_messages_empty(compiler: GrammarCompiler) -> None:
    matcher = compiler.matcher(Grammar.regex("a", once=True), [3])
    for token in (SPECIAL.silence, CODEC.encode("a")[0]):
        assert texts(matcher.mask()) == {"a"}
        matcher.advance(token)
    matcher.advance(SPECIAL.end)
    for each in (matcher, matcher.copy()):
        assert set(np.flatnonzero(each.mask())) == {3, SPECIAL.silence, SPECIAL.end}
        each.advance(SPECIAL.end)
        assert not texts(each.mask()) - texts(np.eye(SPECIAL.end + 1, dtype=bool)[3])


def test_stop_ids_come_only_where_the_message_is_complete(compiler: GrammarCompiler) -> None:
    stop = CODEC.encode("a")[0]
    matcher = compiler.matcher(Grammar.regex("ba*"), [stop])
    assert texts(matcher.mask()) == {"b"}
    matcher.advance(CODEC.encode("b")[0])
    assert texts(matcher.mask()) == {"a"} and matcher.mask()[SPECIAL.end]


def test_where_nothing_may_come_the_message_is_over(compiler: GrammarCompiler) -> None:
    params = SamplingParams(grammar=Grammar.regex("ab"), allowed=tuple(CODEC.encode("xyz")))
    sampler = Sampler(SPECIAL.end + 1, SPECIAL, torch.device("cpu"))
    none = np.empty(0, np.int64)
    batch = RowBatch(none, none, none, none, none, none, np.array([sampler.register(params)] * 2),
                     np.zeros(2), [], [(1, compiler.matcher(Grammar.regex("ab")))])  # fmt: skip
    first, second = sampler.sample(torch.zeros(2, SPECIAL.end + 1), batch).tolist()
    assert CODEC.decode([first]) in "xyz" and second == SPECIAL.end


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_engine_says_what_the_twin_says(temperature: float) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    grammars = (Grammar.json(schema), Grammar.regex("[a-c]{2,5}", pauses=False), None)
    words = [(0.05 * i, "user", 65 + i % 20) for i in range(30)]
    scripts = [
        Script(
            LM.streams, {"answer": [4]}, words,
            sampling={"answer": SamplingParams(temperature=temperature, top_p=0.9,
                                               silence_bias=-2.0, grammar=grammar)},
            limits=Limits(max_rows=60, quiet_rows=30), seed=seed,
        )
        for seed, grammar in enumerate(grammars)
    ]  # fmt: skip
    tables = play(Engine(LM, CODEC), scripts)
    for script, table in zip(scripts, tables, strict=True):
        assert table == reference.run(LM, script, CODEC)
    answers = [CODEC.decode([t for t in x.column("answer") if t < SPECIAL.silence]) for x in tables]
    *whole, last = re.split(r"(?<=\})", answers[0])  # the last one was cut by max_rows, or is empty
    assert whole
    assert set(whole) <= {'{"n": 1}', '{"n": 22}'}
    assert '{"n": 1}'.startswith(last) or '{"n": 22}'.startswith(last)
    assert re.fullmatch(r"[a-c]+", answers[1])
    assert Engine(LM, CODEC).replay(tables[0]) == tables[0]


def test_tool_calls_keep_to_their_signatures(compiler: GrammarCompiler) -> None:
    calls = Grammar.tools(TOOLS)
    for text, is_call in (
        ('{"name": "add", "arguments": {"a": 3}}', True),
        ('{"name": "stop", "arguments": {}}', True),
        ('{"name": "add", "arguments": {}}', False),
        ('{"name": "rm", "arguments": {}}', False),
    ):
        matcher = compiler.matcher(calls)
        accepted = True
        for token in CODEC.encode(text):
            accepted = accepted and bool(matcher.mask()[token])
            if accepted:
                matcher.advance(token)
        assert (accepted and bool(matcher.mask()[SPECIAL.end])) == is_call, text


def test_valid_json_from_random_logits_on_a_real_tokeniser() -> None:
    pytest.importorskip("llguidance")
    try:
        folder = resolve("smollm2-135m", offline=True)
    except StrettoError as error:
        pytest.skip(str(error))
    codec = StreamCodec.load(folder, 49152)
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12},
                       "ages": {"type": "array", "items": {"enum": [7, 30]}, "maxItems": 3}},
        "required": ["name", "ages"], "additionalProperties": False,
    }  # fmt: skip
    compiler = GrammarCompiler(codec)
    rng, size = np.random.default_rng(0), codec.special.end + 1
    sampler = Sampler(size, codec.special, torch.device("cpu"))
    params = SamplingParams(temperature=1.0, grammar=Grammar.json(schema))
    assert params.grammar is not None
    matchers = [compiler.matcher(params.grammar) for _ in range(3)]
    said: list[list[int]] = [[] for _ in matchers]
    is_over = [False] * len(matchers)
    none, ids = np.empty(0, np.int64), np.full(len(matchers), sampler.register(params))
    for _ in range(200):
        batch = RowBatch(none, none, none, none, none, none, ids, rng.random(len(ids)), [],
                         list(enumerate(matchers)))  # fmt: skip
        logits = torch.tensor(rng.normal(size=(len(ids), size))).float()
        for n, token in enumerate(sampler.sample(logits, batch).tolist()):
            is_over[n] |= token == codec.special.end
            if not is_over[n]:
                said[n].append(token)
                matchers[n].advance(token)
    assert all(is_over)
    for tokens in said:
        value = json.loads(codec.decode(tokens))
        assert list(value) == ["name", "ages"] and len(value["name"]) <= 12
        assert set(value["ages"]) <= {7, 30} and len(value["ages"]) <= 3


@pytest.mark.parametrize(
    "grammar", [Grammar.regex("["), Grammar.lark("begin: /a/"), Grammar.json({"type": "nope"})]
)
def test_bad_grammars_are_refused_when_a_session_is_opened(grammar: Grammar) -> None:
    pytest.importorskip("llguidance")
    with pytest.raises(InputError, match=f"grammar \\({grammar.kind}\\) cannot be read") as caught:
        Engine(LM, CODEC).open(
            sampling=SamplingParams(grammar=grammar), clock=VirtualClock(lambda cells, cached: 0.05)
        )
    assert "\n" not in str(caught.value)


def test_without_llguidance_a_grammar_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)  # what an import of it then meets
    with pytest.raises(InputError, match=r"stretto\[grammar\]"):
        GrammarCompiler(CODEC).matcher(Grammar.regex("a"))


def test_bad_descriptions_are_refused() -> None:
    with pytest.raises(ConfigError, match="kind"):
        Grammar("yaml", "a")
    with pytest.raises(ConfigError, match="no tools"):
        Grammar.tools([])
    with pytest.raises(ConfigError, match="no name"):
        Grammar.tools([{"parameters": {}}])
    with pytest.raises(InputError, match="give run"):
        sampling = {"answer": SamplingParams(grammar=Grammar.regex("a"))}
        reference.run(LM, Script(LM.streams, {"answer": [4]}, sampling=sampling))


def test_a_grammar_survives_as_plain_data() -> None:
    params = SamplingParams(grammar=Grammar.tools(TOOLS, pauses=False))
    assert SamplingParams.from_dict(json.loads(json.dumps(params.to_dict()))) == params

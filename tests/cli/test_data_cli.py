"""``stretto data``, with a tiny tokeniser in the place of a model."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stretto import cli

ROWS = [
    {"question": f"Ann has {n} hens. How many legs are there?",
     "answer": f"{n}*2 = <<{n}*2={2 * n}>>{2 * n}\n#### {2 * n}"}
    for n in range(3, 13)
]  # fmt: skip
RECIPE = "sources:\n  - {task: gsm8k, set: read, count: 4, file: gsm8k.jsonl}\n"


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"vocab_size": 256}))
    return str(folder)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "gsm8k.jsonl").write_text(text)
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(["data", *map(str, arguments)])
    return int(caught.value.code or 0)


def build(raw: Path, model: str, *options: str) -> int:
    return call(
        "build", raw / "toy.yaml", "-o", raw / "built", "--source", raw, "--model", model, *options
    )


def test_build_prints_statistics_and_show_draws(
    raw: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(raw, model) == 0
    out = capsys.readouterr().out
    assert "gsm8k" in out and "silent_share" in out and "median" in out
    assert (raw / "built" / "manifest.json").exists()
    assert call("show", raw / "built", "--index", 1, "--width", 80, "--model", model) == 0
    captured = capsys.readouterr()
    assert "user →" in captured.out and "answer ←" in captured.out
    assert "task: gsm8k" in captured.err


def test_statistics_as_json(raw: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert build(raw, model, "--limit", "2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"]["tables"] <= 2


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_convert_a_task(
    raw: Path, model: str, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = raw / f"t.{suffix}"
    options = ("--set", "audit", "--error-rate", "1", "--lag", "all", "--arrival", "steady:0.5")
    convert = ("convert", "gsm8k", raw / "gsm8k.jsonl", "-o", out, "--limit", 3, "--model", model)
    assert call(*convert, *options) == 0
    capsys.readouterr()
    assert call("show", out, "--index", 2, "--width", 120, "--model", model) == 0
    captured = capsys.readouterr()
    assert "verdict: wrong" in captured.out
    assert "lag: all" in captured.err and "steady 0.5" in captured.err
    assert call("show", out, "--index", 3, "--model", model) == 2
    assert "no table 3; it has 3" in capsys.readouterr().err


def test_chat_there_and_back(raw: Path, model: str) -> None:
    lines = [
        {
            "messages": [
                {"role": "user", "content": "hi\n🚀"},
                {"role": "assistant", "content": "yo"},
            ]
        },
        {
            "messages": [{"role": "user", "content": "look up x"}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        },
    ]
    (raw / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call("convert", "chat", raw / "chat.jsonl", "-o", raw / "t.jsonl", "--model", model) == 0
    assert (
        call("convert", "messages", raw / "t.jsonl", "-o", raw / "b.jsonl", "--model", model) == 0
    )
    back = [json.loads(line) for line in (raw / "b.jsonl").read_text(encoding="utf-8").splitlines()]
    assert back == lines


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nothing", "gsm8k.jsonl"), "no kind"),
        (("gsm8k",), "give its file"),
        (("leg_counting", "gsm8k.jsonl"), "generated"),
        (("gsm8k", "gsm8k.jsonl", "--lag", "soon"), "lag 'soon'"),
        (("gsm8k", "gsm8k.jsonl", "--arrival", "bursty:2"), "only steady"),
        (("gsm8k", "gsm8k.jsonl", "--arrival", "steady:x"), "steady:0.7"),
        (("gsm8k", "gsm8k.jsonl", "--error-rate", "0.5"), "audit"),
        (("chat", "gsm8k.jsonl"), "line 1: no list of messages"),
        (("messages",), "file of tables"),
    ],
)
def test_mistakes_are_told_in_one_line(
    raw: Path,
    model: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    complaint: str,
) -> None:
    monkeypatch.chdir(raw)
    assert call("convert", *arguments, "-o", "out.jsonl", "--model", model) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1

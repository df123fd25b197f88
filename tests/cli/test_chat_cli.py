import io
import json

import pytest
from rich.console import Console

from stretto import cli
from stretto.cli.chat import Sender, perform
from stretto.cli.lanes import Lanes
from stretto.streams import AGENT, READ, SpecialIds, StreamTable

SPECIAL = SpecialIds(silence=256, end=257)


class Told:
    """A session that notes what it is told."""

    def __init__(self, streams):
        self.streams, self.finish_reason, self.heard = streams, None, []

    def send(self, stream, text, *, rate=None, end=False):
        self.heard.append((stream, text, end))

    def close(self, stream=None):
        self.heard.append("close")

    def cancel(self, reason="cancelled"):
        self.finish_reason = reason


def sender(streams, typed=None):
    lanes = Lanes(streams, SPECIAL)
    lanes.typed = typed
    session = Told(streams)
    return session, Sender(session, lanes)


def test_each_line_is_a_message_of_its_own():
    session, listener = sender(READ)
    for line in ("hello", "  ", "/result 3"):
        listener.on_line(line)
    assert session.heard == [("user", "hello", True), ("user", "/result 3", True)]


def test_results_go_to_their_stream():
    session, listener = sender(AGENT)
    listener.on_line('/result {"city": "Rome"}')
    listener.on_line("/system no")
    assert session.heard == [("result", '{"city": "Rome"}', True), ("user", "/system no", True)]


def test_quit_ends_and_nothing_is_sent_after():
    session, listener = sender(READ)
    listener.on_line("/quit")
    listener.on_line("late")
    assert (session.finish_reason, session.heard) == ("quit", [])


def test_the_end_of_a_pipe_lets_the_model_finish_and_ctrl_d_does_not():
    session, listener = sender(READ)
    listener.on_end()
    assert (session.finish_reason, session.heard) == (None, ["close"])
    session, listener = sender(READ, typed="")
    listener.on_end()
    assert (session.finish_reason, session.heard) == ("quit", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--streams", "minds"], "--streams 'minds': choose from read, audit, agent"),
        (["--system", "x"], "--system: the read streams have none"),
        (["--seed", "3"], "--seed: nothing is drawn"),
        (["--temperature", "nan"], "--temperature nan"),
        (["--save", "/no/such/folder/x.jsonl"], "--save /no/such/folder/x.jsonl: cannot be"),
        (["--backend", "vllm"], "backend 'vllm': choose from auto, transformers, native, cpu"),
        (["--backend", "prepacked:int8"], "choose from prepacked, prepacked:float32, prepacked:bf"),
        (["--model", "no-such"], "no model 'no-such'"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["chat", *arguments])
    err = capsys.readouterr().err
    assert caught.value.code == 2
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_piped_conversation_is_saved_as_a_table(tmp_path, monkeypatch, capsys):
    from stretto.engine.testing import tiny_codec, tiny_lm

    folder, saved, lines = tmp_path / "model", tmp_path / "chat.jsonl", tmp_path / "lines"
    tiny_lm().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tiny_codec().tokenizer_json)
    lines.write_text("first line\nsecond line\n")
    out = Console(file=io.StringIO(), force_terminal=False)
    for _ in range(2):
        with lines.open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            perform(out, model=str(folder), streams="read", prompts={"answer": "lag 1:"},
                    temperature=0.0, seed=0, save=saved)  # fmt: skip
    assert "first line" in out.file.getvalue()
    tables = [StreamTable.from_jsonl(line, tiny_codec()) for line in saved.open()]
    assert len(tables) == 2
    assert [tiny_codec().decode(ids) for ids in tables[0].messages("user")] == [
        "first line", "second line"
    ]  # fmt: skip
    assert json.loads(saved.read_text().splitlines()[1])["meta"]["model"] == str(folder)
    assert "saved to" in capsys.readouterr().err

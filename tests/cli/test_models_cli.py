import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from stretto import cli
from stretto.models import store
from stretto.models.manifest import MANIFEST, write_manifest


def call(*arguments: str) -> int:
    """The exit code of ``stretto models ARGUMENTS``."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["models", *arguments])
    return caught.value.code


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache that holds ``smollm2-135m``, in miniature."""
    monkeypatch.setenv("STRETTO_CACHE", str(tmp_path))
    monkeypatch.setenv("STRETTO_OFFLINE", "1")
    folder = tmp_path / "models" / "smollm2-135m"
    folder.mkdir(parents=True)
    save_file({"a": np.zeros((2, 3), np.float32)}, folder / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 30}
    (folder / "config.json").write_text(json.dumps(config))
    model = store._MODELS["smollm2-135m"]
    write_manifest(folder, {"wheel_sha256": model.wheel_sha256, "licence": model.licence})
    return folder


def test_pull_prints_the_folder(cached, capsys):
    assert call("pull", "smollm2-135m") == 0
    assert capsys.readouterr().out.strip() == str(cached)


def test_pull_force_offline_is_refused(cached, capsys):
    assert call("pull", "smollm2-135m", "--force") == 2
    captured = capsys.readouterr()
    assert "the network is off" in captured.err
    assert captured.err.count("\n") == 1
    assert (cached / "config.json").exists()


def test_pull_of_an_unknown_name(cached, capsys):
    assert call("pull", "gpt-7") == 2
    assert "'gpt-7' cannot be pulled; known: smollm2-135m" in capsys.readouterr().err


def test_list(cached, capsys):
    assert call("list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    expected = {"kind": "base", "in_cache": True, "licence": "Apache-2.0", "path": str(cached)}
    assert rows["smollm2-135m"].items() >= expected.items()
    assert call("list") == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "kind", "in_cache", "size", "licence", "path"]
    assert any(line.split()[:3] == ["smollm2-135m", "base", "yes"] for line in lines)


def test_show(cached, capsys):
    assert call("show", "smollm2-135m", "--json") == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts.items() >= {"layers": 30, "parameters": 6, "streams": None}.items()
    assert call("show", "smollm2-135m", "--verify") == 0
    captured = capsys.readouterr()
    assert "2 files match their checksums" in captured.err
    assert "LlamaForCausalLM" in captured.out
    assert "streams" not in captured.out


def test_show_verify_finds_damage_of_the_same_size(cached, capsys):
    path = cached / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x07")
    assert call("show", "smollm2-135m") == 0
    capsys.readouterr()
    assert call("show", "smollm2-135m", "--verify") == 2
    captured = capsys.readouterr()
    assert "stretto models pull smollm2-135m --force" in captured.err
    assert not captured.out


def test_show_of_what_is_not_here(cached, capsys):
    (cached / MANIFEST).unlink()
    assert call("show", "smollm2-135m") == 2
    assert "manifest.json: missing or damaged" in capsys.readouterr().err

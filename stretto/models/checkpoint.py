"""Checkpoint folders: what of a multi-stream model is not its base.

A folder holds ``stretto.json`` (format, base model, streams, sets, mask rule, special ids),
``stretto.safetensors`` (stream vectors, vectors of silence and end) and either a PEFT adapter
(``adapter_config.json``, ``adapter_model.safetensors``: plain PEFT reads it too) or a whole
fine-tuned base (``model.safetensors``, ``config.json``); ``manifest.json`` has the checksum of each
file, which ``stretto models show --verify`` compares. Files are written under a temporary name
and renamed, so a folder that has ``stretto.json`` is complete.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from stretto.errors import CheckpointError
from stretto.models.manifest import write_manifest
from stretto.models.store import resolve
from stretto.streams import SINGLE, StreamCodec, StreamSet

if TYPE_CHECKING:
    from stretto.models.wrapper import MultiStreamLM

FORMAT = 1
MARKER = "stretto.json"
_VECTORS = "stretto.safetensors"
_OWN = ("stream_embedding", "special_in", "special_out")

M = TypeVar("M", bound="MultiStreamLM")


def auto_dtype(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16
    has_bf16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def auto_device(device: str) -> str:
    """``auto`` is CUDA if present, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(
    cls: type[M],
    name_or_path: str | Path,
    *,
    streams: StreamSet | None = None,
    mask_rule: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    attention: str | None = "auto",
    trainable: bool = False,
) -> M:
    """Load a base model, or a checkpoint with its base.

    Args:
        cls: the model class.
        name_or_path: registered name, hub name or folder.
        streams: for a plain base model, its inventory (default: one stream). A checkpoint has
            its own; asking for a stream that it lacks is refused.
        mask_rule: for a plain base model (default ``inclusive``). Checkpoints have their own;
            asking for another is refused.
        dtype: ``auto``, a torch dtype, or its name.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``...
        attention: ``auto`` (FlexAttention on CUDA, SDPA elsewhere), ``sdpa``, ``eager`` or
            ``flex_attention``.
        trainable: keep a LoRA adapter apart so that training can go on; by default it is merged
            into the weights, which makes inference faster.

    Raises:
        CheckpointError: not found, corrupt, of a newer format, or not what was asked for.
    """
    folder = resolve(str(name_or_path))
    device = auto_device(device)
    if isinstance(dtype, str):
        dtype = auto_dtype(device) if dtype == "auto" else _dtype(dtype)
    if attention == "auto":
        # None: SDPA, or eager for the families that have no SDPA (Gemma 2).
        attention = "flex_attention" if device.startswith("cuda") and trainable else None
    marker = folder / MARKER
    if not marker.exists():
        base = _load_base(folder, dtype, attention)
        model = cls(
            base.to(device),
            streams or SINGLE,
            mask_rule=mask_rule or "inclusive",
            base_name=str(name_or_path),
        )
        return _finished(model, str(name_or_path), trainable)
    card = read_card(folder)
    _refuse_mismatch(folder, card, streams, mask_rule)
    whole = (folder / "config.json").exists()
    base = _load_base(folder if whole else resolve(card["base"]), dtype, attention)
    base = base.to(device)
    model = cls(
        base,
        StreamSet.from_list(card["streams"]),
        mask_rule=card["mask_rule"],
        base_name=card["base"],
        sets={name: StreamSet.from_list(data) for name, data in card["sets"].items()},
    )
    if model.vocab_size != card["special"]["silence"]:
        raise CheckpointError(
            f"{folder}: made for a base with {card['special']['silence']} tokens, but "
            f"{card['base']} has {model.vocab_size}; pull the right base model"
        )
    if (folder / "adapter_config.json").exists():
        model.base = _with_adapter(base, folder, trainable)
    vectors = _read_vectors(folder / _VECTORS)
    for name in _OWN:
        if vectors[name].shape != getattr(model, name).shape:
            raise CheckpointError(f"{folder}: {name} has shape {tuple(vectors[name].shape)}")
        getattr(model, name).data.copy_(vectors[name])
    return _finished(model, str(name_or_path), trainable)


def save(model: "MultiStreamLM", folder: Path, adapter_dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder, replacing one that is there.

    Args:
        model: what to save; a PEFT-wrapped base is saved as an adapter, else whole.
        folder: where.
        adapter_dtype: dtype of the stored adapter weights (bfloat16 halves the file).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    own = {name: getattr(model, name).detach().float().cpu().contiguous() for name in _OWN}
    save_file(own, work / _VECTORS)
    model.base.save_pretrained(work)
    adapter = work / "adapter_model.safetensors"
    if adapter.exists():
        (work / "README.md").unlink(missing_ok=True)
        if adapter_dtype is not None:
            lora = {k: v.to(adapter_dtype).contiguous() for k, v in load_file(adapter).items()}
            save_file(lora, adapter, metadata={"format": "pt"})
    elif model.base_name:
        _copy_tokenizer(resolve(model.base_name), work)
    (work / MARKER).write_text(json.dumps(_card(model), indent=1) + "\n")
    write_manifest(work, {})
    if folder.exists():
        shutil.rmtree(folder)
    work.rename(folder)


def _finished(model: M, name: str, trainable: bool) -> M:
    """For use rather than training: in evaluation mode, and with the exits that ship for it."""
    if trainable:
        return model
    model.shipped_as = name
    return model.eval()


def read_card(folder: Path) -> dict[str, Any]:
    """Parse ``stretto.json``.

    Raises:
        CheckpointError: unreadable, or of a format this version does not know.
    """
    path = folder / MARKER
    try:
        card = json.loads(path.read_text())
        version = card["format"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: not a stretto checkpoint ({error})") from None
    if version != FORMAT:
        raise CheckpointError(f"{path}: format {version}, this stretto reads {FORMAT}; upgrade it")
    return card


def is_checkpoint(name_or_path: str | Path) -> bool:
    """Whether this is a stretto checkpoint; False for a base model that never saw streams."""
    return (resolve(str(name_or_path)) / MARKER).exists()


def load_codec(name_or_path: str | Path) -> StreamCodec:
    """The tokeniser of a base model or checkpoint."""
    folder = resolve(str(name_or_path))
    if (folder / MARKER).exists() and not (folder / "config.json").exists():
        folder = resolve(read_card(folder)["base"])
    try:
        config = json.loads((folder / "config.json").read_text())
        config = config.get("text_config", config)
        return StreamCodec.load(folder, int(config["vocab_size"]))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}/config.json: unreadable ({error})") from None


def _card(model: "MultiStreamLM") -> dict[str, Any]:
    return {
        "format": FORMAT,
        "base": model.base_name,
        "mask_rule": model.mask_rule,
        "special": {"silence": model.special.silence, "end": model.special.end},
        "streams": model.streams.to_list(),
        "sets": {name: streams.to_list() for name, streams in model.sets.items()},
    }


def _refuse_mismatch(
    folder: Path, card: dict[str, Any], streams: StreamSet | None, mask_rule: str | None
) -> None:
    if mask_rule is not None and mask_rule != card["mask_rule"]:
        raise CheckpointError(
            f"{folder}: trained with mask rule {card['mask_rule']!r}, not {mask_rule!r}; "
            "logits of the other rule are meaningless, so leave mask_rule out or train anew"
        )
    known = StreamSet.from_list(card["streams"])
    lacking = [s.name for s in streams or () if s not in known]
    if lacking:
        raise CheckpointError(f"{folder}: has no stream {', '.join(lacking)}; it has {known}")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"dtype {name!r} is not one of torch's, such as float32 or bfloat16")
    return dtype


def _load_base(folder: Path, dtype: torch.dtype, attention: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention
        )
    except (OSError, ValueError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder}: cannot be loaded: {line}") from None


def _with_adapter(base: Any, folder: Path, trainable: bool) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
    return model if trainable else model.merge_and_unload()


def _read_vectors(path: Path) -> dict[str, Tensor]:
    try:
        vectors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: unreadable ({error})") from None
    lacking = [name for name in _OWN if name not in vectors]
    if lacking:
        raise CheckpointError(f"{path}: lacks {', '.join(lacking)}")
    return vectors


def _copy_tokenizer(source: Path, target: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).exists():
            shutil.copy2(source / name, target / name)

"""A training run from recipe to checkpoint: data, model, trainer, run folder, resume."""

import hashlib
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments, set_seed

from stretto.config import dump
from stretto.errors import CheckpointError, ConfigError, InputError
from stretto.models.checkpoint import load, save
from stretto.models.wrapper import MultiStreamLM
from stretto.runs import Run, flatten
from stretto.streams import IGNORE, Cells
from stretto.streams.build import Sample, Shards, load_shards
from stretto.streams.packing import num_too_long, pack
from stretto.training.config import TrainConfig
from stretto.training.curves import plot_losses
from stretto.training.distribution import check_launch, rank, sharded
from stretto.training.exit_loss import check_exits
from stretto.training.progress import ProgressCallback
from stretto.training.trainer import PackDataset, StreamTrainer, checkpoint_step, load_trained


def train(config: TrainConfig, output: Path, *, data: Path, resume: bool = False) -> Path:
    """Tune a model on built shards.

    Args:
        config: what to do.
        output: run folder; checkpoints go under ``checkpoints/``, the result to ``model/``.
        data: folder that ``stretto data build`` wrote.
        resume: go on from the last checkpoint of this folder (from the start where there is
            none yet); the loss curve is the same as that of an unbroken run.

    Returns:
        the folder of the finished checkpoint.

    Raises:
        ConfigError: the run to be resumed had other settings, data, sharding or number of
            processes, the launch cannot be honoured, or the model lacks an exit.
        CheckpointError, InputError: model, data or run folder cannot be read.
    """
    check_launch()
    args = _arguments(config, output)
    set_seed(config.seed)
    shards = load_shards(data)
    model = build_model(config, shards)
    check_exits(config.layerskip, model.config.num_hidden_layers)
    training, held_out = _split(shards.samples, config)
    packs, held_out_packs = _packs(training, config), _packs(held_out, config)
    if not packs:
        raise InputError(f"{data}: no sample has at most {config.pack_cells} cells (pack_cells)")
    packs_per_pass = config.packs_per_batch * args.world_size
    if len(packs) < packs_per_pass:
        raise InputError(
            f"{data}: {len(packs)} packs, but a forward pass takes {packs_per_pass} "
            "(packs_per_batch in each process); lower packs_per_batch or pack_cells"
        )
    # The number of processes as torch has it, not as the launcher meant it.
    origin = {"data": _fingerprint(shards), "processes": args.world_size, "sharded": sharded()}
    run = _open_run(output, config, origin, resume)
    last = _last_checkpoint(output) if resume else None
    progress = ProgressCallback(run, config.steps)
    trainer = StreamTrainer(
        model,
        config,
        args,
        train_dataset=PackDataset(packs),
        eval_dataset=_even(held_out_packs, packs_per_pass),
        callbacks=[progress],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
    done = checkpoint_step(last) if last else 0
    if run is not None:
        too_long = num_too_long([len(s.cells) for s in training], config.pack_cells)
        about = {"samples": len(training), "too_long": too_long, "resumed_at": done, **origin}
        _describe(run, model, packs, about)
    folder = output / "model"
    with progress, run or nullcontext():
        if last is not None and done >= config.steps:  # Trainer would take another step
            load_trained(model, last)
            trainer.state.global_step = done
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        final = trainer.evaluate()
        state = trainer.trained_state() if trainer.is_fsdp_enabled else None
        if run is not None:
            if state is not None:  # the model is in shards; put the whole into a new one
                model = build_model(config, shards, device="cpu")
                model.load_state_dict(state, strict=False)
            save(model, folder, adapter_dtype=torch.bfloat16)
            run.write_metrics(final)
            plot_losses(run, output / "losses.png")
    return folder


def build_model(config: TrainConfig, shards: Shards, device: str = "auto") -> MultiStreamLM:
    """The model to be trained, with adapters in place.

    Raises:
        CheckpointError: the shards were made for another vocabulary.
    """
    options: dict[str, Any] = {"streams": shards.streams, "mask_rule": config.mask_rule}
    options["device"] = device
    # Full fine-tuning keeps float32 weights under bf16 autocast; a frozen base needs no copy.
    frozen_bf16 = config.tune == "lora" and config.dtype == "bfloat16"
    dtype = torch.bfloat16 if frozen_bf16 else torch.float32
    model = load(MultiStreamLM, config.base, dtype=dtype, trainable=True, **options)
    if model.special != shards.special:
        raise CheckpointError(
            f"{config.base} has {model.vocab_size} tokens, but the data were built for silence = "
            f"{shards.special.silence}; build them again with --model {config.base}"
        )
    model.sets = shards.sets
    if config.init == "random":
        _randomise(model)
    if config.tune == "lora" and not hasattr(model.base, "peft_config"):
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=config.lora.rank,
            lora_alpha=config.lora.alpha,
            target_modules="all-linear",
            bias="none",
            task_type="CAUSAL_LM",
        )
        model.base = get_peft_model(model.base, lora, autocast_adapter_dtype=True)
    if config.gradient_checkpointing:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
        model.base.enable_input_require_grads()
    return model


def _randomise(model: MultiStreamLM) -> None:
    """Give a model the weights its architecture begins with, from torch's random numbers.

    Raises:
        ConfigError: the base is an adapter.
    """
    if hasattr(model.base, "peft_config"):
        raise ConfigError("init: random weights under an adapter; take a plain base model")
    fresh = type(model.base)(model.base.config)
    model.base.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        model.stream_embedding.zero_()
        model.special_in.copy_(fresh.get_input_embeddings().weight.mean(0).repeat(2, 1))
        model.special_out.copy_(fresh.get_output_embeddings().weight.mean(0).repeat(2, 1))


def _open_run(
    output: Path, config: TrainConfig, origin: dict[str, Any], resume: bool
) -> Run | None:
    """The run folder; None in all processes but the first, which alone writes to it."""
    if not resume:
        return Run.create(output, config, kind="train") if rank() == 0 else None
    run = Run.open(output)
    before, now = flatten(run.config()), flatten(dump(config))
    start = next(run.events("start"), {})
    before |= {key: start.get(key, value) for key, value in origin.items()}
    now |= origin
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise ConfigError(f"{output}: cannot resume with another {', '.join(changed)}")
    return run if rank() == 0 else None


def _fingerprint(shards: Shards) -> str:
    """What tells data apart that were built under the same name."""
    files = json.dumps(shards.manifest["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:16]


def _last_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint; None where the run was stopped before its first."""
    whole = filter(_is_whole, output.glob("checkpoints/checkpoint-*"))
    return max(whole, key=checkpoint_step, default=None)


def _is_whole(checkpoint: Path) -> bool:
    # trainer_state.json is what Trainer writes last; without it the save was cut short.
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _split(samples: list[Sample], config: TrainConfig) -> tuple[list[Sample], list[Sample]]:
    """Training and held-out samples; the choice depends on the seed only."""
    if config.holdout >= len(samples):
        raise InputError(f"holdout is {config.holdout}, but there are {len(samples)} samples")
    order = np.random.default_rng(config.seed).permutation(len(samples)).tolist()
    return (
        [samples[i] for i in order[config.holdout :]],
        [samples[i] for i in order[: config.holdout]],
    )


def _packs(samples: list[Sample], config: TrainConfig) -> list[list[Cells]]:
    groups = pack([len(s.cells) for s in samples], config.pack_cells, seed=config.seed)
    return [[samples[i].cells for i in group] for group in groups]


def _even(packs: list[list[Cells]], multiple: int) -> PackDataset | None:
    """Packs filled up with ones that have no labels, so that no process repeats one to keep step.

    They add nothing to losses and counts.
    """
    if not packs:
        return None
    mute = [replace(cells, labels=np.full_like(cells.labels, IGNORE)) for cells in packs[0]]
    return PackDataset([*packs, *[mute] * (-len(packs) % multiple)])


def _arguments(config: TrainConfig, output: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.packs_per_batch,
        per_device_eval_batch_size=config.packs_per_batch,
        gradient_accumulation_steps=config.accumulate,
        max_grad_norm=config.optimiser.max_grad_norm,
        bf16=config.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=config.log_every,
        eval_strategy="steps" if config.holdout else "no",
        eval_steps=config.eval_every,
        save_steps=config.save_every,
        save_total_limit=2,
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        # Several processes would fill up a last batch that is cut short with repeated packs.
        dataloader_drop_last=True,
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=[],
    )


def _describe(
    run: Run, model: MultiStreamLM, packs: list[list[Cells]], about: dict[str, Any]
) -> None:
    cells = sum(len(table) for group in packs for table in group)
    run.event(
        "start",
        **about,
        packs=len(packs),
        cells=cells,
        cells_per_pack=round(cells / len(packs), 1),
        trainable=model.trainable(),
        streams=model.streams.names,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )

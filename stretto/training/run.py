"""A training run from recipe to checkpoint: data, model, trainer, run folder, resume."""

import os
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
from stretto.streams import Cells
from stretto.streams.build import Sample, Shards, load_shards
from stretto.streams.packing import num_too_long, pack
from stretto.training.config import TrainConfig
from stretto.training.curves import plot_losses
from stretto.training.progress import ProgressCallback
from stretto.training.trainer import PackDataset, StreamTrainer


def train(config: TrainConfig, output: Path, *, data: Path, resume: bool = False) -> Path:
    """Tune a model on built shards.

    Args:
        config: what to do.
        output: run folder; checkpoints go under ``checkpoints/``, the result to ``model/``.
        data: folder that ``stretto data build`` wrote.
        resume: go on from the last checkpoint of this folder; the loss curve is the same as
            that of an unbroken run.

    Returns:
        the folder of the finished checkpoint.

    Raises:
        ConfigError: the run to be resumed had other settings, or has no checkpoint yet.
        CheckpointError, InputError: model, data or run folder cannot be read.
    """
    run = _open_run(output, config, resume)
    set_seed(config.seed)
    shards = load_shards(data)
    model = build_model(config, shards)
    training, held_out = _split(shards.samples, config)
    packs = _packs(training, config)
    trainer = StreamTrainer(
        model,
        config,
        _arguments(config, output),
        train_dataset=PackDataset(packs),
        eval_dataset=PackDataset(_packs(held_out, config)) if held_out else None,
        callbacks=[ProgressCallback(run, config.steps)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log as a dict
    too_long = num_too_long([len(s.cells) for s in training], config.pack_cells)
    _describe(run, model, packs, samples=len(training), too_long=too_long)
    last = _last_checkpoint(output) if resume else None
    folder = output / "model"
    with run:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        final = trainer.last_evaluation or trainer.evaluate()
        if trainer.is_world_process_zero():
            save(model, folder, adapter_dtype=torch.bfloat16)
            run.write_metrics(final)
            plot_losses(run, output / "losses.png")
    return folder


def build_model(config: TrainConfig, shards: Shards) -> MultiStreamLM:
    """The model to be trained, with adapters in place.

    Raises:
        CheckpointError: the shards were made for another vocabulary.
    """
    options: dict[str, Any] = {"streams": shards.streams, "mask_rule": config.mask_rule}
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


def _open_run(output: Path, config: TrainConfig, resume: bool) -> Run:
    # Of several processes each keeps events of its own; those of the first are the run's.
    rank = int(os.environ.get("RANK", "0"))
    folder = output / "ranks" / str(rank) if rank else output
    if not resume:
        return Run.create(folder, config, kind="train")
    run = Run.open(folder)
    before, now = flatten(run.config()), flatten(dump(config))
    changed = [key for key in now if before.get(key) != now[key]]
    if changed:
        raise ConfigError(f"{output}: cannot resume with another {', '.join(changed)}")
    return run


def _last_checkpoint(output: Path) -> Path:
    found = sorted(
        output.glob("checkpoints/checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2])
    )
    # trainer_state.json is what Trainer writes last; without it the save was cut short.
    whole = [path for path in found if (path / "trainer_state.json").exists()]
    if not whole:
        raise ConfigError(f"{output}: no complete checkpoint to resume from; start anew")
    return whole[-1]


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
        disable_tqdm=True,
        report_to=[],
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=[],
    )


def _describe(
    run: Run, model: MultiStreamLM, packs: list[list[Cells]], *, samples: int, too_long: int
) -> None:
    cells = sum(len(table) for group in packs for table in group)
    run.event(
        "start",
        samples=samples,
        too_long=too_long,
        packs=len(packs),
        cells=cells,
        cells_per_pack=round(cells / len(packs), 1),
        trainable=model.trainable(),
        streams=model.streams.names,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )

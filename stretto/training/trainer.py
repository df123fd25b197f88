"""transformers' Trainer, taught what a table is: batch, loss, parameter groups, checkpoints.

The loop, accumulation, clipping, schedule, precision, distribution and resuming are Trainer's.
"""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer import SCHEDULER_NAME

from stretto.errors import CheckpointError
from stretto.models.batch import StreamBatch
from stretto.models.wrapper import MultiStreamLM
from stretto.streams import IGNORE, Cells
from stretto.training.config import OptimiserSettings, TrainConfig
from stretto.training.distribution import check_sharding, reshard, shard_on_cpu
from stretto.training.exit_loss import ExitLoss, exit_report, gather
from stretto.training.layer_dropout import LayerDropout
from stretto.training.stream_loss import StreamLoss, count_cells, loss_report, stream_loss

_TRAINED = "trained.pt"
_LAYERSKIP = "layerskip.json"
VECTORS = ("stream_embedding", "special_in", "special_out")


class PackDataset(Dataset):
    """Packs of samples; an item is the list of tables that share one sequence."""

    def __init__(self, packs: Sequence[Sequence[Cells]]) -> None:
        self._packs = packs

    def __len__(self) -> int:
        return len(self._packs)

    def __getitem__(self, index: int) -> Sequence[Cells]:
        return self._packs[index]


def collate(packs: Sequence[Sequence[Cells]]) -> dict[str, Tensor]:
    """Tensors of one micro-batch (Trainer wants a mapping)."""
    return dict(vars(StreamBatch.from_packs(packs)))


class StreamTrainer(Trainer):
    """Trainer over packs of tables."""

    def __init__(
        self, model: MultiStreamLM, config: TrainConfig, args: TrainingArguments, **options: Any
    ) -> None:
        self.lm = model
        self.run_config = config
        self._evaluation: tuple[int, dict[str, float]] = (-1, {})
        self._saved_at = -1
        self._totals_device = args.device
        # One process with several GPUs uses one: nn.DataParallel could not split a StreamBatch.
        args._n_gpu = min(args.n_gpu, 1)
        self._reset_totals()
        self._use_layerskip()
        # What FSDP shards layer by layer; it looks for this where Hugging Face models have it.
        untyped: Any = model
        untyped._no_split_modules = model.base._no_split_modules
        super().__init__(model=model, args=args, data_collator=collate, **options)
        check_sharding(self.accelerator)
        # compute_loss divides by the cells of the whole step, so Trainer must not divide again.
        self.model_accepts_loss_kwargs = True

    def _use_layerskip(self) -> None:
        """Layer dropout and exits where the config asks for them."""
        config, settings = self.run_config, self.run_config.layerskip
        self._dropout: LayerDropout | None = None
        self._exits: ExitLoss | None = None
        if settings.p_max:
            decoder = self.lm.base.get_decoder()
            kind, steps = settings.dropout_ramp, config.steps
            self._dropout = LayerDropout(
                decoder, settings.p_max, kind=kind, steps=steps, seed=config.seed
            )
        if settings.e_scale or settings.report:
            self._exits = ExitLoss(
                self.lm, settings, config.silence_weight, steps=config.steps, seed=config.seed
            )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's, with layer dropout in place meanwhile."""
        with self._dropout or nullcontext():
            return super().train(*args, **kwargs)

    def create_accelerator_and_postprocess(self) -> None:
        """What accelerate does for this run, FSDP on CPUs included."""
        super().create_accelerator_and_postprocess()
        self.is_fsdp_enabled |= shard_on_cpu(self.accelerator)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        """Content and silence cells of one optimiser step, over micro-batches and processes (2)."""
        cells = torch.zeros(2, dtype=torch.long, device=device)
        for inputs in batch_samples:
            cells += count_cells(inputs["labels"], self.lm.special).to(device)
        return self._of_all_ranks(cells)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Part of one micro-batch in the loss of its optimiser step; added to the running totals.

        The means are over all cells of the step, so it does not matter how they are spread over
        micro-batches and processes. Gradients are averaged over the processes; hence the factor.
        """
        loss = self._training_loss(model, StreamBatch(**inputs), num_items_in_batch)
        self._sums += loss.sums
        self._counts += loss.counts
        self._cells += (inputs["samples"] >= 0).sum()
        total = loss.total * self.accelerator.num_processes
        return (total, {}) if return_outputs else total

    def _training_loss(self, model: Any, batch: StreamBatch, cells: Tensor | None) -> StreamLoss:
        """Of the last layer; with exits on, of all of them by weight."""
        step = self.state.global_step  # optimiser steps done, so t of the one under way
        if self._dropout is not None:
            self._dropout.step = step
        if self._exits is None or len(weights := self._exits.weights(step)) == 1:
            return self._loss(model, batch, cells)
        early = [e for e in weights if e != self._exits.layers]
        select, labels, streams = _labelled(batch)
        output = model(batch, select=select[:0], exits=early)  # logits are made in chunks
        states = gather(output.hidden, output.exits, select, self._exits.layers)
        with self.accelerator.autocast():
            return self._exits.weighted(states, labels, streams, step, cells)

    def _held_out(self, model: Any, batch: StreamBatch) -> dict[int, StreamLoss]:
        """Losses of the last layer (as exit 0) and of the exits that an evaluation reports."""
        if self._exits is None:
            return {0: self._loss(model, batch)}
        select, labels, streams = _labelled(batch)
        output = model(batch, select=select[:0], exits=self._exits.reported)
        states = gather(output.hidden, output.exits, select, self._exits.layers)
        with self.accelerator.autocast():
            last = self._exits.score(states.pop(self._exits.layers), labels, streams, normed=True)
            return {0: last} | {e: self._exits.score(x, labels, streams) for e, x in states.items()}

    def _loss(self, model: Any, batch: StreamBatch, cells: Tensor | None = None) -> StreamLoss:
        select, labels, streams = _labelled(batch)
        logits = model(batch, select=select).logits
        return stream_loss(
            logits,
            labels,
            streams,
            self.lm.special,
            len(self.lm.streams),
            self.run_config.silence_weight,
            cells,
        )

    def _reset_totals(self) -> None:
        # On the device, so that adding to them waits for nothing.
        shape, device = (2, len(self.lm.streams)), self._totals_device
        self._sums = torch.zeros(shape, device=device)
        self._counts = torch.zeros(shape, device=device, dtype=torch.long)
        self._cells = torch.zeros((), device=device, dtype=torch.long)

    def _of_all_ranks(self, part: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.accelerator.reduce(part, "sum")  # type: ignore[return-value]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Put the loss of each stream and kind beside Trainer's mean."""
        if "loss" in logs:
            sums, counts = self._of_all_ranks(self._sums), self._of_all_ranks(self._counts)
            logs |= loss_report(sums, counts, self.lm.streams)
            logs["cells"] = int(self._of_all_ranks(self._cells))
            self._reset_totals()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Losses on the held-out samples, by stream and kind; none where there are none.

        Trainer asks twice after the last step; the answer is remembered.
        """
        if self.eval_dataset is None:
            return {}
        step, report = self._evaluation
        if step == self.state.global_step:
            return report
        totals: dict[int, tuple[Tensor, Tensor]] = {}
        model: Any = self.model
        model.eval()
        with torch.no_grad(), self.compute_loss_context_manager():
            for inputs in self.get_eval_dataloader():
                batch = StreamBatch(**self._prepare_inputs(inputs))
                for layer, loss in self._held_out(model, batch).items():
                    sums, counts = totals.get(layer, (0, 0))
                    totals[layer] = sums + loss.sums, counts + loss.counts
        model.train()
        reshard(model)
        everywhere = {e: tuple(map(self._of_all_ranks, both)) for e, both in totals.items()}
        sums, counts = everywhere.pop(0)
        losses = loss_report(sums, counts, self.lm.streams) | exit_report(everywhere)
        report = {f"eval_{name}": loss for name, loss in losses.items()}
        self.log(report)
        self._evaluation = (self.state.global_step, report)
        return report

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with the vectors in a group of their own."""
        if self.optimizer is None:
            settings = self.run_config.optimiser
            trained: Any = model or self.model
            named = [(n, p) for n, p in trained.named_parameters() if p.requires_grad]
            vectors = [p for n, p in named if n.endswith(VECTORS)]
            weights = [p for n, p in named if not n.endswith(VECTORS)]
            groups = [
                {"params": weights, "lr": settings.learning_rate},
                {"params": vectors, "lr": settings.vector_learning_rate, "weight_decay": 0.0},
            ]
            self.optimizer = torch.optim.AdamW(
                [group for group in groups if group["params"]],
                betas=settings.betas,
                weight_decay=settings.weight_decay,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Linear warm-up, then cosine down to a fraction of the peak."""
        if self.lr_scheduler is None:
            scale = warm_cosine(self.run_config.optimiser, num_training_steps)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, scale)
        return self.lr_scheduler

    # Checkpoints hold what is trained, not the base.

    def trained_state(self) -> dict[str, Tensor]:
        """Trained tensors by name, whole and on the CPU.

        Where FSDP has them in shards, all processes must call this together; those that write
        nothing get nothing, as the memory of a machine may not hold a copy for each.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self.lm.named_parameters():
            if parameter.requires_grad:
                tensor = parameter.detach()
                whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
                if self.args.should_save:
                    state[name] = whole.cpu()
        return state

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        # Trainer asks twice after the last step. Writing over a whole checkpoint would leave none
        # to resume from if it was killed meanwhile.
        if self._saved_at != self.state.global_step:
            super()._save_checkpoint(model, trial)
            self._saved_at = self.state.global_step

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the trained tensors; under FSDP without gathering the base, as Trainer would."""
        if self.args.should_save or self.is_fsdp_enabled:
            self._save(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # Trainer's own would write the whole base here too.
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        trained = self.trained_state()
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(trained, folder / _TRAINED)
            parts = {"dropout": self._dropout, "exits": self._exits}
            state = {name: part.state_dict() for name, part in parts.items() if part is not None}
            if state:
                (folder / _LAYERSKIP).write_text(json.dumps(state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_trained(self.lm, folder)
        self._load_layerskip(folder / _LAYERSKIP)
        self._saved_at = checkpoint_step(folder)

    def _load_layerskip(self, path: Path) -> None:
        parts = {"dropout": self._dropout, "exits": self._exits}
        parts = {name: part for name, part in parts.items() if part is not None}
        try:
            state = json.loads(path.read_bytes()) if parts else {}
            for name, part in parts.items():
                part.load_state_dict(state[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: unreadable ({type(error).__name__})") from None


def _labelled(batch: StreamBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Cells with a label: flat indices into B * T, labels and streams (N)."""
    assert batch.labels is not None
    labels = batch.labels.flatten()
    select = (labels != IGNORE).nonzero().squeeze(1)
    return select, labels[select], batch.streams.flatten()[select]


def checkpoint_step(folder: Path) -> int:
    """Optimiser steps behind a Trainer checkpoint, from its name."""
    return int(folder.name.rpartition("-")[2])


def load_trained(model: MultiStreamLM, folder: Path) -> None:
    """Put the trained tensors of a Trainer checkpoint into a model, sharded or not.

    Raises:
        CheckpointError: the file is missing or does not fit the model.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    path = folder / _TRAINED
    try:
        trained = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: unreadable ({reason})") from None
    if set(trained) != {name for name, p in model.named_parameters() if p.requires_grad}:
        raise CheckpointError(f"{folder}: was made by a run with other trainable tensors")
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_model_state_dict(model, trained, options=options)


def warm_cosine(settings: OptimiserSettings, steps: int) -> Any:
    """Learning-rate factor of each step: linear from 0, then cosine to ``final_fraction``."""

    def factor(step: int) -> float:
        if step < settings.warmup_steps:
            return (step + 1) / (settings.warmup_steps + 1)
        done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return settings.final_fraction + (1 - settings.final_fraction) * cosine

    return factor

"""Several processes: which one speaks for a run, and what accelerate's settings must be."""

import os
from typing import Any

from stretto.errors import ConfigError


def rank() -> int:
    """Number of this process among those of a run; 0 where there is one only.

    The launcher says so in the environment, before anything is loaded.
    """
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """Number of processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def sharded() -> bool:
    """Whether the accelerate config asks for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def check_launch() -> None:
    """Refuse a launch that asked for several processes and got one.

    Raises:
        ConfigError: accelerate's MULTI_CPU without MPI, which starts a single process.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and (
        "MASTER_ADDR" in os.environ  # accelerate sets it for more than one process only
    )
    sizes = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if asked and not any(name in os.environ for name in sizes):
        raise ConfigError(
            "accelerate config: distributed_type MULTI_CPU starts one process only (without MPI); "
            "set MULTI_GPU with use_cpu: true, as examples/accelerate/ddp-cpu.yaml does"
        )


def shard_on_cpu(accelerator: Any) -> bool:
    """Turn FSDP on where the processes run on CPUs; True if that was to be done.

    accelerate turns it on for GPUs only, though torch's ``fully_shard`` works over gloo just as
    well; this does for CPUs what ``AcceleratorState.__init__`` does for GPUs.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    if not sharded() or accelerator.distributed_type != DistributedType.MULTI_CPU:
        return False
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    for state in (PartialState(), accelerator.state):  # the second copies the first now and then
        state.distributed_type = DistributedType.FSDP
    return True


def values_held(model: Any) -> tuple[int, int]:
    """How many of a model's values lie in this process, and how many there are."""
    from torch.distributed.tensor import DTensor

    parameters = list(model.parameters())
    held = [p.to_local() if isinstance(p, DTensor) else p for p in parameters]
    return sum(p.numel() for p in held), sum(p.numel() for p in parameters)


def reshard(model: Any) -> None:
    """Put what FSDP has gathered back into shards; nothing where there is no FSDP.

    A backward pass does so by itself. After a forward pass alone the outermost parameters stay
    whole, and the optimiser's state, which knows the shards only, could not be saved.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def check_sharding(accelerator: Any) -> None:
    """Refuse FSDP settings that could not be honoured.

    Raises:
        ConfigError: a setting of the accelerate config file does not fit.
    """
    if not sharded():
        return
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        raise ConfigError(
            "FSDP is asked for, but this is a single process; start it with `accelerate launch` or "
            "torchrun"
        )
    if plugin.fsdp_version != 2:
        raise ConfigError("accelerate config: set fsdp_version: 2 (version 1 is on its way out)")
    if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ConfigError(
            "accelerate config: set fsdp_state_dict_type: FULL_STATE_DICT; checkpoints in shards "
            "are not tested"
        )
    if plugin.cpu_ram_efficient_loading:
        raise ConfigError(
            "accelerate config: set fsdp_cpu_ram_efficient_loading: false; every process loads "
            "the base itself"
        )
    if plugin.activation_checkpointing:
        raise ConfigError(
            "accelerate config: set fsdp_activation_checkpointing: false, and "
            "gradient_checkpointing: true in the recipe"
        )

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


def check_sharding(accelerator: Any) -> None:
    """Refuse FSDP settings that could not be honoured.

    Raises:
        ConfigError: a setting of the accelerate config file does not fit.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        raise ConfigError(
            "accelerate config: distributed_type FSDP needs GPUs (accelerate leaves it out on "
            "CPUs); use MULTI_CPU"
        )
    if plugin.fsdp_version != 2:
        raise ConfigError("accelerate config: set fsdp_version: 2 (version 1 is on its way out)")
    if "FULL_STATE_DICT" not in str(plugin.state_dict_type):
        raise ConfigError(
            "accelerate config: set fsdp_state_dict_type: FULL_STATE_DICT, so that checkpoints "
            "hold whole tensors"
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

"""``stretto`` as a script, with FSDP on the CPU, which accelerate has for accelerators only.

accelerate turns FSDP on after it has looked at the kind of device, and leaves CPUs out. That one
switch is thrown here; all the rest (sharding, gathering, saving, loading) is what runs on GPUs.
"""

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

_init = AcceleratorState.__init__


def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = _with_fsdp  # type: ignore[method-assign]

if __name__ == "__main__":
    from stretto.cli import main

    main()

"""Host arrays to the device, without the host waiting for it."""

import numpy as np
import torch
from torch import Tensor


def put(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device; on the CPU it shares the array's memory.

    A copy from ordinary memory to a GPU waits until all work before it is done. From pinned memory
    it does not; torch keeps the pinned copy until the transfer is over.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

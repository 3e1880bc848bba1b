"""A GPU that torch reports and this machine does not have: its compute capability, and what of its memory is free."""

import pytest
import torch

GIB = 2**30


def install(
    patch: pytest.MonkeyPatch, *, capability: tuple[int, int] = (8, 0), free: float = 40, total: float = 48
) -> None:
    """Has torch report one GPU with so many GiB; nothing can be computed on it."""
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: 1)
    patch.setattr(torch.cuda, "current_device", lambda: 0)
    patch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla V100" if capability < (8, 0) else "A40")
    patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(free * GIB), int(total * GIB)))
    patch.setattr(torch.cuda, "memory_reserved", lambda device=None: 2 * GIB)
    patch.setattr(torch.cuda, "empty_cache", lambda: None)

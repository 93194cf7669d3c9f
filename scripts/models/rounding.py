"""Half precision with fewer digits, so that weights pack into a small wheel.

A half-precision number has ten bits behind the point; the last three of them hold noise
here, and packed files cannot be smaller than their noise. Seven, as bfloat16 has, cost
a fifth less in the wheel. The files stay ordinary half precision.
"""

from __future__ import annotations

import torch
from torch.nn import Module

NOISE = 3


def coarse(tensor: torch.Tensor) -> torch.Tensor:
    """Floats as half-precision numbers of seven bits behind the point."""
    if not tensor.is_floating_point():
        return tensor
    bits = tensor.half().contiguous().view(torch.int16).int() & 0xFFFF
    rounded = (bits + (1 << (NOISE - 1))) >> NOISE << NOISE
    signed = torch.where(rounded > 0x7FFF, rounded - 0x10000, rounded)
    return signed.to(torch.int16).view(torch.float16).reshape(tensor.shape)


def round_weights(module: Module) -> Module:
    """Makes a module one in half precision, its weights `coarse`."""
    rounded = {name: coarse(t) for name, t in module.state_dict().items()}
    module.half().load_state_dict(rounded)
    return module

"""CogVideoX's encoder for single frames: no time axis, and no bookkeeping for one.

The library pads a clip with copies of its first frame, so for a clip of one frame all
time steps of a causal convolution's kernel see the same image: summing the kernel over
time gives the same result. What remains is a network of 2-D layers, called here without
the library's modules around them, which cost a fifth of the time on small frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Layer = Callable[[Tensor], Tensor]


def still_encoder(
    model: Any, layout: torch.memory_format = torch.channels_last
) -> Layer:
    """From frames (n, 3, 1, H, W) to moments (n, 2C, 1, h, w), as the model gives them.

    Args:
        model: An `AutoencoderKLCogVideoX`; its weights are shared where they can be.
        layout: The memory layout of the images. A CPU's convolutions are faster with
            the channels last.
    """
    encoder = model.encoder
    layers = [_conv(encoder.conv_in)]
    for block in encoder.down_blocks:
        layers += [_resnet(resnet) for resnet in block.resnets]
        layers += [_downsample(one) for one in block.downsamplers or ()]
    layers += [_resnet(resnet) for resnet in encoder.mid_block.resnets]
    layers += [_norm(encoder.norm_out, encoder.conv_act), _conv(encoder.conv_out)]

    def moments(video: Tensor) -> Tensor:
        x = video[:, :, 0].contiguous(memory_format=layout)
        for layer in layers:
            x = layer(x)
        whole = x[:, :, None]
        return whole if model.quant_conv is None else model.quant_conv(whole)

    return moments


def _resnet(block: Any) -> Layer:
    before = _norm(block.norm1, block.nonlinearity), _conv(block.conv1)
    after = _norm(block.norm2, block.nonlinearity), _conv(block.conv2)
    shortcut = getattr(block, "conv_shortcut", None)
    beside = None if shortcut is None else _conv(shortcut)

    def forward(x: Tensor) -> Tensor:
        y = x
        for layer in (*before, *after):
            y = layer(y)
        return y.add_(x if beside is None else beside(x))

    return forward


def _norm(norm: torch.nn.GroupNorm, activation: Any) -> Layer:
    groups, weight, bias, eps = norm.num_groups, norm.weight, norm.bias, norm.eps
    plain = isinstance(activation, torch.nn.SiLU)

    def forward(x: Tensor) -> Tensor:
        y = torch.group_norm(x, groups, weight, bias, eps)
        return functional.silu(y, inplace=True) if plain else activation(y)

    return forward


def _conv(causal: Any) -> Layer:
    """A causal convolution, or one of 1x1x1 that is none."""
    conv: torch.nn.Conv3d = getattr(causal, "conv", causal)
    assert isinstance(conv.padding, tuple)
    stride, padding, bias = conv.stride[1:], conv.padding[1:], conv.bias
    weight = conv.weight.detach()
    weight = weight.float().sum(2).to(weight.dtype)

    def forward(x: Tensor) -> Tensor:
        return torch.conv2d(x, weight, bias, stride, padding)

    return forward


def _downsample(module: Any) -> Layer:
    conv = module.conv

    def forward(x: Tensor) -> Tensor:
        x = functional.pad(x, (0, 1, 0, 1))
        return torch.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)

    return forward

"""SwinIR-light under the names of its authors, of KAIR and of BasicSR, which are the same.

There the image is r * (x - mean), mostly with r = 1: r goes into the head's weight and out of the upsampler. Pairs of
pixels that do not see each other get -100 there and are left out here: e^-100 is 0 in float32 beside 1, so this is the
same while no logit is 80 below the largest.
"""

import math
from typing import Any

import torch
from torch import Tensor

from quantsr.config import ModelConfig
from quantsr.foreign.source import Source
from quantsr.models.swinir import pair_index

DIFFERENCES = {
    r"^conv_before_upsample|^conv_up1|^conv_last": "a SwinIR with another upsampler (classical, real-world or "
    "denoising); wanted SwinIR-light's 'pixelshuffledirect'",
    r"^absolute_pos_embed": "a SwinIR with absolute position embedding (ape), which ours has not",
    r"^(conv_after_body|layers\.0\.conv)\.0\.": "a SwinIR with three convolutions after a group (3conv), wanted one",
    r"logit_scale|cpb_mlp": "a Swin2SR, whose attention is another",
}
BLOCK = r"layers\.{}\.residual_group\.blocks\.(\d+)\."


def convert(
    source: Source, img_range: float | None = None, res_scale: float | None = None
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Our settings, our tensors, and a record. img_range: None is 1."""
    if res_scale is not None:
        raise source.error("got --res-scale, which SwinIR has not")
    source.refuse(DIFFERENCES)
    if "patch_embed.norm.weight" not in source:
        raise source.error("a SwinIR without a norm of its patches (patch_norm false), or none at all")
    ratio, model = 1.0 if img_range is None else img_range, _settings(source)
    layers = {
        "head": source.layer("conv_first", weight=ratio),
        "norm_in": source.layer("patch_embed.norm"),
        "norm_out": source.layer("norm"),
        "after_body": source.layer("conv_after_body"),
        "upsampler.0": source.layer("upsample.0", 1 / ratio, 1 / ratio),
    }
    tensors: dict[str, Tensor] = {}
    for group in range(model.blocks):
        layers[f"body.{group}.conv"] = source.layer(f"layers.{group}.conv")
        tensors[f"body.{group}.gain"] = torch.ones(1)
        for index in range(model.layers):
            theirs, ours = f"layers.{group}.residual_group.blocks.{index}", f"body.{group}.layers.{index}"
            layers |= _layer(source, theirs, ours)
            tensors[f"{ours}.attention.position_bias"] = source.take(f"{theirs}.attn.relative_position_bias_table")
            _check_windows(source, theirs, model.window, index % 2 == 1)
    tensors |= {f"{layer}.{part}": tensor for layer, parts in layers.items() for part, tensor in parts.items()}
    return model, tensors, {"names": "SwinIR", "img_range": ratio}


def _settings(source: Source) -> ModelConfig:
    channels, inputs = source.take("conv_first.weight").shape[:2]
    outputs = source.take("upsample.0.weight").shape[0]
    upscale = math.isqrt(outputs // 3)
    if inputs != 3 or outputs != 3 * upscale**2 or upscale not in (2, 3, 4):
        raise source.error(f"got {inputs} colours in and {outputs} channels out, wanted 3 and 12, 27 or 48")
    blocks = source.numbers(r"layers\.(\d+)\.")
    depths = {len(source.numbers(BLOCK.format(group))) for group in blocks}
    tables = {tuple(t.shape) for name, t in source.tensors.items() if name.endswith("relative_position_bias_table")}
    widths = {t.shape[0] for name, t in source.tensors.items() if name.endswith("mlp.fc1.weight")}
    for what, found in (("layers in a group", depths), ("position tables", tables), ("widths of an MLP", widths)):
        if len(found) != 1:
            raise source.error(f"got {what} {sorted(found)}, wanted the same everywhere")
    ((pairs, heads),), (width,), (layers,) = tables, widths, depths
    if width % channels:
        raise source.error(f"got an MLP of {width} for {channels} channels, wanted a multiple")
    window = (math.isqrt(pairs) + 1) // 2
    return ModelConfig(
        "swinir", upscale, channels, len(blocks),
        layers=layers, heads=heads, window=window, mlp_ratio=width // channels,
    )  # fmt: skip


def _layer(source: Source, theirs: str, ours: str) -> dict[str, dict[str, Tensor]]:
    qkv = f"{theirs}.attn.qkv"
    if f"{qkv}.bias" not in source:  # qkv_bias false
        weight = source.take(f"{qkv}.weight")
        attention = {"weight": weight, "bias": torch.zeros(len(weight))}
    else:
        attention = source.layer(qkv)
    return {
        f"{ours}.norm1": source.layer(f"{theirs}.norm1"),
        f"{ours}.attention.qkv": attention,
        f"{ours}.attention.projection": source.layer(f"{theirs}.attn.proj"),
        f"{ours}.norm2": source.layer(f"{theirs}.norm2"),
        f"{ours}.expand": source.layer(f"{theirs}.mlp.fc1"),
        f"{ours}.contract": source.layer(f"{theirs}.mlp.fc2"),
    }


def _check_windows(source: Source, layer: str, window: int, shifted: bool) -> None:
    """Buffers that follow from the window: which row of the table a pair of pixels has, and a mask if shifted."""
    index, mask = f"{layer}.attn.relative_position_index", f"{layer}.attn_mask"
    if index in source and not torch.equal(source.take(index), pair_index(window)):
        raise source.error(f"{index}: got another order of pairs than that of windows of {window}x{window}")
    masked = any(name.endswith("attn_mask") for name in source.tensors)
    if masked and (mask in source) != shifted:
        wanted = "shifted windows in every second layer"
        raise source.error(f"{layer}: got {'shifted' if mask in source else 'unshifted'} windows, wanted {wanted}")
    if mask in source:
        source.take(mask)

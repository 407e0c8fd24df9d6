"""EDSR under two sets of names: of BasicSR (`EDSR`), and of its authors' EDSR-PyTorch.

Both compute r * (x - mean) through head, blocks, after-body and upsampler, then y / r + mean, with r = 255. All layers
in between are convolutions and ReLU, so f(r * x) with biases b is r * f(x) with biases b / r: only biases change. A
block's branch is times res_scale there: it goes into its second convolution.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from quantsr.config import ModelConfig
from quantsr.foreign.source import Source
from quantsr.models.blocks import RGB_MEAN

IMG_RANGE = 255.0  # unless the file says another
WIDE = 256  # channels from which on EDSR is trained with res_scale 0.1

SRRESNET = (
    "an SRResNet, not an EDSR: it has activations behind its head and in its upsampler, no convolution after its "
    "blocks, and adds the enlarged image"
)
DIFFERENCES = {
    r"running_mean": "has batch normalisation, which EDSR has not; fold it into the convolutions first",
    r"\.attn\.": "has attention, which EDSR has not",
    r"^(conv_hr|upconv1|model\.0)\.": SRRESNET,
}


@dataclass(frozen=True)
class Names:
    """Where a project keeps the layers; {} is a number."""

    project: str
    head: str
    first: str
    second: str
    after: str  # {}: the number of blocks
    stage: str
    last: str


BASICSR = Names(
    "BasicSR", "conv_first", "body.{}.conv1", "body.{}.conv2", "conv_after_body", "upsample.{}", "conv_last"
)
AUTHORS = Names("EDSR-PyTorch", "head.0", "body.{}.body.0", "body.{}.body.2", "body.{}", "tail.0.{}", "tail.1")


def convert(
    source: Source, img_range: float | None = None, res_scale: float | None = None
) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """Our settings, our tensors, and a record. img_range, res_scale: None for what the file or the papers say."""
    source.refuse(DIFFERENCES)
    names = AUTHORS if "head.0.weight" in source else BASICSR
    blocks = source.numbers(names.first.replace(".", r"\.").format(r"(\d+)"))
    channels, inputs = source.take(f"{names.head}.weight").shape[:2]
    if inputs != 3:
        raise source.error(f"got a network of {inputs} colours, wanted 3")
    if res_scale is None and channels >= WIDE:
        raise source.error(f"got {channels} channels; such are mostly trained with res_scale 0.1: say --res-scale")
    scale, ratio = 1.0 if res_scale is None else res_scale, _range(source, img_range)
    factors = [_factor(source, names.stage.format(2 * index), channels) for index in range(_stages(source, names))]
    upscale = {(2,): 2, (3,): 3, (2, 2): 4}.get(tuple(factors))
    if upscale is None:
        raise source.error(f"got upsampling by {' x '.join(map(str, factors)) or 'nothing'}, wanted 2, 3 or 2 x 2")
    layers = {
        "head": source.layer(names.head, bias=1 / ratio),
        "after_body": source.layer(names.after.format(len(blocks)), bias=1 / ratio),
        f"upsampler.{2 * len(factors)}": source.layer(names.last, bias=1 / ratio),
    }
    for index in range(len(factors)):
        layers[f"upsampler.{2 * index}"] = source.layer(names.stage.format(2 * index), bias=1 / ratio)
    for block in blocks:
        layers[f"body.{block}.conv1"] = source.layer(names.first.format(block), bias=1 / ratio)
        layers[f"body.{block}.conv2"] = source.layer(names.second.format(block), scale, scale / ratio)
    tensors = {f"{layer}.{part}": tensor for layer, parts in layers.items() for part, tensor in parts.items()}
    tensors |= {f"body.{block}.gain": torch.ones(1) for block in blocks}
    model = ModelConfig("edsr", upscale, channels, len(blocks), upsampler="paper")
    return model, tensors, {"names": names.project, "img_range": ratio, "res_scale": scale}


def _stages(source: Source, names: Names) -> int:
    return sum(f"{names.stage.format(2 * index)}.weight" in source for index in range(4))


def _factor(source: Source, layer: str, channels: int) -> int:
    outputs = source.take(f"{layer}.weight").shape[0]
    return {4 * channels: 2, 9 * channels: 3}.get(outputs, outputs)


def _range(source: Source, given: float | None) -> float:
    """r; EDSR-PyTorch keeps r * mean in two 1x1 convolutions, which must be those of DIV2K's mean."""
    if "sub_mean.bias" not in source:
        return IMG_RANGE if given is None else given
    mean, identity = torch.tensor(RGB_MEAN), torch.eye(3).view(3, 3, 1, 1)
    found = float((-source.take("sub_mean.bias") / mean).mean())
    told = round(found, 3)
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        same = torch.allclose(source.take(f"{name}.weight"), identity, atol=1e-6)
        if not same or not torch.allclose(source.take(f"{name}.bias"), sign * told * mean, rtol=1e-4):
            raise source.error(f"{name}: got another mean or deviation than {RGB_MEAN} and 1, by which ours is fixed")
    if given is not None and abs(given - told) > 1e-3 * told:
        raise source.error(f"got --img-range {given}, but the file says {told}")
    return told

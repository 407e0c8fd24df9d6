"""The same network, executed by torch, by the numpy reference and by the engine, on every instruction set."""

from typing import Any

import numpy as np
import pytest
import torch
from packing.test_lower import layer_inputs, make_network, packed, run_torch

from quantsr import images, reference
from quantsr.engine import Engine, available_isas
from quantsr.packing.ops import weight_codes
from quantsr.quant import quantized_layers

BITS = [2, 3, 4]


def photo(height: int = 40, width: int = 53) -> np.ndarray:
    """A smooth random picture, uint8 (H, W, 3)."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 256, (height // 6 + 2, width // 6 + 2, 3), dtype=np.uint8)
    return images.bicubic(images.bicubic(coarse, 3), 2)[:height, :width]


@pytest.mark.parametrize("bits", BITS)
def test_each_layer_fed_the_same_codes_has_equal_accumulators(bits: int) -> None:
    network = make_network(bits)
    model = packed(network, bits)
    ops = {op.output: op for op in model.programs["full"].ops}
    for name, x in layer_inputs(network, images.to_float(photo())):
        layer = quantized_layers(network)[name]
        codes, act = layer.act_quantizer.codes(x)
        weights, _ = layer.weight_quantizer.codes(layer.weight)
        by_torch = torch.nn.functional.conv2d(codes.double(), weights.double(), padding=1)[0].permute(1, 2, 0)
        stored = (codes[0].permute(1, 2, 0).numpy().astype(np.int16) - act.qmin).astype(np.uint8)
        op = ops[name]
        by_reference = reference.accumulate(
            stored, weight_codes(op, model.tensors[op.tensors["weight"]]), int(op.attrs["zero"])
        )
        np.testing.assert_array_equal(by_reference, by_torch.numpy().astype(np.int32))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
def test_engine_torch_and_reference_give_the_same_picture(bits: int, depth: str) -> None:
    network = make_network(bits)
    model = packed(network, bits)
    image = images.to_float(photo())
    by_torch = images.to_uint8(run_torch(network, image, depth))
    expected = reference.run(model.programs[depth], model.tensors, image)
    assert Engine(model, depth=depth)(image).tobytes() == expected.tobytes()
    by_reference = images.to_uint8(expected)
    assert np.mean(by_reference != by_torch) < 0.01
    assert np.abs(by_reference.astype(int) - by_torch).max() <= 8


@pytest.mark.parametrize("bits", BITS)
def test_engine_bytes_do_not_depend_on_how_it_runs(bits: int) -> None:
    model = packed(make_network(bits), bits)
    image = images.to_float(photo())
    whole = Engine(model, threads=1)(image)
    for isa in available_isas():
        np.testing.assert_array_equal(Engine(model, threads=2, isa=isa)(image), whole, err_msg=isa)
    np.testing.assert_array_equal(Engine(model, threads=2)(image, tile=16), whole)


@pytest.mark.parametrize(
    "settings", [{"weight_granularity": "per_channel"}, {"weight_shift": True}, {"quantizer": "pams"}], ids=str
)
@pytest.mark.parametrize("bits", BITS)
def test_the_engine_runs_other_quantizers(settings: dict[str, Any], bits: int) -> None:
    model = packed(make_network(bits, **settings), bits)
    image = images.to_float(photo())
    expected = reference.run(model.programs["full"], model.tensors, image)
    assert Engine(model)(image).tobytes() == expected.tobytes()

import pytest

from packing.tiny import tiny_model
from quantsr.packing import dumps
from quantsr.packing.cost import cost, parts

# 64 channels, x4: weights (K) and multiply-adds (G) of the float network, and its reduction by rule B in per cent
KNOWN = {
    ("full", 32): (2695, 182.2, {2: (82.1, 69.9), 3: (79.4, 67.6), 4: (76.6, 65.3)}),
    ("half", 16): (1515, 114.2, {2: (73.0, 55.8), 3: (70.6, 53.9), 4: (68.1, 52.0)}),
    ("quarter", 8): (925, 80.3, {2: (59.8, 39.7), 3: (57.8, 38.4), 4: (55.8, 37.0)}),
}


@pytest.mark.parametrize("width", [2, 3, 4])
def test_published_counts(width):
    model = tiny_model(channels=64, blocks=32, upscale=4, weight_bits=width, act_bits=width)
    for (depth, blocks), (weights, macs, reductions) in KNOWN.items():
        found = cost(model.programs[depth], model.tensors)
        assert sum(layer.quantized for layer in found.layers) == 2 * blocks
        assert round(found.weights / 1e3) == weights
        assert round(found.macs / 1e9, 1) == macs
        assert round(100 * (1 - found.equivalent_weights / found.weights), 1) == reductions[width][0]
        assert round(100 * (1 - found.rule_b_ops / found.macs), 1) == reductions[width][1]


def test_by_hand():
    """One 3x3 layer of each precision, at one pixel: 3->2 float, two 2->2 at W2A3, 2->2 and 2->12 float."""
    model = tiny_model(channels=2, blocks=1, weight_bits=2, act_bits=3, upsampler="direct", depths={"full": [0]})
    found = cost(model.programs["full"], model.tensors, width=1, height=1)
    floats, low = 9 * (6 + 4 + 24), 9 * (4 + 4)
    assert (found.weights, found.macs, found.biases) == (floats + low, floats + low, 2 + 2 + 2 + 2 + 12)
    assert found.bitops == floats * 32 * 32 + low * 2 * 3
    assert found.equivalent_weights == floats + low * 2 / 32
    assert found.rule_a_ops == floats + low * 6 / 64
    assert found.rule_b_ops == floats + low * 3 / 32
    # two affines of 3 channels, offsets and inv of two quantizers, mul of two layers, the gains of two residuals
    assert found.scalars == 2 * 6 + 2 * (2 + 1) + 2 * 2 + 2
    assert cost(model.programs["full"], model.tensors).macs == 320 * 180 * found.macs


def test_layers_after_the_shuffle_count_at_their_resolution():
    model = tiny_model(channels=2, blocks=0, upscale=4, depths={"full": []})
    macs = {layer.name: layer.macs for layer in cost(model.programs["full"], model.tensors, 1, 1).layers}
    assert macs == {"head": 54, "after": 36, "up0": 144, "up1": 4 * 144, "last": 16 * 54}


def test_parts_add_up_to_the_file():
    model = tiny_model(channels=5, weight_bits=3)
    found = parts(model)
    assert sum(found.values()) == len(dumps(model))
    assert found["low-bit weights"] == 8 * -(-5 * 5 * 9 * 3 // 8)  # four blocks of two layers
    assert found["biases"] == 4 * (5 + 8 * 5 + 5 + 20 + 3)

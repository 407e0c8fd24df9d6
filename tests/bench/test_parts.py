"""Cutting networks into parts."""

import numpy as np
import pytest
from packing.tiny import random_image, tiny_model
from test_engine_transformer import make

from quantsr import reference
from quantsr.bench import cases, parts, random_network
from quantsr.bench.parts import Part
from quantsr.packing.cost import cost


def whole(upsampler="pixelshuffle", upscale=4, channels=5):
    packed = tiny_model(channels=channels, blocks=2, upscale=upscale, upsampler=upsampler)
    return Part(packed.programs["full"], packed.tensors)


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_the_inner_kernel_of_a_collapsed_tail_is_exact_away_from_the_border(upscale):
    network, image = whole(upscale=upscale, channels=16), random_image(9, 12)
    assert parts.can_collapse(network)
    collapsed = parts.collapsed(network)
    inner = parts.with_inner_kernels(collapsed)
    assert [op.kind for op in inner.program.ops[-2:]] == ["conv2d", "pixel_shuffle"]
    wanted = network.run(image)
    np.testing.assert_allclose(collapsed.run(image), wanted, atol=1e-4)
    gap = np.abs(inner.run(image) - wanted)
    assert gap[upscale:-upscale, upscale:-upscale].max() < 1e-4
    assert gap.max() > 1e-3  # the border needs other kernels
    macs = [cost(part.program, part.tensors).macs for part in (inner, collapsed, network)]
    assert macs[0] == macs[1] < macs[2]


def test_a_single_convolution_needs_no_collapsing():
    assert not parts.can_collapse(whole("direct"))


def test_the_body_gives_what_it_gives_within_the_network():
    network, image = whole(), random_image(7, 8)
    values = reference.run_all(network.program, network.tensors, image)
    before, body = parts.body(network)
    features = before.run(image)
    np.testing.assert_array_equal(features, values["head"])
    assert body.channels == features.shape[2]
    np.testing.assert_array_equal(body.run(features), values["b1"])
    assert {op.kind for op in body.program.ops} == {"quantize", "qconv2d", "relu", "residual"}


def test_parts_survive_a_file(tmp_path):
    _, body = parts.body(whole())
    parts.save(body, tmp_path / "x.safetensors")
    again = parts.load(tmp_path / "x.safetensors")
    assert (again.program, again.channels) == (body.program, body.channels)
    features = np.random.default_rng(0).standard_normal((5, 6, 5)).astype(np.float32)
    np.testing.assert_array_equal(again.run(features), body.run(features))


def test_multiply_adds_count_each_convolution_at_its_resolution():
    network = whole()  # 5 channels, 2 blocks, x4 in two shuffles
    low = 9 * (3 * 5 + 5 * 5 * 5 + 5 * 20) + 4 * 9 * 5 * 20 + 16 * 9 * 5 * 3
    assert cost(network.program, network.tensors, width=5, height=2).macs == 10 * low
    _, body = parts.body(network)
    assert cost(body.program, body.tensors, 5, 2, body.channels).macs == 10 * 4 * 9 * 5 * 5


def test_random_layers_spread_their_codes():
    features = np.random.default_rng(0).standard_normal((20, 20, 64)).astype(np.float32)
    chain = parts.layer(features, seed=1)
    assert sum(op.kind == "qconv2d" for op in chain.program.ops) == random_network.LAYERS
    values = {"image": features}
    for op in chain.program.ops:
        values[op.output] = reference.step(op, [values[name] for name in op.inputs], chain.tensors)
        if op.kind == "quantize":
            assert len(np.unique(values[op.output])) >= 12


def test_random_networks_follow_from_their_seed():
    first, again, other = (random_network.network(blocks=1, upsampler="direct", seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not np.array_equal(first.tensors["head.weight"], other.tensors["head.weight"])


def test_only_a_transformer_has_a_size():
    model = make(1, 12, window=4)
    assert parts.has_size(Part(model.programs["full"], model.tensors)) and not parts.has_size(whole())


def test_turned_pictures_have_the_size_of_the_first():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    found = cases.turned(picture)
    assert len({p.tobytes() for p in found}) == cases.SAMPLES
    assert {p.shape for p in found} == {picture.shape}
    np.testing.assert_array_equal(found[3], 255 - picture[::-1])

"""Linear layers and products of attention at low bit width: every method, in every placement of a transformer."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsr.models import ALIKE
from quantsr.models.swinir import SwinIR
from quantsr.quant import (
    QUANTIZERS,
    QuantConfig,
    QuantConv2d,
    Quantizer,
    QuantLinear,
    QuantProduct,
    calibrate,
    keep_valid,
    mismatch,
    penalty,
    quantize,
    quantized_layers,
)
from quantsr.quant.quantizer import Raw

METHODS = pytest.mark.parametrize("method", QUANTIZERS)
PLACEMENTS = ["linears", "linears_products", "linears_convolutions"]
LINEARS = ["attention.qkv", "attention.projection", "expand", "contract"]
PRODUCTS = ["attention.scores", "attention.mixture"]


def tiny() -> SwinIR:
    torch.manual_seed(0)
    return SwinIR(upscale=2, channels=12, blocks=2, layers=2, heads=3, window=4)


def quantized(method: str = "rlq", placement: str = "linears", bits: int = 4) -> SwinIR:
    network = tiny()
    quantize(network, QuantConfig(bits, bits, method, placement))
    calibrate(network, [torch.rand(2, 3, 8, 12) for _ in range(2)])
    return network


def names(parts: list[str]) -> set[str]:
    return {f"body.{group}.layers.{layer}.{part}" for group in range(2) for layer in range(2) for part in parts}


CONVOLUTIONS = {"body.0.conv", "body.1.conv"}


@pytest.mark.parametrize(
    "placement,wanted",
    [
        ("linears", names(LINEARS)),
        ("linears_products", names(LINEARS + PRODUCTS)),
        ("linears_convolutions", names(LINEARS) | CONVOLUTIONS),
    ],
    ids=PLACEMENTS,
)
def test_a_placement_swaps_exactly_its_modules(placement: str, wanted: set[str]) -> None:
    network = tiny()
    assert set(quantize(network, QuantConfig(placement=placement))) == wanted
    kinds = {name: type(network.get_submodule(name)) for name in wanted}
    assert {name for name, kind in kinds.items() if kind is QuantConv2d} == wanted & CONVOLUTIONS
    assert {name for name, kind in kinds.items() if kind is QuantProduct} == wanted & names(PRODUCTS)
    assert set(quantized_layers(network)) == {name for name, kind in kinds.items() if kind is not QuantProduct}
    assert {name for name, m in network.named_modules() if isinstance(m, nn.Linear)} == names(LINEARS)


@pytest.mark.parametrize("placement", ["body", "pams"])
def test_placements_of_convolutional_blocks_find_nothing(placement: str) -> None:
    with pytest.raises(ValueError, match=f"placement '{placement}' picks no layer of SwinIR"):
        quantize(tiny(), QuantConfig(placement=placement))


@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 3, 4, 5)], ids=str)
def test_a_linear_layer_computes_what_its_docstring_says(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plain, x = nn.Linear(5, 4), torch.randn(shape)
    config = QuantConfig(3, 3)
    layer = QuantLinear.swap(plain, config, QUANTIZERS["rlq"])
    calibrate(layer, [x])
    assert layer.weight is plain.weight and layer.bias is plain.bias
    shift = layer.act_quantizer.shift
    shift.data.normal_(0, 0.3)
    assert shift.shape == (5,)  # of the last axis
    step, weight_step = layer.act_quantizer.scale, layer.weight_quantizer.scale
    x_hat = step * torch.round(torch.clamp((x + shift) / step, -4, 3))
    w_hat = weight_step * torch.round(torch.clamp(plain.weight / weight_step, -4, 3))
    torch.testing.assert_close(layer(x), x_hat @ w_hat.T + plain.bias)
    codes, params = layer.input_codes(x)
    assert codes.shape == x.shape
    torch.testing.assert_close((codes * params.scale).float(), x_hat)


def test_it_equals_a_convolution_of_one_pixel() -> None:
    torch.manual_seed(0)
    linear, conv, x = nn.Linear(6, 4), nn.Conv2d(6, 4, 1), torch.randn(2, 5, 7, 6)
    conv.weight.data, conv.bias.data = linear.weight.data[:, :, None, None].clone(), linear.bias.data.clone()
    images = x.permute(0, 3, 1, 2)
    for method in QUANTIZERS:
        config = QuantConfig(quantizer=method)
        one = QuantLinear.swap(linear, config, QUANTIZERS[method])
        two = QuantConv2d.swap(conv, config, QUANTIZERS[method])
        calibrate(one, [x])
        calibrate(two, [images])
        torch.testing.assert_close(one(x), two(images).permute(0, 2, 3, 1), msg=method)


def test_a_layer_without_bias_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got Linear.*, wanted one with bias"):
        QuantLinear.swap(nn.Linear(3, 3, bias=False), QuantConfig(), QUANTIZERS["rlq"])


def test_both_inputs_of_a_product_are_quantized() -> None:
    network = quantized(placement="linears_products", bits=2)
    product = network.body[0].layers[0].attention.mixture
    a, b = torch.randn(2, 3, 4, 4).softmax(-1), torch.randn(2, 3, 4, 5)
    wanted = product.left_quantizer(a) @ product.right_quantizer(b)
    assert torch.equal(product(a, b), wanted)
    assert not product.left_quantizer.signed and product.right_quantizer.signed  # a softmax has no sign
    assert product.left_quantizer.shift.shape == (3,)  # one per head
    assert len(product.left_quantizer(a).unique()) <= 4


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_calibration_looks_at_the_float_network(placement: str) -> None:
    network = tiny()
    plain = copy.deepcopy(network)
    quantize(network, QuantConfig(2, 2, placement=placement))
    outputs: list[Tensor] = []
    network.register_forward_hook(lambda _, __, output: outputs.append(output))
    x = torch.rand(2, 3, 9, 11)
    calibrate(network, [x])
    torch.testing.assert_close(outputs[0], plain(x))


@pytest.mark.parametrize(
    "method,placement", [*((name, "linears_products") for name in QUANTIZERS), ("rlq", "linears_convolutions")]
)
def test_every_method_trains(method: str, placement: str) -> None:
    network = quantized(method, placement)
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    wanted = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for step in range(10):
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(step % 2)):
            loss = functional.l1_loss(network(x).float(), wanted)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        (loss + penalty(network) + mismatch(network)).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name
        optimizer.step()
        keep_valid(network)
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


@METHODS
def test_state_survives(method: str) -> None:
    source = quantized(method, "linears_products", bits=3)
    again = tiny()
    quantize(again, QuantConfig(3, 3, method, "linears_products"))
    again.load_state_dict(source.state_dict())
    x = torch.rand(1, 3, 9, 11)
    assert torch.equal(again(x), source(x))


def test_every_quantizer_calibrates() -> None:
    network = quantized(placement="linears_products")
    found = [m for m in network.modules() if isinstance(m, Quantizer) and not isinstance(m, Raw)]
    assert len(found) == 4 * (4 * 2 + 2 * 2) and all(quantizer.calibrated for quantizer in found)


@pytest.mark.slow
@pytest.mark.parametrize("placement", [None, *PLACEMENTS])
def test_compiled_layers_train_as_eager_ones(placement: str | None) -> None:
    torch.compiler.reset()
    eager = quantized(placement=placement) if placement else tiny()
    compiled = copy.deepcopy(eager)
    for module in compiled.modules():
        if isinstance(module, ALIKE):
            module.compile(backend="aot_eager")
    x = torch.rand(2, 3, 8, 12)
    for network in (eager, compiled):
        network(x).square().mean().backward()
    for (name, a), b in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)

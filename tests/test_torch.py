"""Packed networks as modules of PyTorch, inside other programs."""

import copy

import numpy as np
import pytest
import torch
from packing.test_lower import make_network, packed
from packing.test_products import model_of
from torch import nn

import quantsr
import quantsr.torch
from quantsr import images, metrics, zoo
from quantsr.models import SwinIR
from quantsr.packing import write
from quantsr.packing.lower import lower


def to_tensor(image):
    return torch.from_numpy(images.to_float(image)).permute(2, 0, 1)[None]


@torch.no_grad()
def upscale(module, image):
    return images.to_uint8(module(to_tensor(image))[0].permute(1, 2, 0).numpy())


@pytest.fixture
def tiny(tmp_path):
    write(tmp_path / "tiny.safetensors", packed(make_network()))
    return tmp_path / "tiny.safetensors"


@pytest.mark.parametrize("depth", ["full", "half", "quarter"])
@pytest.mark.parametrize("bits", [2, 3, 4, None])
def test_the_module_gives_the_engines_picture(tmp_path, picture, bits, depth):
    write(tmp_path / "x.safetensors", packed(make_network(bits), bits))
    image = picture(40, 53)
    by_engine = quantsr.load(tmp_path / "x.safetensors").upscale(image, depth=depth)
    by_torch = upscale(quantsr.torch.load(tmp_path / "x.safetensors", depth), image)
    gap = np.abs(by_torch.astype(int) - by_engine)
    assert gap.max() <= 1
    assert (gap > 0).mean() <= 1e-3


@pytest.mark.parametrize("name", zoo.bundled())
def test_bundled_networks(name, picture):
    image = picture(24, 30)
    by_engine = quantsr.load(name).upscale(image, depth="quarter")
    by_torch = upscale(quantsr.torch.load(name, depth="quarter"), image)
    assert np.abs(by_torch.astype(int) - by_engine).max() <= 8  # a flipped code spreads
    assert metrics.psnr(by_torch, by_engine, 0) > 55


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_any_floating_type_is_taken(tiny, kind):
    module, lr = quantsr.torch.load(tiny), torch.rand(1, 3, 8, 8)
    sr = module(lr.to(kind))
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, module(lr.to(kind).float()))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("bits", [2, 4])
def test_it_computes_in_the_type_it_is_turned_to(tmp_path, bits, kind):
    write(tmp_path / "c.safetensors", packed(make_network(bits), bits))
    write(tmp_path / "t.safetensors", model_of(bits))
    lr = torch.rand(1, 3, 8, 8)
    for name in ("c.safetensors", "t.safetensors"):
        module = quantsr.torch.load(tmp_path / name)
        wanted = module(lr)
        sr = module.to(kind)(lr)
        assert sr.dtype == kind
        assert (sr.float() - wanted).abs().mean() < 0.01
        sr.sum().backward()
        assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_it_is_a_part_of_other_networks(tiny):
    module = quantsr.torch.load(tiny, depth="half")
    assert not module.training and module.scale == 2
    x = torch.rand(2, 3, 9, 7, requires_grad=True)
    nn.Sequential(module, nn.AvgPool2d(2))(x).square().mean().backward()
    assert x.grad.shape == x.shape and x.grad.isfinite().all() and (x.grad != 0).float().mean() > 0.9
    trained = [p for p in module.parameters() if p.grad is not None and (p.grad != 0).any()]
    assert len(trained) > 10

    module.zero_grad()
    other = copy.deepcopy(module)
    other.load_state_dict(module.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(other(x), module(x), rtol=0, atol=0)
        assert module.double()(x.double()).dtype == torch.float64


def test_a_transformer(tmp_path, picture):
    torch.manual_seed(0)
    network = SwinIR(channels=8, blocks=2, layers=2, heads=2, window=4, upscale=2)
    write(tmp_path / "t.safetensors", lower(network.eval(), name="t", quant=None))
    module = quantsr.torch.load(tmp_path / "t.safetensors")
    x = to_tensor(picture(9, 14))
    with torch.no_grad():
        torch.testing.assert_close(module(x), network(x))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(1, 3, 0, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(1, 3, 8, 8).byte(),
    ],
    ids=["no batch", "gray", "empty", "none", "integers"],
)
def test_what_is_no_batch_of_pictures_is_refused(tiny, x):
    with pytest.raises(ValueError, match=r"got torch\..* wanted floating \(N, 3, H, W\)"):
        quantsr.torch.load(tiny)(x)


def test_names_depths_and_files_are_checked(tmp_path):
    with pytest.raises(zoo.UnknownModelError, match="wanted a file or one of"):
        quantsr.torch.load("none")
    with pytest.raises(ValueError, match="got depth 'deep', wanted one of full, half, quarter"):
        quantsr.torch.load("quantsr-c-x4-w4a4", depth="deep")
    broken = bytearray(zoo.find("quantsr-c-x4-w4a4").read_bytes())
    (tmp_path / "x.safetensors").write_bytes(broken[:1000])
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        quantsr.torch.load(tmp_path / "x.safetensors")

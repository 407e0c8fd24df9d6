"""Networks of others, taken over: the same pictures, then training and packing; or a refusal that says why."""

import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from foreign.plain import MEAN, Authors, BasicSR, SRResNet, SwinIR
from quantsr import checkpoint, foreign, quant, recipe, reference, train
from quantsr.cli import main
from quantsr.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from quantsr.export import pack_checkpoint
from quantsr.foreign import NotImportable
from quantsr.foreign.source import Source
from quantsr.quant import QuantConfig

X = torch.rand(2, 3, 13, 18, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same(network: nn.Module, kind: str, **settings) -> checkpoint.Checkpoint:
    found = foreign.convert(Source(network.state_dict(), "x.safetensors"), kind, **settings)
    ours = checkpoint.network_of(found, Path("x"))
    expected = network(X)
    assert (expected - X.mean()).std() > 0.01  # something to compare
    torch.testing.assert_close(ours(X), expected, rtol=0, atol=2e-5)
    return found


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("source", [BasicSR, Authors])
def test_edsr_gives_the_same_picture(source, upscale):
    found = assert_same(source(upscale=upscale), "edsr")
    model = found.config.model
    assert (model.backbone, model.upscale, model.channels, model.blocks) == ("edsr", upscale, 8, 3)
    assert found.config.quant is None and found.state["ranking"] == [0, 1, 2]
    assert found.state["history"][0]["img_range"] == 255


def test_edsr_of_another_range_and_scale():
    assert_same(BasicSR(img_range=1.0, res_scale=0.1), "edsr", img_range=1.0, res_scale=0.1)
    assert_same(Authors(res_scale=0.5), "edsr", res_scale=0.5)


def test_edsr_pytorch_without_its_mean_layers():
    network = Authors()
    tensors = {name: t for name, t in network.state_dict().items() if "mean" not in name}
    found = foreign.convert(Source(tensors), "edsr")
    torch.testing.assert_close(checkpoint.network_of(found, Path("x"))(X), network(X), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "settings", [{}, {"upscale": 3, "depth": 3}, {"upscale": 4, "ratio": 4, "img_range": 255.0}], ids=str
)
def test_swinir_gives_the_same_picture(settings):
    given = {"img_range": settings["img_range"]} if "img_range" in settings else {}
    found = assert_same(SwinIR(**settings), "swinir", **given)
    model = found.config.model
    assert (model.backbone, model.channels, model.blocks, model.heads, model.window) == ("swinir", 12, 2, 3, 4)
    assert (model.layers, model.mlp_ratio) == (settings.get("depth", 2), settings.get("ratio", 2))


def test_swinir_without_bias_of_qkv_and_buffers():
    network = SwinIR()
    for name, parameter in network.named_parameters():
        if name.endswith("qkv.bias"):
            parameter.data.zero_()
    left_out = ("qkv.bias", "attn_mask", "relative_position_index")
    tensors = {name: t for name, t in network.state_dict().items() if not name.endswith(left_out)}
    found = foreign.convert(Source(tensors), "swinir")
    torch.testing.assert_close(checkpoint.network_of(found, Path("x"))(X), network(X), rtol=0, atol=2e-5)


# ---- what is refused


def changed(network, **tensors):
    return network.state_dict() | {name.replace("__", "."): t for name, t in tensors.items()}


def without(network, name):
    return {key: t for key, t in network.state_dict().items() if not key.startswith(name)}


C = torch.zeros(8, 8, 3, 3)
UNLIKE = {
    "srresnet": ("edsr", lambda: SRResNet().state_dict(), "an SRResNet, not an EDSR: it has activations"),
    "batch norm": ("edsr", lambda: changed(BasicSR(), body__0__bn__running_mean=torch.zeros(8)), "batch normalisation"),
    "attention": ("edsr", lambda: changed(BasicSR(), body__0__ca__weight=C), r"what edsr here does not: body\.0\.ca"),
    "x8": ("edsr", lambda: BasicSR(upscale=8).state_dict(), "got upsampling by 2 x 2 x 2"),
    "no upsampler": ("edsr", lambda: without(BasicSR(), "upsample"), "got upsampling by nothing"),
    "gray": ("edsr", lambda: changed(BasicSR(), conv_first__weight=torch.zeros(8, 1, 3, 3)), "1 colours, wanted 3"),
    "hole": ("edsr", lambda: without(BasicSR(), "body.1"), r"numbered \[0, 2\]"),
    "half a block": ("edsr", lambda: without(BasicSR(), "body.1.conv2"), r"got no body\.1\.conv2\.weight"),
    "wide": ("edsr", lambda: BasicSR(channels=256, blocks=1, upscale=2).state_dict(), "say --res-scale"),
    "mean": ("edsr", lambda: Authors(mean=MEAN.flip(1)).state_dict(), "another mean"),
    "kernel": ("edsr", lambda: changed(BasicSR(), conv_after_body__weight=torch.zeros(8, 8, 5, 5)), "shapes of"),
    "nan": ("edsr", lambda: changed(BasicSR(), conv_last__bias=torch.full((3,), torch.nan)), "non-finite"),
    "a swinir": ("edsr", lambda: SwinIR().state_dict(), "has attention"),
    "an edsr": ("swinir", lambda: BasicSR().state_dict(), "another upsampler"),
    "classical": ("swinir", lambda: changed(SwinIR(), conv_before_upsample__0__weight=C), "wanted SwinIR-light"),
    "ape": ("swinir", lambda: changed(SwinIR(), absolute_pos_embed=C), "absolute position"),
    "3conv": ("swinir", lambda: changed(SwinIR(), conv_after_body__0__weight=C), "3conv"),
    "swin2sr": ("swinir", lambda: changed(SwinIR(), layers__0__logit_scale=C), "a Swin2SR"),
    "no patch norm": ("swinir", lambda: without(SwinIR(), "patch_embed"), "patch_norm false"),
    "uneven": ("swinir", lambda: without(SwinIR(), "layers.1.residual_group.blocks.1"), r"layers in a group \[1, 2\]"),
    "index": (
        "swinir",
        lambda: changed(
            SwinIR(), layers__0__residual_group__blocks__0__attn__relative_position_index=torch.zeros(16, 16).long()
        ),
        "another order of pairs",
    ),
    "no shift": ("swinir", lambda: without(SwinIR(), "layers.1.residual_group.blocks.1.attn_mask"), "got unshifted"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNLIKE)
def test_what_differs_is_refused_by_name(case):
    kind, tensors, message = UNLIKE[case]
    with pytest.raises(NotImportable, match=message):
        foreign.convert(Source(tensors()), kind)


def test_settings_that_contradict():
    with pytest.raises(NotImportable, match=r"got --img-range 1\.0, but the file says 255"):
        foreign.convert(Source(Authors().state_dict()), "edsr", img_range=1.0)
    with pytest.raises(NotImportable, match="SwinIR has not"):
        foreign.convert(Source(SwinIR().state_dict()), "swinir", res_scale=0.1)
    with pytest.raises(NotImportable, match="img_range: got 0, wanted a number above 0"):
        foreign.convert(Source(Authors().state_dict()), "edsr", img_range=0)


# ---- files


@pytest.mark.parametrize("wrapper", ["params_ema", "params", "state_dict", None])
def test_a_pth_is_read_when_asked_for(tmp_path, wrapper, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors = {f"module.{name}": t.half() for name, t in Authors().state_dict().items() if "mean" not in name}
    torch.save({wrapper: tensors, "iteration": 7} if wrapper else tensors, "net.pth")
    assert main(["import", "net.pth", "--as", "edsr"]) == 2
    assert "not a safetensors file" in (told := capsys.readouterr().err) and "--pickle" in told
    assert main(["import", "net.pth", "--as", "edsr", "--pickle", "--no-check"]) == 0
    assert "net-imported.safetensors: edsr x4, 3 blocks of 8 channels" in capsys.readouterr().out
    network, found = checkpoint.load_network(Path("net-imported.safetensors"))
    assert network.head.weight.dtype == torch.float32
    assert found.state["history"] == [
        {"imported": "net.pth", "as": "edsr", "names": "EDSR-PyTorch", "img_range": 255.0, "res_scale": 1.0}
    ]


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("flags", [[], ["--pickle"]], ids=str)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_pickle_with_code_is_refused_and_never_runs(tmp_path, monkeypatch, capsys, name, form, flags):
    monkeypatch.chdir(tmp_path)
    canary, path = tmp_path / "canary", tmp_path / name
    content = Authors().state_dict() | {"head.0.weight": Hostile(canary)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Hostile(canary)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert main(["import", name, "--as", "edsr", "-o", "out.safetensors", *flags]) == 2
    assert name in (told := capsys.readouterr().err) and told.count("\n") == 1 and "weights_only" not in told
    assert not canary.exists() and not (tmp_path / "out.safetensors").exists()
    if form == "pickle":
        pickle.loads(path.read_bytes())  # the file is indeed hostile
        assert canary.exists()


def test_one_place_opens_pickles():
    package = Path(foreign.__file__).parents[1]
    openers = [
        p.name for p in package.rglob("*.py") if re.search(r"torch\.load\(|pickle\.load|allow_pickle", p.read_text())
    ]
    assert openers == ["pickles.py"]


@pytest.mark.parametrize("content", [b"", b"no weights", None, [torch.zeros(3)], {"a": 3}], ids=str)
@pytest.mark.parametrize("flags", [[], ["--pickle"]], ids=str)
def test_files_of_something_else(tmp_path, monkeypatch, capsys, content, flags):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        Path("x.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "x.pth")
    assert main(["import", "x.pth", "--as", "swinir", *flags]) == 2
    assert "x.pth" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--pickle"]], ids=str)
def test_a_missing_file_is_called_so(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    assert main(["import", "x.pth", "--as", "edsr", *flags]) == 2
    told = capsys.readouterr().err
    assert "x.pth: cannot be read (No such file or directory" in told
    assert "damaged" not in told and "safetensors file" not in told


def test_an_old_torch_is_not_trusted_with_pickles(tmp_path, monkeypatch):
    torch.save(Authors().state_dict(), tmp_path / "x.pth")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(NotImportable, match=r"got torch 2\.5\.1\+cpu, wanted 2\.6 or later"):
        foreign.load(tmp_path / "x.pth", "edsr", pickle=True)


def test_the_input_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(Authors().state_dict(), path)
    assert main(["import", str(path), "--as", "edsr", "-o", str(path), "--no-check"]) == 2
    assert "which is read; wanted another file" in capsys.readouterr().err


# ---- going on from there


def bilinear(source):
    """A network that enlarges by repeating pixels: all weights 0, but for what carries the image."""
    network = source(channels=8, blocks=2, upscale=2)
    state = network.state_dict()
    for name, tensor in state.items():
        if "mean" not in name:
            tensor.zero_()
    head, up, last = (
        ("conv_first", "upsample.0", "conv_last") if source is BasicSR else ("head.0", "tail.0.0", "tail.1")
    )
    for colour in range(3):
        state[f"{head}.weight"][colour, colour, 1, 1] = 1
        state[f"{last}.weight"][colour, colour, 1, 1] = 1
        state[f"{up}.weight"][4 * colour : 4 * colour + 4, colour, 1, 1] = 1
    return network


@pytest.mark.parametrize("source", [BasicSR, Authors])
def test_a_network_that_does_not_enlarge_is_not_written(tmp_path, monkeypatch, capsys, source):
    monkeypatch.chdir(tmp_path)
    network = bilinear(source)
    safetensors.torch.save_file(network.state_dict(), "good.safetensors")
    assert main(["import", "good.safetensors", "--as", "edsr", "-o", "out.safetensors"]) == 0
    settings = capsys.readouterr().out.splitlines()[-1].partition("a recipe trains it with ")[2].split()[1::2]
    for stage in recipe.load("small-x4-w2a2", settings).values():
        assert stage.model == checkpoint.load(Path("out.safetensors")).config.model
    for tensor in network.state_dict().values():
        tensor.mul_(0 if tensor.shape[-1:] == (3,) and tensor.ndim == 4 else 1)
    safetensors.torch.save_file(network.state_dict(), "bad.safetensors")
    assert main(["import", "bad.safetensors", "--as", "edsr", "-o", "bad-out.safetensors"]) == 2
    assert "it does not enlarge: the result differs from the input" in capsys.readouterr().err
    assert not Path("bad-out.safetensors").exists()


@pytest.mark.parametrize("kind", ["edsr", "swinir"])
def test_pack_as_float_and_train_from_it(tmp_path, photos, kind, caplog):
    network = BasicSR(upscale=2) if kind == "edsr" else SwinIR()
    found = foreign.convert(Source(network.state_dict(), "net.safetensors"), kind)
    checkpoint.save(tmp_path / "net.safetensors", found)
    packed = pack_checkpoint(tmp_path / "net.safetensors", name="net")
    picture = X[0].permute(1, 2, 0).contiguous().numpy()
    out = reference.run(packed.programs["full"], packed.tensors, picture)
    with torch.no_grad():
        expected = network(X[:1])[0].permute(1, 2, 0)
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=0, atol=5e-5)

    config = TrainConfig(
        model=found.config.model,
        quant=QuantConfig(placement="linears" if kind == "swinir" else "body"),
        data=DataConfig(str(photos), str(tmp_path / "cache"), holdout=4, patch=8, batch=2),
        optim=OptimConfig(steps=2, warmup=0),
        run=RunConfig(str(tmp_path / "run"), bf16=False, init=str(tmp_path / "net.safetensors"), calibration_batches=2),
    )
    trainer = train.Trainer(config)
    assert "freshly initialised" not in caplog.text  # all weights were taken over
    layers = quant.quantized_layers(trainer.network)
    assert layers and all(layer.act_quantizer.calibrated for layer in layers.values())
    train.run(config)
    _, end = checkpoint.load_network(tmp_path / "run" / "weights.safetensors")
    assert [stage.get("imported") for stage in end.state["history"]] == ["net.safetensors", None]

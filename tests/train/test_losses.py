import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from quantsr import config as configs
from quantsr.models.edsr import EDSR
from quantsr.models.swinir import SwinIR
from quantsr.train import losses
from quantsr.train.losses import Objective


def objective(**teacher: float | str) -> tuple[Objective, EDSR, EDSR]:
    torch.manual_seed(0)
    student, teaching = (EDSR(upscale=2, channels=channels, blocks=4) for channels in (8, 16))
    config = configs.from_dict({
        "teacher": {"weights": "somewhere", "weight": 0.0} | teacher,
        "run": {"bf16": False, "depths": ["full", "half"], "depth_weights": [0.75, 0.25]},
    })  # fmt: skip
    return Objective(config, student, teaching), student, teaching


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, 6, 7), torch.rand(2, 3, 12, 14)


def test_the_teacher_takes_its_share(batch: tuple[Tensor, Tensor]) -> None:
    loss, student, teacher = objective(weight=0.25)
    lr, hr = batch
    wanted = sum(
        share * (0.75 * functional.l1_loss(sr, hr) + 0.25 * functional.l1_loss(sr, teacher(lr)))
        for share, sr in ((0.75, student(lr)), (0.25, student(lr, depth="half")))
    )
    torch.testing.assert_close(loss(lr, hr)[0], wanted)


def test_full_depth_teaches_the_shallower_ones(batch: tuple[Tensor, Tensor]) -> None:
    loss, student, _ = objective(sandwich=0.4)
    lr, hr = batch
    full, half = student(lr), student(lr, depth="half")
    towards_full = functional.l1_loss(half, full.detach())
    wanted = 0.75 * functional.l1_loss(full, hr) + 0.25 * (0.6 * functional.l1_loss(half, hr) + 0.4 * towards_full)
    torch.testing.assert_close(loss(lr, hr)[0], wanted)
    loss(lr, hr)[0].backward()
    got = [block.gain.grad.clone() for block in student.body]  # no gradient reaches full depth by way of the sandwich
    student.zero_grad()
    wanted.backward()
    torch.testing.assert_close(got, [block.gain.grad for block in student.body])


def test_the_sandwich_needs_full_depth_first() -> None:
    with pytest.raises(configs.ConfigError, match=r'run\.depths: got .*, wanted "full" first, as it teaches'):
        configs.from_dict({"teacher": {"sandwich": 0.5}, "run": {"depths": ["half", "full"]}})


def test_the_sandwich_needs_full_depth_to_train() -> None:
    run = {"depths": ["full", "half"], "depth_weights": [0.0, 1.0]}
    with pytest.raises(configs.ConfigError, match=r"run\.depth_weights: got \[0\.0, 1\.0\], wanted full above 0"):
        configs.from_dict({"teacher": {"sandwich": 0.5}, "run": run})


def test_features_are_compared_as_attention_maps(batch: tuple[Tensor, Tensor]) -> None:
    loss, student, teacher = objective(feature_weight=0.1)
    plain, _, _ = objective()
    lr, hr = batch

    def attention(network: EDSR, depth: str) -> Tensor:
        seen = []
        hook = network.after_body.register_forward_hook(lambda _, __, out: seen.append(out))
        network(lr, depth=depth)
        hook.remove()
        energy = (seen[0] ** 2).sum(dim=1)  # widths differ, resolutions do not
        return energy / energy.square().sum(dim=(1, 2), keepdim=True).sqrt()

    distance = 0.0
    for share, depth in ((0.75, "full"), (0.25, "half")):
        apart = attention(student, depth) - attention(teacher, "full")
        distance += share * apart.square().sum(dim=(1, 2)).sqrt().mean()
    assert 0.01 < distance.item() < math.sqrt(2)
    torch.testing.assert_close(loss(lr, hr)[0], plain(lr, hr)[0] + 0.1 * distance)


def test_features_of_other_resolutions_are_refused(batch: tuple[Tensor, Tensor]) -> None:
    teacher = SwinIR(upscale=2, channels=8, blocks=1, layers=1, heads=2, window=4)
    config = configs.from_dict({"teacher": {"weights": "somewhere", "feature_weight": 0.1}, "run": {"bf16": False}})
    loss = Objective(config, EDSR(upscale=2, channels=8, blocks=2), teacher)
    with pytest.raises(configs.ConfigError, match=r"feature_weight: got trunks of 42 and 64 pixels, .*data\.patch"):
        loss(*batch)


def test_a_depth_of_weight_0_does_not_run(batch: tuple[Tensor, Tensor]) -> None:
    network = EDSR(upscale=2, channels=8, blocks=4)
    run = {"bf16": False, "depths": ["full", "half"], "depth_weights": [1.0, 0.0]}
    loss, _ = Objective(configs.from_dict({"run": run}), network, None)(*batch)
    torch.testing.assert_close(loss, functional.l1_loss(network(batch[0]), batch[1]))


def test_features_need_a_teacher() -> None:
    with pytest.raises(configs.ConfigError, match=r"teacher\.weights: got '', wanted a teacher"):
        configs.from_dict({"teacher": {"feature_weight": 0.5}})


def test_bfloat16_is_left_to_machines_that_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    network, seen = EDSR(upscale=2, channels=8, blocks=4), []
    network.head.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    for supported in (False, True):
        monkeypatch.setattr(losses, "runs_bf16", lambda device_type, answer=supported: answer)
        Objective(configs.from_dict({}), network, None)(torch.rand(1, 3, 6, 7), torch.rand(1, 3, 12, 14))
    assert seen == [torch.float32, torch.bfloat16]


def test_the_teacher_computes_as_the_student_does(
    monkeypatch: pytest.MonkeyPatch, batch: tuple[Tensor, Tensor]
) -> None:
    monkeypatch.setattr(losses, "runs_bf16", lambda device_type: True)
    student, teacher = (EDSR(upscale=2, channels=8, blocks=4) for _ in range(2))
    seen: list[torch.dtype] = []
    for network in (student, teacher):
        network.head.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    Objective(configs.from_dict({"teacher": {"weights": "somewhere"}}), student, teacher)(*batch)
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_an_old_cpu_does_not_multiply_bfloat16() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if " avx2 " not in flags or " avx512bw " in flags:
        pytest.skip("needs a CPU with AVX2 and no more")
    assert not losses.runs_bf16("cpu")


@pytest.mark.parametrize(
    "name,amx,answer", [("Intel Xeon", False, False), ("Intel Xeon", True, True), ("AMD EPYC", False, True)]
)
def test_an_intel_cpu_without_amx_multiplies_float32_faster(
    monkeypatch: pytest.MonkeyPatch, name: str, amx: bool, answer: bool
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "amx_bf16": amx})
    assert losses.runs_bf16("cpu") is answer


@pytest.mark.parametrize("amx", [False, True])
def test_before_torch_2_13_only_amx_is_known_to_gain(monkeypatch: pytest.MonkeyPatch, amx: bool) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert losses.runs_bf16("cpu") is amx


def test_a_cpu_that_tells_neither_name_nor_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64"})
    assert losses.runs_bf16("cpu")

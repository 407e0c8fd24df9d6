"""8 bits behind the body: the program that is made, its bytes, and how near it stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from packing.tiny import random_image, tiny_model
from quantsr import images, load, metrics, reference
from quantsr.engine import Engine, available_isas, compiled, qconv_kernel_names
from quantsr.packing import file
from quantsr.packing.checks import check_program
from quantsr.packing.fast import LARGEST, NothingToRound, picture, round_weight, with_eight_bits
from quantsr.packing.program import FieldError, PackedModel, Program
from quantsr.packing.reach import receptive_radius

UPSCALES = [2, 3, 4]
PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "tapiola.jpg"


def model_of(upscale, upsampler="pixelshuffle", channels=20):
    return tiny_model(channels=channels, blocks=2, upscale=upscale, upsampler=upsampler, depths={"full": [0, 1]})


def test_the_picture_is_the_same_everywhere():
    bytes_of = np.rint(picture() * 255).astype(np.uint8)
    assert bytes_of.shape == (128, 128, 3)
    assert int(bytes_of.astype(np.uint64).sum()) == 6_033_390
    assert np.array_equal((bytes_of / 255).astype(np.float32), picture())


@pytest.mark.parametrize("upscale", UPSCALES)
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "direct"])
def test_program(upscale, upsampler):
    model = model_of(upscale, upsampler)
    engine = Engine(model, fast=True)
    kinds = [op.kind for op in engine.program.ops]
    assert [kind for kind in kinds if "conv2d" in kind] == [
        "conv2d",  # the head
        *["qconv2d"] * 4,
        "qconv2d",  # after the body
        "qconv2d" if upsampler == "direct" else "edge_qconv2d",
    ]
    check_program(engine.program, engine.tensors, model.info)
    used = {name for op in engine.program.ops for name in op.tensors.values()}
    assert engine.tensors.keys() == used
    assert receptive_radius(engine.program, engine.tensors) == receptive_radius(model.programs["full"], model.tensors)


@pytest.mark.parametrize("upscale", UPSCALES)
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "direct"])
def test_engine_equals_the_reference(upscale, upsampler):
    engine = Engine(model_of(upscale, upsampler), fast=True)
    natives = [
        (kernel, threads, compiled(engine.program, engine.tensors, 3, threads, isa, kernel))
        for isa in available_isas()
        for kernel in qconv_kernel_names(isa)
        for threads in (1, 2)
    ]
    for size in [(2, 2), (2, 5), (5, 2), (13, 22)]:
        image = random_image(*size)
        wanted = reference.run(engine.program, engine.tensors, image)
        for kernel, threads, native in natives:
            got = np.empty_like(wanted)
            native.run(image, got)
            np.testing.assert_array_equal(got, wanted, err_msg=f"{kernel}, {threads} threads, {size}")
        for tile in (1, 5, 8):
            np.testing.assert_array_equal(engine(image, tile=tile), wanted, err_msg=f"tile {tile}, {size}")


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1)], ids=str)
def test_narrow_pictures_stay_as_they_are(size):
    model = model_of(2)
    np.testing.assert_array_equal(Engine(model, fast=True)(random_image(*size)), Engine(model)(random_image(*size)))


@pytest.mark.parametrize("upscale", UPSCALES)
def test_near_the_program_that_it_stands_for(upscale):
    """Random weights have nothing in common with trained ones: a loose bound, to catch a wrong scale or edge."""
    model = model_of(upscale)
    normal, fast = Engine(model), Engine(model, fast=True)
    for size in [(2, 3), (17, 22)]:
        image = random_image(*size)
        wanted = normal(image)
        assert np.abs(fast(image) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_what_is_fused():
    lines = Engine(model_of(2), fast=True, isa="ref").describe()
    assert lines[-3:] == [
        "qconv2d 3x3 20->20 W8A8 + residual + affine + quantize: direct_ref",
        "edge_qconv2d 5x5 20->12 W8A8: direct_ref",
        "pixel_shuffle + affine" if lines[-1].endswith("affine") else "pixel_shuffle",
    ]
    assert lines[-4].endswith("+ residual + affine + quantize: direct_ref")


@pytest.mark.parametrize("by_variable", [False, True], ids=["argument", "variable"])
def test_loading_keeps_to_the_instruction_set(monkeypatch, by_variable):
    made = []
    monkeypatch.setattr("quantsr.engine.compiled", lambda *program: made.append(compiled(*program)) or made[-1])
    if by_variable:
        monkeypatch.setenv("QUANTSR_ISA", "ref")
    Engine(model_of(2), isa=None if by_variable else "ref", fast=True)
    assert len(made) > 1 and {native.isa for native in made} == {"ref"}


def test_nothing_to_round():
    for model in (tiny_model(channels=8), tiny_model(channels=20, blocks=0, depths={"full": []})):
        with pytest.raises(NothingToRound, match="8 bits: wanted float convolutions"):
            Engine(model, fast=True)


def test_weights_are_rounded_to_the_nearest_step():
    weight = np.random.default_rng(0).standard_normal((9, 5, 3, 3, 7))
    weight[2, 3] = 0
    weight[4, 1] = 1e-40
    codes, mul = round_weight(weight)
    assert mul.shape == (9, 5) and mul.dtype == np.float32
    assert np.abs(codes).max() == LARGEST and np.array_equal(codes, np.rint(codes))
    assert mul[2, 3] == mul[4, 1] == 0 and not codes[2, 3].any() and not codes[4, 1].any()
    assert (np.abs(codes * mul[..., None, None, None] - weight) <= 0.5001 * mul[..., None, None, None] + 1e-39).all()


def test_a_value_read_twice_is_rounded_once_and_names_stay_apart():
    model = model_of(2, "direct")
    plain = model.programs["full"]
    at = next(i for i, op in enumerate(plain.ops) if op.output == "up")
    twin = replace(plain.ops[at], output="long.codes8")
    both = replace(
        plain.ops[at], kind="residual", inputs=("up", "long.codes8"), output="sum", attrs={"gain": 1.0}, tensors={}
    )
    ops = [
        *plain.ops[: at + 1],
        twin,
        both,
        *(replace(op, inputs=("sum",)) if op.inputs == ("up",) else op for op in plain.ops[at + 1 :]),
    ]
    program = replace(plain, ops=tuple(ops))
    model = PackedModel(model.info, {"full": program}, model.tensors)
    engine = Engine(model, fast=True)
    assert [op.kind for op in engine.program.ops].count("quantize") == 4 + 2
    check_program(engine.program, engine.tensors, model.info)
    image = random_image(6, 5)
    np.testing.assert_array_equal(engine(image), reference.run(engine.program, engine.tensors, image))


def test_files_hold_no_such_ops():
    model = model_of(2, "direct")
    engine = Engine(model, fast=True)
    with pytest.raises(FieldError, match=r"levels: got 255, .* in a file"):
        file.dumps(PackedModel(model.info, {"full": engine.program}, engine.tensors))
    program = model.programs["full"]
    ops = [replace(op, kind="edge_qconv2d") if op.kind == "qconv2d" else op for op in program.ops]
    with pytest.raises(FieldError, match="a kind that a file may hold"):
        file.dumps(PackedModel(model.info, {"full": Program(tuple(ops), program.output)}, model.tensors))


def test_any_runner_gives_a_legal_program():
    model = model_of(3, "direct")
    program, tensors = with_eight_bits(
        model.programs["full"], model.tensors, lambda part, image: reference.run(part, model.tensors, image[:9, :9])
    )
    check_program(program, tensors, model.info)


def test_a_photograph_loses_little():
    hr = images.crop_to_multiple(images.read(PHOTO)[:128, :192], 4)
    lr = images.downscale(hr, 4)
    scores = [metrics.psnr(load("quantsr-c-x4-w4a4", fast=fast).upscale(lr), hr, 4) for fast in (False, True)]
    assert scores[0] != scores[1]
    assert abs(scores[0] - scores[1]) < 0.02

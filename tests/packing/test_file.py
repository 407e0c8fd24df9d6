import hashlib
import io
import json
import os
import pickle
import random
import tracemalloc
import zipfile
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from packing.tiny import tiny_model
from quantsr.cli import main
from quantsr.packing import checks, file, ops
from quantsr.packing.file import (
    ChecksumError,
    NotAModelError,
    TruncatedError,
    VersionError,
    dumps,
    loads,
    read,
    write,
)
from quantsr.packing.program import FieldError, GraphError, LimitError, PackedModel, PackedModelError, TensorError

MODELS = [
    {},
    {"weight_bits": 2, "act_bits": 2, "channels": 3},
    {"weight_bits": 3, "act_bits": 4, "channels": 5, "upscale": 3, "upsampler": "direct"},
    {"upscale": 4, "kernel": 1, "blocks": 1, "depths": {"full": [0], "half": []}},
    {"blocks": 0, "depths": {"full": []}},
]


def smallest() -> bytes:
    return dumps(tiny_model(channels=1, blocks=1, upsampler="direct", depths={"full": [0]}))


def assert_equal(a: PackedModel, b: PackedModel) -> None:
    assert a.info == b.info
    assert a.programs == b.programs
    assert a.tensors.keys() == b.tensors.keys()
    for name in a.tensors:
        assert a.tensors[name].dtype == b.tensors[name].dtype
        np.testing.assert_array_equal(a.tensors[name], b.tensors[name])


# --- good files ---


@pytest.mark.parametrize("arguments", MODELS)
def test_round_trip(arguments, tmp_path):
    model = tiny_model(**arguments)
    write(tmp_path / "model", model)
    found = read(tmp_path / "model")
    assert_equal(found, model)
    assert not any(array.flags.writeable for array in found.tensors.values())
    assert dumps(found) == (tmp_path / "model").read_bytes()


def test_any_text_survives():
    model = tiny_model()
    text = 'Größe "4x" \\ \n \0 漢字 \U0001f642 "sha256":"'
    found = loads(
        dumps(replace(model, info={**model.info, "licence": text, "training": {text: [text, None, 1.5, True]}}))
    )
    assert found.info["licence"] == text
    assert found.info["training"] == {text: [text, None, 1.5, True]}


def test_equal_models_give_equal_bytes():
    model = tiny_model()
    shuffled = PackedModel(
        dict(reversed(model.info.items())),
        dict(reversed(model.programs.items())),
        dict(reversed(model.tensors.items())),
    )
    assert dumps(model) == dumps(shuffled) == dumps(tiny_model())


def test_size_falls_with_bits():
    sizes = [len(dumps(tiny_model(channels=16, weight_bits=b, act_bits=b))) for b in (4, 3, 2)]
    body = 8 * 16 * 16 * 9  # four blocks of two layers
    assert abs(sizes[0] - sizes[1] - body / 8) < 64
    assert abs(sizes[1] - sizes[2] - body / 8) < 64


def test_any_safetensors_reader_opens_it():
    model = tiny_model()
    found = load(dumps(model))
    assert found.keys() == model.tensors.keys()
    np.testing.assert_array_equal(found["head.weight"], model.tensors["head.weight"])


def test_float_data_is_aligned():
    data = dumps(tiny_model(channels=3, weight_bits=3))
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    del entries["__metadata__"]
    assert start % 8 == 0
    assert all(entry["data_offsets"][0] % 4 == 0 for entry in entries.values() if entry["dtype"] == "F32")


# --- damage ---


def test_every_truncation_is_refused():
    data = smallest()
    for size in range(len(data)):
        with pytest.raises((TruncatedError, ChecksumError)):
            loads(data[:size])


def test_every_byte_counts():
    data, source = smallest(), random.Random(0)
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= source.randrange(1, 256)
        with pytest.raises(PackedModelError):
            loads(bytes(damaged))


def test_every_value_of_the_fixed_part_counts():
    """Length, magic, version and checksum: all 255 other values of each byte."""
    data = smallest()
    end = data.index(b'"sha256":"') + 10 + 64 + 2
    for at in range(end):
        for value in set(range(256)) - {data[at]}:
            with pytest.raises(PackedModelError):
                loads(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize("other", [b" ", b"\t", b"\n"])
def test_white_space_of_the_header_counts(other):
    data = smallest()
    end = 8 + int.from_bytes(data[:8], "little")
    for at in [i for i in range(8, end) if data[i : i + 1].isspace() and data[i : i + 1] != other]:
        with pytest.raises(ChecksumError):
            loads(data[:at] + other + data[at + 1 :])
    for at in range(8, end, 7):
        with pytest.raises(PackedModelError):
            loads(data[:at] + other + data[at:])


def test_upper_case_checksum_is_refused():
    data = smallest()
    at = data.index(b'"sha256":"') + 10
    with pytest.raises(ChecksumError, match="Copy or download it again"):
        loads(data[:at] + data[at : at + 64].upper() + data[at + 64 :])


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_refused(noise):
    for data in (noise, smallest()[: len(noise)] + noise):
        with pytest.raises(PackedModelError):
            loads(data)


def zip_file() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0]}))
    return held.getvalue()


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(300)


@pytest.mark.parametrize(
    "data",
    [
        PNG,
        zip_file(),
        pickle.dumps(list(range(200))),
        bytes(1000),
        save({"a": np.zeros(9, np.float32)}, {"format": "pt"}),
    ],
    ids=["png", "zip", "pickle", "zeros", "safetensors"],
)
def test_other_files(data):
    with pytest.raises(NotAModelError, match="Choose a file that `quantsr pack` wrote"):
        loads(data)


def test_other_versions():
    data = smallest()
    with pytest.raises(VersionError, match="Update quantsr"):
        loads(data.replace(b'"version":"1"', b'"version":"4"'))


@pytest.mark.parametrize(
    ("size", "error"), [(2**64 - 1, LimitError), (file.MAX_HEADER_BYTES + 1, LimitError), (2**20, TruncatedError)]
)
def test_lying_header_length(size, error):
    with pytest.raises(error):
        loads(size.to_bytes(8, "little") + smallest()[8:])


def test_file_limit(monkeypatch, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(smallest() + bytes(1000))
    monkeypatch.setattr(file, "MAX_FILE_BYTES", 1000)
    with pytest.raises(LimitError, match="file bytes"):
        read(path)
    with pytest.raises(LimitError, match="file bytes"):
        write(path, tiny_model())


# --- well sealed, badly made ---


@dataclass
class Draft:
    """A file taken apart: change any part, then seal it again with a right checksum."""

    info: dict
    programs: dict
    entries: dict
    data: bytearray

    @staticmethod
    def of(data: bytes) -> "Draft":
        start = 8 + int.from_bytes(data[:8], "little")
        entries = json.loads(data[8:start])
        metadata = entries.pop("__metadata__")
        return Draft(json.loads(metadata["info"]), json.loads(metadata["programs"]), entries, bytearray(data[start:]))

    def header(self) -> dict:
        texts = {"info": json.dumps(self.info), "programs": json.dumps(self.programs)}
        metadata = {"format": "quantsr", "version": "1", "sha256": "0" * 64, **texts}
        return {"__metadata__": metadata, **self.entries}

    def op(self, output: str, depth: str = "full") -> dict:
        return next(op for op in self.programs[depth]["ops"] if op["output"] == output)

    def add(self, name: str, array: np.ndarray, dtype: str) -> None:
        begin = len(self.data)
        self.data += array.tobytes()
        self.entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, len(self.data)]}

    def poke(self, name: str, value: bytes, at: int = 0) -> None:
        begin = self.entries[name]["data_offsets"][0] + at
        self.data[begin : begin + len(value)] = value


def sealed(header: dict | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    whole = bytearray(len(text).to_bytes(8, "little") + text + data)
    at = whole.index(b'"sha256":"') + 10
    whole[at : at + 64] = hashlib.sha256(whole).hexdigest().encode()
    return bytes(whole)


def draft() -> Draft:
    """channels 2 (9*4 = 36 codes of 3 bits: 4 padding bits), blocks 2, x2."""
    return Draft.of(dumps(tiny_model(channels=2, blocks=2, weight_bits=3, depths={"full": [0, 1], "half": [1]})))


def put(target, **changes):
    target.update(changes)


def replace_head(d, kernel):
    d.add("new", np.zeros((2, kernel, kernel, 3), np.float32), "F32")
    for program in d.programs:
        d.op("head", program)["tensors"]["weight"] = "new"


NAN = np.float32(np.nan).tobytes()

CONTENT = {
    # info
    "info is a list": (lambda d: put(d.__dict__, info=[]), FieldError, "info"),
    "info key missing": (lambda d: d.info.pop("licence"), FieldError, "missing"),
    "info key unknown": (lambda d: put(d.info, license="MIT"), FieldError, "unknown"),
    "upscale 5": (lambda d: put(d.info, upscale=5), FieldError, "upscale"),
    "upscale of another model": (lambda d: put(d.info, upscale=4), GraphError, "output"),
    "blocks is true": (lambda d: put(d.info, blocks=True), FieldError, "blocks"),
    "blocks is a float": (lambda d: put(d.info, blocks=2.0), FieldError, "blocks"),
    "name empty": (lambda d: put(d.info, name=""), FieldError, "name"),
    "name of another type": (lambda d: put(d.info, name=None), FieldError, "name"),
    "weight_bits not those of the ops": (lambda d: put(d.info, weight_bits=4), FieldError, "as in the ops"),
    "layers not texts": (lambda d: put(d.info, quantized_layers=[1]), FieldError, "quantized_layers"),
    "depths without lists": (lambda d: put(d.info, depths={"full": 2, "half": 1}), FieldError, "depths"),
    "depths other than programs": (lambda d: d.info["depths"].pop("half"), FieldError, "depths"),
    "block twice": (lambda d: put(d.info["depths"], full=[1, 1]), FieldError, "growing"),
    "block beyond the last": (lambda d: put(d.info["depths"], full=[0, 2]), FieldError, "growing"),
    # programs
    "no program": (lambda d: d.programs.clear(), FieldError, "missing"),
    "no full program": (lambda d: d.programs.pop("full"), FieldError, "missing"),
    "unknown depth": (lambda d: put(d.programs, third=d.programs["half"]), FieldError, "unknown"),
    "program is a list": (lambda d: put(d.programs, half=[]), FieldError, "half"),
    "program key unknown": (lambda d: put(d.programs["half"], input="image"), FieldError, "keys"),
    "no ops": (lambda d: put(d.programs["half"], ops=[]), LimitError, "number of ops"),
    "too many ops": (lambda d: put(d.programs["half"], ops=[None] * (checks.MAX_OPS + 1)), LimitError, "ops"),
    "op is null": (lambda d: put(d.programs["half"], ops=[None]), FieldError, "op 0"),
    # op fields
    "op key missing": (lambda d: d.op("head").pop("attrs"), FieldError, "keys"),
    "op key unknown": (lambda d: put(d.op("head"), comment=""), FieldError, "keys"),
    "kind unknown": (lambda d: put(d.op("head"), kind="conv3d"), FieldError, "one of affine"),
    "kind is a number": (lambda d: put(d.op("head"), kind=1), FieldError, "kind"),
    "input is a number": (lambda d: put(d.op("head"), inputs=[1]), FieldError, "name"),
    "two inputs": (lambda d: put(d.op("head"), inputs=["image", "image"]), FieldError, "1 names"),
    "no input": (lambda d: put(d.op("b0"), inputs=[]), FieldError, "2 names"),
    "value name": (lambda d: put(d.op("head"), output="a b"), FieldError, "value name"),
    "value name too long": (lambda d: put(d.op("head"), output="a" * 129), FieldError, "value name"),
    "attribute missing": (lambda d: d.op("b0")["attrs"].clear(), FieldError, "missing"),
    "attribute unknown": (lambda d: put(d.op("head")["attrs"], stride=1), FieldError, "unknown"),
    "gain is an integer": (lambda d: put(d.op("b0")["attrs"], gain=1), FieldError, "gain"),
    "gain is no float32": (lambda d: put(d.op("b0")["attrs"], gain=0.1), FieldError, "float32"),
    "gain too large": (lambda d: put(d.op("b0")["attrs"], gain=1e39), FieldError, "float32"),
    "gain a text": (lambda d: put(d.op("b0")["attrs"], gain="1"), FieldError, "gain"),
    "inv zero": (lambda d: put(d.op("b0.q1")["attrs"], inv=0.0), FieldError, "inv"),
    "levels 16": (lambda d: put(d.op("b0.q1")["attrs"], levels=16), FieldError, "levels"),
    "levels true": (lambda d: put(d.op("b0.q1")["attrs"], levels=True), FieldError, "levels"),
    "kernel 5 at low bit width": (lambda d: put(d.op("b0.c1")["attrs"], kernel=5), FieldError, "kernel"),
    "weight_bits 8": (lambda d: put(d.op("b0.c1")["attrs"], weight_bits=8), FieldError, "weight_bits"),
    "zero 16": (lambda d: put(d.op("b0.c1")["attrs"], zero=16), FieldError, "zero"),
    "zero no code": (
        lambda d: [put(d.op("b0.q1")["attrs"], levels=14), put(d.op("b0.c1")["attrs"], zero=15)],
        FieldError,
        "a code, 0 to 14",
    ),
    "channels 2**31": (lambda d: put(d.op("b0.c1")["attrs"], out_channels=2**31), FieldError, "out_channels"),
    "channels 10**40": (lambda d: put(d.op("b0.c1")["attrs"], in_channels=10**40), FieldError, "in_channels"),
    "upscale of shuffle 1": (lambda d: put(d.op("shuffle0")["attrs"], upscale=1), FieldError, "upscale"),
    "role missing": (lambda d: d.op("head")["tensors"].pop("bias"), FieldError, "missing"),
    "role unknown": (lambda d: put(d.op("head")["tensors"], mul="head.bias"), FieldError, "unknown"),
    "tensor name is a number": (lambda d: put(d.op("head")["tensors"], bias=0), FieldError, "name"),
    # the graph
    "input undefined": (lambda d: put(d.op("head"), inputs=["nothing"]), GraphError, "earlier op"),
    "input defined later": (lambda d: put(d.op("head"), inputs=["after"]), GraphError, "earlier op"),
    "output twice": (lambda d: put(d.op("after"), output="head"), GraphError, "not used before"),
    "output is the image": (lambda d: put(d.op("after"), output="image"), GraphError, "not used before"),
    "value read by nobody": (lambda d: put(d.op("after"), inputs=["head"]), GraphError, "nothing reads"),
    "program output undefined": (lambda d: put(d.programs["full"], output="nothing"), GraphError, "output"),
    "program output too small": (lambda d: put(d.programs["full"], output="image"), GraphError, "output"),
    "floats where codes belong": (lambda d: put(d.op("b0.c1"), inputs=["head"]), GraphError, "codes"),
    "codes where floats belong": (lambda d: put(d.op("b0.r"), inputs=["b0.q1"]), GraphError, "float32"),
    "other width of codes": (lambda d: put(d.op("b0.q1")["attrs"], levels=7), GraphError, "act_bits"),
    "in_channels": (lambda d: put(d.op("b0.c1")["attrs"], in_channels=3), GraphError, "in_channels"),
    "residual of two shapes": (lambda d: put(d.op("long"), inputs=["sub_mean", "after"]), GraphError, "same channels"),
    "channels that no shuffle takes": (
        lambda d: put(d.op("shuffle0")["attrs"], upscale=3),
        GraphError,
        "multiple of 9",
    ),
    # tensors
    "tensor missing": (lambda d: put(d.op("head")["tensors"], bias="nothing"), TensorError, "name of a tensor"),
    "tensor unused": (lambda d: d.add("extra", np.zeros(1, np.float32), "F32"), TensorError, "no op uses"),
    "tensor of another op": (lambda d: put(d.op("head")["tensors"], bias="last.bias"), TensorError, "bias"),
    "tensor name": (lambda d: d.add("a b", np.zeros(1, np.float32), "F32"), FieldError, "tensor name"),
    "axes": (lambda d: put(d.entries["head.bias"], shape=[2, 1]), TensorError, "1 axes"),
    "kernel 1x9": (lambda d: put(d.entries["head.weight"], shape=[2, 1, 9, 3]), TensorError, "weight"),
    "kernel 2": (lambda d: replace_head(d, 2), TensorError, "kernel 2"),
    "kernel 7": (lambda d: replace_head(d, 7), TensorError, "kernel 7"),
    "axes of size 0": (lambda d: d.add("none", np.zeros((0, 3), np.float32), "F32"), TensorError, "no op uses"),
    "float16": (lambda d: d.add("half", np.zeros(1, np.float16), "F16"), TensorError, "F32 or U8"),
    "dtype unknown": (lambda d: put(d.entries["head.bias"], dtype="F31"), TensorError, "safetensors"),
    "dtype and size": (lambda d: put(d.entries["head.bias"], dtype="U8"), TensorError, "safetensors"),
    "shape of 2**80 values": (lambda d: put(d.entries["head.bias"], shape=[2**40, 2**40]), TensorError, "safetensors"),
    "shape negative": (lambda d: put(d.entries["head.bias"], shape=[-2]), TensorError, "safetensors"),
    "bytes after the last tensor": (lambda d: d.data.extend(b"12345678"), TensorError, "safetensors"),
    "last tensor cut": (lambda d: d.data.pop(), TensorError, "safetensors"),
    "tensors overlap": (
        lambda d: put(d.entries["head.bias"], data_offsets=d.entries["after.bias"]["data_offsets"]),
        TensorError,
        "safetensors",
    ),
    "a weight is NaN": (lambda d: d.poke("head.weight", NAN, 8), TensorError, "finite"),
    "mul is infinite": (lambda d: d.poke("b0.c1.mul", np.float32(np.inf).tobytes()), TensorError, "finite"),
    "mul is tiny": (lambda d: d.poke("b0.c1.mul", np.float32(1e-31).tobytes()), TensorError, "at least"),
    "padding bits": (lambda d: d.poke("b1.c2.weight", b"\x80", 13), TensorError, "zero padding bits"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_content(name):
    change, error, message = CONTENT[name]
    made = draft()
    loads(sealed(made.header(), made.data))
    change(made)
    with pytest.raises(error, match=message) as caught:
        loads(sealed(made.header(), made.data))
    assert type(caught.value) is error
    assert "got" in str(caught.value)
    assert "wanted" in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("shape", [[1] * 65, [0, 2**63], [0, 2**62, 2], [2**62, 0]], ids=lambda shape: str(shape[-2:]))
def test_shapes_that_numpy_cannot_hold(shape, tmp_path, capsys):
    made = draft()
    made.add("extra", np.zeros(int(len(shape) == 65), np.float32), "F32")
    made.entries["extra"]["shape"] = shape
    data = sealed(made.header(), made.data)
    with pytest.raises(TensorError):
        loads(data)
    (tmp_path / "bad.safetensors").write_bytes(data)
    assert main(["info", str(tmp_path / "bad.safetensors")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_too_many_tensors():
    made = draft()
    for i in range(checks.MAX_TENSORS):
        made.add(f"t{i}", np.zeros(1, np.uint8), "U8")
    with pytest.raises(LimitError, match="number of tensors"):
        loads(sealed(made.header(), made.data))


def test_too_many_channels():
    made, wide = draft(), ops.MAX_CHANNELS + 1
    made.add("wide.weight", np.zeros((wide, 1, 1, 2), np.float32), "F32")
    made.add("wide.bias", np.zeros(wide, np.float32), "F32")
    made.op("after")["tensors"] = {"weight": "wide.weight", "bias": "wide.bias"}
    with pytest.raises(LimitError, match="output channels"):
        loads(sealed(made.header(), made.data))


METADATA = {
    "key missing": lambda m: m.pop("programs"),
    "key unknown": lambda m: m.update(author="me"),
    "key order": lambda m: m.update(info=m.pop("info")),
    "value not a text": lambda m: m.update(info={}),
    "info not JSON": lambda m: m.update(info="{"),
    "info with a key twice": lambda m: m.update(info=m["info"].replace('"name"', '"name":"a","name"')),
    "programs with a key twice": lambda m: m.update(programs=m["programs"].replace('"gain"', '"gain":1.0,"gain"')),
    "NaN": lambda m: m.update(programs=m["programs"].replace('"gain": 1.0', '"gain": NaN')),
    "infinite": lambda m: m.update(programs=m["programs"].replace('"gain": 1.0', '"gain": 1e999')),
    "an integer of 5000 digits": lambda m: m.update(info=m["info"].replace('"blocks": 2', '"blocks": ' + "2" * 5000)),
    "100000 brackets": lambda m: m.update(info="[" * 100_000),
    "lone surrogate": lambda m: m.update(info=m["info"].replace("tiny", "\\ud800")),
    "infinite in training": lambda m: m.update(info=m["info"].replace('"seed": 0', '"seed": 1e999')),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name):
    made = draft()
    header = made.header()
    before = dict(header["__metadata__"])
    METADATA[name](header["__metadata__"])
    assert list(header["__metadata__"].items()) != list(before.items())
    with pytest.raises(FieldError):
        loads(sealed(header, made.data))


def test_header_text():
    made = draft()
    text = json.dumps(made.header(), separators=(",", ":")).encode()
    loads(sealed(text, made.data))
    tail = b',"head.bias":' + json.dumps(made.entries["head.bias"]).encode() + b"}"
    broken = {
        "key twice": text[:-1] + tail,
        "not closed": text[:-1],
        "more": text + b"{}",
        "bytes": text[:-1] + b"\xff}",
    }
    for defect in broken.values():
        with pytest.raises(FieldError, match="strict JSON"):
            loads(sealed(defect, made.data))


@pytest.mark.parametrize("bomb", ["[[[]]],", '{"":[]},', '{"a":0},'])
def test_memory_is_bounded_by_the_file(bomb):
    made = draft()
    header = made.header()
    header["__metadata__"]["info"] = "[" + bomb * 20_000 + "0]"
    data = sealed(header, made.data)
    tracemalloc.start()
    try:
        with pytest.raises(FieldError):
            loads(data)
        assert tracemalloc.get_traced_memory()[1] < 50 * len(data)
    finally:
        tracemalloc.stop()


def test_random_edits_raise_nothing_else():
    """Any one node of the header replaced by junk, under a right checksum: a PackedModelError, or a model that runs."""
    source, whole = random.Random(0), smallest()
    junk = [None, True, 0, -1, 3, 2**70, 0.5, 1e300, "", "image", "head", "é" * 50, [], {}, [[]], ["image"], {"a": 1}]
    accepted = 0
    for _ in range(1500):
        made = Draft.of(whole)
        parents = list(containers([made.info, made.programs, made.entries]))[1:]
        parent = source.choice([p for p in parents if p])
        key = source.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
        if source.random() < 0.2:
            del parent[key]
        else:
            parent[key] = source.choice(junk)
        try:
            accepted += bool(loads(sealed(made.header(), made.data)))
        except PackedModelError as error:
            assert type(error) is not PackedModelError
    assert accepted < 300  # free text and training entries


def containers(node):
    if isinstance(node, (dict, list)):
        yield node
        for child in node.values() if isinstance(node, dict) else node:
            yield from containers(child)


# --- writing ---


def test_a_bad_model_is_not_written(tmp_path):
    model = tiny_model()
    path = tmp_path / "model"
    path.write_bytes(b"old")
    with pytest.raises(TensorError, match="no op uses"):
        write(path, replace(model, tensors={**model.tensors, "extra": np.zeros(1, np.float32)}))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model", b"old")]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "key"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step, error):
    path = tmp_path / ("m" * 255)
    write(path, tiny_model(seed=1))
    old = path.read_bytes()

    def fail(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(type(error)):
            write(path, tiny_model(seed=2))
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(path.name, old)]
    write(path, tiny_model(seed=2))
    assert_equal(read(path), tiny_model(seed=2))


def test_a_written_file_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write(tmp_path / "model", tiny_model())
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o644

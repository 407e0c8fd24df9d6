"""ncnn: float32, and int8 with scales by the largest magnitude seen. Its text and weight files are written here.

A model file is a line per layer: type, name, counts and names of inputs and outputs, then numbered settings. A value
with several readers needs an explicit Split. A convolution's settings: 0 outputs, 1 kernel, 4 padding, 5 bias, 6 number
of weights, 9 activation (1: ReLU), 8 int8 (2: scales per output channel and of the input; 102: of the output too, which
then stays int8).
"""

from collections import Counter
from pathlib import Path

import ncnn
import numpy as np

from quantsr.bench.job import Job, interleaved
from quantsr.bench.parts import Part
from quantsr.packing.program import IMAGE, Op


def build_float(job: Job) -> None:
    _Writer(job.plain(), {}).write(job.built)


def build_int8(job: Job) -> None:
    build_float(job)
    part = job.plain()
    _Writer(part, _largest_inputs(part, job)).write(job.built)


class Peer:
    def __init__(self, job: Job) -> None:
        ncnn.set_kmp_blocktime(0)
        self.net = _loaded(job, lightmode=True)
        pixels = job.planar_pixels()[0]
        self.image = ncnn.Mat(pixels).clone()  # a Mat keeps no array alive, and layers may write to it
        self.output = (job.built / "output").read_text()

    def run(self) -> None:
        extractor = self.net.create_extractor()
        extractor.input(IMAGE, self.image)
        status, self.out = extractor.extract(self.output)
        _done(status, "extract")

    def result(self) -> np.ndarray:
        return interleaved(np.array(self.out)[None])

    def kernels(self) -> dict[str, int]:
        return {}


class _Writer:
    """scales: of the input of each convolution, for int8; empty for float32."""

    def __init__(self, part: Part, scales: dict[str, float]) -> None:
        self.part, self.scales = part, scales
        self.ops = _with_relu_fused(part.program.ops)
        self.readers = Counter(name for op in self.ops for name in op.inputs)
        self.uses: Counter[str] = Counter()
        self.lines: list[str] = []
        self.values = 0
        self.data = bytearray()

    def write(self, folder: Path) -> None:
        self.layer("Input", IMAGE, [], IMAGE, "")
        for op in self.ops:
            inputs = [self.reading(name) for name in op.inputs]
            self.layer(*getattr(self, op.kind)(op, inputs))
        text = [str(7767517), f"{len(self.lines)} {self.values}", *self.lines]
        (folder / "model.param").write_text("\n".join(text) + "\n")
        (folder / "model.bin").write_bytes(self.data)
        (folder / "output").write_text(self.part.program.output)

    def layer(self, kind: str, name: str, inputs: list[str], output: str, settings: str) -> None:
        readers = self.readers[output]
        self.line(kind, name, inputs, [output], settings)
        if readers > 1:
            self.line("Split", f"{name}.split", [output], [f"{output}@{i}" for i in range(readers)], "")

    def line(self, kind: str, name: str, inputs: list[str], outputs: list[str], settings: str) -> None:
        names = " ".join([*inputs, *outputs])
        self.lines.append(f"{kind} {name} {len(inputs)} {len(outputs)} {names} {settings}".rstrip())
        self.values += len(outputs)

    def reading(self, value: str) -> str:
        """The name under which the next reader gets the value."""
        self.uses[value] += 1
        return f"{value}@{self.uses[value] - 1}" if self.readers[value] > 1 else value

    def floats(self, name: str, *, flagged: bool = False) -> None:
        array = self.part.tensors[name]
        self.data += b"\0\0\0\0" * flagged + np.ascontiguousarray(array, "<f4").tobytes()

    def conv2d(self, op: Op, inputs: list[str]) -> tuple[str, str, list[str], str, str]:
        weight = self.part.tensors[op.tensors["weight"]].transpose(0, 3, 1, 2)  # (O, I, K, K)
        outputs, _, kernel, _ = weight.shape
        self.data += b"\0\0\0\0" + np.ascontiguousarray(weight, "<f4").tobytes()  # four zeros: plain float32
        self.floats(op.tensors["bias"])
        settings = f"0={outputs} 1={kernel} 4={kernel // 2} 5=1 6={weight.size} 9={int(op.attrs.get('relu', 0))}"
        if self.scales:
            settings += f" 8={self.int8_scales(op, weight)}"
        return "Convolution", op.output, inputs, op.output, settings

    def int8_scales(self, op: Op, weight: np.ndarray) -> int:
        largest = np.abs(weight).max((1, 2, 3))
        scales = [*(127 / np.maximum(largest, 1e-12)), self.scales[op.output]]
        following = [other for other in self.ops if op.output in other.inputs]
        requantized = len(following) == 1 and following[0].kind == "conv2d"
        if requantized:
            scales.append(self.scales[following[0].output])
        self.data += np.array(scales, "<f4").tobytes()
        return 102 if requantized else 2

    def affine(self, op: Op, inputs: list[str]) -> tuple[str, str, list[str], str, str]:
        size = self.part.tensors[op.tensors["scale"]].size
        self.floats(op.tensors["scale"])
        self.floats(op.tensors["offset"])
        return "Scale", op.output, inputs, op.output, f"0={size} 1=1"

    def relu(self, op: Op, inputs: list[str]) -> tuple[str, str, list[str], str, str]:
        return "ReLU", op.output, inputs, op.output, ""

    def residual(self, op: Op, inputs: list[str]) -> tuple[str, str, list[str], str, str]:
        if op.attrs["gain"] == 1:
            return "BinaryOp", op.output, inputs, op.output, "0=0"
        return "Eltwise", op.output, inputs, op.output, f"0=1 -23301=2,{op.attrs['gain']:.9g},1.0"

    def pixel_shuffle(self, op: Op, inputs: list[str]) -> tuple[str, str, list[str], str, str]:
        return "PixelShuffle", op.output, inputs, op.output, f"0={op.attrs['upscale']}"


def _with_relu_fused(ops: tuple[Op, ...]) -> list[Op]:
    """A ReLU that alone reads a convolution becomes the convolution's activation."""
    readers = Counter(name for op in ops for name in op.inputs)
    made: dict[str, int] = {}
    fused: list[Op] = []
    for op in ops:
        source = made.get(op.inputs[0])
        if op.kind == "relu" and source is not None and readers[op.inputs[0]] == 1 and fused[source].kind == "conv2d":
            conv = fused[source]
            fused[source] = Op(conv.kind, conv.inputs, op.output, {"relu": 1}, conv.tensors)
            made[op.output] = source
            continue
        made[op.output] = len(fused)
        fused.append(op)
    return fused


def _largest_inputs(part: Part, job: Job) -> dict[str, float]:
    """127 over the largest magnitude that each convolution reads, by the name of its result after a fused ReLU.

    Measured with the float model, which must have been built.
    """
    net = _loaded(job, lightmode=False)  # keeps every value
    convs = [op for op in _with_relu_fused(part.program.ops) if op.kind == "conv2d"]
    largest = {op.output: 1e-12 for op in convs}
    for sample in job.calibration():
        extractor = net.create_extractor()
        pixels = sample[0]
        extractor.input(IMAGE, ncnn.Mat(pixels).clone())
        for op in convs:
            status, value = extractor.extract(op.inputs[0])
            _done(status, "extract")
            largest[op.output] = max(largest[op.output], float(np.abs(np.array(value)).max()))
    return {name: 127 / value for name, value in largest.items()}


def _loaded(job: Job, *, lightmode: bool) -> ncnn.Net:
    net = ncnn.Net()
    options = net.opt
    options.lightmode = lightmode
    options.num_threads = job.threads
    options.openmp_blocktime = 0  # do not spin
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = False
    _done(net.load_param(str(job.built / "model.param")), "load_param")
    _done(net.load_model(str(job.built / "model.bin")), "load_model")
    return net


def _done(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"ncnn: {what} gave {status}, wanted 0")

"""The inner loops of the kernels as the compiler made them: sums that do not stay in registers cost half the speed."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from quantsr import _native

MULTIPLY = re.compile(r"^(?:\{vex\} )?(vpmaddubsw|vpmaddwd|vpdpbusd|vfmadd|tdpbusd).*%([yzt])mm")
BROADCAST = re.compile(r"^v\w*broadcast\w|\{1to")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
LEAST = {"t": 4, "y": 6, "z": 6}  # with fewer multiplications it is a loop over what remains
# (instruction, registers) of the kernels: 256 bits, 512 bits, tiles.
KINDS = {("vpmaddubsw", "y"), ("vpmaddwd", "y"), ("vpdpbusd", "y"), ("vfmadd", "y"), ("vpdpbusd", "z"), ("vfmadd", "z")}
KINDS |= {("tdpbusd", "t")}


def disassemble(file, objdump="objdump"):
    command = [objdump, "-d", "--no-show-raw-insn", file]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [INSTRUCTION.match(line) for line in lines]
    return [(int(m[1], 16), m[2]) for m in found if m]


def innermost_loops(code, jump=JUMP):
    """The instructions of every loop that holds no other, from the target of a jump backwards to the jump. Spans
    that are left on the way are no loops, but pieces of a function in the order in which the compiler laid them out."""
    index = {address: i for i, (address, _) in enumerate(code)}
    jumps = [(i, jump.match(text)) for i, (_, text) in enumerate(code)]
    spans = [(index.get(int(m[1], 16), i + 1), i) for i, m in jumps if m]
    spans = sorted((start, end) for start, end in spans if start <= end)
    for (start, end), (following, _) in pairwise([*spans, (len(code), len(code))]):
        loop = code[start : end + 1]
        if following > end and not any(text.startswith("jmp") for _, text in loop[:-1]):
            yield loop


def product(loop):
    """The (instruction, registers) by which a loop multiplies matrices, or None. Vectors are multiplied by single
    inputs, which are broadcast for 4 of them at most; transforms multiply by constants."""
    texts = [text for _, text in loop]
    found = [m.groups() for m in map(MULTIPLY.match, texts) if m]
    if not found or len(found) < LEAST[found[0][1]]:
        return None
    tiles, broadcasts = found[0][1] == "t", sum(bool(BROADCAST.search(t)) for t in texts)
    return found[0] if tiles or 4 * broadcasts >= len(found) else None


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_sums_stay_in_registers_in_the_loops_that_multiply():
    loops = [(product(loop), loop) for loop in innermost_loops(disassemble(_native.__file__))]
    loops = [(kind, loop) for kind, loop in loops if kind]
    if not loops:
        pytest.skip("no x86 kernels in this build")
    assert {kind for kind, _ in loops} == KINDS
    vector_on_stack = re.compile(r"\(%r[sb]p.*%[yz]mm|%[yz]mm.*\(%r[sb]p")
    spills = [f"{address:x}: {text}" for _, loop in loops for address, text in loop if vector_on_stack.search(text)]
    assert spills == [], f"{len(spills)} in {len(loops)} loops"


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_transforms_of_inputs_read_each_byte_once():
    """Another thread may be writing it (docs/kernels.md): F(4x4) takes 6x6 pixels to 46 positions, whose offsets are
    broadcast."""
    functions = [[]]
    for _, text in disassemble(_native.__file__):
        functions[-1].append(text)
        if text.startswith("ret"):
            functions.append([])
    vector = re.compile(r"^(v\w+) .*\((?!%r[sb]p).*\),.*%ymm")  # read, but not from the stack
    reads = [[m[1] for m in map(vector.match, texts) if m] for texts in functions]
    pixels = [len(names) - 46 for names in reads if names.count("vpbroadcastb") == 46]
    if not pixels:
        pytest.skip("no transform for AVX2 that is a function of its own")
    assert set(pixels) == {36}

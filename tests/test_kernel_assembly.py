"""The inner loops of the kernels as the compiler made them: sums that do not stay in registers cost half the speed."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from quantsr import _native

MULTIPLY = re.compile(r"^(vpmaddubsw|vpdpbusd|vfmadd\w+ps)\b")
BROADCAST = re.compile(r"^v\w*broadcast\w|\{1to")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
LEAST = 6  # with fewer multiplications it is a loop over what remains


def disassemble():
    command = ["objdump", "-d", "--no-show-raw-insn", _native.__file__]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = [INSTRUCTION.match(line) for line in lines]
    return [(int(m[1], 16), m[2]) for m in found if m]


def innermost_loops(code):
    """The instructions of every loop that holds no other, from the target of a jump backwards to the jump."""
    index = {address: i for i, (address, _) in enumerate(code)}
    jumps = [(i, JUMP.match(text)) for i, (_, text) in enumerate(code)]
    spans = [(index.get(int(m[1], 16), i + 1), i) for i, m in jumps if m]
    spans = sorted((start, end) for start, end in spans if start <= end)
    for (start, end), (following, _) in pairwise([*spans, (len(code), len(code))]):
        if following > end:
            yield code[start : end + 1]


def is_product(loop):
    """Whether a loop multiplies matrices: single inputs by vectors of weights. Transforms multiply by constants."""
    texts = [text for _, text in loop]
    return sum(bool(MULTIPLY.match(t)) for t in texts) >= LEAST and any(BROADCAST.search(t) for t in texts)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_sums_stay_in_registers_in_the_loops_that_multiply():
    loops = [loop for loop in innermost_loops(disassemble()) if is_product(loop)]
    if not loops:
        pytest.skip("no x86 kernels in this build")
    vector_on_stack = re.compile(r"\(%r[sb]p.*%[yz]mm|%[yz]mm.*\(%r[sb]p")
    spills = [f"{address:x}: {text}" for loop in loops for address, text in loop if vector_on_stack.search(text)]
    assert spills == [], f"{len(spills)} in {len(loops)} loops"

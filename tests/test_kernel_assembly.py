"""The inner loops of the kernels as the compiler made them: sums that do not stay in registers cost half the speed."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from quantsr import _native

MULTIPLY = re.compile(r"^(vpmaddubsw|vpdpbusd|vfmadd\w+ps|tdpbusd)\b")
# Such loops give one input to many outputs; a transform, which may keep terms on the stack, does not.
SPREAD = re.compile(r"^(vpbroadcastd|vbroadcastss|tileloadd)\b|\{1to\d+\}")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
JUMP = re.compile(r"^j\w+\s+([0-9a-f]+)\b")
# Fewer multiplications than this: a loop over what remains, or one that waits for memory anyway.
LEAST = 6


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


def multiplies(loop):
    texts = [text for _, text in loop]
    return any(map(SPREAD.search, texts)) and sum(bool(MULTIPLY.match(text)) for text in texts) >= LEAST


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_sums_stay_in_registers_in_the_loops_that_multiply():
    loops = [loop for loop in innermost_loops(disassemble()) if multiplies(loop)]
    if not loops:
        pytest.skip("no x86 kernels in this build")
    vector_on_stack = re.compile(r"\(%r[sb]p.*%[yz]mm|%[yz]mm.*\(%r[sb]p")
    spills = [f"{address:x}: {text}" for loop in loops for address, text in loop if vector_on_stack.search(text)]
    assert spills == [], f"{len(spills)} in {len(loops)} loops"

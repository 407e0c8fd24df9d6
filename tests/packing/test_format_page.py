"""docs/format.md: its code runs, its dump is the file's, its tables are complete."""

import re
from pathlib import Path

import pytest

from quantsr.packing import bits, checks, file, ops, program
from quantsr.packing.checks import INFO
from quantsr.packing.ops import OPS
from quantsr.packing.program import PackedModelError

PAGE = Path(__file__).parents[2].joinpath("docs", "format.md").read_text()


def dump(data: bytes) -> str:
    """Offset, 16 bytes in hexadecimal, the printable ones as text: the file's first 144 bytes and its tensor data."""
    start = 8 + int.from_bytes(data[:8], "little")
    lines = [line(data, at, min(at + 16, 144)) for at in range(0, 144, 16)]
    lines += ["..."] + [line(data, at, min(at + 16, len(data))) for at in range(start, len(data), 16)]
    return "\n".join(lines)


def line(data: bytes, begin: int, end: int) -> str:
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[begin:end])
    return f"{begin:05x}  {data[begin:end].hex(' '):47}  {text}"


def test_example():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert file.dumps(file.loads(names["data"])) == names["data"]
    assert dump(names["data"]) in PAGE


@pytest.mark.parametrize("kind", OPS)
def test_op_table(kind):
    row = next(row for row in PAGE.splitlines() if row.startswith(f"| `{kind}` |"))
    for name in [*OPS[kind].attrs, *OPS[kind].tensors]:
        assert re.search(rf"\b{name}\b", row)


def test_info_and_error_tables():
    named = set(re.findall(r"`(\w+)`", "\n".join(row for row in PAGE.splitlines() if row.startswith("| `"))))
    assert named >= INFO.keys()
    assert named >= {error.__name__ for error in PackedModelError.__subclasses__()}


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("file", f"{file.MAX_FILE_BYTES // 2**20} MiB"),
        ("header", f"{file.MAX_HEADER_BYTES // 2**20} MiB"),
        ("tensors", checks.MAX_TENSORS),
        ("ops of a program", checks.MAX_OPS),
        (
            "values that the ops of a program read from tensors, a shared one as often as it is read, and "
            "8 · heads · window³ for each attention",
            checks.MAX_READ,
        ),
        ("channels of a convolution's output", ops.MAX_CHANNELS),
        ("blocks", checks.MAX_BLOCKS),
        ("resolution factor of any value", max(program.UPSCALES)),
        ("least common multiple of the windows of a program", ops.MAX_WINDOW),
    ],
)
def test_limits(what, most):
    assert f"| {what} | {most} |" in PAGE


def test_drawings_agree():
    drawings = [row.rstrip() for row in PAGE.splitlines() if re.match(r" +\d bits: ", row)]
    assert len(drawings) == 3
    for drawing in drawings:
        assert drawing in bits.__doc__

"""The native tests, cross-compiled for 64-bit ARM and run under emulation: whether NEON computes the same bytes.

Says nothing about speed, and an emulator is not a CPU. On Debian it takes the packages g++-aarch64-linux-gnu and
qemu-user-static.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_kernel_assembly import disassemble, innermost_loops

ROOT = Path(__file__).parents[1]
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
TOOLS = ("cmake", "ctest", "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump")
MISSING = [name for name in TOOLS if shutil.which(name) is None]
MISSING += [] if QEMU else ["qemu-aarch64-static"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"emulating ARM needs {', '.join(MISSING)}"),
]


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("neon")
    toolchain = ROOT / "native/cmake/aarch64-linux-gnu.cmake"
    run("cmake", "-S", ROOT, "-B", folder, f"--toolchain={toolchain}", "-DQUANTSR_PYTHON=OFF", "-DQUANTSR_TESTS=ON")
    run("cmake", "--build", folder, "-j2")
    return folder


def test_native_tests_pass_under_emulation(build):
    output = run("ctest", "--test-dir", build, "--verbose")
    visited = re.findall(r"neon (\w+) +(\d+) cases +\d+ sums 0 differing", output)
    assert {kernel for kernel, _ in visited} == {"direct_neon", "f2x2_neon", "f4x4_neon"}
    assert all(int(cases) >= 400 for _, cases in visited)


def test_a_cpu_without_dot_products_takes_the_plain_kernels(build):
    output = run(QEMU, "-cpu", "cortex-a53", build / "test_qconv", "8")
    assert "direct_ref" in output
    assert "neon" not in output


def test_sums_stay_in_registers_in_the_loops_that_multiply(build):
    jump = re.compile(r"^(?:b\.\w+|cbn?z\s+\w+,)\s+([0-9a-f]+)\b")
    product = re.compile(r"^(sdot|fmla)\b.*\[\d\]")
    on_stack = re.compile(r"^(ldr|str|ldp|stp)\s+q.*\[sp\b")
    visited, spills = set(), []
    for file in sorted(build.rglob("*_neon.cc.o")):
        for loop in innermost_loops(disassemble(file, "aarch64-linux-gnu-objdump"), jump):
            if sum(bool(product.match(text)) for _, text in loop) >= 8:
                visited.add(file.name)
                spills += [f"{file.name} {address:x}: {text}" for address, text in loop if on_stack.match(text)]
    names = ("conv2d", "conv2d_winograd", "qconv", "qconv_winograd")
    assert visited >= {f"{name}_neon.cc.o" for name in names}
    assert spills == []

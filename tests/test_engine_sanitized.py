"""The native tests under the address, undefined-behaviour and thread sanitizers, and the fuzzer."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitized_engine(sanitizers, tmp_path):
    options = ["-DQUANTSR_PYTHON=OFF", "-DQUANTSR_TESTS=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    command = ["cmake", "-S", ROOT, "-B", tmp_path, f"-DQUANTSR_SANITIZE={sanitizers}", *options]
    subprocess.run(command, check=True)
    subprocess.run(["cmake", "--build", tmp_path, "-j2"], check=True)
    environment = os.environ | {"TSAN_OPTIONS": f"suppressions={ROOT / 'native/tests/thread_sanitizer.supp'}"}
    subprocess.run(["ctest", "--test-dir", tmp_path, "--output-on-failure"], check=True, env=environment)


CLANG = next(filter(None, map(shutil.which, ("clang++", "clang++-19", "clang++-16", "clang++-14"))), None)
FINDINGS = sorted(ROOT.glob("native/fuzz/findings/*"))


@pytest.mark.slow
@pytest.mark.skipif(CLANG is None or shutil.which("cmake") is None, reason="needs clang with libFuzzer, and cmake")
def test_fuzzed_programs(tmp_path):
    """The seeds, all that was ever found, and a minute more."""
    (tmp_path / "a.cc").write_text('extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }')
    if subprocess.run([CLANG, "-fsanitize=fuzzer", "a.cc", "-o", "a"], cwd=tmp_path, check=False).returncode:
        pytest.skip("clang has no libFuzzer here")
    options = ["-DQUANTSR_PYTHON=OFF", "-DQUANTSR_FUZZ=ON", "-DQUANTSR_SANITIZE=address,undefined"]
    command = ["cmake", "-S", ROOT, "-B", tmp_path, f"-DCMAKE_CXX_COMPILER={CLANG}", *options]
    subprocess.run([*command, "-DCMAKE_BUILD_TYPE=RelWithDebInfo"], check=True)
    subprocess.run(["cmake", "--build", tmp_path, "-j2"], check=True)
    subprocess.run([sys.executable, ROOT / "native/fuzz/seeds.py", tmp_path / "corpus"], check=True)
    subprocess.run([tmp_path / "fuzz_plan", "-runs=0", *FINDINGS], cwd=tmp_path, check=True)
    limits = ["-max_len=400", "-len_control=0", "-timeout=120", "-max_total_time=60"]
    subprocess.run([tmp_path / "fuzz_plan", *limits, tmp_path / "corpus"], cwd=tmp_path, check=True)


def test_the_fuzzer_knows_every_kind_of_op():
    """Its rows, those of the seeds, and the engine's own."""
    known = re.findall(r"\"(\w+)\",\s+OpKind::", ROOT.joinpath("native/src/graph.cc").read_text())
    rows = ROOT.joinpath("native/fuzz/fuzz_plan.cc").read_text().partition("kKinds = {")[2].partition("};")[0]
    fuzzed = re.findall(r"^    \{\"(\w+)\"", rows, re.MULTILINE)
    seeds = ROOT.joinpath("native/fuzz/seeds.py").read_text().partition("KINDS = (")[2].partition(")")[0]
    assert sorted(fuzzed) == sorted(known)
    assert re.findall(r"\"(\w+)\"", seeds) == fuzzed

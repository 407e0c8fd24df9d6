"""The native tests, built with address and undefined-behaviour sanitizers, and with the thread sanitizer."""

import os
import shutil
import subprocess
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

"""The native tests, built with address and undefined-behaviour sanitizers, and with the thread sanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPTIONS = {
    "address and undefined": ["-DQUANTSR_SANITIZE=ON"],
    "thread": ["-DCMAKE_CXX_FLAGS=-fsanitize=thread"],
}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
@pytest.mark.parametrize("sanitizer", OPTIONS)
def test_sanitized_engine(sanitizer, tmp_path):
    options = ["-DQUANTSR_PYTHON=OFF", "-DQUANTSR_TESTS=ON", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", *OPTIONS[sanitizer]]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, *options], check=True)
    subprocess.run(["cmake", "--build", tmp_path, "-j2"], check=True)
    environment = os.environ | {"TSAN_OPTIONS": f"suppressions={ROOT / 'native/tests/thread_sanitizer.supp'}"}
    subprocess.run(["ctest", "--test-dir", tmp_path, "--output-on-failure"], check=True, env=environment)

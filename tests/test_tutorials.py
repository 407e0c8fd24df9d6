"""docs/api.md and docs/tutorials: every command and every block of Python runs, in the order of the page.

Training takes two steps of a tiny network here, and its results are not held against their inputs: TINY is added to
the commands of the page, nothing is left out.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from foreign.plain import BasicSR
from packing.tiny import tiny_model
from PIL import Image

from quantsr import recipe
from quantsr.cli import main
from quantsr.data import benchmarks
from quantsr.packing import write

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "docs" / "api.md", *sorted(ROOT.glob("docs/tutorials/*.md")), ROOT / "docs" / "onnx.md"]
NEEDS = {"api.md": "onnx", "deploy.md": "onnxruntime", "onnx.md": "onnxruntime"}

NETWORK = {"model.channels": 8, "model.blocks": 2, "model.half": 1, "model.quarter": 1}
RUN = {"optim.steps": 2, "optim.warmup": 1, "data.patch": 8, "data.batch": 2, "run.calibration_batches": 2,
       "run.compile": "false", "run.bf16": "false"}  # fmt: skip
TINY = {
    "train": [part for name, value in (NETWORK | RUN).items() for part in ("--with", f"{name}={value}")],
    "export": ["--photo", "photo.jpg"],
    "pack": ["--force"],  # over the one that `desk` laid there
}
UNTRAINED = ("mine.safetensors",)  # its results are noise


def blocks(page):
    return re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def desk(tmp_path, photos, picture, monkeypatch):
    """A folder with what the pages speak of."""
    torch.manual_seed(0)
    Image.fromarray(picture(30, 41)).save(tmp_path / "photo.jpg")
    torch.save({"params": enlarging().state_dict()}, tmp_path / "edsr_baseline_x4.pth")
    write(tmp_path / "mine.safetensors", tiny_model(upscale=4))
    (tmp_path / "benchmarks" / "Set5" / "HR").mkdir(parents=True)
    for number in range(benchmarks.BENCHMARKS["Set5"].images):
        Image.fromarray(picture(48, 52, number)).save(tmp_path / "benchmarks" / "Set5" / "HR" / f"{number}.png")
    shutil.copy(ROOT / "src/quantsr/recipes/small-x4-w2a2.toml", tmp_path / "practical-x4-w4a4.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enlarging():
    """An EDSR of weights near 0, but for those that repeat each pixel 4 x 4 times: an import looks for such."""
    network = BasicSR(channels=NETWORK["model.channels"], blocks=NETWORK["model.blocks"])
    state = network.state_dict()
    for tensor in state.values():
        tensor.mul_(0.02)
    for colour in range(3):
        for layer in ("conv_first", "conv_last"):
            state[f"{layer}.weight"][colour, colour, 1, 1] = 1
        for layer in ("upsample.0", "upsample.2"):
            state[f"{layer}.weight"][4 * colour : 4 * colour + 4, colour, 1, 1] = 1
    return network


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_page_runs(page, desk, capsys):
    for module in filter(None, [NEEDS.get(page.name)]):
        pytest.importorskip(module)
    names = {"__name__": page.stem}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh":
            for line in text.splitlines():
                run(line, page)
        elif language == "toml":
            (desk / "mine.toml").write_text(text)
            assert recipe.load(desk / "mine.toml")
        else:
            assert language == "console", f"{page.name}: a block of {language} that no test runs"


def run(line, page):
    program, *arguments = shlex.split(line, comments=True)
    assert program == "quantsr", f"{page.name}: {line}"
    if set(UNTRAINED) & set(arguments):
        arguments += ["--no-check"] if arguments[0] == "upscale" else []
    arguments += ["--size", "64x48"] if "--size" in arguments else []  # the last one counts
    assert main([*arguments, *TINY.get(arguments[0], [])]) == 0, f"{page.name}: {line}"


def test_pages_show_what_they_say():
    """Every tutorial has something to run, and every page is in the index."""
    index = (ROOT / "docs" / "tutorials" / "README.md").read_text(encoding="utf-8")
    for page in ROOT.glob("docs/tutorials/*.md"):
        if page.name != "README.md":
            assert f"({page.name})" in index
            assert {language for language, _ in blocks(page)} & {"python", "sh"}

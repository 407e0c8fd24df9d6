"""docs/training.md: every setting with its default. README and docs/: relative links lead to files; code runs."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quantsr
from quantsr.config import TrainConfig
from quantsr.quant import PLACEMENTS, QUANTIZERS

ROOT = Path(__file__).parents[1]
TRAINING = ROOT.joinpath("docs", "training.md").read_text(encoding="utf-8")
PAGES = [Path("README.md"), Path("CHANGELOG.md"), *sorted(p.relative_to(ROOT) for p in ROOT.glob("docs/**/*.md"))]


def sections() -> dict[str, type]:
    """The dataclass behind each table of a TOML file."""
    hints = typing.get_type_hints(TrainConfig)
    return {
        name: next(kind for kind in (*typing.get_args(hint), hint) if kind is not type(None))
        for name, hint in hints.items()
    }


def rows(section: str) -> dict[str, str]:
    """Field -> default, as text, of a section's table."""
    _, _, after = TRAINING.partition(f"### `[{section}]`\n")
    table = re.split(r"^#", after, maxsplit=1, flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", table, re.MULTILINE))


def default(field: "dataclasses.Field[Any]") -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@pytest.mark.parametrize("section", sections())
def test_every_setting_is_explained_with_its_default(section: str) -> None:
    wanted = {field.name: default(field) for field in dataclasses.fields(sections()[section])}
    got = {name: tomllib.loads(f"value = {text}")["value"] for name, text in rows(section).items()}
    assert list(got) == list(wanted)
    assert got == wanted


def test_the_history_is_that_of_recipes_logs_and_checkpoints(script: Callable[[str], Any]) -> None:
    history = script("history")
    assert history.PAGE.read_text(encoding="utf-8") == history.page()


@pytest.mark.parametrize("page", ["docs/comparison.md", "docs/testing.md"])
def test_every_test_that_is_named_exists(page: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", ROOT.joinpath(page).read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = [f"{path}::{name}" for path, name in named if not _has(ROOT / path, name)]
    assert missing == []


def _has(path: Path, name: str) -> bool:
    return path.exists() and re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_a_yes_of_ours_names_its_test() -> None:
    page = ROOT.joinpath("docs/comparison.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    assert [row[0] for row in rows if row[-1].strip().startswith("yes") and "`tests/" not in row[-1]] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_relative_links_lead_to_files(page: Path) -> None:
    path = ROOT / page
    if not path.exists():
        pytest.skip(f"{page} is not written yet")
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if link and not (path.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    path = ROOT / page
    if not path.exists():
        pytest.skip(f"{page} is not written yet")
    for link, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", path.read_text(encoding="utf-8")):
        target = path.parent / link if link else path
        assert anchor in _anchors(target), f"{link}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readmes_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    names = {"image": np.zeros((8, 9, 3), np.uint8)}
    exec(code, names)
    assert names["larger"].shape == (32, 36, 3)


def test_the_tutorial_of_quantizers_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quantizers.md").read_text(), flags=re.DOTALL)
    before = dict(QUANTIZERS)
    try:
        exec("".join(blocks), {"__name__": "tutorial"})
        assert QUANTIZERS.keys() - before == {"percentile"}
    finally:
        QUANTIZERS.pop("percentile", None)


def test_the_tutorials_quantizer_may_be_a_file_of_the_package(tmp_path: Path) -> None:
    package = Path(quantsr.__file__).parent
    copy = tmp_path / "quantsr"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("weights", "static", "__pycache__"))
    page = (ROOT / "docs" / "quantizers.md").read_text()
    (code, entry, *_) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (copy / "quant" / "percentile.py").write_text(code)
    convert = (copy / "quant" / "convert.py").read_text()
    convert = convert.replace("\n\n\n", "\nfrom quantsr.quant.percentile import Percentile\n\n\n", 1)
    (copy / "quant" / "convert.py").write_text(convert + entry.partition("Method\n")[2])
    asked = "from quantsr import quant; print(quant.__file__, *quant.QUANTIZERS)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.startswith(str(tmp_path)) and "percentile" in told.stdout.split()


def test_every_quantizer_placement_and_option_is_explained() -> None:
    page = (ROOT / "docs" / "quantizers.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| `(\w+)", page, re.MULTILINE)
    options = sorted({option for method in QUANTIZERS.values() for option in method.options})
    assert sorted(named) == sorted([*QUANTIZERS, *PLACEMENTS, *options])

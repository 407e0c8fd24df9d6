"""List the bundled models.

bits: of weights (W) and activations (A). blocks: at full, half and quarter depth. PSNR: at full depth, on Set14; --json
and `quantsr info` have all sets and depths. Convolutional networks are faster, and lose less when they are shallower.
"""

import argparse
import json
from typing import Any

from quantsr import zoo

SET = "Set14"
HEADING = ("name", "scale", "bits", "network", "blocks", f"PSNR, {SET}", "file", "")
NETWORKS = {"quantsr-c": "convolutional", "quantsr-t": "transformer"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    models = [_facts(name) for name in zoo.bundled()]
    print(json.dumps({"models": models}, indent=2) if args.json else _table(models))
    return 0


def _facts(name: str) -> dict[str, Any]:
    """blocks: by depth. default: taken when only the scale is given. scores: by depth and set."""
    info = zoo.load_packed(name).info
    return {
        "name": name,
        "scale": info["upscale"],
        "architecture": info["architecture"],
        "channels": info["channels"],
        "weight_bits": info["weight_bits"],
        "act_bits": info["act_bits"],
        "blocks": {depth: len(kept) for depth, kept in info["depths"].items()},
        "bytes": zoo.find(name).stat().st_size,
        "default": name == zoo.default_name(info["upscale"]),
        "scores": zoo.stored(name)["scores"],
    }


def _table(models: list[dict[str, Any]]) -> str:
    rows = [HEADING, *map(_row, models)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)


def _row(facts: dict[str, Any]) -> tuple[str, ...]:
    of_scale = "default" if facts["scale"] == zoo.DEFAULT_SCALE else f"default of -s {facts['scale']}"
    return (
        facts["name"],
        f"x{facts['scale']}",
        f"W{facts['weight_bits']}A{facts['act_bits']}",
        NETWORKS[facts["architecture"]],
        "/".join(map(str, facts["blocks"].values())),
        f"{facts['scores']['full'][SET]['psnr']:.2f} dB",
        f"{facts['bytes'] / 1e6:.2f} MB",
        of_scale if facts["default"] else "",
    )

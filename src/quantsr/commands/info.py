"""Show what a packed model is, what it costs, and how it was trained."""

import argparse
import json
from typing import Any

from quantsr import zoo
from quantsr.commands.common import usage_errors
from quantsr.packing import PackedModelError, cost, receptive_radius
from quantsr.streams import printable
from quantsr.terminal import shown_together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a bundled model's name, or a packed file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    with usage_errors(PackedModelError):
        facts = describe(args.model)
    print(json.dumps(facts, indent=2) if args.json else _text(facts))
    return 0


def describe(model: str) -> dict[str, Any]:
    """All facts of a model; work is counted for a 320x180 input by the definition in `packing.cost`."""
    packed = zoo.load_packed(model)
    costs = {depth: cost.cost(program, packed.tensors) for depth, program in packed.programs.items()}
    facts = packed.info | {
        "packed_bytes": zoo.find(model).stat().st_size,
        "bytes_by_part": cost.parts(packed),
        "receptive_radius": {d: receptive_radius(p, packed.tensors) for d, p in packed.programs.items()},
        "macs": {depth: found.macs for depth, found in costs.items()},
        "bitops": {depth: found.bitops for depth, found in costs.items()},
        "rule_a_ops": {depth: found.rule_a_ops for depth, found in costs.items()},
        "rule_b_ops": {depth: found.rule_b_ops for depth, found in costs.items()},
        "counted_for": f"one {cost.WIDTH}x{cost.HEIGHT} input",
    }
    return facts | ({"scores": zoo.stored(model)["scores"]} if model in zoo.bundled() else {})


def _text(facts: dict[str, Any]) -> str:
    layers = facts["quantized_layers"]
    rows = [
        ("name", facts["name"]),
        ("architecture", f"{facts['architecture']}, {facts['channels']} channels, {facts['upsampler']} upsampler"),
        ("scale", f"x{facts['upscale']}"),
        ("bits", f"weights {facts['weight_bits']}, activations {facts['act_bits']} ({facts['quantizer']})"),
        ("quantized", f"{len(layers)} layers by placement {facts['placement']}: {shown_together(layers)}"),
        ("parameters", f"{facts['parameters']:,} weights and biases"),
        ("file", f"{facts['packed_bytes']:,} bytes: " + _listed(facts["bytes_by_part"])),
        ("blocks", _listed({depth: len(kept) for depth, kept in facts["depths"].items()})),
        ("multiply-adds", _listed({d: f"{v / 1e9:.1f} G" for d, v in facts["macs"].items()})),
        ("BitOPs", _listed({d: f"{v / 1e9:,.0f} G" for d, v in facts["bitops"].items()})),
        ("as BBCU counts", _listed({d: f"{v / 1e9:.1f} G" for d, v in facts["rule_a_ops"].items()}) + " operations"),
        ("as 2DQuant counts", _listed({d: f"{v / 1e9:.1f} G" for d, v in facts["rule_b_ops"].items()}) + " operations"),
        ("", f"all for {facts['counted_for']}"),
        ("receptive radius", _listed(facts["receptive_radius"]) + " LR pixels"),
        *(("PSNR", f"at {depth} depth: {_psnr(sets)}") for depth, sets in facts.get("scores", {}).items()),
        *(("trained", _listed(stage)) for stage in facts["training"].get("stages", [])),
        ("licence", facts["licence"] or "not stated"),
    ]
    return "\n".join(f"{name:<17} {printable(value)}" for name, value in rows)


def _psnr(sets: dict[str, dict[str, float]]) -> str:
    return _listed({name: f"{score['psnr']:.2f} dB" for name, score in sets.items()})


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

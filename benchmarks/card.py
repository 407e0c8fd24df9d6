"""A model card, to standard output, from a bundled model and scores.

python benchmarks/card.py quantsr-c-x4-w4a4 benchmarks/results/quality-*.json
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from quantsr import zoo
from quantsr.commands.info import describe

SETS = ("Set5", "Set14", "B100")

DATA = """\
235 photographs (200 megapixels), 10 of them held out for validation, none from a benchmark set: Ubuntu wallpapers
(153, CC BY-SA 3.0), Antergos (16, CC BY-SA 4.0), Budgie (12, CC0), Deepin (10, Unsplash licence), Plasma (8, LGPL-3),
CalyxOS (7, CC BY-SA 3.0), Lomiri (7, CC BY 4.0 and CC0), Pop!_OS (6, Unsplash), Palapeli (5, GPL-2+), elementary OS
(4, CC0, Unsplash and Pexels), scikit-image (3, CC0 and public domain), scikit-learn (2, CC BY 2.0), MATE (1, GPL-2+),
Cutefish (1, Unsplash). Low-resolution patches were made by MATLAB-compatible bicubic shrinking."""


class Kind(NamedTuple):
    """Words for an architecture."""

    name: str
    blocks: str
    quantized: str
    plain: str


KINDS = {
    "quantsr-c": Kind(
        "QuantSR-C",
        "blocks",
        "The residual blocks",
        "Head, after-body convolution, upsampler, biases and shortcuts",
    ),
    "quantsr-t": Kind(
        "QuantSR-T",
        "groups of Swin layers",
        "The linear layers and the convolution of each group",
        "Attention, LayerNorm, GELU, head, after-body convolution, upsampler, biases and shortcuts",
    ),
}


def main(name: str, score_files: list[str]) -> None:
    facts = describe(name)
    rows = [row for file in score_files for row in json.loads(Path(file).read_text())["results"]]
    print(card(name, facts, [row for row in rows if row["scale"] == facts["upscale"]]))


def card(name: str, facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256(zoo.find(name).read_bytes()).hexdigest()
    kind = KINDS[facts["architecture"]]
    depths = ", ".join(f"{depth} {len(kept)} {kind.blocks}" for depth, kept in facts["depths"].items())
    return f"""\
# {name}

{kind.name}, x{facts["upscale"]}: {facts["channels"]} channels, {facts["upsampler"]} upsampler. {kind.quantized}
have {facts["weight_bits"]}-bit weights and {facts["act_bits"]}-bit activations
({facts["quantizer"]}, one shift per input channel). {kind.plain} are float32.
Depths: {depths}. {facts["parameters"]:,} weights and biases in {facts["packed_bytes"]:,} bytes.

SHA-256 of the file: `{digest}`

## Use

For photographs and other natural pictures that were shrunk or are small. It restores detail, it does not invent any; it
was not trained to remove noise or compression artefacts.

## Results

PSNR in dB / SSIM on Y, {facts["upscale"]} pixels cropped.

{table(rows)}

## Training

{stages(facts["training"]["stages"])}

Loss: L1 to the photograph and, where a teacher is named, to the teacher's output, each half of the loss where nothing
else is told. RLFN x4 (Kong et al., CVPRW 2022, MIT licence) was trained by its authors on DIV2K-family pictures; for x2
and x3 its output is shrunk by the bicubic of the benchmarks. A checkpoint is a network of this project. The recipes
(recipes/ in the repository) tell the rest, such as the sizes at which photographs train beside their own.
Cosine decay, bf16 autocast where the machine gains by it, averaged weights. Machines: two shared cores of an Intel Xeon
or AMD EPYC, no GPU.

### Data

{DATA}

## Licence

{facts["licence"]}
"""


def table(rows: list[dict[str, Any]]) -> str:
    scores = {(Path(row["model"]).stem, row["depth"], row["set"]): row for row in rows}
    lines = ["| model | depth | " + " | ".join(SETS) + " |", "|---|---|" + "---|" * len(SETS)]
    for model, depth in dict.fromkeys(key[:2] for key in scores):
        cells = [scores[model, depth, name] for name in SETS]
        lines.append(f"| {model} | {depth} | " + " | ".join(f"{c['psnr']:.2f} / {c['ssim']:.4f}" for c in cells) + " |")
    return "\n".join(lines)


UNNAMED = {"checkpoint: weights.safetensors": "checkpoint: x2-float-2"}  # in records that did not name the run yet


def stages(history: list[dict[str, Any]]) -> str:
    columns = ["bits", "depths", "steps", "batch", "patch", "learning_rate", "method", "teacher"]
    history = [{"method": "adam"} | stage for stage in history]  # what is left out
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for stage in history:
        stage["teacher"] = UNNAMED.get(stage["teacher"], stage["teacher"])
        cells = (", ".join(v) if isinstance(v := stage.get(column, ""), list) else str(v) for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

"""Train variants of recipes alike, score them alike, and put them into one table.

For example: quantsr compare small-x4-w2a2 --vary quant.quantizer=rlq,lsq,pact --seeds 0 1 2 --data DIR -o OUT

OUT holds the trained stages (shared by the variants that have them in common), compare.json, compare.md and plots.
Run it again after an interruption; it goes on where it stopped.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from quantsr.bench import machine
from quantsr.commands.common import USAGE, Failure, extra_needed, how_to_install, place
from quantsr.data import benchmarks
from quantsr.files import write_atomically


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="TOML files, or names of the package's recipes")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY=V,V,...", help="an axis of the table")
    parser.add_argument("--with", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="for all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of the benchmark sets")
    parser.add_argument(
        "--set",
        nargs="+",
        default=["Set14", "B100"],
        dest="sets",
        metavar="NAME",
        choices=benchmarks.BENCHMARKS,
        help="benchmark sets; default: Set14 B100",
    )
    parser.add_argument("-o", "--out", type=place, required=True, metavar="DIR", help="results and trained stages")


def run(args: argparse.Namespace) -> int:
    with extra_needed("comparing", "train", "torch"):
        from quantsr.compare import report, table
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        rows = table.rows(args.recipes, args.vary, args.overrides, args.seeds, args.out, args.data, args.sets)
    except (ValueError, FileExistsError, ImportError) as error:  # as in `train`
        raise Failure(error, USAGE) from error
    write_atomically(args.out / "compare.json", json.dumps(_record(args, rows), indent=1).encode())
    write_atomically(args.out / "compare.md", report.markdown(rows).encode())
    print(report.markdown(rows))
    try:
        report.plots(rows, args.out)
    except ImportError:
        print(f"no plots: {how_to_install('plot')} makes them possible")
    return 0


def _record(args: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    settings = {"recipes": args.recipes, "vary": args.vary, "with": args.overrides, "seeds": args.seeds}
    ran = {"sets": args.sets, "machine": machine.machine(), "versions": machine.versions()}
    return {**settings, **ran, "rows": rows}

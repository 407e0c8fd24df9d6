"""Enlarges a tree of photographs on a Ray cluster: python examples/ray_upscale.py photos/ -o large/ --actors 32

Needs the extra `ray`, and IN and OUT under the same paths on every machine. Each actor loads the model once and keeps
its engine. A photograph is read, checked and written as `quantsr upscale IN -o OUT -r` does it, under the same names
and with the same bytes: beside its final name, flushed, renamed. A bad file fails alone. This process writes the
journal of OUT; --resume passes over what it holds, whether this program or `quantsr upscale` wrote it.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

import quantsr
from quantsr import zoo
from quantsr.batch.journal import Journal, deciding, state_of
from quantsr.batch.plan import Job, Naming, plan
from quantsr.batch.run import Batch, Settings
from quantsr.batch.tell import record
from quantsr.files import name_beside


class Upscaler:
    """One actor: a model, and photographs one after the other."""

    def __init__(self, model: str, depth: str, threads: int) -> None:
        self.model, self.depth = quantsr.load(model, threads), depth

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """What became of row["source"], as in the report of `quantsr upscale`; "error" is empty where there is none."""
        job = Job(Path(row["source"]), Path(row["target"]), Path(row["root"]))
        # OUT was looked through before: what is there is ours, so it may be replaced.
        batch = Batch(self.model, [job], frozenset([job.source.resolve()]), Settings(self.depth, force=True))
        batch.look()
        (outcome,) = batch.run()
        return {"width": 0, "height": 0, "error": ""} | record(outcome)


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    model = quantsr.load(args.model)
    sha256 = hashlib.sha256(zoo.find(args.model).read_bytes()).hexdigest()
    journal = Journal(args.output, deciding(model, sha256, args.depth))
    if args.resume:
        journal.remove_leftovers()
    jobs = plan([args.input], args.output, Naming(model.scale, Path(args.model).stem, args.depth), recursive=True)
    left = list(_left(jobs, journal, args.resume))
    seen = {str(job.source): state_of(job.source) for job in left}
    for job in left:
        journal.begin(job.target, name_beside(job.target))
    counts = Counter(skipped=len(jobs) - len(left))
    for result in _results(left, args) if left else ():
        counts[result["status"]] += 1
        if result["status"] == "done":
            journal.end(seen[result["source"]], Path(result["target"]))
        print(json.dumps(result), flush=True)
    journal.close()
    print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())), file=sys.stderr)
    return 3 if counts["failed"] else 0


def _left(jobs: list[Job], journal: Journal, resume: bool) -> Iterator[Job]:
    for job in jobs:
        if resume and journal.finished(job.source, job.target):
            continue
        if job.target.exists() and not (resume and journal.ours(job.target)):
            sys.exit(f"{job.target} exists; pass --resume to go on, or choose another -o")
        yield job


def _results(jobs: list[Job], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    rows = [{"source": str(job.source), "target": str(job.target), "root": str(job.root)} for job in jobs]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * args.actors))
    done = data.map(
        Upscaler,
        fn_constructor_args=(args.model, args.depth, args.threads),
        compute=ray.data.ActorPoolStrategy(size=args.actors),
        num_cpus=args.threads,
    )
    yield from done.iter_rows()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=lambda text: Path(text).absolute(), help="a folder")
    parser.add_argument("-o", "--output", type=lambda text: Path(text).absolute(), required=True)
    parser.add_argument("-n", "--model", default=zoo.default_name(4))
    parser.add_argument("--depth", default="full")
    parser.add_argument("--actors", type=int, default=1, help="how many engines there are in the cluster")
    parser.add_argument("--threads", type=int, default=1, help="of each engine; its CPUs in the cluster")
    parser.add_argument("--resume", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The run as a whole: builds what engines need, measures case after case, collects rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from quantsr import _native, images, metrics
from quantsr.bench import measure, random_network
from quantsr.bench.cases import Cut, Network, Picture, cut, samples, turned
from quantsr.bench.engines import engines
from quantsr.bench.job import Job
from quantsr.bench.report import title
from quantsr.bench.rows import Row, row
from quantsr.packing.cost import cost


@dataclass
class Run:
    """folder: for the files of the workers. engines: names. limit: of the instruction set. say: progress goes there."""

    folder: Path
    engines: Sequence[str]
    rounds: int
    limit: str | None
    seed: int
    say: Callable[[str], None]
    rows: list[Row] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)

    def part(
        self, network: Network, part: str, tail: str, pictures: Sequence[Picture], threads: Sequence[int]
    ) -> list[Row]:
        """Rows of a part on each picture with each number of threads. Peers calibrate on crops of the last picture; if
        the network's graph is of one size, on each picture itself, flipped and inverted.
        """
        if network.has_size and len(pictures) > 1:
            return [row for picture in pictures for row in self.part(network, part, tail, [picture], threads)]
        facts: Row = {"network": network.name, "part": part, "tail": tail}
        self.say(f"{title(facts)}: building")
        source = pictures[-1].lr
        piece = cut(network, part, tail, source, self.seed)
        folder = self.folder / f"{len(list(self.folder.iterdir()))}"
        piece.save(folder, turned(source) if network.has_size else samples(source))
        fitting = [name for name in self.engines if part == "network" or not engines()[name].whole]
        names = [name for name in fitting if self.build(_job(name, folder, 1), facts)]
        made: list[Row] = []
        for picture in pictures:
            np.save(folder / "image.npy", piece.input(picture.lr))
            for count in threads:
                jobs = [_job(name, folder, count) for name in names]
                made += self.case(jobs, facts | {"size": picture.size, "threads": count}, piece, picture)
        self.rows += made
        return made

    def build(self, job: Job, facts: Row) -> bool:
        try:
            if engines()[job.engine].build:
                measure.build(job, self.limit)
        except measure.WorkerError as error:
            self.fail(job.engine, facts, str(error))
            return False
        return True

    def fail(self, engine: str, facts: Row, error: str) -> None:
        self.failed.append({"engine": engine, **facts, "error": error})
        self.say(f"{engine} failed: {error}")

    def case(self, jobs: list[Job], facts: Row, piece: Cut, picture: Picture) -> list[Row]:
        self.say(f"{title(facts)}: measuring")
        peaks: list[float] = []
        measured, failed = measure.measure(jobs, self.rounds, self.limit, lambda: _note_peak(peaks, facts))
        for engine, error in failed.items():
            self.fail(engine, facts, error)
        low, (height, width, _) = piece.low, picture.lr.shape
        macs = cost(low.program, low.tensors, width, height, low.channels).macs
        layers = random_network.LAYERS if facts["part"] == "layer" else 1
        made = []
        for job in jobs:
            if job.engine in measured:
                found = row(measured, job.engine, macs, layers)
                share = found["gmacs"] * 1e9 / median(peaks) if peaks else None
                limited = self.limit is None or engines()[job.engine].limited
                found |= {"psnr": _psnr(job, picture), "share_of_vnni_peak": share, "limited": limited}
                made.append({"engine": job.engine, **facts, **found})
        return made


def _job(engine: str, folder: Path, threads: int) -> Job:
    built = folder / engine
    built.mkdir(exist_ok=True)
    return Job(engine, folder, built, folder / "image.npy", built / "result.npy", threads)


def _psnr(job: Job, picture: Picture) -> float | None:
    if picture.hr is None:
        return None
    sr = images.to_uint8(np.load(job.output))
    return metrics.psnr(sr, picture.hr, picture.hr.shape[0] // picture.lr.shape[0])


def _note_peak(peaks: list[float], facts: Row) -> None:
    """Multiply-adds per second of the bare instruction on one core, beside the runs of single layers."""
    if facts["part"] == "layer" and facts["threads"] == 1:
        peak = _native.vpdpbusd_peak()
        peaks += [peak] if peak > 0 else []

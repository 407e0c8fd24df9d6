"""Which file becomes which, decided and checked before any work is done.

Inputs are asked by `os.path`, which raises nothing for a link to itself, a folder that may not be searched or a name
that is too long, as `Path` does before Python 3.14: such an input fails in its turn.
"""

import hashlib
import os
import string
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from quantsr.files import identity, nearest, require_folder
from quantsr.photos import FORMATS, READABLE, UNREAD, format_of
from quantsr.photos.formats import FILMS, advice_on_films
from quantsr.photos.source import kind_of

TEMPLATE = "{stem}_x{scale}{suffix}"
# Suffixes of files that are not written: nobody means a folder by such a name.
NOT_WRITTEN = (*UNREAD, *FILMS, ".gif", ".pdf")
RESULT = "result of another input"  # as `quantsr upscale *.jpg` finds them, run again
FIELDS = ("stem", "name", "scale", "model", "depth", "suffix")


class PlanError(ValueError):
    """What was asked cannot be done as a whole."""


@dataclass(frozen=True)
class Job:
    """One photograph. root: the folder that the result may not leave; None where the user named every folder.

    error: why the source, a folder then, could not be searched for photographs.
    """

    source: Path
    target: Path
    root: Path | None = None
    error: OSError | None = None


@dataclass(frozen=True)
class Naming:
    """How results are called. format: a key of FORMATS, or None to keep the input's, PNG where it cannot be written."""

    scale: int
    model: str
    depth: str
    template: str = TEMPLATE
    format: str | None = None

    def __post_init__(self) -> None:
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None}
            if unknown := sorted(fields - set(FIELDS)):
                raise ValueError(f"got the field {unknown[0]!r}")
            if not fields & {"stem", "name"}:
                raise ValueError("all results would have one name")
            self._name(Path("photo.png"), ".png")
        except (ValueError, LookupError, AttributeError) as error:
            wanted = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise PlanError(
                f"template {self.template!r}: {error}; wanted {{stem}} or {{name}}, and of {wanted}"
            ) from None

    def result_of(self, source: Path) -> str:
        """The name of the result, without folder."""
        if self.format:
            suffix = FORMATS[self.format].suffixes[0]
        else:
            suffix = source.suffix if format_of(source) else ".png"
        name = self._name(source, suffix)
        if Path(name).name != name or "\0" in name:
            raise PlanError(f"template {self.template!r} gives {name!r}, wanted a file name without folders")
        if format_of(Path(name)) is None:
            raise PlanError(f"template {self.template!r} gives {name!r}, wanted it to end in {{suffix}}")
        if self.format and format_of(Path(name)) is not FORMATS[self.format]:
            raise PlanError(
                f"template {self.template!r} gives {name!r} and the format is {self.format}, wanted them to agree"
            )
        return name

    def _name(self, source: Path, suffix: str) -> str:
        fields = {"scale": self.scale, "model": self.model, "depth": self.depth, "suffix": suffix}
        return self.template.format(stem=source.stem, name=source.name, **fields)


def plan(
    inputs: list[Path],
    output: Path | None,
    naming: Naming,
    *,
    recursive: bool = False,
    passed_over: Counter[str] | None = None,
) -> list[Job]:
    """The jobs in the order of the inputs, folders sorted; a file that is named twice is one job.

    A folder is searched for files with the suffix of a photograph; hidden files, links, pipes and `output` itself are
    passed over. One that cannot be searched is a job that tells so. passed_over: takes how many pictures of each suffix
    that is not read a folder holds, how many links, pipes and so on under the name of a photograph, and how many links
    to folders, where those are searched. Raises PlanError if two inputs would meet in one file, or inputs and output do
    not fit together; NotADirectoryError if a file lies where a folder is to be made.
    """
    passed_over = Counter() if passed_over is None else passed_over
    if output is not None and format_of(output) and not output.is_dir():
        jobs = [_into_file(inputs, output, naming)]
        require_folder(output.parent)
    elif output is not None and output.suffix.lower() in NOT_WRITTEN and not output.exists():
        known = ", ".join(suffix for kind in FORMATS.values() for suffix in kind.suffixes)
        raise PlanError(f"got the file {output}, wanted a folder or one of {known}{advice_on_films(output)}")
    else:
        if output is not None:
            require_folder(output)
        jobs = [job for path in inputs for job in _into_folder(path, output, naming, recursive, passed_over)]
    return _apart(jobs)


def _into_file(inputs: list[Path], output: Path, naming: Naming) -> Job:
    if len(inputs) > 1:
        raise PlanError(f"got {len(inputs)} inputs for the one file {output}, wanted a folder")
    if os.path.isdir(inputs[0]):
        raise PlanError(f"INPUT {inputs[0]} is a folder, so -o must be a folder too; got the file {output}")
    if naming.format and format_of(output) is not FORMATS[naming.format]:
        raise PlanError(f"got the file {output} and the format {naming.format}, wanted them to agree")
    return Job(inputs[0], output)


def _into_folder(
    path: Path, output: Path | None, naming: Naming, recursive: bool, passed_over: Counter[str]
) -> Iterator[Job]:
    if not os.path.isdir(path):
        yield Job(path, (output or path.parent) / naming.result_of(path), output)
        return
    if output is None or output.resolve() == path.resolve():
        raise PlanError(f"{path} is a folder: wanted another folder for the results, as -o OUT")
    unread: list[OSError] = []
    for source in _photographs(path, output, recursive, unread, passed_over):
        folder = output / source.parent.relative_to(path)
        yield Job(source, folder / naming.result_of(source), output)
    for error in unread:
        folder = Path(error.filename)
        yield Job(folder, output / folder.relative_to(path), output, error)


def _photographs(
    folder: Path, output: Path, recursive: bool, unread: list[OSError], passed_over: Counter[str]
) -> Iterator[Path]:
    """unread: takes the error of each folder that cannot be listed."""
    beyond = output.resolve()
    for here, folders, files in os.walk(folder, onerror=unread.append):
        folders[:] = sorted(f for f in folders if recursive and f[0] != "." and (Path(here, f).resolve() != beyond))
        for _ in filter(os.path.islink, (Path(here, name) for name in folders)):  # os.walk leaves them out
            passed_over["link"] += 1
        for path in (Path(here, name) for name in sorted(files) if name[0] != "."):
            suffix = path.suffix.lower()
            if suffix in UNREAD:
                passed_over[suffix] += 1
            elif suffix in READABLE:
                kind = _kind(path)
                if kind == "file":
                    yield path
                else:
                    passed_over[kind] += 1


def _kind(path: Path) -> str:
    try:
        return kind_of(path.lstat().st_mode)
    except OSError:
        return "file"  # gone meanwhile: told when its turn comes


def _apart(jobs: list[Job]) -> list[Job]:
    """Without repetitions. Raises PlanError if two sources would meet in one result."""
    apart: list[Job] = []
    seen: dict[str, Job] = {}
    ignores_case: dict[Path, bool] = {}
    for job in jobs:
        if job.error:
            apart.append(job)
            continue
        folder = job.target.parent
        if folder not in ignores_case:
            ignores_case[folder] = _ignores_case(folder)
        key = os.path.abspath(job.target)
        key = key.casefold() if ignores_case[folder] else key
        other = seen.setdefault(key, job)
        if other is job:
            apart.append(job)
        elif os.path.realpath(other.source) != os.path.realpath(job.source):
            separable = other.source.name.casefold() != job.source.name.casefold()
            advice = "pass --template '{name}_x{scale}{suffix}', or " if separable else ""
            raise PlanError(
                f"{other.source} and {job.source} would both be written to {job.target}; {advice}give each its own -o"
            )
    return apart


def without_results(jobs: list[Job], passed_over: Counter[str]) -> list[Job]:
    """Without those whose source lies where another's result goes, which passed_over takes as a RESULT."""
    by_target = {os.path.abspath(job.target): job for job in jobs if os.path.exists(job.source)}
    left = [job for job in jobs if by_target.get(os.path.abspath(job.source), job) is job]
    if len(left) < len(jobs):
        passed_over[RESULT] += len(jobs) - len(left)
    return left


def _ignores_case(folder: Path) -> bool:
    """Whether the file system takes A and a for the same name there, asked of a file in the nearest folder there is.

    The folder's own name may lie on another file system; where it holds none with letters, that name is asked.
    """
    folder = nearest(folder)
    inside: list[Path] = []
    with suppress(OSError):  # may be written to, but not listed
        inside = list(islice(folder.iterdir(), 100))
    for path in (*inside, folder):
        known = identity(path)
        if known and path.name.swapcase() != path.name:
            return identity(path.with_name(path.name.swapcase())) == known
    return False


def shard_of(job: Job, count: int) -> int:
    """1 to count, from the name of the result below its root, so that no shard needs to know the other files."""
    name = job.target.relative_to(job.root) if job.root else Path(job.target.name)
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") % count + 1

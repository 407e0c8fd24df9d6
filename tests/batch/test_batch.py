"""Folders: one bad file stops nothing, a stopped run goes on, and a run that was killed ends as if it had not been."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import quantsr
from quantsr import photos
from quantsr.batch import journal, resources, within
from quantsr.batch.journal import Journal, JournalInUse, state_of
from quantsr.batch.plan import Job
from quantsr.batch.run import Batch, Settings
from quantsr.cli import main
from quantsr.engine import TooLittleMemory
from quantsr.files import name_beside
from quantsr.photos import Facts, Metadata, Photo

OPTIONS = ("-n", "quantsr-c-x2-w4a4", "--depth", "quarter", "--threads", "1")
Picture = Callable[..., np.ndarray]


def upscale(*arguments: object) -> int:
    return main(["upscale", *OPTIONS, *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, picture: Picture) -> Path:
    """Six photographs in a tree, of several kinds."""
    root = tmp_path / "in"
    (root / "sub" / "deep").mkdir(parents=True)
    pixels = picture(20, 26)
    photos.write(root / "a.png", Photo(pixels))
    photos.write(root / "b.jpg", Photo(pixels))
    photos.write(root / "sub" / "a.png", Photo(pixels.astype(np.uint16) * 257))
    photos.write(root / "sub" / "gray.tif", Photo(pixels[..., 0]))
    photos.write(root / "sub" / "deep" / "alpha.webp", Photo(np.dstack([pixels, pixels[..., 0]])))
    photos.write(root / "sub" / "deep" / " name with ünïcode -.png", Photo(pixels))
    return root


def results(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name[0] != "."}


def leftovers(out: Path) -> list[Path]:
    return list(out.rglob(".*.tmp"))


def test_a_tree_is_mirrored(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert upscale(folder, "-o", out, "-r") == 0
    assert sorted(results(out)) == [
        "a_x2.png", "b_x2.jpg", "sub/a_x2.png", "sub/deep/ name with ünïcode -_x2.png", "sub/deep/alpha_x2.webp",
        "sub/gray_x2.tif",
    ]  # fmt: skip
    assert photos.read(out / "sub" / "a_x2.png").pixels.dtype == np.uint16
    assert photos.read(out / "sub" / "gray_x2.tif").pixels.shape == (40, 52)
    assert "6 done" in capsys.readouterr().err


def test_one_bad_file_stops_nothing_and_the_report_tells(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a0 bad\x1b[2J.png").write_bytes(b"\x89PNG nonsense")
    (folder / "sub" / "empty.jpg").touch()
    report = tmp_path / "report.json"
    assert upscale(folder, "-o", tmp_path / "out", "-r", "--report", report) == 3
    told = json.loads(report.read_text())
    assert {key: told[key] for key in ("state", "files", "done", "failed", "skipped", "left")} == {
        "state": "complete", "files": 8, "done": 6, "failed": 2, "skipped": 0, "left": 0,
    }  # fmt: skip
    failed = [row for row in told["results"] if row["status"] == "failed"]
    assert [Path(row["source"]).name for row in failed] == ["a0 bad\x1b[2J.png", "empty.jpg"]
    assert all("not a readable image" in row["error"] for row in failed)
    done = next(row for row in told["results"] if row["source"].endswith("b.jpg"))
    assert (done["width"], done["height"]) == (52, 40)
    told_people = capsys.readouterr()
    assert "\x1b[2J" not in told_people.out + told_people.err and r"\x1b[2J" in told_people.err


def test_progress_for_programs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.png").touch()
    assert upscale(folder, "-o", tmp_path / "out", "--json", "-t", 13) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"event": "begin", "files": 3, "passed_over": {}}
    assert [line["status"] for line in lines if line["event"] == "file"] == ["done", "done", "failed"]
    shares = [line["share"] for line in lines if line["event"] == "progress" and line["source"].endswith("a.png")]
    assert shares == sorted(shares) and len(shares) == 4 and shares[-1] == 1
    assert lines[-1]["event"] == "end" and lines[-1]["done"] == 2


def test_resume_passes_over_what_is_finished(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert upscale(folder, "-o", out, "-r") == 0
    assert upscale(folder, "-o", out, "-r") == 4  # nothing is overwritten
    advice = "a_x2.png exists; pass --resume to pass over what is done, or --force to overwrite it"
    assert advice in capsys.readouterr().err
    assert upscale(folder, "-o", out, "-r", "--resume") == 0
    assert capsys.readouterr().err == "6 skipped\n"
    (out / "a_x2.png").unlink()  # gone
    (out / "sub" / "gray_x2.tif").write_bytes(b"torn")  # not what was written
    os.utime(folder / "b.jpg")  # a newer input
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*_x2*")}
    assert upscale(folder, "-o", out, "-r", "--resume") == 3
    err = capsys.readouterr().err
    assert "2 done, 3 skipped, 1 failed" in err and "gray_x2.tif exists; pass --force to overwrite it" in err
    made = {path.name for path in out.rglob("*_x2*") if before.get(path) != path.stat().st_mtime_ns}
    assert made == {"a_x2.png", "b_x2.jpg"}
    assert upscale(folder, "-o", out, "-r", "--resume", "--depth", "half", "--force") == 0
    assert "6 done" in capsys.readouterr().err  # other settings, other results


def test_a_shard_trusts_its_own_journal_first(tmp_path: Path) -> None:
    """One from before the folder was divided is older, though its name comes later."""
    source, target = tmp_path / "a.png", tmp_path / "out" / "a_x2.png"
    source.write_bytes(b"source")
    for settings, shard in (({"depth": "full"}, (1, 1)), ({"depth": "half"}, (1, 2))):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(settings["depth"].encode() * shard[1])
        made = Journal(tmp_path / "out", settings, shard)
        made.end(state_of(source), target)
        made.close()
    again = Journal(tmp_path / "out", {"depth": "half"}, (1, 2))
    assert again.finished(source, target) and again.ours(target)
    again.close()


@pytest.mark.parametrize("own", [(1, 1), (1, 2), (2, 2)])
def test_of_several_journals_the_latest_line_counts(tmp_path: Path, own: tuple[int, int]) -> None:
    """A folder was divided into shards, later done again as a whole, or the other way round."""
    source, target = tmp_path / "a.png", tmp_path / "out" / "a_x2.png"
    source.write_bytes(b"source")
    target.parent.mkdir()
    target.write_bytes(b"result")
    for settings, shard in ((1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (4, (1, 1)), (5, (1, 2))):
        made = Journal(target.parent, {"run": settings}, shard)
        made.end(state_of(source), target)
        made.close()
    again = Journal(target.parent, {"run": 5}, own)
    assert again.finished(source, target)
    again.close()
    again = Journal(target.parent, {"run": 4}, own)
    assert not again.finished(source, target)
    again.close()


def test_a_torn_journal_and_two_runs_at_once(tmp_path: Path) -> None:
    source, target = tmp_path / "a.png", tmp_path / "out" / "a_x2.png"
    source.write_bytes(b"source")
    first = Journal(tmp_path / "out", {"depth": "full"})
    with pytest.raises(JournalInUse, match="another run writes into this folder"):
        Journal(tmp_path / "out", {"depth": "full"})
    target.write_bytes(b"result")
    first.begin(target, name_beside(target))
    first.end(state_of(source), target)
    first.close()
    file = tmp_path / "out" / f"{journal.NAME}.jsonl"
    for torn in (b'{"target": "b_x2.png", "sta', b"\n[]\n", b'{"target": 3, "state": "done"}'):
        file.write_bytes(file.read_bytes() + torn)
    again = Journal(tmp_path / "out", {"depth": "full"})
    assert again.finished(source, target) and again.ours(target)
    beside = name_beside(target)
    again.begin(target, beside)
    again.close()
    beside.touch()
    third = Journal(tmp_path / "out", {"depth": "full"})
    assert not third.finished(source, target) and third.ours(target)
    third.remove_leftovers()
    assert not beside.exists()


@pytest.mark.parametrize("place, temporary", [
    ("../victim/x.png", "important.txt"), ("../victim/x.png", ".0123456789abcdef.tmp"), ("/x.png", "/"), ("x.png", 5),
    ("{victim}/x.png", ".0123456789abcdef.tmp"), ("", ".0123456789abcdef.tmp"), ("x.png", "important.txt"),
    ("\0/x.png", ".0123456789abcdef.tmp"), ("\ud800/x.png", ".0123456789abcdef.tmp"),
])  # fmt: skip
def test_a_journal_from_elsewhere_removes_nothing(folder: Path, tmp_path: Path, place: str, temporary: object) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    kept = [here / name for here in (tmp_path, out, victim) for name in ("important.txt", ".0123456789abcdef.tmp")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    target = place.format(victim=victim)
    line = json.dumps({"target": target, "state": "begun", "temporary": temporary})
    (out / f"{journal.NAME}.jsonl").write_text(line + "\n")
    assert upscale(folder / "a.png", "-o", out, "--resume") == 0
    assert all(path.exists() for path in kept) and (out / "a_x2.png").exists()


def test_lines_that_no_run_writes_are_passed_over(folder: Path, tmp_path: Path) -> None:
    result = tmp_path / "out" / "a_x2.png"
    result.parent.mkdir()
    result.write_bytes(b"kept")
    done = {"target": result.name, "state": "done"}
    wrong = [{}, {"size": "4"}, {"state": []}, {"size": 4, "time": "now"}]
    lines = [json.dumps(done | change) for change in wrong]
    (result.parent / f"{journal.NAME}.jsonl").write_text("\n".join([*lines, "[" * 100_000]))
    assert upscale(folder, "-o", result.parent, "--resume") == 3
    assert result.read_bytes() == b"kept"


def test_shards_share_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    whole = tmp_path / "whole"
    assert upscale(folder, "-o", whole, "-r") == 0
    for shard in (1, 2, 3):
        assert upscale(folder, "-o", out, "-r", "--shard", f"{shard}/3") == 0
    assert results(out) == results(whole)
    capsys.readouterr()
    assert upscale(folder, "-o", out, "-r", "--resume") == 0
    assert "6 skipped" in capsys.readouterr().err
    assert sum(upscale(folder / "a.png", "-o", tmp_path / "one", "--shard", f"{shard}/3") for shard in (1, 2, 3)) == 0
    assert capsys.readouterr().err.count("nothing to do") == 2


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_shards_that_are_none(folder: Path, shard: str) -> None:
    with pytest.raises(SystemExit) as error:
        upscale(folder, "-o", "out", "--shard", shard)
    assert error.value.code == 2


def test_resume_needs_a_folder(folder: Path) -> None:
    assert upscale(folder / "a.png", "--resume") == 2


# ---- what must never happen


def test_a_wrong_result_is_never_success(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = quantsr.model.Model.upscale

    def black_tile(self: quantsr.Model, image: np.ndarray, *rest: object) -> np.ndarray:
        result = honest(self, image, *rest)  # type: ignore[arg-type]
        result[8:24, 8:24] = 0
        return result

    monkeypatch.setattr(quantsr.model.Model, "upscale", black_tile)
    assert upscale(folder / "a.png", folder / "b.jpg", "-o", tmp_path / "out") == 4
    err = capsys.readouterr().err
    assert err.count("the result differs from the input by") == err.count("pass --no-check") == 2
    assert results(tmp_path / "out") == {}
    assert upscale(folder / "a.png", folder / "b.jpg", "-o", tmp_path / "out", "--no-check") == 0


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_what_appears_while_a_picture_is_computed_is_kept(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resume: list[str],
) -> None:
    result, honest = tmp_path / "out" / "a_x2.png", quantsr.model.Model.upscale

    def slow(self: quantsr.Model, image: np.ndarray, *rest: Any) -> np.ndarray:
        result.parent.mkdir(exist_ok=True)
        result.write_bytes(b"kept")
        return honest(self, image, *rest)

    monkeypatch.setattr(quantsr.model.Model, "upscale", slow)
    for words in (resume, [], ["--resume"]):
        assert upscale(folder / "a.png", "-o", tmp_path / "out", *words) == 4
        assert f"{folder / 'a.png'}: {result} exists; pass --force to overwrite it\n" in capsys.readouterr().err
        assert result.read_bytes() == b"kept" and leftovers(tmp_path / "out") == []
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "--force") == 0
    assert result.read_bytes() != b"kept"


def test_an_input_that_changes_while_it_is_enlarged_is_not_finished(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = quantsr.model.Model.upscale

    def slow(self: quantsr.Model, image: np.ndarray, *rest: Any) -> np.ndarray:
        result = honest(self, image, *rest)
        shutil.copy(folder / "b.jpg", folder / "a.png")
        return result

    monkeypatch.setattr(quantsr.model.Model, "upscale", slow)
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "--resume") == 0
    monkeypatch.undo()
    capsys.readouterr()
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "--resume") == 0
    assert "skipped" not in capsys.readouterr().err
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "--resume") == 0
    assert "1 skipped" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(handle)

    monkeypatch.setattr(os, "fsync", full)
    code = upscale(folder, "-o", tmp_path / "out", "-r")
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert code == 5 and "No space left on device: " in err and "it needs about" in err and "Errno" not in err
    assert leftovers(tmp_path / "out") == []
    done = results(tmp_path / "out")
    assert 0 < len(done) < 6
    assert upscale(folder, "-o", tmp_path / "out", "-r", "--resume") == 0
    assert len(results(tmp_path / "out")) == 6


def test_too_little_disk_is_told_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(resources, "free_disk", lambda folder: 1000)
    assert upscale(folder, "-o", tmp_path / "out", "-r") == 5
    assert "the results need about" in capsys.readouterr().err
    assert results(tmp_path / "out") == {}


def test_too_little_memory_fails_that_file_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (3000, 2000)).save(folder / "huge.png")
    monkeypatch.setattr(resources, "free_memory", lambda: resources.PROGRAM_BYTES + 60 * resources.MIB)
    assert upscale(folder, "-o", tmp_path / "out", "-r") == 3
    assert "huge.png: needs" in capsys.readouterr().err
    assert len(results(tmp_path / "out")) == 6


def test_memory_is_asked_for_the_smallest_tile_too(folder: Path, tmp_path: Path) -> None:
    """What is told to be lacking, and not a byte less, has to be given."""
    model = quantsr.load("quantsr-c-x2-w4a4", threads=1)
    facts = photos.probe(folder / "a.png")
    base = resources.memory_for(facts, 2, photos.FORMATS["png"])
    with pytest.raises(TooLittleMemory) as error:
        model.tile_within(0, (facts.height, facts.width, 3), 1, "quarter")
    least = base + error.value.lacking
    job, outcomes = Job(folder / "a.png", tmp_path / "a.png"), []
    for memory in (1, least - 1, least):
        batch = Batch(model, [job], frozenset(), Settings(depth="quarter", memory=memory))
        batch.look()
        outcomes += batch.run()
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "done"]
    assert outcomes[0].error == f"{job.source}: got --memory 1 B, wanted {-(-least // resources.MIB)} MiB"


@pytest.mark.parametrize(
    "amount, told",
    [(1, "1 B"), (5000, "4 KiB"), (2**20 - 1, "1023 KiB"), (132 * 10**6, "125 MiB"), (2**31 - 1, "1.9 GiB")],
)
def test_amounts_are_told_rounded_down(amount: int, told: str) -> None:
    assert resources.shown(amount) == told


def test_memory_of_this_machine() -> None:
    free = resources.free_memory()
    assert free is None or 0 < free < 2**50
    facts = Facts(1000, 1000, 3, 8)
    png, jpg = photos.FORMATS["png"], photos.FORMATS["jpg"]
    assert resources.memory_for(facts, 2, jpg) == resources.PROGRAM_BYTES + 3_000_000 * 5 + 16_000_000
    assert resources.memory_for(facts, 2, png) == resources.memory_for(facts, 2, jpg)  # up to 4 megapixels
    assert resources.memory_for(facts, 3, png) == resources.memory_for(facts, 3, jpg) - 36_000_000
    deep = Facts(1000, 1000, 4, 16)  # alpha is enlarged apart, in 8 MB
    assert resources.memory_for(deep, 2, jpg) == resources.PROGRAM_BYTES + 8_000_000 * 5 + 8_000_000 + 16_000_000


def test_no_result_leaves_the_folder_by_a_link(folder: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (out / "sub").symlink_to(elsewhere)
    assert upscale(folder, "-o", out, "-r") == 3
    assert list(elsewhere.iterdir()) == []
    (out / "c_x2.png").symlink_to(elsewhere / "target.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    assert upscale(folder / "c.png", "-o", out) == 4
    assert upscale(folder / "c.png", "-o", out, "--force") == 0
    assert list(elsewhere.iterdir()) == [] and not (out / "c_x2.png").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
@pytest.mark.parametrize(
    "name",
    [b"-o.png", b"--force.png", b"new\nline.png", b"not\xffutf8.png", "日本 é😀.png".encode(), b"a" * 251 + b".png"],
)
def test_names_of_any_kind(folder: Path, tmp_path: Path, name: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd/" + name))
    source.parent.mkdir()
    source.write_bytes((folder / "a.png").read_bytes())
    code = upscale(source.parent, "-o", tmp_path / "out", "--report", tmp_path / "report.json")
    if len(name) > 250:
        assert code == 4 and "more than 255 bytes; pass a shorter --template" in capsys.readouterr().err
        assert upscale(source.parent, "-o", tmp_path / "out", "--resume") == 4
        assert upscale(source.parent, "-o", tmp_path / "out", "--template", "{stem}{suffix}") == 0
    else:
        assert code == 0
    json.loads((tmp_path / "report.json").read_text())
    assert len(results(tmp_path / "out")) == 1


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may do all")
def test_no_permission(folder: Path, tmp_path: Path) -> None:
    (folder / "a.png").chmod(0)
    assert upscale(folder, "-o", tmp_path / "out") == 3
    (folder / "b.jpg").chmod(0)
    assert upscale(folder, "-o", tmp_path / "other") == 5


def test_a_folder_that_cannot_be_read_fails(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = os.scandir
    locked = folder / "sub"

    def scandir(path: str) -> object:
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return honest(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert upscale(folder, "-o", tmp_path / "out", "-r") == 3
    err = capsys.readouterr().err
    assert f"{locked}: Permission denied" in err and "2 done, 1 failed" in err
    locked = folder
    assert upscale(folder, "-o", tmp_path / "other") == 5
    assert f"{folder}: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM, errno.EIO], ids=errno.errorcode.get)
def test_a_place_that_takes_no_file_fails_what_belongs_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    honest = os.fsync
    refuses = iter([True])

    def fsync(handle: int) -> None:
        if next(refuses, False):
            raise OSError(number, os.strerror(number))
        honest(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert upscale(folder / "a.png") == (4 if number == errno.EIO else 5)
    wanted = f"{folder / 'a.png'}: cannot write {folder / 'a_x2.png'}: {os.strerror(number)}; choose another -o"
    assert capsys.readouterr().err == f"quantsr: {wanted}\n"
    refuses = iter([True])
    assert upscale(folder / "a.png", folder / "b.jpg") == 3
    assert (folder / "b_x2.jpg").exists() and not (folder / "a_x2.png").exists()


def test_space_is_not_asked_for_where_nothing_may_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)  # as of a disc, which is full
    monkeypatch.setattr(resources, "free_disk", lambda path: 0 if path == folder else 2**40)
    assert upscale(folder / "a.png") == 0


def test_no_journal_can_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "out/.quantsr-journal.jsonl")

    monkeypatch.setattr("quantsr.commands.upscale.Journal", refuse)
    out = tmp_path / "out"
    assert upscale(folder, "-o", out) == 5
    assert capsys.readouterr().err == f"quantsr: cannot write into {out}: Read-only file system; choose another -o\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["avif", "tiff"])
def test_damaged_exif_does_not_end_a_batch(tmp_path: Path, picture: Picture, kind: str) -> None:
    for name, block in (("a", b"garbage " * 3), ("b", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40), ("c", b"")):
        photos.write(tmp_path / "in" / f"{name}.jpg", Photo(picture(20, 26), Metadata(exif=block)))
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "-f", kind) == 0
    assert len(results(tmp_path / "out")) == 3


def test_an_input_under_another_name_is_not_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where a file system ignores case: the name is another, the file is the same."""
    (folder / "a_x2.png").hardlink_to(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    assert upscale(folder / "a.png", "--force") == 4
    assert "not written over the input" in capsys.readouterr().err
    assert (folder / "a_x2.png").samefile(folder / "a.png") and (folder / "a.png").read_bytes() == before


def test_the_same_command_again_enlarges_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (9, 9)).save(tmp_path / name)
    assert upscale(*tmp_path.glob("*.png")) == 0
    assert capsys.readouterr().err.startswith("2 done")
    Image.new("L", (9, 9)).save(tmp_path / "c.png")
    assert upscale(*sorted(tmp_path.glob("*.png"))) == 3
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "quantsr: passed over: result of another input 2"
    assert "a.png: not written over the input" in told[1] and told[3].startswith("1 done, 2 failed")
    before = (tmp_path / "a_x2.png").stat().st_mtime_ns
    assert upscale(*sorted(tmp_path.glob("*.png")), "--force") == 4
    assert (tmp_path / "a_x2.png").stat().st_mtime_ns == before
    assert sorted(results(tmp_path)) == ["a.png", "a_x2.png", "b.png", "b_x2.png", "c.png", "c_x2.png"]


def test_without_a_terminal_a_line_now_and_then_tells_how_far_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upscale(folder / "a.png", "-o", tmp_path / "a.png", "-t", "4") == 0
    assert "%" not in capsys.readouterr().err
    monkeypatch.setattr("quantsr.terminal.HEARTBEAT_SECONDS", 0)
    assert upscale(folder / "a.png", "-o", tmp_path / "b.png", "-t", "4") == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2 and lines[-1] == f"0/1 files; 100% of {folder / 'a.png'}"


@pytest.mark.parametrize("kind", ["png", "bmp", "jpg"])
def test_a_resolution_beyond_all_formats_stops_nothing(tmp_path: Path, picture: Picture, kind: str) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(20, 26)).save(tmp_path / "in" / "a.tif", dpi=(2e8, 2e8))
    Image.fromarray(picture(20, 26)).save(tmp_path / "in" / "b.png")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "-f", kind) == 0
    assert len(results(tmp_path / "out")) == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_results_go_to_stdout_while_the_bar_is_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    main, bar = os.openpty()
    with open(tmp_path / "told.txt", "w") as told:
        command = [sys.executable, "-m", "quantsr", "upscale", *OPTIONS, str(folder / "a.png"), "-o", tmp_path]
        subprocess.run(command, stdout=told, stderr=bar, check=True)
    os.close(bar)
    os.close(main)
    assert (tmp_path / "told.txt").read_text().startswith(f"{folder / 'a.png'} -> ")


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal")
def test_names_are_told_whole_on_a_narrow_terminal(folder: Path, tmp_path: Path) -> None:
    main, terminal = os.openpty()
    command = [sys.executable, "-m", "quantsr", "upscale", *OPTIONS, str(folder / "a.png"), "-o", str(tmp_path)]
    narrow = os.environ | {"COLUMNS": "40", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=narrow) as process:
        os.close(terminal)
        told = b""
        with contextlib.suppress(OSError):  # which is how Linux tells that nobody writes any more
            while part := os.read(main, 4096):
                told += part
    os.close(main)
    assert process.returncode == 0
    assert f"{folder / 'a.png'} -> {tmp_path / 'a_x2.png'}  52x40".encode() in told


def test_resuming_where_nothing_is_left_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "--resume") == 0


def test_a_quality_that_changes_nothing_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "--quality changes nothing: no result is one of JPEG, WEBP, AVIF"
    assert upscale(folder, "-o", tmp_path / "png", "-f", "png", "--quality", 50) == 0
    assert told in capsys.readouterr().err
    assert upscale(folder, "-o", tmp_path / "own", "--quality", 50) == 0  # a.png and b.jpg
    assert told not in capsys.readouterr().err


# ---- the report


def test_the_report_tells_what_made_the_pictures(folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "-f", "jpg", "--report", report) == 0
    settings = json.loads(report.read_text())["settings"]
    assert {key: settings[key] for key in ("model", "scale", "fast", "tta", "format", "depth")} == {
        "model": "quantsr-c-x2-w4a4", "scale": 2, "fast": False, "tta": False, "format": "jpg", "depth": "quarter",
    }  # fmt: skip
    assert settings["asked_depth"] == "quarter"


def test_no_report_is_written_over_another_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = folder / "a.png", tmp_path / "out"
    (tmp_path / "notes.json").write_text("[]")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    cases = [
        (photo, "got the input", ["--force"]),
        (folder / ".." / "in" / "a.png", "got the input", ["--force"]),
        (out / "a_x2.png", "where a result is written", ["--force"]),
        (out, "got the folder", ["--force"]),
        (tmp_path, "got the folder", ["--force"]),
        (tmp_path / "link", "wanted a plain file", ["--force"]),
        (folder / "b.jpg", "exists and is no report", []),
        (tmp_path / "notes.json", "exists and is no report", []),
        (photo / "report.json", f"{photo} is a file, wanted a folder", ["--force"]),
    ]
    before = results(folder)
    for report, wanted, force in cases:
        assert upscale(photo, "-o", out, "--report", report, *force) == 2
        err = capsys.readouterr().err
        assert wanted in err and err.count("\n") == 1
    assert results(folder) == before and not out.exists() and (tmp_path / "notes.json").read_text() == "[]"
    assert upscale(photo, "-o", out, "--report", tmp_path / "notes.json", "--force") == 0
    assert upscale(photo, "-o", out, "--report", tmp_path / "notes.json") == 4  # an earlier report is replaced
    assert json.loads((tmp_path / "notes.json").read_text())["failed"] == 1


def test_a_report_that_may_not_be_written_is_told_before_the_work(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert upscale(folder / "a.png", "-o", tmp_path / "out", "--report", tmp_path / "new" / "report.json") == 5
    assert "no permission to write" in capsys.readouterr().err and not (tmp_path / "out").exists()


# ---- within a time


@pytest.mark.parametrize("limit, depth", [(1000, "full"), (70, "half"), (35, "quarter"), (0.1, "quarter")])
def test_within_takes_the_deepest_that_fits(monkeypatch: pytest.MonkeyPatch, limit: float, depth: str) -> None:
    model = quantsr.load("quantsr-c-x2-w4a4", threads=1)
    speed = {"full": 100e-6, "half": 50e-6, "quarter": 25e-6}
    monkeypatch.setattr(within, "network_seconds", lambda model, depth: speed[depth])
    files = [(Facts(500, 1000, 3, 8), photos.FORMATS["png"]), (Facts(500, 500, 4, 8), photos.FORMATS["jpg"])]
    chosen, estimate = within.choose_depth(model, files, limit)
    assert chosen == depth
    assert estimate >= 1.2 * 1e6 * speed[depth]


def test_within_counts_the_borders_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quantsr.load("quantsr-c-x2-w4a4", threads=1)
    monkeypatch.setattr(within, "network_seconds", lambda model, depth: 1e-3)
    monkeypatch.setattr(within, "file_seconds", lambda model, files, quality: 0.0)
    files = [(Facts(600, 600, 3, 8), photos.FORMATS["png"])]
    (_, whole), (_, tiled) = (within.choose_depth(model, files, 1e9, tile=tile) for tile in (None, 64))
    assert tiled / whole == pytest.approx((1 + 2 * model.engine("full").halo / 64) ** 2)


def test_within_counts_each_result_as_it_will_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # the machine may do other work
    model = quantsr.load("quantsr-c-x4-w4a4", threads=1)
    pixels, large = 500 * 499, 1000 * 1000  # results on both sides of 4 megapixels

    def seconds(width: int, height: int, channels: int, bits: int, kind: str) -> float:
        facts = Facts(width, height, channels, bits)
        return min(within.file_seconds(model, [(facts, photos.FORMATS[kind])], None) for _ in range(2))

    small_png, large_png = seconds(500, 499, 3, 8, "png") / pixels, seconds(1000, 1000, 3, 8, "png") / large
    assert large_png < small_png / 1.8  # whole files: 1.5 and 5.1 microseconds
    assert seconds(1000, 1000, 1, 8, "png") < large * large_png / 2
    assert seconds(1000, 1000, 3, 16, "tiff") > seconds(1000, 1000, 3, 8, "tiff") * 1.2
    both = [(Facts(500, 499, 3, 8), photos.FORMATS["png"]), (Facts(1000, 1000, 3, 8), photos.FORMATS["png"])]
    assert within.file_seconds(model, both, None) > pixels * small_png + large * large_png / 2


def test_within_measures(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["upscale", *OPTIONS[:2], str(folder), "-o", str(tmp_path / "out"), "-r"]
    assert main([*arguments, "--within", "100"]) == 0
    assert capsys.readouterr().out.startswith("depth full: about")
    assert main([*arguments, "--within", "100", "--resume"]) == 0
    assert "6 skipped" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--within", "-1"])
    assert main([*arguments, "--within", "0.001", "--force"]) == 0
    assert capsys.readouterr().out.startswith("does not fit in 0.001 s; depth quarter: about ")


# ---- interrupted, killed


def command(folder: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "quantsr", "upscale", *OPTIONS, str(folder), "-o", str(out), "-r", "--resume"]


@pytest.fixture
def many(tmp_path: Path, picture: Picture) -> Path:
    folder = tmp_path / "many"
    for index in range(12):
        path = folder / f"{index % 3}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photos.write(path, Photo(picture(60, 60 + index, seed=index)))
    return folder


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_run_ends_cleanly_and_goes_on(many: Path, tmp_path: Path, which: signal.Signals) -> None:
    out, report = tmp_path / "out", tmp_path / "report.json"
    process = subprocess.Popen(
        [*command(many, out), "--report", str(report)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline()  # a file is done
    process.send_signal(which)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume goes on" in err and "Traceback" not in err
    told = json.loads(report.read_text())
    assert told["state"] == "interrupted" and told["done"] >= 1 and told["left"] > 0
    assert leftovers(out) == []
    assert upscale(many, "-o", out, "-r", "--resume") == 0
    assert len(results(out)) == 12


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_random(many: Path, tmp_path: Path, kills: int) -> None:
    """No part of a result ever has a final name, at most one is made again, and the end is that of a whole run."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    start = time.monotonic()
    subprocess.run(command(many, whole), check=True, capture_output=True)
    usual = time.monotonic() - start
    expected = results(whole)
    assert len(expected) == 12
    chance = random.Random(0)
    seen: dict[str, int] = {}
    for _ in range(kills):
        process = subprocess.Popen(command(many, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.3, 1.0) * usual)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        now = results(out)
        assert all(expected[name] == data for name, data in now.items())
        inodes = {name: (out / name).stat().st_ino for name in now}
        assert sum(inodes[name] != inode for name, inode in seen.items()) <= 1
        seen = inodes
        if len(seen) == 12:
            shutil.rmtree(out)
            seen = {}
    subprocess.run(command(many, out), check=True, capture_output=True)
    assert results(out) == expected and leftovers(out) == []


def test_a_batch_from_python(folder: Path, tmp_path: Path) -> None:
    model = quantsr.load("quantsr-c-x2-w4a4", threads=1)
    jobs = [Job(folder / "a.png", tmp_path / "a.png"), Job(folder / "absent.png", tmp_path / "b.png")]
    batch = Batch(model, jobs, frozenset())
    batch.look()
    assert [outcome.status for outcome in batch.run()] == ["done", "failed"]


# ---- nobody listens, or not in UTF-8


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("words", [[], ["--json"]], ids=["lines", "json"])
def test_a_batch_goes_on_when_its_listener_leaves(
    folder: Path, tmp_path: Path, words: list[str], unbuffered: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        code = subprocess.run(
            [*command(folder, tmp_path / "out"), *words],
            stdout=writing, stderr=writing, check=False, env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        ).returncode  # fmt: skip
    finally:
        os.close(writing)
    assert code == 0 and len(results(tmp_path / "out")) == 6


def test_names_that_the_terminal_cannot_show(folder: Path, tmp_path: Path) -> None:
    (folder / "b.jpg").rename(folder / "日本.jpg")
    done = subprocess.run(
        command(folder, tmp_path / "out"),
        env=os.environ | {"PYTHONIOENCODING": "latin1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0 and rb"\u65e5\u672c.jpg -> " in done.stdout
    assert len(results(tmp_path / "out")) == 6


# ---- plausible mistakes


@pytest.mark.parametrize("out", ["file", "file/sub", "file/sub/a.png", "a" * 300, "a" * 300 + ".png"])
@pytest.mark.parametrize("count", [1, 2])
def test_a_place_where_no_result_can_be_is_wrong_usage(
    folder: Path, tmp_path: Path, out: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    assert upscale(*[folder / "a.png", folder / "b.jpg"][:count], "-o", tmp_path / out) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "file").read_bytes() == b"kept"


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """lock(folder): its names can be listed, and nothing in it be looked at; root could look."""

    def lock(folder: Path) -> None:
        for name in ("stat", "lstat"):
            honest = getattr(os, name)

            def look(path: Any, *rest: Any, honest: Any = honest, **options: Any) -> os.stat_result:
                if not isinstance(path, int) and folder in Path(os.fsdecode(path)).parents:
                    raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
                return honest(path, *rest, **options)

            monkeypatch.setattr(os, name, look)

    return lock


@pytest.mark.parametrize("into", [["-o", "out"], ["-o", "out", "--resume", "--report", "report.json"], []])
def test_a_name_that_cannot_be_looked_at_stops_nothing(
    folder: Path,
    tmp_path: Path,
    lock: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    into: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    loop, locked, long = Path("loop.png"), Path("locked", "b.png"), Path("a" * 300 + ".png")
    loop.symlink_to(loop)
    locked.parent.mkdir()
    lock(locked.parent)
    assert upscale(loop, locked, locked.parent / "deeper" / "c.png", long, folder / "a.png", *into) == 3
    told = capsys.readouterr().err
    assert all(f"quantsr: {path}: " in told for path in (loop, locked, long))
    assert all(why in told for why in ("Too many levels of symbolic links", "Permission denied", "File name too long"))
    assert "1 done, 4 failed" in told


def test_a_folder_that_cannot_be_searched_fails(
    folder: Path, tmp_path: Path, lock: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    lock(folder / "sub")
    assert upscale(folder, "-o", tmp_path / "out", "-r") == 3
    told = capsys.readouterr().err
    assert "gray.tif: Permission denied" in told and "2 done, 4 failed" in told


def test_a_result_in_a_loop_of_links_stops_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_x2.png").symlink_to(out / "a_x2.png")
    report = tmp_path / "report.json"
    assert upscale(folder, "-o", out, "--report", report) == 3
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert upscale(folder, "-o", out, "--report", tmp_path / "loop") == 2
    assert upscale(folder, "-o", tmp_path / "loop" / "out") == 2


def test_an_input_with_too_long_a_name_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert upscale(tmp_path / ("a" * 300 + ".png"), "-o", tmp_path / "out") == 4
    assert "File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.gif", "a.HEIC", "a.jp2", "a.NEF", "new/a.mp4"])
def test_a_result_that_cannot_be_written_is_no_folder(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next(path for path in sorted(folder.rglob("*.png")))
    assert upscale(photo, "-o", tmp_path / name) == 2
    assert "wanted a folder or one of .png, .jpg" in (told := capsys.readouterr().err)
    assert told.endswith(".bmp; `quantsr video` enlarges films\n") == name.endswith(".mp4")
    assert not (tmp_path / name).exists()


def test_a_folder_without_photographs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert f"no photographs in {tmp_path / 'in'}; -r looks in its folders too" in capsys.readouterr().err
    (tmp_path / "in" / "a.heic").touch()
    assert upscale(tmp_path / "in", "-o", tmp_path / "out", "-r") == 0
    told = f"no photographs in {tmp_path / 'in'}; passed over: .heic 1; wanted plain files of .png, "
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["anew", "resumed"])
def test_a_pipe_in_a_folder_is_passed_over(
    folder: Path, tmp_path: Path, in_time: None, capsys: pytest.CaptureFixture[str], resume: list[str]
) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "c.JP2").touch()
    report = tmp_path / "report.json"
    assert upscale(folder, "-o", tmp_path / "out", "--report", report, *resume) == 0
    assert "passed over: .jp2 1, pipe 1; wanted plain files of .png, " in capsys.readouterr().err
    assert json.loads(report.read_text())["passed_over"] == {".jp2": 1, "pipe": 1}
    assert upscale(folder / "pipe.jpg", "-o", tmp_path / "out", "--json", *resume) == 4
    assert "pipe.jpg: is a pipe, wanted a file" in capsys.readouterr().out


def test_a_photograph_that_is_named_twice(folder: Path, tmp_path: Path) -> None:
    assert upscale(folder / "a.png", folder / ".." / "in" / "a.png", "-o", tmp_path / "out") == 0
    assert sorted(results(tmp_path / "out")) == ["a_x2.png"]


def test_other_spellings_of_formats(folder: Path, tmp_path: Path) -> None:
    photo = next(path for path in sorted(folder.rglob("*.png")))
    assert upscale(photo, "-o", tmp_path / "out", "-f", "JPEG") == 0
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".jpg"]

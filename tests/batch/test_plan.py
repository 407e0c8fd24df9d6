import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from quantsr.batch import plan as planning
from quantsr.batch.plan import RESULT, Naming, PlanError, plan, shard_of, without_results

NAMING = Naming(4, "some-model", "half")


def denied(folder: Path) -> Callable[[str], Any]:
    """An os.scandir for which this folder cannot be listed; root could list any."""
    honest = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return honest(path)

    return scandir


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    "name, template, kind, expected",
    [
        ("a.png", None, None, "a_x4.png"),
        ("a.JPG", None, None, "a_x4.JPG"),
        ("a.gif", None, None, "a_x4.png"),
        ("a", None, None, "a_x4.png"),
        ("a.b.tif", None, "jpg", "a.b_x4.jpg"),
        ("-dash ü.webp", "{stem}{suffix}", None, "-dash ü.webp"),
        ("a.png", "{name}-{model}-{depth}-{scale}x.avif", None, "a.png-some-model-half-4x.avif"),
    ],
)
def test_names_of_results(name: str, template: str | None, kind: str | None, expected: str) -> None:
    naming = Naming(4, "some-model", "half", template or planning.TEMPLATE, kind)
    assert naming.result_of(Path("folder", name)) == expected


ODD = ["{stem}{scale:s}", "{stem!z}", "{stem:{x}}"]  # they parse, and cannot be formatted


@pytest.mark.parametrize(
    "template", ["{stem}{nothing}", "x{suffix}", "{stem", "{0}{stem}", "{stem.parent}{suffix}", *ODD]
)
def test_bad_templates(template: str) -> None:
    with pytest.raises(PlanError, match=r"wanted .stem. or .name."):
        Naming(4, "m", "full", template)


@pytest.mark.parametrize("template", ["../{stem}{suffix}", "{stem}", "{stem}/{suffix}", "{stem}.exe"])
def test_templates_that_give_no_name(template: str) -> None:
    with pytest.raises(PlanError, match=r"wanted it to end in|wanted a file name"):
        Naming(4, "m", "full", template).result_of(Path("a.png"))


def test_a_folder_is_mirrored(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "in" / "out"
    touch(photos / "b.png", photos / "a.jpg", photos / "sub" / "deep" / "c.TIF", photos / "notes.txt")
    touch(photos / ".hidden.png", photos / ".git" / "d.png", out / "a_x4.jpg")
    (photos / "link.png").symlink_to(photos / "b.png")
    (photos / "loop").symlink_to(photos)
    flat = plan([photos], out, NAMING)
    assert [(job.source.name, job.target) for job in flat] == [
        ("a.jpg", out / "a_x4.jpg"),
        ("b.png", out / "b_x4.png"),
    ]
    every = plan([photos], out, NAMING, recursive=True)
    assert [job.target.relative_to(out).as_posix() for job in every] == ["a_x4.jpg", "b_x4.png", "sub/deep/c_x4.TIF"]
    assert {job.root for job in every} == {out}


def test_what_is_passed_over_in_a_folder_is_counted(
    tmp_path: Path, in_time: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    touch(*(photos / name for name in ("a.jfif", "b.JPE", "c.HEIC", "d.heic", "sub/e.jp2", "notes.txt", ".f.heic")))
    os.mkfifo(photos / "pipe.jpg")
    (photos / "link.jpg").symlink_to(photos / "a.jfif")
    passed_over: Counter[str] = Counter()
    jobs = plan([photos], out, NAMING, passed_over=passed_over)
    assert [job.target.name for job in jobs] == ["a_x4.jfif", "b_x4.JPE"]
    assert passed_over == {".heic": 2, "pipe": 1, "link": 1}
    (photos / "folder").symlink_to(photos / "sub")
    (photos / ".hidden").symlink_to(photos / "sub")
    plan([photos], out, NAMING, passed_over=(again := Counter()))
    plan([photos], out, NAMING, recursive=True, passed_over=(deeper := Counter()))
    assert again == passed_over and deeper == {**passed_over, ".jp2": 1, "link": 2}

    def gone(path: Path) -> NoReturn:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "lstat", gone)  # between the listing and the look at each file
    assert "a.jfif" in [job.source.name for job in planning._into_folder(photos, out, NAMING, False, Counter())]


def test_results_of_a_folder_need_another_folder(tmp_path: Path) -> None:
    for out in (None, tmp_path, tmp_path / ".." / tmp_path.name):
        with pytest.raises(PlanError, match="wanted another folder"):
            plan([tmp_path], out, NAMING)
    with pytest.raises(
        PlanError, match=rf"INPUT {tmp_path} is a folder, so -o must be a folder too; got the file .*a\.png"
    ):
        plan([tmp_path], tmp_path / "a.png", NAMING)


def test_two_inputs_never_meet(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "a.gif", tmp_path / "a.png")
    with pytest.raises(PlanError, match=r"a\.gif and .*a\.png would both be written to .*a_x4\.png; pass --template"):
        plan([tmp_path], tmp_path / "out", NAMING)
    naming = Naming(4, "m", "full", "{name}_x{scale}{suffix}", "png")
    assert len(plan([tmp_path], tmp_path / "out", naming)) == 3


def test_a_template_is_advised_only_where_it_helps(tmp_path: Path) -> None:
    touch(tmp_path / "d1" / "a.jpg", tmp_path / "d2" / "a.jpg")
    with pytest.raises(PlanError, match=r"would both be written to .*a_x4\.jpg; give each its own -o$"):
        plan([tmp_path / "d1", tmp_path / "d2"], tmp_path / "out", NAMING)


def test_a_file_that_is_named_twice_is_one_job(tmp_path: Path) -> None:
    folder, file = tmp_path / "in", tmp_path / "in" / "a.jpg"
    touch(file, folder / "b.jpg")
    (tmp_path / "link").symlink_to(folder)
    again = [file, folder / ".." / "in" / "a.jpg", tmp_path / "link" / "a.jpg", folder]
    assert [job.source for job in plan(again, tmp_path / "out", NAMING)] == [file, folder / "b.jpg"]
    absent = tmp_path / "absent.jpg"
    assert len(plan([absent, absent], None, NAMING)) == 1


def test_results_of_other_inputs_are_passed_over(tmp_path: Path) -> None:
    """As `*.jpg` finds them, run again."""
    files = [tmp_path / name for name in ("a.jpg", "a_x4.jpg", "a_x4_x4.jpg", "b.jpg", "c_x4.jpg")]

    def left(output: Path | None, naming: Naming = NAMING) -> list[str]:
        return [job.source.name for job in without_results(plan(files, output, naming), passed_over)]

    passed_over: Counter[str] = Counter()
    assert left(None) == [path.name for path in files]  # none is there, so none has a result
    for path in files:
        path.touch()
    assert left(None) == left(tmp_path / "." / "sub" / "..") == ["a.jpg", "b.jpg", "c_x4.jpg"]
    assert passed_over == {RESULT: 4}
    assert len(left(tmp_path / "out")) == 5
    assert len(left(None, Naming(4, "m", "full", "{stem}{suffix}"))) == 5  # each refused in its turn


def test_names_that_differ_in_case_meet_where_case_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / "a.png", tmp_path / "A.png"]
    assert len(plan(files, tmp_path / "out", NAMING)) == 2
    monkeypatch.setattr(planning, "_ignores_case", lambda folder: True)
    with pytest.raises(PlanError, match="would both be written"):
        plan(files, tmp_path / "out", NAMING)


def test_where_case_is_ignored_is_asked_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above, such as /mnt, may heed case where the folder itself, a stick, ignores it."""
    stick = tmp_path / "STICK"
    stick.mkdir()
    (stick / "Photo.png").touch()
    assert not planning._ignores_case(stick / "new")

    def identity(path: Path) -> tuple[int, int] | None:
        path = path.parent / path.name.lower() if path.parent == stick else path
        return (1, hash(path)) if path in (stick, stick / "photo.png") else None

    monkeypatch.setattr(planning, "identity", identity)
    assert planning._ignores_case(stick / "new")


def test_the_format_and_the_one_file_agree(tmp_path: Path) -> None:
    naming = Naming(4, "m", "full", format="jpg")
    assert plan([Path("a.png")], tmp_path / "b.jpeg", naming)[0].target == tmp_path / "b.jpeg"
    with pytest.raises(PlanError, match="wanted them to agree"):
        plan([Path("a.png")], tmp_path / "b.png", naming)


@pytest.mark.parametrize("template", ["{stem}.jpg", "{name}"])
def test_the_format_and_the_template_agree(template: str) -> None:
    assert Naming(4, "m", "full", template, "jpg").result_of(Path("a.jpg")) == "a.jpg"
    naming = Naming(4, "m", "full", template, "png")
    with pytest.raises(PlanError, match=r"gives 'a\.jpg' and the format is png, wanted them to agree"):
        naming.result_of(Path("a.jpg"))


@pytest.mark.parametrize("out", ["file", "file/sub", "file/sub/a.png", "link", "link/a.png"])
def test_no_folder_is_planned_where_a_file_lies(tmp_path: Path, out: str) -> None:
    touch(tmp_path / "file", tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    with pytest.raises(NotADirectoryError, match=out.split("/")[0]):
        plan([tmp_path / "a.png"], tmp_path / out, NAMING)
    assert (tmp_path / "file").read_bytes() == b""


def test_a_folder_that_cannot_be_listed_is_a_job_that_tells_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    touch(photos / "a.png", photos / "locked" / "b.png", photos / "open" / "c.png")
    monkeypatch.setattr(os, "scandir", denied(photos / "locked"))
    *jobs, job = plan([photos], out, NAMING, recursive=True)
    assert [found.source.name for found in jobs] == ["a.png", "c.png"]
    assert (job.source, job.target) == (photos / "locked", out / "locked") and isinstance(job.error, PermissionError)
    assert len(plan([photos], out, NAMING)) == 1  # not looked into
    monkeypatch.setattr(os, "scandir", denied(photos))
    (job,) = plan([photos], out, NAMING)
    assert job.source == photos and isinstance(job.error, PermissionError)


def test_shards_divide_the_files_and_depend_on_no_other_file(tmp_path: Path) -> None:
    files = [Path(f"{index}.png") for index in range(60)]
    jobs = plan(files, tmp_path, NAMING)
    shards = [shard_of(job, 3) for job in jobs]
    assert {1, 2, 3} == set(shards) and max(map(shards.count, (1, 2, 3))) < 40
    assert [shard_of(job, 3) for job in plan(files[::2], tmp_path, NAMING)] == shards[::2]
    elsewhere = plan(files, tmp_path / "elsewhere", NAMING)
    assert [shard_of(job, 3) for job in elsewhere] == shards

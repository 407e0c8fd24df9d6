import errno
import os
from pathlib import Path

import pytest

from quantsr.files import name_beside, remove_leftovers, require_folder, write_atomically


def refused(old: Path, new: Path) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")  # as FAT has it


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_replaces_none(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refused)
    write_atomically(tmp_path / "a", b"first", new=True)
    (tmp_path / "b").symlink_to(tmp_path / "absent")
    for taken in ("a", "b"):
        with pytest.raises(FileExistsError, match=f"File exists: .*{taken}'$"):
            write_atomically(tmp_path / taken, b"second", new=True)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"} and (tmp_path / "a").read_bytes() == b"first"
    write_atomically(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "a"
    write_atomically(path, b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_a_written_file_has_usual_permissions(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"first")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_made(tmp_path: Path) -> None:
    target = tmp_path / "not" / "yet" / "scores.json"
    write_atomically(target, b"{}")
    assert [path.name for path in target.parent.iterdir()] == ["scores.json"] and target.read_bytes() == b"{}"


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    for inside in ("scores.json", "runs/scores.json"):
        with pytest.raises(NotADirectoryError, match=r"file is a file, wanted a folder$"):
            write_atomically(tmp_path / "file" / inside, b"{}")
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_where_a_folder_will_be_made(tmp_path: Path) -> None:
    assert require_folder(tmp_path / "not" / "yet") == require_folder(tmp_path) == tmp_path
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    for inside, kind in (("file", "a file"), ("file/a/b", "a file"), ("link", "no folder"), ("link/a", "no folder")):
        with pytest.raises(NotADirectoryError) as error:
            require_folder(tmp_path / inside)
        assert str(error.value) == f"{tmp_path / inside[:4]} is {kind}, wanted a folder"
    with pytest.raises(OSError, match="too long"):
        require_folder(tmp_path / ("a" * 300))


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"wanted a file.*folder"):
        write_atomically(tmp_path / "folder", b"{}")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_leftovers_are_temporary_files_alone(tmp_path: Path) -> None:
    kept = {"a.npy", ".hidden", ".some.tmp", "b.tmp"}
    for name in (*kept, name_beside(tmp_path / "a.npy").name):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept

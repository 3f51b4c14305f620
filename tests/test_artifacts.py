"""The output folder is whole or not there, and nothing of the user's is lost."""

import os

import pytest

from exporter.artifacts import (
    changed_files,
    check_target,
    describe_files,
    read_manifest,
    whole_folder,
    write_manifest,
)
from exporter.errors import ArtifactError


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_appears_whole(tmp_path):
    target = tmp_path / "deep" / "out"
    with whole_folder(target) as draft:
        (draft / "a.bin").write_bytes(b"1")
        write_manifest(draft, {"name": "x"})
        assert not target.exists()
    assert read_manifest(target)["files"] == describe_files(target)[:1]
    assert changed_files(target, read_manifest(target)) == []
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_job_leaves_nothing(tmp_path, problem):
    with pytest.raises(type(problem)), whole_folder(tmp_path / "out") as draft:
        (draft / "a.bin").write_bytes(b"1")
        raise problem
    assert list(tmp_path.iterdir()) == []


def test_replaces_the_old_folder_only_at_the_end(tmp_path):
    target = tmp_path / "out"
    for text in ("old", "new"):
        with whole_folder(target) as draft:
            (draft / "a.txt").write_text(text)
            write_manifest(draft, {})
            if text == "new":
                assert (target / "a.txt").read_text() == "old"
    assert (target / "a.txt").read_text() == "new"
    assert leftovers(tmp_path) == []


def test_a_killed_jobs_draft_is_swept_and_a_living_ones_is_not(tmp_path):
    dead = tmp_path / ".out.partial-999999999-abc"
    living = tmp_path / f".out.partial-{os.getppid()}-abc"
    dead.mkdir()
    living.mkdir()
    with whole_folder(tmp_path / "out"):
        pass
    assert not dead.exists() and living.exists()


def test_killed_between_the_renames(tmp_path):
    """The old folder had been moved aside and the new one was not in place yet."""
    aside = tmp_path / ".out.partial-999999999-abc.old"
    aside.mkdir()
    (aside / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_damage_is_seen(tmp_path):
    with whole_folder(tmp_path / "out") as draft:
        (draft / "a.bin").write_bytes(b"12")
        write_manifest(draft, {})
    (tmp_path / "out" / "a.bin").write_bytes(b"13")
    out = tmp_path / "out"
    assert changed_files(out, read_manifest(out)) == [out / "a.bin"]


def test_refusals_say_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    with whole_folder(tmp_path / "ours") as draft:
        write_manifest(draft, {})

    def message(name, needed=0, force=False):
        with pytest.raises(ArtifactError) as error:
            check_target(tmp_path / name, needed, force)
        return str(error.value)

    assert message("file") == f"{tmp_path / 'file'}: is a file; name a folder for --out"
    assert message("foreign", force=True) == (
        f"{tmp_path / 'foreign'}: holds files that qexport did not write; name another folder for --out"
    )
    assert message("ours") == (
        f"{tmp_path / 'ours'}: exists already; pass --force to replace it, or name another folder"
    )
    check_target(tmp_path / "ours", 0, True)
    assert "the job needs about 1,000,000,000,000 MB; free some room" in message("new", needed=10**18)


def test_reading_something_else(tmp_path):
    with pytest.raises(
        ArtifactError, match="there is no such folder; make one with `qexport --recipe R --out"
    ):
        read_manifest(tmp_path / "none")
    with pytest.raises(
        ArtifactError, match=r"has no manifest.json, so it is not a folder that qexport wrote"
    ):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"damaged .*; export again with --force"):
        read_manifest(tmp_path)

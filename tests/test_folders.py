"""Folders as options name them: what was meant as a bucket is refused, and no local folder is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.cli import main
from job.config import folders
from job.errors import UserError
from tests.preparing import draw_pets


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("gs:/b/x", "gs://b/x"),
        ("gs:b/x", "gs://b/x"),
        ("GS:///b/x", ""),  # an address, though no valid one: whoever opens it says what it lacks
        ("gs//b/x/", "gs://b/x"),
        ("gcs://b/x", "gs://b/x"),
        ("s3:/b", "s3://b"),
        ("s3a://b/x y", "s3://b/x y"),
        ("s3//b//x", "s3://b//x"),
        ("arn:aws:s3:::b/x", "s3://b/x"),
        ("gs:", "gs://BUCKET/PREFIX"),
        ("gs://b/x", ""),
        ("S3://b/x", ""),
        ("gs", ""),
        ("gs/b", ""),
        ("s3/b:c", ""),
        ("./gs:/b", ""),
        ("pets", ""),
        ("", ""),
    ],
)
def test_what_is_meant_as_a_bucket(typed: str, right: str) -> None:
    assert folders.meant(typed) == right
    for check in (folders.refuse_slip, folders.folder_or_bucket):
        if right:
            with pytest.raises(UserError, match=f"--out: {typed!r} is no address of a bucket; write {right}"):
                check(typed, "--out")
        else:
            check(typed, "--out")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("https://storage.googleapis.com/b/x", "gs://b/x"),
        ("https://storage.cloud.google.com/b/x/?authuser=1", "gs://b/x"),
        ("https://console.cloud.google.com/storage/browser/b/x;tab=objects?project=p", "gs://b/x"),
        ("https://b.storage.googleapis.com/x", "gs://b/x"),
        ("https://s3.eu-west-1.amazonaws.com/b/x", "s3://b/x"),
        ("https://b.s3.amazonaws.com", "s3://b"),
        ("https://my.b.s3-us-west-2.amazonaws.com/x/y", "s3://my.b/x/y"),
        ("https://elsewhere.org/b/x", "name a folder, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX"),
        ("file:///tmp/x", "name a folder, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX"),
        ("abfs://b/x", "name a folder, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX"),
    ],
)
def test_what_nothing_can_be_written_to(typed: str, right: str) -> None:
    with pytest.raises(UserError) as caught:
        folders.folder_or_bucket(typed, "--out")
    assert str(caught.value).endswith(f"; write {right}" if "BUCKET" not in right else f"; {right}")


@pytest.mark.parametrize("typed", ["gs://b/x", "s3://b", "gs:/b", "https://elsewhere.org/x"])
def test_what_stays_on_this_machine(typed: str) -> None:
    with pytest.raises(UserError):
        folders.folder(typed, "--cache")
    folders.folder("/tmp/a:b", "--cache")


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--data", "pets", "--out", "gs:/b/run"],
        ["train", "--data", "gs:/b/pets", "--out", "run"],
        ["train", "--data", "pets", "--out", "run", "--cache", "gs://b/cache"],
        ["train", "--data", "pets", "--out", "run", "--show-augment", "gs://b/seen.png"],
        ["prepare", "s3//b/pets", "--out", "set"],
        ["prepare", "pets", "--out", "gcs://b/set"],
        ["prepare", "pets", "--dry-run", "--out", "gs:b/set"],
        ["sweep", "--data", "pets", "--out", "https://storage.googleapis.com/b/sweep"],
        ["evaluate", "gs:/b/run"],
        ["predict", "s3:b/run", "a.jpg"],
        ["drill", "--out", "gs//b"],
    ],
)
def test_the_commands_refuse_it_and_make_nothing(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_pets(tmp_path / "pets", 6)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words)
    error = capsys.readouterr().err
    assert (left.value.code, error.count("\n")) == (2, 1), error
    assert any(part in error for part in ("is no address of a bucket; write ", "is an address")), error
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]

"""Files from the web: cut, resumed, named, checked, refused. The servers are on the loopback."""

from __future__ import annotations

import base64
import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import socket
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.config.options import build
from job.config.schema import PrepareConfig
from job.data import manifest
from job.data.sources import Listing, arrival, open_source, web
from job.errors import Corrupt, Interrupted, JobError, MachineError, UserError
from job.prepare import prepare
from job.shutdown import Stop
from job.smoke import draw
from job.storage import local
from tests.preparing import Soon
from tests.servers import Server


def one_file(data: bytes) -> bytes:
    """A zip of one file, as large as that."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("cats/1.png", data)
    return packed.getvalue()


DATA = one_file(np.random.default_rng(1).bytes(3_000_000))  # more than one chunk
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = one_file(np.random.default_rng(2).bytes(2_500_000))
PATH = "/files/pets.zip"


def download(text: str, scratch: Path) -> Path:
    return web.download(text, scratch, Stop())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
    with Server() as made:
        yield made


def test_download_whole(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    found = download(f"{server.url(PATH)}#sha256={SHA256.upper()}", tmp_path)
    assert found.name == "pets.zip"
    assert found.is_relative_to(tmp_path)
    assert found.read_bytes() == DATA
    assert [path.name for path in found.parent.iterdir()] == ["pets.zip"]


def test_query_is_no_part_of_the_name(server: Server, tmp_path: Path) -> None:
    server.serve("/a/my%20pets.zip", DATA)
    assert download(server.url("/a/my%20pets.zip?token=1"), tmp_path).name == "my pets.zip"


def test_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000, times=2)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    ranges = [request.range for request in server.gets(PATH)]
    assert ranges == [None, "bytes=1200000-", "bytes=2400000-"]
    assert [request.status for request in server.gets(PATH)] == [200, 206, 206]
    assert server.gets(PATH)[1].headers["if-range"] == server.blobs[PATH].etag


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_etag(server: Server, tmp_path: Path, etag: str) -> None:
    server.serve(PATH, DATA, etag=etag)
    server.cut(PATH, 1_200_000)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    # the date is a validator too; a weak tag is none, so all of it is asked for again
    assert server.gets(PATH)[1].range == (None if etag else "bytes=1200000-")


def test_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA, ranges=False)
    server.cut(PATH, 1_200_000)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [request.status for request in server.gets(PATH)] == [200, 200]


def test_file_changed_between_tries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)
    monkeypatch.setattr(time, "sleep", lambda seconds: server.serve(PATH, OTHER))
    assert download(server.url(PATH), tmp_path).read_bytes() == OTHER
    assert [request.status for request in server.gets(PATH)] == [200, 200]
    assert server.gets(PATH)[1].range == "bytes=1200000-"


def test_killed_run_is_gone_on_with(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)

    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", killed)
        with pytest.raises(KeyboardInterrupt):
            download(server.url(PATH), tmp_path)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [request.range for request in server.gets(PATH)] == [None, "bytes=1200000-"]


def test_killed_after_the_last_byte(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve(PATH, DATA)

    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            download(server.url(PATH), tmp_path)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [request.status for request in server.gets(PATH)] == [200, 416]


def test_killed_after_the_last_byte_of_what_is_packed_on_the_way(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve("/7", gzip.compress(ZIP), Content_Encoding="gzip", Content_Disposition="attachment; filename=pets.zip")

    def killed(path: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "sha256_of", killed)
        with pytest.raises(KeyboardInterrupt):
            download(server.url("/7"), tmp_path)
    found = download(server.url("/7"), tmp_path)
    assert (found.name, found.read_bytes()) == ("pets.zip", ZIP)
    assert [request.status for request in server.gets("/7")] == [200, 416]


def test_killed_before_the_first_byte_of_a_changed_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)
    for module, name in ((time, "sleep"), (local, "require_space")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                download(server.url(PATH), tmp_path)
        server.serve(PATH, OTHER)
    assert download(server.url(PATH), tmp_path).read_bytes() == OTHER


def test_range_refused_starts_over(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)
    server.answer(PATH, 416, times=1)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [(request.range, request.status) for request in server.gets(PATH)] == [(None, 200), ("bytes=1200000-", 416), (None, 200)]


@pytest.mark.parametrize("fragment", ["", f"#sha256={SHA256}"], ids=["bare", "with a checksum"])
def test_finished_download_is_reused(server: Server, tmp_path: Path, fragment: str) -> None:
    server.serve(PATH, DATA)
    first = download(server.url(PATH) + fragment, tmp_path)
    assert download(server.url(PATH) + fragment, tmp_path) == first
    assert len(server.gets(PATH)) == 1


def test_finished_download_with_another_checksum_is_not_reused(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, OTHER)
    download(server.url(PATH), tmp_path)
    server.serve(PATH, DATA)
    assert download(f"{server.url(PATH)}#sha256={SHA256}", tmp_path).read_bytes() == DATA


def test_a_file_of_another_name_takes_the_place_of_the_finished_one(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, OTHER, Content_Disposition="attachment; filename=a.zip")
    assert download(server.url(PATH), tmp_path).name == "a.zip"
    server.serve(PATH, DATA, Content_Disposition="attachment; filename=b.zip")
    found = download(f"{server.url(PATH)}#sha256={SHA256}", tmp_path)
    assert left(tmp_path) == [found.name] == ["b.zip"]


def test_equal_names_of_two_addresses(server: Server, tmp_path: Path) -> None:
    server.serve("/a/pets.zip", DATA)
    server.serve("/b/pets.zip", OTHER)
    found = [download(server.url(path), tmp_path) for path in ("/a/pets.zip", "/b/pets.zip")]
    assert [path.read_bytes() for path in found] == [DATA, OTHER]


def test_wrong_checksum(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, OTHER)
    with pytest.raises(UserError, match=f"not {SHA256}"):
        download(f"{server.url(PATH)}#sha256={SHA256}", tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("status", "words"), [(404, "answers 404"), (401, "refuses it"), (403, "refuses it"), (410, "answers 410")])
def test_refused(server: Server, tmp_path: Path, status: int, words: str) -> None:
    server.serve(PATH, DATA)
    server.answer(PATH, status)
    with pytest.raises(UserError, match=words):
        download(server.url(PATH), tmp_path)
    assert len(server.gets(PATH)) == 1


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    server.answer(PATH, 503, times=2)
    server.answer(PATH, 429, times=1)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [request.status for request in server.gets(PATH)] == [503, 503, 429, 200]


def test_server_that_stays_away(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TRIES", 3)
    server.answer(PATH, 503)
    with pytest.raises(MachineError, match="gave up after 3 tries"):
        download(server.url(PATH), tmp_path)
    assert len(server.gets(PATH)) == 3


def test_silent_server(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TRIES", 2)
    monkeypatch.setattr(web, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(MachineError, match="timed out"):
        download(f"http://127.0.0.1:{silent.getsockname()[1]}{PATH}", tmp_path)


def test_nobody_listens(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TRIES", 2)
    with pytest.raises(MachineError, match="refused"):
        download("http://127.0.0.1:1/pets.zip", tmp_path)


def test_no_room(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve(PATH, DATA)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), dict(free=1000)))
    with pytest.raises(MachineError, match=r"would take about 3\.0 MB"):
        download(server.url(PATH), tmp_path)


def test_a_stop_is_taken_while_nothing_arrives_and_what_came_is_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "LOOK", 0.01)
    server.serve(PATH, DATA)
    server.stall(PATH, 1_200_000)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        web.download(server.url(PATH), tmp_path, Soon(0.3))
    assert time.monotonic() - started < 5
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert server.gets(PATH)[-1].range == "bytes=1200000-"


def test_a_stop_is_taken_before_the_server_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LOOK", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Interrupted):
        web.download(f"http://127.0.0.1:{silent.getsockname()[1]}{PATH}", tmp_path, Soon(0.1))


def test_a_stop_is_taken_between_two_tries(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "FIRST_WAIT", 30.0)
    server.answer(PATH, 503)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        web.download(server.url(PATH), tmp_path, Soon(0.1))
    assert time.monotonic() - started < 5
    assert len(server.gets(PATH)) == 1


def test_a_redirect_never_leaves_https(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for new in ("http://example.com/a.zip", "ftp://example.com/a.zip"):
        with pytest.raises(UserError, match=r"^here: the server redirects from https to plain \w+ on example\.com; find"):
            web.refuse_downgrade("here", "HTTPS://example.org/a.zip", new)
    web.refuse_downgrade("here", "https://example.org/a.zip", "https://example.com/a.zip")
    asked = []
    monkeypatch.setattr(web, "refuse_downgrade", lambda where, old, new: asked.append((old, new)))
    server.serve(PATH, DATA)
    server.answer("/old.zip", 302, Location=server.url(PATH))
    assert download(server.url("/old.zip"), tmp_path).read_bytes() == DATA
    assert asked == [(server.url("/old.zip"), server.url(PATH))]


@pytest.mark.parametrize("text", ["http://example.com/pets.zip", "http://127.0.0.1.example.com/pets.zip"])
def test_plain_http_wants_a_checksum(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="#sha256="):
        download(text, tmp_path)


@pytest.mark.parametrize("fragment", ["sha256=12", "md5=" + 32 * "0", "sha256=" + 64 * "g", "page"])
def test_no_checksum(tmp_path: Path, fragment: str) -> None:
    with pytest.raises(UserError, match="is not a valid checksum"):
        download(f"https://example.com/pets.zip#{fragment}", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "https:///pets.zip",
        "https://127.0.0.1:port/pets.zip",
        "https://127.0.0.1:1/my pets.zip",
        "https://[::1/a.zip",
        "https://127.0.0.1:1/k\u00e4tzchen.zip",
    ],
)
def test_no_address(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="is not a valid web address"):
        download(text, tmp_path)


def test_prepare_from_the_web(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(tmp_path / "drawn", 20, 40)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(tmp_path / "drawn", "pets")
    server.serve("/pets.tar.gz", packed.getvalue())
    server.cut("/pets.tar.gz", 5000)
    text = f"{server.url('/pets.tar.gz')}#sha256={hashlib.sha256(packed.getvalue()).hexdigest()}"
    out = tmp_path / "set"
    made = prepare([text], build(PrepareConfig, dict(out=str(out), val=0.3, side=32)))
    assert made == manifest.read(out)
    assert sum(split.records for split in made.splits.values()) == 40
    assert set(made.splits) == {"train", "validation"}
    assert made.settings["sources"] == [text]
    assert not (out / ".work").exists()
    assert f"downloading {server.url('/pets.tar.gz')}\n" in capsys.readouterr().out
    assert [request.status for request in server.gets("/pets.tar.gz")] == [200, 206]


def pets(count: int = 6) -> dict[str, bytes]:
    """Little images of both classes, by name."""
    made = {}
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        made[f"{('cats', 'dogs')[number % 2]}/{number}.png"] = cv2.imencode(".png", image)[1].tobytes()
    return made


def as_zip(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def as_tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


IMAGES = pets()
ZIP, TAR = as_zip(IMAGES), as_tar(IMAGES)
PACKED = {"zip": ZIP, "tar": TAR, "tar.gz": gzip.compress(TAR), "tar.bz2": bz2.compress(TAR), "tar.xz": lzma.compress(TAR)}


def image_as(ending: str) -> bytes:
    return cv2.imencode(ending, np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))[1].tobytes()


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def refusal(text: str, scratch: Path, kind: type[JobError] = UserError) -> str:
    """The one line that a download is refused with; nothing of it is kept."""
    with pytest.raises(kind) as caught:
        download(text, scratch)
    assert left(scratch) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "data", "name"),
    [
        ("/ndownloader/files/1234567", ZIP, "1234567.zip"),
        ("/get", PACKED["tar.gz"], "get.tar.gz"),
        ("/get", PACKED["tar.bz2"], "get.tar.bz2"),
        ("/get", PACKED["tar.xz"], "get.tar.xz"),
        ("/pets.v2", TAR, "pets.v2.tar"),
        ("/pets.tgz", PACKED["tar.gz"], "pets.tgz"),
        ("/train.csv", ZIP, "train.csv.zip"),
        ("/", ZIP, "download.zip"),
        ("/pets/", ZIP, "pets.zip"),
        ("/..", ZIP, "download.zip"),
        ("/.hidden", ZIP, "hidden.zip"),
        ("/a%2F..%2F.pets.zip", ZIP, "pets.zip"),
        ("/pets.csv", b"path,label\na.jpg,cat\n", "pets.csv"),
        ("/photo", image_as(".jpg"), "photo.jpg"),
        ("/photo.php", image_as(".png"), "photo.php.png"),
        ("/photo.jpg", image_as(".png"), "photo.jpg"),
        ("/photo", image_as(".bmp"), "photo.bmp"),
        ("/photo", image_as(".webp"), "photo.webp"),
        ("/photo", image_as(".tiff"), "photo.tif"),
        ("/photo", image_as(".ppm"), "photo.pnm"),
        ("/photo", image_as(".avif"), "photo.avif"),
    ],
)
def test_a_name_gets_the_ending_of_its_content(server: Server, tmp_path: Path, path: str, data: bytes, name: str) -> None:
    server.serve(path, data)
    found = download(f"{server.url(path)}?id=7", tmp_path)
    assert found.name == name
    assert found.read_bytes() == data
    assert download(f"{server.url(path)}?id=7", tmp_path) == found
    assert len(server.gets(path)) == 1


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ('attachment; filename="pets.zip"', "pets.zip"),
        ("attachment; filename=pets.zip", "pets.zip"),
        ("attachment; filename*=UTF-8''my%20k%C3%A4tzchen.zip", "my k\u00e4tzchen.zip"),
        ("attachment; filename=\"old.zip\"; filename*=UTF-8''new.zip", "new.zip"),
        ('inline; filename="../../etc/passwd"', "passwd.zip"),
        (r'attachment; filename="C:\\pets\\.pets"', "pets.zip"),
        ('attachment; filename=".."', "7.zip"),
        ('attachment; filename=""', "7.zip"),
        ("attachment; filename*=UTF-8''a%00%0Ab", "ab.zip"),
        ("attachment", "7.zip"),
        ('attachment; filename="' + 300 * "x" + '.zip"', 146 * "x" + ".zip"),
    ],
)
def test_the_name_that_the_server_states(server: Server, tmp_path: Path, stated: str, name: str) -> None:
    server.serve("/files/7", ZIP, Content_Disposition=stated)
    assert download(server.url("/files/7"), tmp_path).name == name


@pytest.mark.parametrize(
    ("path", "target", "name"),
    [("/download/x/y", "/store/archive.zip", "archive.zip"), ("/a/pets.zip", "/b/0f3c", "pets.zip"), ("/a/pets", "/b/0f3c", "0f3c.zip")],
)
def test_the_name_after_a_redirect(server: Server, tmp_path: Path, path: str, target: str, name: str) -> None:
    server.serve(target, ZIP)
    server.answer(path, 302, Location=f"{target}?sig=SECRET123")
    found = download(server.url(path), tmp_path)
    assert found.name == name
    assert download(server.url(path), tmp_path) == found
    assert len(server.requests) == 2


def test_the_stated_name_lasts_through_a_kill(server: Server, tmp_path: Path) -> None:
    server.serve("/7", ZIP, Content_Disposition="attachment; filename=pets.zip")
    server.cut("/7", 100)
    assert download(server.url("/7"), tmp_path).name == "pets.zip"
    assert server.gets("/7")[-1].status == 206


def test_an_address_of_an_image_is_one_image(server: Server, tmp_path: Path) -> None:
    photo = image_as(".jpg")
    server.serve("/photo", photo)
    assert list(open_source(server.url("/photo?id=3"), tmp_path).read()) == [("photo.jpg", photo)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<!DOCTYPE html><html><title>\n Sign  in &amp; go</title></html>", "is a web page (Sign in & go), not an archive; open it in"),
        (b"<html><title>" + 100 * b"x" + b"</title>", "is a web page, not an archive"),
        (b"<html>", "is a web page, not an archive"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html><html><title>Pets</title>', "is a web page (Pets)"),
        (b'{"error": "no\nsuch file"}', 'the server sent a JSON answer, not a file: {"error": "no such file"}; check the address'),
        (b'[{"code": 7}]', "a JSON answer"),
        (
            b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code>',
            "the server sent an XML answer, not a file: <Error><Code>AccessDenied",
        ),
        (b"<Error><Code>AccessDenied</Code></Error>", "an XML answer"),
        (b'{"error": "' + 1000 * b"x" + b'"}', "not a file: " + ('{"error": "' + 69 * "x") + ";"),
        (b"busy, try again", "the server sent text, not a file: busy, try again"),
        (b"x" + "ä".encode() * 600, "the server sent text"),  # a letter is cut where looking ends
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n", "is a pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s3--12.zip\n", "is a pointer of git-annex"),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_what_is_no_file_is_named_and_not_kept(server: Server, tmp_path: Path, body: bytes, words: str, sized: bool) -> None:
    server.serve(PATH, body, sized=sized)
    assert words in refusal(server.url(PATH), tmp_path)
    server.serve(PATH, ZIP)
    assert download(server.url(PATH), tmp_path).read_bytes() == ZIP


OLD_TAR = TAR[:257] + bytes(8) + TAR[265:]  # without the mark
OLD_TAR = OLD_TAR[:148] + b"%06o\0 " % (sum(OLD_TAR[:148]) + 8 * 32 + sum(OLD_TAR[156:512])) + OLD_TAR[156:]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (PATH, "<html><title>x</title>".encode("utf-16"), "is a web page, not an archive"),
        (PATH, "<!doctype html>".encode("utf-16-le"), "is a web page, not an archive"),
        (PATH, "<html>".encode("utf-16-be"), "is a web page, not an archive"),
        (PATH, b"%PDF-1.4\n%\xe2\xe3", "is a PDF: neither images nor an archive of them; check the address"),
        (PATH, DATA[100:1000], "is of a kind that is not known: neither images"),
        (PATH, bytes(1024), "is of a kind that is not known: neither images"),
        ("/photo.jpg", DATA[100:1000], "is of a kind that is not known: neither images"),
        ("/photo.jpg", b"%PDF-1.4\n%\xe2\xe3", "is a PDF: neither images"),
        ("/old.tar", b"x" + OLD_TAR[1:], "is of a kind that is not known: neither images"),
        ("/x.csv", b"Too many requests", "the server sent text, not a file: Too many requests; check the address"),
        ("/x.csv", b"Too many requests, try later", "the server sent text, not a file: Too many requests, try later"),
        ("/x.csv", b"Too many\nrequests,\n try later", "the server sent text, not a file"),
        ("/x.csv", "Zu viele Anfragen für heute".encode("cp1252"), "is not text in UTF-8, or in UTF-16 with a byte order mark; save it"),
        ("/x.csv", "Too many requests".encode("utf-16"), "the server sent text, not a file: Too many requests"),
        (PATH, b"Rar!\x1a\x07\0" + bytes(600), "is a rar archive, which cannot be read; unpack it and give the folder"),
        ("/pets", b"7z\xbc\xaf\x27\x1c" + bytes(600), "is a 7z archive, which cannot be read"),
        ("/list.csv.gz", gzip.compress(b"path,label", mtime=0), "is a file packed with gzip, not an archive; unpack it"),
        ("/l.xlsx", as_zip({"xl/workbook.xml": b"x"}), "is a table of a kind that is not read; save it as CSV"),
        ("/l", as_zip({"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"}), "is a table of a kind that is not read"),
        ("/l.ods", as_zip({"mimetype": b"x", "content.xml": b"x"}), "is a table of a kind that is not read"),
        ("/l.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is a table of a kind that is not read"),
        ("/l.parquet", b"PAR1" + bytes(600), "is a table of a kind that is not read"),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_what_no_reader_takes_is_not_kept(server: Server, tmp_path: Path, path: str, body: bytes, words: str, sized: bool) -> None:
    server.serve(path, body, sized=sized)
    said = refusal(server.url(f"{path}?sig=S3CR3T"), tmp_path)
    assert said.startswith(f"{server.url(path)}?sig=...: {words}")
    server.serve(path, ZIP)
    assert download(server.url(f"{path}?sig=S3CR3T"), tmp_path).read_bytes() == ZIP


def test_damage_at_the_beginning_of_an_archive_is_not_kept(server: Server, tmp_path: Path) -> None:
    data = PACKED["tar.gz"]
    server.serve("/pets.tar.gz", data[:10] + bytes(200) + data[210:])
    assert "is corrupt" in refusal(server.url("/pets.tar.gz"), tmp_path, MachineError)


@pytest.mark.parametrize(
    ("path", "data", "name"),
    [
        ("/old.tar", OLD_TAR, "old.tar"),
        ("/old.tar.gz", gzip.compress(OLD_TAR), "old.tar.gz"),
        ("/self.zip", b"#!/bin/sh\n\0\xff" + ZIP, "self.zip"),
        ("/office.zip", as_zip({"xl/cat.png": b"x"}), "office.zip"),
        ("/list.tsv", b"path\tlabel\na.jpg\tcat\n", "list.tsv"),
        ("/list.tab", b"path\tlabel\na.jpg\tcat\n", "list.tab"),
        ("/list.csv", b"path\na.jpg\n", "list.csv"),
        ("/list.csv", b"where\na.jpg\n", "list.csv"),
        ("/list.csv", b"where,what\na,cat\n", "list.csv"),
        ("/list.csv", "path,label\na.jpg,Kätzchen\n".encode("utf-16"), "list.csv"),
    ],
)
def test_what_a_reader_takes(server: Server, tmp_path: Path, path: str, data: bytes, name: str) -> None:
    server.serve(path, data)
    found = download(server.url(path), tmp_path)
    assert (found.name, found.read_bytes()) == (name, data)


def test_a_table_with_tabs_without_an_ending(server: Server, tmp_path: Path) -> None:
    server.serve("/export", b"path\tlabel\n", Content_Type="text/tab-separated-values")
    assert download(server.url("/export"), tmp_path).name == "export.tsv"


def test_a_page_in_place_of_an_image(server: Server, tmp_path: Path) -> None:
    server.serve("/photo.jpg", b"<html>")
    assert "is a web page, not an image" in refusal(server.url("/photo.jpg"), tmp_path)


def test_a_csv_without_an_ending(server: Server, tmp_path: Path) -> None:
    server.serve("/export", b"path,label\na.jpg,cat\n", Content_Type="text/csv; charset=utf-8")
    assert download(server.url("/export"), tmp_path).name == "export.csv"


def test_an_answer_that_repeats_the_address(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, b'{"error": "anna, s3/cr3t, T0K%EN, T0K%25EN"}')
    url = server.url(f"{PATH}?token=T0K%25EN&id=7").replace("://", "://anna:s3%2Fcr3t@")
    words = 'the server sent a JSON answer, not a file: {"error": "..., ..., ..., ..."}; check the address'
    assert refusal(url, tmp_path) == f"{server.url(PATH)}?token=...&id=7: {words}"


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "expired /store?sig=S3CR3T+X"}',
        b"<html><title>/store?sig=S3CR3T%2BX</title>",
        b"<Error>s3cr3t%2bx S3CR3T X</Error>",
        b"gone: u, S3CR3TP, dTpTM0NSM1RQ",
        b"gone: /older?id=7&amp;sig=S3CR3T0",
    ],
)
def test_an_answer_that_repeats_an_address_that_it_led_to(
    server: Server, tmp_path: Path, body: bytes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/store", body)
    server.cut("/store", 5)
    server.answer("/middle", 302, Location=server.url("/store?sig=S3CR3T%2BX"))
    server.answer(PATH, 302, Location=server.url("/middle").replace("://", "://u:S3CR3TP@"))
    kept: list[str] = []
    write = local.write_json
    monkeypatch.setattr(local, "write_json", lambda path, value: (write(path, value), kept.append(path.read_text())))
    said = refusal(server.url(PATH), tmp_path)
    assert len(kept) == 2
    for secret in ("S3CR3T", "dTpTM0NSM1RQ"):
        assert secret.lower() not in f"{said}{capfd.readouterr()}{kept}".lower()
    assert "..." in said


def test_an_answer_that_repeats_the_password_as_it_was_sent(server: Server, tmp_path: Path) -> None:
    for told in (BASIC[6:], BASIC[6:].rstrip("=")):
        server.serve(PATH, f'{{"Authorization": "Basic {told}"}}'.encode())
        assert 'not a file: {"Authorization": "Basic ..."};' in refusal(with_password(server.url(PATH)), tmp_path)


def test_a_stated_name_with_the_query_of_the_address(server: Server, tmp_path: Path) -> None:
    server.serve("/7", ZIP, Content_Disposition='attachment; filename="pets.zip?sig=S3CR3T"')
    assert download(server.url("/7"), tmp_path).name == "pets.zip"


def test_a_parameter_within_the_path_is_no_part_of_the_name(server: Server, tmp_path: Path) -> None:
    server.serve("/pets.zip;token=S3CR3T", ZIP)
    assert download(server.url("/pets.zip;token=S3CR3T"), tmp_path).name == "pets.zip"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.99])
def test_cut_where_no_length_was_told(server: Server, tmp_path: Path, kind: str, share: float) -> None:
    data, path = PACKED[kind], f"/pets.{kind}"
    server.serve(path, data, sized=False)
    # a tar ends in zeros, which may be left out
    server.cut(path, int(share * len(data.rstrip(b"\0"))) // 512 * 512 if kind == "tar" else int(share * len(data)))
    assert "rerun to download it again" in refusal(server.url(path), tmp_path, MachineError)
    assert download(server.url(path), tmp_path).read_bytes() == data


def test_a_tar_cut_between_two_members_or_in_zeros(server: Server, tmp_path: Path) -> None:
    data = as_tar({"cats/black.bmp": bytes(4096), "dogs/1.bmp": b"x"})
    for place in (512, 2048, 512 + 4096, 512 + 4096 + 512, 512 + 4096 + 1024 + 100):
        server.serve(PATH, data, sized=False)
        server.cut(PATH, place)
        assert "was cut short" in refusal(server.url(PATH), tmp_path, MachineError)
        server.faults.clear()


@pytest.mark.parametrize("kind", ["tar.gz", "tar.bz2", "tar.xz"])
def test_a_packed_tar_cut_in_its_checksum(server: Server, tmp_path: Path, kind: str) -> None:
    server.serve(PATH, PACKED[kind], sized=False)
    server.cut(PATH, len(PACKED[kind]) - 3)
    assert "was cut short" in refusal(server.url(PATH), tmp_path, MachineError)


@pytest.mark.parametrize("kind", [tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_whole_tar_of_more_than_files(server: Server, tmp_path: Path, kind: bytes) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, of in (("first", kind), ("cat.png", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.size = of, 700  # a link tells the size of its file, and is without content
            archive.addfile(member, io.BytesIO(700 * b"x") if of == tarfile.REGTYPE else None)
    server.serve("/pets.tar", packed.getvalue(), sized=False)
    assert download(server.url("/pets.tar"), tmp_path).read_bytes() == packed.getvalue()


def test_a_packed_tar_cut_between_two_pieces(server: Server, tmp_path: Path) -> None:
    first = gzip.compress(TAR[:1024])
    server.serve("/pets.tar.gz", first + gzip.compress(TAR[1024:]), sized=False)
    server.cut("/pets.tar.gz", len(first))
    assert "was cut short" in refusal(server.url("/pets.tar.gz"), tmp_path, MachineError)


def test_a_zip_cut_behind_the_directory_of_a_zip_within(server: Server, tmp_path: Path) -> None:
    data = as_zip({"cats.zip": ZIP, "dogs.zip": ZIP})
    server.serve(PATH, data, sized=False)
    server.cut(PATH, data.index(ZIP) + len(ZIP) + 20)
    assert "was cut short" in refusal(server.url(PATH), tmp_path, MachineError)
    assert download(server.url(PATH), tmp_path).read_bytes() == data


def test_a_zip_without_its_directory(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, ZIP[:-100])
    assert "was cut short" in refusal(server.url(PATH), tmp_path, MachineError)


def test_a_told_length_is_enough(server: Server, tmp_path: Path) -> None:
    server.serve("/pets.tar.gz", PACKED["tar.gz"][:-100])
    assert download(server.url("/pets.tar.gz"), tmp_path).exists()  # reading it will say what is wrong; it is what the server has


@pytest.mark.parametrize(
    ("path", "data", "noted"), [("/photo", image_as(".jpg"), True), ("/a.csv", b"path,label", True), (PATH, ZIP, False)]
)
def test_what_cannot_be_checked_is_said(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, data: bytes, noted: bool
) -> None:
    server.serve(path, data, sized=False)
    download(server.url(path), tmp_path)
    assert ("warning: the server told no length of" in capsys.readouterr().out) == noted


def test_what_was_packed_on_the_way_is_checked_by_that(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.serve("/a.csv", gzip.compress(b"path,label", mtime=0), sized=False, Content_Encoding="gzip")
    download(server.url("/a.csv"), tmp_path)
    assert "warning" not in capsys.readouterr().out


def test_a_rename_that_fails_loses_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(old: Path, new: Path) -> None:
        raise MachineError(str(new), "could not be renamed", "rerun")

    server.serve(PATH, ZIP)
    with monkeypatch.context() as patch:
        patch.setattr(local, "rename", lambda old, new: failed(old, new) if new.name == "pets.zip" else old.replace(new))
        with pytest.raises(MachineError, match="could not be renamed"):
            download(server.url(PATH), tmp_path)
    assert download(server.url(PATH), tmp_path).read_bytes() == ZIP
    assert [request.status for request in server.gets(PATH)] == [200, 416]


@pytest.mark.parametrize("sized", [True, False])
def test_nothing_came(server: Server, tmp_path: Path, sized: bool) -> None:
    server.serve(PATH, b"", sized=sized)
    assert "is empty; rerun" in refusal(server.url(PATH), tmp_path, MachineError)


def test_a_stop_is_taken_while_what_came_is_checked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.serve("/pets.tar.gz", PACKED["tar.gz"], sized=False, etag='"1"')
    stop, check = Stop(), arrival.check

    def stopped(*arguments: Any) -> None:
        stop.set()
        check(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(arrival, "check", stopped)
        with pytest.raises(Interrupted):
            web.download(server.url("/pets.tar.gz"), tmp_path, stop)
    assert download(server.url("/pets.tar.gz"), tmp_path).read_bytes() == PACKED["tar.gz"]
    assert server.gets("/pets.tar.gz")[-1].status == 416


@pytest.mark.parametrize(("path", "data"), [("/pets.zip", ZIP), ("/pets.tar.gz", PACKED["tar.gz"]), ("/pets.tar", TAR)])
@pytest.mark.parametrize("checksum", ["", "sent", "unpacked"])
def test_packed_on_the_way(server: Server, tmp_path: Path, path: str, data: bytes, checksum: str) -> None:
    packed = gzip.compress(data)
    server.serve(path, packed, Content_Encoding="gzip")
    server.cut(path, len(packed) // 2)
    sha256 = hashlib.sha256(packed if checksum == "sent" else data).hexdigest()
    text = server.url(path) + (f"#sha256={sha256}" if checksum else "")
    found = download(text, tmp_path)
    assert (found.name, found.read_bytes()) == (path[1:], data)
    assert [request.headers["accept-encoding"] for request in server.gets(path)] == ["identity", "identity"]
    assert [request.status for request in server.gets(path)] == [200, 206]
    assert download(text, tmp_path) == found
    assert len(server.gets(path)) == 2


def test_a_packed_archive_that_is_said_to_be_packed_on_the_way(server: Server, tmp_path: Path) -> None:
    server.serve("/pets.tar.gz", PACKED["tar.gz"], Content_Encoding="x-gzip")
    assert download(server.url("/pets.tar.gz"), tmp_path).read_bytes() == TAR
    server.serve("/pets.zip", ZIP, Content_Encoding="gzip")  # not packed at all
    assert download(server.url("/pets.zip"), tmp_path).read_bytes() == ZIP


def test_packed_on_the_way_and_cut(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, gzip.compress(ZIP), Content_Encoding="gzip", sized=False)
    server.cut(PATH, len(ZIP) // 2)
    assert "rerun to download it again" in refusal(server.url(PATH), tmp_path, MachineError)
    assert download(server.url(PATH), tmp_path).read_bytes() == ZIP


def test_packed_on_the_way_to_fill_the_disk(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, gzip.compress(bytes(40 << 20)), Content_Encoding="gzip")
    assert "unpacks to more than 33.6 MB" in refusal(server.url(PATH), tmp_path)


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip"])
def test_packed_in_a_form_that_is_not_read(server: Server, tmp_path: Path, encoding: str) -> None:
    server.serve(PATH, ZIP, Content_Encoding=encoding)
    assert f"packed it as '{encoding}'" in refusal(server.url(PATH), tmp_path)


@pytest.mark.parametrize("encoding", ["aws-chunked", "UTF-8", "none", "binary", "identity, aws-chunked"])
def test_what_servers_say_of_a_packing_that_is_none(server: Server, tmp_path: Path, encoding: str) -> None:
    server.serve(PATH, ZIP, Content_Encoding=encoding)
    assert download(server.url(PATH), tmp_path).read_bytes() == ZIP
    server.serve("/packed", gzip.compress(ZIP), Content_Encoding=f"gzip,{encoding}")
    assert download(server.url("/packed"), tmp_path).read_bytes() == ZIP
    server.serve("/chunked", b"400;chunk-signature=1\r\n" + ZIP, Content_Encoding=encoding)
    with pytest.raises(UserError):
        download(server.url("/chunked"), tmp_path)


BASIC = "Basic " + base64.b64encode("anna:s3/cr3t\u00e4".encode()).decode()


def with_password(url: str) -> str:
    return url.replace("://", "://anna:s3%2Fcr3t%C3%A4@")


def test_name_and_password_are_sent_and_never_said(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server.serve("/new.zip", ZIP)
    server.answer(PATH, 302, Location="/new.zip?sig=SECRET123")
    server.answer("/new.zip", 503, times=1)
    text = with_password(server.url(PATH))
    for _ in range(2):
        download(text, tmp_path)
    assert [request.headers.get("authorization") for request in server.requests] == [BASIC] * 4
    said = "".join(capfd.readouterr())
    assert f"{server.url(PATH)} is already downloaded" in said
    kept = "".join(str(path) + path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("anna", "s3/cr3t", "s3%2Fcr3t", "SECRET123", BASIC[6:]):
        assert secret not in said + kept


def test_a_password_goes_to_no_other_host(server: Server, tmp_path: Path) -> None:
    with Server() as other:
        other.serve(PATH, ZIP)
        server.answer(PATH, 302, Location=other.url(PATH))
        download(with_password(server.url(PATH)), tmp_path)
        assert [request.headers.get("authorization") for request in other.requests] == [None]
        server.answer("/2", 302, Location=other.url(PATH).replace("://", "://bob:word@"))  # its own, for itself alone
        download(with_password(server.url("/2")), tmp_path)
        assert other.requests[-1].headers["authorization"] == "Basic " + base64.b64encode(b"bob:word").decode()


@pytest.mark.parametrize("status", [401, 404, 503])
def test_errors_hold_no_secret(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(web, "TRIES", 1)
    server.answer(PATH, status)
    with pytest.raises((UserError, MachineError)) as caught:
        download(with_password(server.url(PATH)) + "?sig=SECRET123&id=7", tmp_path)
    assert str(caught.value).startswith(f"{server.url(PATH)}?sig=...&id=7: ")


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:port/?sig=SECRET123", "http://[::1/?sig=SECRET123", "gopher://x/?sig=SECRET123", "http://a..b/"]
)
def test_a_redirect_to_no_address(server: Server, tmp_path: Path, location: str) -> None:
    server.answer(PATH, 302, Location=location)
    assert "SECRET" not in refusal(server.url(PATH), tmp_path)


def test_another_part_than_the_one_asked_for(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)
    server.answer(PATH, 206, times=1, **{"Content-Range": "bytes 0-2/3000000"})
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [request.range for request in server.gets(PATH)] == [None, "bytes=1200000-", None]


@pytest.mark.parametrize("password", ["s3/cr3t", "s3?cr3t", "s3#cr3t", "s3 cr3t"])
def test_a_password_that_is_not_quoted(tmp_path: Path, password: str) -> None:
    with pytest.raises(UserError, match="in a password") as caught:
        download(f"https://anna:{password}@127.0.0.1/pets.zip", tmp_path)
    assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize("told", [{}, {"Content-Range": "bytes 5-9/10"}])
def test_a_part_that_nobody_asked_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web, "TRIES", 2)
    server.answer(PATH, 206, **told)
    with pytest.raises(MachineError) as caught:
        download(server.url(PATH), tmp_path)
    assert "gave up after 2 tries (the server sent another part of the file)" in str(caught.value)
    assert "Errno" not in "".join(capfd.readouterr())


def test_what_a_reader_finds_corrupt_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    class Broken:
        @property
        def listing(self) -> Listing:
            raise Corrupt("a", "is corrupt", "b")

        def files(self) -> list[Path]:
            return []

        def read(self) -> Iterator[tuple[str, bytes]]:
            yield "a.png", b"a"
            raise Corrupt("a", "is corrupt", "b")

    server.serve(PATH, ZIP)
    text = server.url(f"{PATH}?sig=S3CR3T")
    for look in (lambda source: source.listing, lambda source: list(source.read())):
        source = web.Downloaded(text, download(text, tmp_path), Broken())
        assert source.files() == []
        with pytest.raises(UserError) as caught:
            look(source)
        assert str(caught.value) == f"{server.url(PATH)}?sig=...: pets.zip is corrupt and was deleted; rerun to download it again"
        assert left(tmp_path) == []
    assert len(server.gets(PATH)) == 2

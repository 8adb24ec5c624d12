"""Archives from the web: cut, resumed, refused, checked. The servers are on the loopback."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from job.config.options import build
from job.config.schema import PrepareConfig
from job.data import manifest
from job.data.sources import open_source, web
from job.errors import Interrupted, MachineError, UserError
from job.prepare import prepare
from job.shutdown import Stop
from job.smoke import draw
from job.storage import local
from tests.preparing import Soon
from tests.servers import Server

DATA = np.random.default_rng(1).bytes(3_000_000)  # more than one chunk
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = np.random.default_rng(2).bytes(2_500_000)
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


def test_range_refused_starts_over(server: Server, tmp_path: Path) -> None:
    server.serve(PATH, DATA)
    server.cut(PATH, 1_200_000)
    server.answer(PATH, 416, times=1)
    assert download(server.url(PATH), tmp_path).read_bytes() == DATA
    assert [(request.range, request.status) for request in server.gets(PATH)] == [(None, 200), ("bytes=1200000-", 416), (None, 200)]


@pytest.mark.parametrize("fragment", ["", f"#sha256={SHA256}"])
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


def test_no_archive_behind_the_address(server: Server, tmp_path: Path) -> None:
    server.serve("/", b"<html>")
    with pytest.raises(UserError, match="neither images nor an archive"):
        open_source(server.url("/"), tmp_path)

"""Kaggle's data sets and competitions, from a stand-in for Kaggle on the loopback, through Kaggle's own package."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from job.config.options import build
from job.config.schema import PrepareConfig
from job.data import manifest
from job.data.sources import kaggle_hub, open_source, web
from job.errors import Interrupted, JobError, MachineError, UserError
from job.prepare import prepare
from job.shutdown import Stop
from tests.preparing import Soon
from tests.servers import FakeKaggle

if importlib.util.find_spec("kaggle") is None:
    pytest.skip("the kaggle package is not installed: pip install 'twofold[kaggle]'", allow_module_level=True)


def download(text: str, scratch: Path) -> Path:
    return kaggle_hub.download(text, scratch, Stop())


DATASET, COMPETITION = "kaggle:salader/dogs-vs-cats", "kaggle:competition/dogs-vs-cats"


def zipped(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def images(names: list[str]) -> dict[str, bytes]:
    """A drawn JPEG for each name, no two alike."""
    drawn = {}
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        cv2.circle(image, (32, 24), 5 + number % 15, (0, 0, 255), -1)
        drawn[name] = cv2.imencode(".jpg", image)[1].tobytes()
    return drawn


TRAIN = images([f"train/{kind}s/{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(20)])
ARCHIVE = zipped({**TRAIN, "notes.bin": np.random.default_rng(1).bytes(3_000_000)})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKaggle]:
    """The stand-in, asked instead of kaggle.com by a user with a home of its own and a good token."""
    for name in [name for name in os.environ if name.startswith("KAGGLE_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "home" / ".kaggle"
    config.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(config))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FakeKaggle() as server:
        from kagglesdk import kaggle_env

        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, server.address)
        from kaggle.api import kaggle_api_extended

        # read when the package is first imported, so perhaps in an earlier test's home
        monkeypatch.setattr(kaggle_api_extended.KaggleApi, "config", str(config / "kaggle.json"))
        monkeypatch.setattr(kaggle_api_extended.KaggleApi, "args", ["--local"])
        monkeypatch.setattr(web, "FIRST_WAIT", 0.01)
        monkeypatch.setenv("KAGGLE_API_TOKEN", server.TOKEN)
        server.dataset("salader", "dogs-vs-cats", ARCHIVE)
        server.requests.clear()
        yield server


BLOB = "/blobs/datasets/salader/dogs-vs-cats/archive.zip"


def fault(text: str, scratch: Path, kind: type[JobError]) -> str:
    """The one line that a download fails with."""
    with pytest.raises(kind) as caught:
        download(text, scratch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_dataset(hub: FakeKaggle, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()  # what the package said when the stand-in was set up
    found = download(DATASET, tmp_path / "scratch")
    assert found.suffix == ".zip"
    assert found.is_relative_to(tmp_path / "scratch")
    assert found.read_bytes() == ARCHIVE
    printed = capfd.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == f"downloading {DATASET}"
    assert hashlib.sha256(ARCHIVE).hexdigest() in lines[1]
    assert len(lines) == 2
    assert printed.err == ""
    assert all("authorization" in request.headers for request in hub.requests if request.method == "POST")


def test_cut_connection_is_resumed(hub: FakeKaggle, tmp_path: Path) -> None:
    hub.cut(BLOB, 1_200_000, times=3)
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE
    # the first is that of Kaggle's own client, which is asked for the address alone
    assert [request.range for request in hub.gets(BLOB)] == [None, None, "bytes=1200000-", "bytes=2400000-"]


def test_killed_run_is_gone_on_with(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(seconds: float) -> None:
        raise KeyboardInterrupt

    hub.cut(BLOB, 1_200_000, times=2)
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", killed)
        with pytest.raises(KeyboardInterrupt):
            download(DATASET, tmp_path)
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE
    assert "bytes=1200000-" in [request.range for request in hub.gets(BLOB)]


def test_a_stop_is_taken_while_nothing_arrives_and_what_came_is_kept(
    hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "LOOK", 0.01)
    hub.cut(BLOB, 0)
    hub.stall(BLOB, 1_200_000)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        kaggle_hub.download(DATASET, tmp_path, Soon(0.5))
    assert time.monotonic() - started < 5
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE
    assert hub.gets(BLOB)[-1].range == "bytes=1200000-"


def test_a_stop_is_taken_before_kaggle_answers(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setattr(web, "LOOK", 0.01)
    out = sys.stdout
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(Interrupted):
            kaggle_hub.download(DATASET, tmp_path, Soon(0.1))
    assert sys.stdout is out


def test_a_redirect_from_https_to_http_is_refused(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_hub, "_ask", lambda *_: ["https://api.kaggle.com/x", hub.url(BLOB)])
    assert "redirects from https to plain http on 127.0.0.1" in fault(DATASET, tmp_path, UserError)
    assert hub.requests == []


def test_finished_download_is_reused(hub: FakeKaggle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = download(DATASET, tmp_path)
    asked = len(hub.requests)
    assert download(DATASET, tmp_path) == first
    assert len(hub.requests) == asked
    assert "is already downloaded" in capsys.readouterr().out


def test_damaged_earlier_download_is_not_reused(hub: FakeKaggle, tmp_path: Path) -> None:
    download(DATASET, tmp_path).write_bytes(ARCHIVE[:-100])
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE


def test_equal_names_of_two_owners(hub: FakeKaggle, tmp_path: Path) -> None:
    other = zipped({"a.txt": b"another"})
    hub.dataset("someone", "dogs-vs-cats", other)
    found = [download(text, tmp_path) for text in (DATASET, "kaggle:someone/dogs-vs-cats")]
    assert [path.read_bytes() for path in found] == [ARCHIVE, other]


def test_a_version(hub: FakeKaggle, tmp_path: Path) -> None:
    old = zipped({"a.txt": b"older"})
    hub.dataset("salader", "dogs-vs-cats/2", old)
    texts = (f"{DATASET}/versions/2", "https://www.kaggle.com/datasets/salader/dogs-vs-cats/versions/2", f"{DATASET}/", DATASET)
    found = [download(text, tmp_path) for text in texts]
    assert [path.read_bytes() for path in found] == [old, old, ARCHIVE, ARCHIVE]
    assert [path.name for path in found] == ["dogs-vs-cats.zip"] * 4
    assert len([request for request in hub.requests if request.path == hub.DATASET]) == 2
    assert "404" in fault(f"{DATASET}/versions/3", tmp_path, UserError)


def test_a_page_of_a_competition(hub: FakeKaggle, tmp_path: Path) -> None:
    hub.competition("dogs-vs-cats", ARCHIVE)
    assert download("https://www.kaggle.com/c/dogs-vs-cats/data", tmp_path).read_bytes() == ARCHIVE


def test_competition_with_a_nested_archive(hub: FakeKaggle, tmp_path: Path) -> None:
    nested = images([f"train/{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(3)])
    hub.competition("dogs-vs-cats", zipped({"train.zip": zipped(nested), "sampleSubmission.csv": b"id,label\n"}))
    source = open_source(COMPETITION, tmp_path)
    assert [entry.name for entry in source.listing.entries] == [f"train.zip/{name}" for name in nested]
    assert dict(source.read()) == {f"train.zip/{name}": data for name, data in nested.items()}


def test_username_and_key(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    config = tmp_path / "home" / ".kaggle" / "kaggle.json"
    config.write_text(f'{{"username": "{hub.USER}", "key": "{hub.KEY}"}}')
    config.chmod(0o644)  # of which the package warns on standard output
    assert download(DATASET, tmp_path / "scratch").read_bytes() == ARCHIVE
    assert hub.requests[0].headers["authorization"].startswith("Basic ")


def test_token_in_a_file(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "home" / ".kaggle" / "access_token").write_text(hub.TOKEN + "\n")
    assert download(DATASET, tmp_path / "scratch").read_bytes() == ARCHIVE


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("program", ["twofold", "kaggle"])
def test_no_credentials(
    hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], half: bool, program: str
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    if half:
        monkeypatch.setenv("KAGGLE_USERNAME", hub.USER)
        monkeypatch.setenv("KAGGLE_KEY", "")
    monkeypatch.setattr(sys, "argv", [program, "datasets", "download"])  # kaggle's own program may go out as nobody
    monkeypatch.setattr(sys, "stdin", io.StringIO("still open"))
    capfd.readouterr()
    line = fault(DATASET, tmp_path / "scratch", UserError)
    assert "no Kaggle credentials" in line
    assert "KAGGLE_API_TOKEN" in line
    assert sys.stdin.read() == "still open"
    assert hub.requests == []
    assert capfd.readouterr() == (f"downloading {DATASET}\n", "")


def test_refused_token(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_revoked")
    line = fault(DATASET, tmp_path, UserError)
    assert "refuses the token" in line
    assert "revoked" not in line
    assert [request.path for request in hub.requests] == [hub.INTROSPECT]


@pytest.mark.parametrize("token", ["KGAT_good\n", "\u2026", 300 * "x", "."])
def test_stray_characters_in_the_token(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    line = fault(DATASET, tmp_path, UserError)
    assert "token" in line
    assert "good" not in line
    assert hub.gets(BLOB) == []


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        (DATASET, 401, "refuses the credentials"),
        (DATASET, 403, "https://www.kaggle.com/datasets/salader/dogs-vs-cats"),
        (DATASET, 404, "https://www.kaggle.com/datasets/salader/dogs-vs-cats"),
        (DATASET, 400, "refuses the request"),
        (COMPETITION, 401, "refuses the credentials"),
        (COMPETITION, 403, "https://www.kaggle.com/competitions/dogs-vs-cats/rules"),
        (COMPETITION, 404, "https://www.kaggle.com/competitions/dogs-vs-cats"),
    ],
)
def test_refused(hub: FakeKaggle, tmp_path: Path, text: str, status: int, words: str) -> None:
    hub.refuse = status
    line = fault(text, tmp_path, UserError)
    assert words in line
    assert str(status) in line


def test_unknown_dataset(hub: FakeKaggle, tmp_path: Path) -> None:
    assert "404" in fault("kaggle:salader/no-such-thing", tmp_path, UserError)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_kaggle_is_down(hub: FakeKaggle, tmp_path: Path, status: int) -> None:
    hub.refuse = status
    assert f"answers {status}" in fault(DATASET, tmp_path, MachineError)


def test_network_stays_away(hub: FakeKaggle, tmp_path: Path) -> None:
    hub.cut(BLOB, 1_200_000, times=2)
    hub.cut(BLOB, 2000, times=5)
    line = fault(DATASET, tmp_path, MachineError)
    assert "check the network" in line
    assert "signature" not in line
    assert len(hub.gets(BLOB)) == 7
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE
    assert "bytes=1210000-" in [request.range for request in hub.gets(BLOB)]


def test_nobody_listens(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, "http://127.0.0.1:1")
    assert "cannot be reached" in fault(DATASET, tmp_path, MachineError)


def test_silent_server(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setattr(kaggle_hub, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "cannot be reached" in fault(DATASET, tmp_path, MachineError)


def test_error_page_in_place_of_the_rest(hub: FakeKaggle, tmp_path: Path) -> None:
    hub.cut(BLOB, 1_200_000, times=2)
    hub.answer(BLOB, 503, times=2)
    assert download(DATASET, tmp_path).read_bytes() == ARCHIVE


@pytest.mark.parametrize("damage", ["flipped", "short", "page"])
def test_damaged_archive(hub: FakeKaggle, tmp_path: Path, damage: str) -> None:
    flipped = bytearray(ARCHIVE)
    flipped[20_000] ^= 1
    hub.dataset("salader", "dogs-vs-cats", dict(flipped=bytes(flipped), short=ARCHIVE[:-2000], page=b"<html>")[damage])
    assert "download it again" in fault(DATASET, tmp_path / "scratch", UserError)
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []
    hub.dataset("salader", "dogs-vs-cats", ARCHIVE)
    assert download(DATASET, tmp_path / "scratch").read_bytes() == ARCHIVE


def test_no_room(hub: FakeKaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "the download would take about" in fault(DATASET, tmp_path, MachineError)


@pytest.mark.parametrize("text", ["kaggle:foo", "kaggle:", "kaggle:a/b/c", "kaggle:../x", "kaggle:a/", "kaggle:https://kaggle.com/a/b"])
def test_malformed(tmp_path: Path, text: str) -> None:
    assert "kaggle:owner/dataset" in fault(text, tmp_path, UserError)


def test_package_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle", None)
    line = fault(DATASET, tmp_path, UserError)
    assert "pip install 'twofold[kaggle]'" in line
    assert UserError.code == 2


def test_prepare_from_kaggle(hub: FakeKaggle, tmp_path: Path) -> None:
    hub.cut(BLOB, 1_200_000)
    out = tmp_path / "set"
    config = build(PrepareConfig, dict(out=str(out), val=0.3, side=32))
    made = prepare([DATASET], config)
    assert made == manifest.read(out)
    assert made.classes == ("cats", "dogs")
    assert sum(split.records for split in made.splits.values()) == len(TRAIN)
    assert np.sum([split.classes for split in made.splits.values()], axis=0).tolist() == [20, 20]
    assert set(made.splits) == {"train", "validation"}
    assert made.settings["sources"] == [DATASET]
    assert not (out / ".work").exists()
    asked = len(hub.requests)
    assert prepare([DATASET], config) == made
    assert len(hub.requests) == asked

"""Sources: folder, zip, tar; what is read, what is ignored, what is refused in one line."""

from __future__ import annotations

import gzip
import io
import os
import re
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data.sources import Entry, archive, names, open_source
from job.errors import MachineError, UserError
from job.storage import local

FILES = {"cats/1.jpg": b"one", "cats/2.PNG": b"two", "dogs/deep/3.webp": b"three" * 100}
IGNORED = ("Thumbs.db", "cats/.DS_Store", "cats/._1.jpg", "__MACOSX/cats/1.jpg", "readme.txt", "notes.md", "labels.csv")


def _zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def _tar_gz(files: dict[str, bytes]) -> bytes:
    return _tar(files, "w:gz")


def _read(path: Path | str, scratch: Path) -> dict[str, bytes]:
    """What a source gives, with the promise that entries() names the same, checked."""
    source = open_source(str(path), scratch)
    entries = [entry.name for entry in source.listing.entries]
    found = list(source.read())
    assert sorted(entries) == sorted(name for name, _ in found)
    assert len(set(entries)) == len(entries)
    return dict(found)


def _refused(path: Path | str, scratch: Path) -> str:
    """The one line that both listing and reading give."""
    lines = set()
    for use in (lambda s: s.listing.entries, lambda s: list(s.read())):
        with pytest.raises(UserError) as caught:
            use(open_source(str(path), scratch))
        assert caught.value.code == 2
        assert "\n" not in str(caught.value)
        lines.add(str(caught.value))
    assert len(lines) == 1
    return lines.pop()


def _put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_folder(tmp_path: Path, scratch: Path) -> None:
    for name, content in [*FILES.items(), *((name, b"x") for name in IGNORED if "MACOSX" not in name), (".git/1.jpg", b"x")]:
        _put(tmp_path / "pets" / name, content)
    assert _read(tmp_path / "pets", scratch) == FILES


def test_links_are_followed_and_a_loop_ends(tmp_path: Path, scratch: Path) -> None:
    _put(tmp_path / "store" / "a.jpg", b"a")
    pets = tmp_path / "pets"
    _put(pets / "cats" / "b.jpg", b"b")
    (pets / "dogs").symlink_to(tmp_path / "store")
    (pets / "cats" / "up").symlink_to(pets)
    (tmp_path / "store" / "self").symlink_to(tmp_path / "store")
    assert _read(pets, scratch) == {"cats/b.jpg": b"b", "dogs/a.jpg": b"a"}


def test_links_to_nothing_have_a_fault_and_pipes_are_skipped(tmp_path: Path, scratch: Path) -> None:
    pets = tmp_path / "pets"
    _put(pets / "a.jpg", b"a")
    (pets / "b.jpg").symlink_to("gone.jpg")
    (pets / "c.jpg").symlink_to("../.git/annex/objects/xx/yy.jpg")
    (pets / "readme").symlink_to("gone")
    os.mkfifo(pets / "d.jpg")
    source = open_source(str(pets), scratch)
    assert source.listing.entries == [
        Entry("a.jpg"),
        Entry("b.jpg", fault="is a broken link to gone.jpg"),
        Entry("c.jpg", fault="its content is not in this clone: run git annex get"),
    ]
    assert source.listing.skipped.lines() == [
        "1 file (a pipe, socket or device), such as d.jpg",
        "1 file (a broken link), such as readme",
    ]
    assert list(source.read()) == [("a.jpg", b"a")]


def test_a_single_image(tmp_path: Path, scratch: Path) -> None:
    assert _read(_put(tmp_path / "a.JPG", b"one"), scratch) == {"a.JPG": b"one"}


@pytest.mark.parametrize(("name", "pack"), [("a.zip", _zip), ("a.ZIP", _zip), ("a.tar", _tar), ("a.tar.gz", _tar_gz), ("a.tgz", _tar_gz)])
def test_archives(name: str, pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path, scratch: Path) -> None:
    path = _put(tmp_path / name, pack({**FILES, **dict.fromkeys(IGNORED, b"x")}))
    assert _read(path, scratch) == FILES
    assert os.listdir(scratch) == []


def test_a_zip_with_backslashes(tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "pets.zip"
    path.write_bytes(_zip({"cats\\1.jpg": b"1"}))
    assert _read(path, scratch) == {"cats/1.jpg": b"1"}


def test_a_stored_zip_and_a_tar_with_dots(tmp_path: Path, scratch: Path) -> None:
    assert _read(_put(tmp_path / "a.zip", _zip(FILES, zipfile.ZIP_STORED)), scratch) == FILES
    assert _read(_put(tmp_path / "a.tar", _tar({f"./{name}": content for name, content in FILES.items()})), scratch) == FILES


@pytest.mark.parametrize(("inner", "pack_inner"), [("train.zip", _zip), ("train.tar", _tar), ("train.tar.gz", _tar_gz)])
@pytest.mark.parametrize(("outer", "pack_outer"), [("all.zip", _zip), ("all.tar", _tar), ("all.tar.gz", _tar_gz)])
def test_archives_inside_archives(
    inner: str,
    pack_inner: Callable[[dict[str, bytes]], bytes],
    outer: str,
    pack_outer: Callable[[dict[str, bytes]], bytes],
    tmp_path: Path,
    scratch: Path,
) -> None:
    content = pack_outer({f"data/{inner}": pack_inner(FILES), "4.jpg": b"four", "__MACOSX/x.zip": b"no zip"})
    found = _read(_put(tmp_path / outer, content), scratch)
    assert found == {**{f"data/{inner}/{name}": data for name, data in FILES.items()}, "4.jpg": b"four"}
    assert os.listdir(scratch) == []


def test_three_archives_deep(tmp_path: Path, scratch: Path) -> None:
    deep = _zip({"a.zip": _zip({"b.tar": _tar({"c.jpg": b"c"})})})
    assert _read(_put(tmp_path / "x.zip", deep), scratch) == {"a.zip/b.tar/c.jpg": b"c"}


@pytest.mark.parametrize("pack", [_zip, _tar, _tar_gz])
@pytest.mark.parametrize("name", ["../out.jpg", "cats/../../out.jpg", "/etc/out.jpg", "C:\\out.jpg", "..\\out.jpg"])
def test_members_that_lead_out_are_refused(pack: Callable[[dict[str, bytes]], bytes], name: str, tmp_path: Path, scratch: Path) -> None:
    ending = {_zip: ".zip", _tar: ".tar", _tar_gz: ".tar.gz"}[pack]
    path = _put(tmp_path / f"a{ending}", pack({"cats/1.jpg": b"one", name: b"evil"}))
    shown = name.replace("\\", "/") if pack is _zip else name
    assert _refused(path, scratch) == f"{path}: the member {shown!r} leads out of the archive; do not use this archive"
    nested = _put(tmp_path / "b.zip", _zip({f"in{ending}": path.read_bytes()}))
    assert "leads out of the archive" in _refused(nested, scratch)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(kind: bytes, tmp_path: Path, scratch: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("cats/1.jpg")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    path = _put(tmp_path / "a.tar", out.getvalue())
    assert _refused(path, scratch) == f"{path}: the member 'cats/1.jpg' is a link or a device; pack the files themselves"


def test_a_link_in_a_zip_is_refused(tmp_path: Path, scratch: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        member = zipfile.ZipInfo("cats/1.jpg")
        member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(member, "/etc/passwd")
    path = _put(tmp_path / "a.zip", out.getvalue())
    assert _refused(path, scratch) == f"{path}: the member 'cats/1.jpg' is a link or a device; pack the files themselves"


def _patched(content: bytes, local: int, central: int, form: str, value: int) -> bytes:
    """A zip with one field of every header changed, by its place in the local and in the central header."""
    changed = bytearray(content)
    for signature, place in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = content.find(signature)
        while at >= 0:
            old = struct.unpack_from(form, content, at + place)[0]
            struct.pack_into(form, changed, at + place, old | value if place in (6, 8) and form == "<H" and value == 1 else value)
            at = content.find(signature, at + 4)
    return bytes(changed)


def test_an_encrypted_zip(tmp_path: Path, scratch: Path) -> None:
    path = _put(tmp_path / "a.zip", _patched(_zip(FILES), 6, 8, "<H", 1))
    assert _refused(path, scratch) == f"{path}: the archive is encrypted; unpack it and give the folder"


def test_a_zip_packed_in_a_way_that_python_does_not_know(tmp_path: Path, scratch: Path) -> None:
    # Windows packs files over 2 GB by Deflate64, method 9
    path = _put(tmp_path / "a.zip", _patched(_zip(FILES), 8, 10, "<H", 9))
    with pytest.raises(UserError) as caught:
        list(open_source(str(path), scratch).read())
    assert str(caught.value).startswith(f"{path}: ")
    assert "compression" in str(caught.value)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
@pytest.mark.parametrize(("name", "pack"), [("a.zip", _zip), ("a.tar.gz", _tar_gz), ("a.tar", _tar)])
def test_an_archive_cut_short(name: str, pack: Callable[[dict[str, bytes]], bytes], keep: float, tmp_path: Path, scratch: Path) -> None:
    content = pack({f"cats/{k}.jpg": os.urandom(4000) for k in range(8)})
    path = _put(tmp_path / name, content[: int(keep * len(content)) if name != "a.tar" else int(keep * 8 * 4608) + 100])
    with pytest.raises(UserError) as caught:
        list(open_source(str(path), scratch).read())
    assert str(caught.value).startswith(f"{path}: the archive is corrupt (")
    assert str(caught.value).endswith("; download it again")


@pytest.mark.parametrize(("name", "pack"), [("a.zip", _zip), ("a.tar.gz", _tar_gz)])
def test_a_flipped_byte_is_damage_or_does_no_harm(
    name: str, pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path, scratch: Path
) -> None:
    files = {"cats/1.jpg": b"one" * 40, "dogs/2.jpg": bytes(range(200))}
    whole = pack(files)
    for at, flip in ((at, 1 << (3 * at) % 8) for at in range(2 * len(whole))):  # two bits of each byte
        at %= len(whole)
        path = _put(tmp_path / name, whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        try:
            found = dict(open_source(str(path), scratch).read())
        except UserError as error:
            line = str(error)
        else:  # names, and in a zip the order of entries, are not covered by a checksum
            line = f"{path}: "
            assert set(found.values()) <= set(files.values()), at
        assert line.startswith(f"{path}: "), at


def test_damage_within_a_nested_archive_names_it(tmp_path: Path, scratch: Path) -> None:
    path = _put(tmp_path / "a.zip", _zip({"train.zip": _zip(FILES)[:60]}))
    line = _refused(path, scratch)
    assert line.startswith(f"{path}: train.zip/ is corrupt (")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("content", [b"", b"<html>sign in</html>"])
def test_what_only_calls_itself_an_archive(name: str, content: bytes, tmp_path: Path, scratch: Path) -> None:
    line = "the file is not an archive, whatever its name says; rename it, or download it again"
    assert _refused(_put(tmp_path / name, content), scratch) == f"{tmp_path}/{name}: {line}"


@pytest.mark.parametrize(("name", "pack"), [("a.zip", _zip), ("a.tar", _tar), ("a.tar.gz", _tar_gz)])
def test_an_image_that_is_too_large(
    name: str, pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _put(tmp_path / name, pack({"cats/1.jpg": os.urandom(5000), "notes.txt": os.urandom(9000)}))
    monkeypatch.setattr(archive, "IMAGE_BYTES", 5000)
    assert list(_read(path, scratch)) == ["cats/1.jpg"]
    monkeypatch.setattr(archive, "IMAGE_BYTES", 4999)
    what = "holds cats/1.jpg of 5.0 kB, larger than any image (5.0 kB)"
    assert _refused(path, scratch) == f"{path}: {what}; do not use this archive, or unpack it and give the folder"


@pytest.mark.parametrize("member", ["cats/1.jpg", "inner.zip"])
@pytest.mark.parametrize(("name", "pack"), [("a.zip", _zip), ("a.tar.gz", _tar_gz)])
def test_a_member_made_to_fill_the_memory_or_the_disk(
    name: str, pack: Callable[[dict[str, bytes]], bytes], member: str, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(1_000_000) if member == "cats/1.jpg" else _zip({"1.jpg": bytes(1_000_000)}, zipfile.ZIP_STORED)
    path = _put(tmp_path / name, pack({member: content}))
    assert len(_read(path, scratch)) == 1  # what is small does no harm
    monkeypatch.setattr(archive, "RATIO_FROM", 900_000)
    assert re.search(rf": holds {member}, which unpacks from [\d.]+ (?:bytes|kB) to 1\.0 MB; do not use", _refused(path, scratch))
    honest = _put(tmp_path / f"b{name[1:]}", pack({"cats/1.jpg": os.urandom(1_000_000)}))
    assert len(_read(honest, scratch)) == 1


def test_a_zip_that_lies_about_a_size_is_not_unpacked_into_memory(tmp_path: Path, scratch: Path) -> None:
    whole = _zip({"cats/1.jpg": bytes(64 << 20)})
    path = _put(tmp_path / "a.zip", _patched(whole, 22, 24, "<L", 1000))  # the unpacked size
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="the archive is corrupt"):
            list(open_source(str(path), scratch).read())
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_tar_with_an_extended_header_made_to_fill_the_memory(tmp_path: Path, scratch: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 3 << 20
    content = header.tobuf() + bytes(header.size) + _tar(FILES)
    path = _put(tmp_path / "a.tar.gz", gzip.compress(content))
    assert _refused(path, scratch).startswith(f"{path}: holds an extended header of 3.1 MB; do not use")


def test_archives_without_end(tmp_path: Path, scratch: Path) -> None:
    deep = _zip({"1.jpg": b"1"})
    for _ in range(archive.DEPTH):
        deep = _zip({"in.zip": deep})
    assert list(_read(_put(tmp_path / "a.zip", deep), scratch).values()) == [b"1"]
    path = _put(tmp_path / "b.zip", _zip({"in.zip": deep}))
    assert _refused(path, scratch).startswith(f"{path}: holds archives inside archives, more than 8 deep; do not use")
    assert os.listdir(scratch) == []


def test_no_room_for_an_archive_inside_an_archive(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _put(tmp_path / "a.zip", _zip({"in.zip": _zip(FILES)}))
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(MachineError, match=r"unpacking in\.zip would take about"):
        _ = open_source(str(path), scratch).listing


KINDS = (
    "give a folder, a zip or tar (gz, xz, bz2), a CSV, gs://... or s3://..., kaggle:owner/dataset, kaggle:competition/NAME or https://..."
)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.doc", b"words", f"is neither images nor an archive of them; {KINDS}"),
        ("a.rar", b"Rar!\x1a\x07\x01\0", "is a rar archive, which cannot be read; unpack it and give the folder"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c", "is a 7z archive, which cannot be read; unpack it and give the folder"),
        ("a.zip.001", b"PK\x03\x04", "is one part of an archive that was cut; join the parts or unpack them, and give the result"),
        ("a.zip", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the file; run git lfs pull"),
        ("a.xlsx", b"PK\x03\x04", "is a table of a kind that is not read; save it as CSV"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(name: str, content: bytes, what: str, tmp_path: Path, scratch: Path) -> None:
    path = _put(tmp_path / name, content)
    assert _refused(path, scratch) == f"{path}: {what}"


def test_what_is_not_there_is_refused(tmp_path: Path, scratch: Path) -> None:
    assert _refused(tmp_path / "no-such", scratch) == f"{tmp_path}/no-such: no such file or folder; {KINDS}"
    os.mkfifo(tmp_path / "pipe.zip")
    assert _refused(tmp_path / "pipe.zip", scratch) == f"{tmp_path}/pipe.zip: is neither a file nor a folder; {KINDS}"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.JPG", True),
        ("x/a.jpeg", True),
        ("a.heic", True),
        ("._a.jpg", False),
        ("a.txt", False),
        ("__MACOSX/a.jpg", False),
        ("jpg", False),
        ("x/._a.png", False),
        ("a.jpg/readme", False),
    ],
)
def test_is_image(name: str, wanted: bool) -> None:
    assert (names.what(name, bytes) == names.IMAGE) is wanted
    assert not names.is_archive(name)


PARTS = st.text("abcXYZ é_-()0.", min_size=1, max_size=8).filter(lambda n: n.strip(". ") and not n.startswith("."))
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/".join(parts) + ".jpg")


def test_zip_tar_and_folder_agree(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("agree")

    @settings(deadline=None, max_examples=25)
    @given(st.dictionaries(NAMES, st.binary(max_size=30), min_size=1, max_size=5))
    def check(files: dict[str, bytes]) -> None:
        folder = tmp_path_factory.mktemp("folder")
        for name, content in files.items():
            _put(folder / name, content)
        found = [_read(_put(root / name, pack(files)), root) for name, pack in (("a.zip", _zip), ("a.tar", _tar), ("a.tgz", _tar_gz))]
        assert found[0] == found[1] == found[2] == _read(folder, root) == files

    check()


JUNK = (
    "Thumbs.db", "cats/.DS_Store", "cats/._1.jpg", "__MACOSX/cats/1.jpg", "cats/.ipynb_checkpoints/1-checkpoint.jpg",
    ".thumbnails/1.jpg", "dogs/@eaDir/3.jpg/SYNOPHOTO_THUMB_M.jpg", ".git/1.jpg", "desktop.ini", "cats/.notes",
)  # fmt: skip
JPEG = b"\xff\xd8\xff\xe0"
ODD = {
    "cats/0000001a": JPEG + b"1", "cats/1.jpg_large": JPEG + b"2", "cats/1.jpg?size=big": JPEG + b"3", "cats/1.jpg.1": JPEG + b"4",
    "cats/2.": JPEG + b"5", "cats/notes.txt": JPEG + b"6",
}  # fmt: skip
PASSED = {"cats/.hidden.jpg": JPEG, "cats/thumbs/1.jpg": JPEG, "raw/1.dng": b"II*\0", "list.csv": b"path,label", "readme": b"hello"}


def _folder(files: dict[str, bytes], at: Path) -> Path:
    for name, content in files.items():
        _put(at / name, content)
    return at


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar.gz"])
def test_one_rule_for_folders_and_archives(kind: str, tmp_path: Path, scratch: Path) -> None:
    files = {**FILES, **dict.fromkeys(JUNK, JPEG), **ODD, **PASSED}
    path = _folder(files, tmp_path / kind) if kind == "folder" else _put(tmp_path / kind, (_zip if kind == "a.zip" else _tar_gz)(files))
    assert _read(path, scratch) == FILES | ODD
    listing = open_source(str(path), scratch).listing
    assert sorted(listing.skipped.lines()) == [
        "1 file (hidden), such as cats/.hidden.jpg",
        "1 file (in a folder of thumbnails), such as cats/thumbs/1.jpg",
        "1 file (of a kind that is not read: convert it to JPEG or PNG), such as raw/1.dng",
        "2 files (not an image), such as list.csv",
    ]
    assert listing.tables == ("list.csv",)


@pytest.mark.parametrize("kind", ["folder", "a.zip", "a.tar.gz"])
def test_runs_sweeps_and_data_sets_of_ours_are_passed_over(kind: str, tmp_path: Path, scratch: Path) -> None:
    run = dict.fromkeys(("config.toml", "environment.json", "log.txt", "curves.png", "report/mistakes-test.png"), JPEG)
    sweep = dict.fromkeys(("sweep.json", "trials.csv", "sweep.png", "trials/0001/curves.png"), JPEG)
    data = dict.fromkeys(("manifest.json", "train-00000-of-00001.tfrecord", "x.png"), JPEG)
    files = {
        **FILES,
        **{f"cats/{name}/{file}": content for name, of in (("run", run), ("s", sweep), ("d", data)) for file, content in of.items()},
    }
    files |= {"dogs/config.toml": b"", "dogs/log.txt": b""}  # of the user's own
    path = _folder(files, tmp_path / kind) if kind == "folder" else _put(tmp_path / kind, (_zip if kind == "a.zip" else _tar_gz)(files))
    assert _read(path, scratch) == FILES
    lines = open_source(str(path), scratch).listing.skipped.lines()
    assert "3 folders (a run or data set of twofold), such as cats/d/" in lines
    assert len(lines) == 2


def test_archives_in_a_folder_are_opened(tmp_path: Path, scratch: Path) -> None:
    folder = tmp_path / "parts"
    _put(folder / "train.zip", _zip({"cats/1.jpg": b"1"}))
    _put(folder / "more" / "test.tar.xz", _tar({"dogs/2.jpg": b"2"}, "w:xz"))
    assert _read(folder, scratch) == {"train.zip/cats/1.jpg": b"1", "more/test.tar.xz/dogs/2.jpg": b"2"}
    assert sorted(path.name for path in open_source(str(folder), scratch).files()) == ["test.tar.xz", "train.zip"]
    _put(folder / "dogs.7z", b"7z\xbc\xaf\x27\x1c")
    assert "holds dogs.7z, an archive that cannot be read; unpack it and give the folder" in _refused(folder, scratch)


@pytest.mark.parametrize("mode", ["w:xz", "w:bz2", "w:gz", "w"])
def test_an_archive_is_known_by_its_content(mode: str, tmp_path: Path, scratch: Path) -> None:
    for name in ("a.zip", "a.tar.gz", "a.gz", "a"):
        assert _read(_put(tmp_path / name, _tar(FILES, mode)), scratch) == FILES
    assert _read(_put(tmp_path / "b.tar.gz", _zip(FILES)), scratch) == FILES


def test_a_member_that_stands_twice(tmp_path: Path, scratch: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in (("a.jpg", b"old"), ("b.jpg", b"same"), ("x.jpg", b"new"), ("y.jpg", b"same")):
            archive.writestr(name, data)
    path = _put(tmp_path / "a.zip", content.getvalue().replace(b"x.jpg", b"a.jpg").replace(b"y.jpg", b"b.jpg"))
    assert _read(path, scratch) == {"a.jpg": b"new", "b.jpg": b"same"}
    assert open_source(str(path), scratch).listing.skipped.lines() == [
        "1 file (stands twice in its archive; the last is used), such as a.jpg"
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for data in (b"old", b"new"):
            member = tarfile.TarInfo("a.jpg")
            member.size = 3
            tar.addfile(member, io.BytesIO(data))
    assert _read(_put(tmp_path / "a.tar", packed.getvalue()), scratch) == {"a.jpg": b"new"}


@pytest.mark.parametrize("pack", [_zip, _tar, _tar_gz])
def test_archives_one_after_another_are_refused(pack: Callable[[dict[str, bytes]], bytes], tmp_path: Path, scratch: Path) -> None:
    path = _put(tmp_path / "a.zip", pack(FILES) + pack({"cats/9.jpg": b"nine"}))
    line = _refused(path, scratch)
    assert line.startswith(f"{path}: holds ")
    assert "one after another" in line


def test_links_that_lead_nowhere_or_to_a_pipe_are_never_opened(tmp_path: Path, scratch: Path) -> None:
    pets = tmp_path / "pets"
    _put(pets / "a.jpg", b"a")
    os.mkfifo(tmp_path / "pipe")
    for name, target in (("x", "../pipe"), ("x.csv", "../pipe"), ("self.jpg", "self.jpg"), ("loop", "loop"), ("gone.zip", "no.zip")):
        (pets / name).symlink_to(target)
    source = open_source(str(pets), scratch)
    listing = source.listing
    assert list(source.read()) == [("a.jpg", b"a")]
    assert [(entry.name, entry.fault) for entry in listing.entries if entry.fault] == [("self.jpg", "is a broken link to self.jpg")]
    assert listing.skipped.lines() == [
        "2 files (a broken link), such as gone.zip",
        "2 files (a pipe, socket or device), such as x",
    ]


def test_parts_of_an_archive_in_a_folder_are_refused(tmp_path: Path, scratch: Path) -> None:
    _put(tmp_path / "pets" / "cats" / "1.jpg", b"1")
    _put(tmp_path / "pets" / "dogs.zip.001", b"PK\x03\x04")
    assert "holds dogs.zip.001, an archive that cannot be read" in _refused(tmp_path / "pets", scratch)


def test_masks_beside_their_images_and_placeholders_are_counted(tmp_path: Path, scratch: Path) -> None:
    names = ("benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "other_mask.png")
    folder = _folder({**dict.fromkeys((f"benign/{name}" for name in names), JPEG), "benign/.2.HEIC.icloud": b"bplist"}, tmp_path / "set")
    assert sorted(_read(folder, scratch)) == ["benign/benign (1).png", "benign/other_mask.png"]
    assert open_source(str(folder), scratch).listing.skipped.lines() == [
        "1 file (not downloaded from iCloud), such as benign/.2.HEIC.icloud",
        "2 files (the mask of another image), such as benign/benign (1)_mask.png",
    ]

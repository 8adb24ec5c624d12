"""Names in archives: UTF-8 where they say so or are so, by the extra field, by `--zip-encoding`, and never letters nobody wrote."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from job.config.schema import Reading
from job.data.sources import open_source
from job.errors import UserError


class _Raw(zipfile.ZipInfo):
    """A member whose name stands in the archive as these bytes, without the flag that says UTF-8."""

    raw: bytes

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.raw, self.flag_bits & ~0x800


def _zip(path: Path, *names: bytes, extra: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            member = _Raw(f"{number}.jpg")
            member.raw, member.extra = name, extra
            archive.writestr(member, b"%d" % number)
    return path


def _names(path: Path, encoding: str = "") -> list[str]:
    source = open_source(str(path), path.parent, reading=Reading(zip_encoding=encoding))
    listed = [entry.name for entry in source.listing.entries]
    assert [name for name, _ in source.read()] == listed
    return listed


def _refused(path: Path, encoding: str = "") -> str:
    with pytest.raises(UserError) as caught:
        _names(path, encoding)
    assert caught.value.code == 2
    return str(caught.value)


def _unicode_path(raw: bytes, name: str, version: int = 1) -> bytes:
    field = struct.pack("<BI", version, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


def test_utf_8_with_and_without_its_flag(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "flag.zip", "w") as archive:
        archive.writestr("狗/0.jpg", b"0")
    assert _names(tmp_path / "flag.zip") == ["狗/0.jpg"]
    assert _names(_zip(tmp_path / "mac.zip", "狗/0.jpg".encode(), b"ascii/1.jpg")) == ["狗/0.jpg", "ascii/1.jpg"]


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gbk", "狗/0.jpg"), ("shift_jis", "犬/写真.jpg"), ("cp850", "Rüde/0.jpg"), ("cp866", "кошки/1.jpg"), ("euc_kr", "강아지/1.jpg")],
)
def test_another_code_page_is_refused_until_it_is_named(encoding: str, name: str, tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", b"plain/0.jpg", name.encode(encoding))
    line = _refused(path)
    assert line.startswith(f"{path}: the names in it are in a code page that it does not tell; give the one that reads right with")
    assert f"{encoding} ({name})" in line
    assert _names(path, encoding) == ["plain/0.jpg", name]


def test_an_encoding_that_does_not_fit_or_is_none(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", "狗/0.jpg".encode("gbk"))
    assert _refused(path, "ascii").startswith(f"--zip-encoding: ascii does not fit the names in {path}; give the one that reads right")
    assert _refused(path, "idna") == "--zip-encoding: 'idna' is not an encoding; give one such as gbk, shift_jis or cp850"
    assert _refused(path, "gkb") == "--zip-encoding: 'gkb' is not an encoding; give one such as gbk, shift_jis or cp850"


def test_the_extra_field_counts_where_it_is_of_this_very_name(tmp_path: Path) -> None:
    raw = "狗/0.jpg".encode("gbk")
    assert _names(_zip(tmp_path / "a.zip", raw, extra=_unicode_path(raw, "狗/0.jpg"))) == ["狗/0.jpg"]
    plain = b"#U72d7/0.jpg"  # as programs write what their code page lacks
    assert _names(_zip(tmp_path / "c.zip", plain, extra=_unicode_path(plain, "狗/0.jpg"))) == ["狗/0.jpg"]
    for stale in (_unicode_path(b"other", "猫/0.jpg"), _unicode_path(raw, "狗/0.jpg", version=2), b"\x75\x70\x02\x00ab", b"\x75"):
        assert "--zip-encoding" in _refused(_zip(tmp_path / "b.zip", raw, extra=stale))


def test_a_name_of_no_image_needs_no_encoding(tmp_path: Path) -> None:
    assert _names(_zip(tmp_path / "a.zip", b"cats/0.jpg", "lies mich, Rüde.txt".encode("cp850"))) == ["cats/0.jpg"]


def test_a_tar_in_a_code_page(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.GNU_FORMAT, encoding="gbk") as tar:
        member = tarfile.TarInfo("狗/0.jpg")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"0"))
    path = tmp_path / "a.tar"
    path.write_bytes(content.getvalue())
    assert _names(path, "gbk") == ["狗/0.jpg"]
    assert "--zip-encoding" in _refused(path)

"""Shards: TFRecord files of JPEG records, each with an index for direct access. No TensorFlow.

A record is a `tf.train.Example` with `image` (JPEG bytes), `label` (int64, 1 is positive), `key` (source path) and
`sha256` (of the source file). TFRecord frames it as length (uint64), masked CRC-32C of the length, data, masked
CRC-32C of the data. The index is a NumPy array, int64 [records, 2]: offset and length of each record's data.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self, cast

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from job.data.manifest import Shard
from job.errors import UserError
from job.storage import local

_HEADER = 12  # bytes before a record's data
FOOTER = 4  # and after them
OPEN = 64  # files held open at once: a process may have 256, or 1,024
_HEX = re.compile(rb"[0-9a-f]{64}")


@dataclass(frozen=True)
class Record:
    """One image of a shard."""

    image: bytes
    label: int
    key: str
    sha256: str


def _example_class() -> Any:
    """`tf.train.Example`, declared here in a pool of its own so that TensorFlow need not be there."""
    F = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="twofold_example.proto", package="twofold", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, Any, bool, str]) -> Any:
        added = file.message_type.add(name=name)
        for label, number, kind, repeated, type_name in fields:
            added.field.add(
                name=label, number=number, type=kind, type_name=type_name or None,
                label=F.LABEL_REPEATED if repeated else F.LABEL_OPTIONAL,
            )  # fmt: skip
        return added

    message("BytesList", ("value", 1, F.TYPE_BYTES, True, ""))
    message("FloatList", ("value", 1, F.TYPE_FLOAT, True, ""))
    message("Int64List", ("value", 1, F.TYPE_INT64, True, ""))
    feature = message(
        "Feature",
        ("bytes_list", 1, F.TYPE_MESSAGE, False, ".twofold.BytesList"),
        ("float_list", 2, F.TYPE_MESSAGE, False, ".twofold.FloatList"),
        ("int64_list", 3, F.TYPE_MESSAGE, False, ".twofold.Int64List"),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, F.TYPE_MESSAGE, True, ".twofold.Features.FeatureEntry"))
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=F.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=F.TYPE_MESSAGE, type_name=".twofold.Feature", label=F.LABEL_OPTIONAL)
    message("Example", ("features", 1, F.TYPE_MESSAGE, False, ".twofold.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("twofold.Example"))


_Example = _example_class()


def serialize(record: Record) -> bytes:
    """A record as the bytes of its `tf.train.Example`, the same on every machine."""
    example = _Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record.image)
    feature["label"].int64_list.value.append(record.label)
    feature["key"].bytes_list.value.append(record.key.encode("utf-8", "surrogateescape"))
    feature["sha256"].bytes_list.value.append(record.sha256.encode())
    return bytes(example.SerializeToString(deterministic=True))


_LAST = serialize(Record(b"", 0, "", 64 * "0"))[-64 - 16 : -64]  # what stands before the hash, which the keys' order puts last


def parse(data: bytes) -> Record:
    """The record in the bytes of a `tf.train.Example`."""
    feature = _Example.FromString(data).features.feature
    key = feature["key"].bytes_list.value[0].decode("utf-8", "surrogateescape")
    sha256 = feature["sha256"].bytes_list.value[0].decode()
    return Record(feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0], key, sha256)


def _masked_crc(data: bytes) -> int:
    crc = int(google_crc32c.value(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed_size(data_size: int) -> int:
    """Bytes that a record of so many bytes takes in a shard."""
    return _HEADER + data_size + FOOTER


def write(folder: Path, name: str, records: Iterable[Record]) -> Shard:
    """Write one shard and its index; the manifest, which comes last, commits them.

    Args:
        folder: the data set's folder.
        name: file name without its ending.
    """
    path, index_path = folder / f"{name}.tfrecord", folder / f"{name}.index.npy"
    written, index_written = (part.with_name(f".{part.name}.tmp") for part in (path, index_path))  # a mirror sends what has its name
    places, at = [], 0
    with written.open("wb") as file:
        for record in records:
            data = serialize(record)
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", _masked_crc(length)) + data + struct.pack("<I", _masked_crc(data)))
            places.append((at + _HEADER, len(data)))
            at += framed_size(len(data))
        file.flush()
        local.sync(file.fileno())
    with index_written.open("wb") as index:
        np.save(index, np.array(places, np.int64).reshape(-1, 2))
        index.flush()
        local.sync(index.fileno())
    local.rename(index_written, index_path)
    local.rename(written, path)
    return Shard(path.name, len(places), at, local.sha256_of(path), index_path.name)


def read_index(content: bytes, shard: Shard, where: str) -> Any:
    """The places of a shard's records, as its index has them.

    Raises:
        UserError: it is corrupt, or another shard's.
    """
    try:
        head = _index_head(shard.records)
        if not content.startswith(head) or len(content) != len(head) + 16 * shard.records:
            raise ValueError(f"it is not the index of {shard.records} records")
        places = np.frombuffer(content, np.int64, offset=len(head)).reshape(-1, 2)
        require_fit(places, shard)
    except ValueError as error:
        raise UserError(where, f"is corrupt ({error})", "delete that file and rerun its twofold prepare") from None
    return places


def _index_head(records: int) -> bytes:
    """How `np.save` begins an index. NumPy's own reader parses it as Python, which fails now and then in several threads at once."""
    made = io.BytesIO()
    np.lib.format.write_array_header_1_0(made, dict(descr="<i8", fortran_order=False, shape=(records, 2)))
    return made.getvalue()


def require_fit(places: Any, shard: Shard) -> None:
    """Raise ValueError where these are not the places of a shard's records."""
    if places.shape != (shard.records, 2) or places.dtype != np.int64:
        raise ValueError(f"{len(places)} records instead of {shard.records}")
    ends = np.cumsum(places[:, 1] + (_HEADER + FOOTER))
    if len(places) and (places[:, 1].min() < 0 or ends[-1] != shard.bytes or (places.sum(axis=1) + FOOTER != ends).any()):
        raise ValueError("its places do not fit the shard")


def intact(framed: bytes, length: int) -> bytes | None:
    """A record's data, read with the checksum behind it; None where that does not match."""
    data = framed[:length]
    if len(framed) == length + FOOTER and struct.pack("<I", _masked_crc(data)) == framed[length:]:
        return data
    return None


class Records:
    """Direct access to the records of some shards, numbered through. Safe to use from several threads.

    What is held for it is given back by `close`, or at the end of its `with`; no thread may read meanwhile.
    """

    def __init__(self, names: Sequence[str], places: Sequence[Any]) -> None:
        """`names` are those of the shards, for messages; `places` is the index of each."""
        self._names, self._places = names, places
        self._starts = np.cumsum([0] + [len(index) for index in places])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Record:
        """Read one record, its CRC checked.

        Raises:
            UserError: the record is corrupt.
        """
        raise NotImplementedError

    def begin(self, numbers: Iterable[int]) -> Mapping[int, Record]:
        """Begin to read these records where that takes long; each is had, once, from what is returned."""
        return cast(Mapping[int, Record], self)

    def need(self, window: int, shards_of: Callable[[int], Sequence[int]], others: Sequence[Shard] = ()) -> None:
        """Say that a window of shards is in use now, and that other shards and the next window are needed after it."""

    def stream(self) -> Iterator[Record]:
        """All records in their order."""
        return (self[number] for number in range(len(self)))

    def hashes(self) -> Iterator[str]:
        """The `sha256` of each record."""
        return (record.sha256 for record in self.stream())

    def close(self) -> None:
        """Give back what is held; a second call does nothing."""

    def _place(self, number: int) -> tuple[int, int, int]:
        """A record's shard, and the offset and length of its data in there."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        offset, length = (int(v) for v in self._places[shard][number - self._starts[shard]])
        return shard, offset, length

    def _corrupt(self, number: int) -> UserError:
        shard = self._place(number)[0]
        what = f"record {number - int(self._starts[shard])} fails its checksum"
        return UserError(self._names[shard], what, "delete that file and rerun its twofold prepare, or copy it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Opened:
    """A file, closed when nobody holds it any more: who reads from it does, and the cache of those that are kept open."""

    def __init__(self, path: str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Reader(Records):
    """The records of shards in a local folder. It holds `OPEN` of them open at most: a data set may have thousands."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        names = [str(folder / shard.file) for shard in shards]
        super().__init__(names, [self._read_index(folder / shard.index, shard) for shard in shards])
        self._opened = lru_cache(maxsize=OPEN)(_Opened)

    @staticmethod
    def _read_index(path: Path, shard: Shard) -> Any:
        try:
            return read_index(path.read_bytes(), shard, str(path))
        except OSError as error:
            raise UserError(str(path), f"is corrupt ({error})", "delete that file and rerun its twofold prepare") from None

    def __getitem__(self, number: int) -> Record:
        shard, offset, length = self._place(number)
        data = intact(self._read(shard, number, length + FOOTER, offset), length)
        if data is None:
            raise self._corrupt(number)
        return parse(data)

    def _read(self, shard: int, number: int, length: int, offset: int) -> bytes:
        """Bytes of a shard, of the record of that number.

        Raises:
            UserError: the shard is gone.
        """
        try:
            held = self._opened(self._names[shard])  # held until this has read, whoever else opens files meanwhile
            return os.pread(held.descriptor, length, offset)
        except FileNotFoundError:
            what = f"is gone, record {number - int(self._starts[shard])} cannot be read"
            raise UserError(self._names[shard], what, "rerun its twofold prepare, or copy it again") from None
        except OSError as error:
            error.filename = error.filename or self._names[shard]  # a read does not say where
            raise

    def hashes(self) -> Iterator[str]:
        """The `sha256` of each record, without its image: it stands last in a record that `serialize` made."""
        for number in range(len(self)):
            shard, offset, length = self._place(number)
            tail = self._read(shard, number, len(_LAST) + 64, max(0, offset + length - len(_LAST) - 64))
            digest = tail[len(_LAST) :]
            yield digest.decode() if tail.startswith(_LAST) and _HEX.fullmatch(digest) else self[number].sha256

    def close(self) -> None:
        self._opened.cache_clear()

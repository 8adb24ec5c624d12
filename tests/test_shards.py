"""Shards: what is written is read back, by us and by plain TensorFlow; damage is caught."""

from __future__ import annotations

import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.data import manifest
from job.data.shards import Reader, Record, framed_size, parse, serialize, write
from job.errors import UserError

# paths as they come from a file system: any text, and bytes that are no UTF-8
KEYS = st.text(max_size=30) | st.binary(max_size=10).map(lambda b: b.decode("utf-8", "surrogateescape"))
RECORDS = st.builds(Record, st.binary(max_size=200), st.integers(0, 1), KEYS, st.text("0123456789abcdef", max_size=64))


def _record(k: int) -> Record:
    return Record(bytes([k]) * (50 + k), k % 2, f"cats/{k}.jpg", f"{k:064x}")


@settings(deadline=None, max_examples=100)
@given(RECORDS)
def test_serialize_and_parse(record: Record) -> None:
    data = serialize(record)
    assert parse(data) == record
    assert serialize(record) == data


def test_reader_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shards")

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.lists(RECORDS, min_size=1, max_size=5), min_size=1, max_size=4))
    def check(parts: list[list[Record]]) -> None:
        made = [write(folder, f"train-{k:05d}-of-{len(parts):05d}", part) for k, part in enumerate(parts)]
        assert [shard.records for shard in made] == [len(part) for part in parts]
        for shard, part in zip(made, parts, strict=True):
            assert (folder / shard.file).stat().st_size == shard.bytes == sum(framed_size(len(serialize(r))) for r in part)
        manifest.verify(folder, tuple(made))
        reader = Reader(folder, made)
        wanted = [record for part in parts for record in part]
        assert len(reader) == len(wanted)
        assert [reader[k] for k in range(len(reader))] == wanted
        assert [reader[k] for k in reversed(range(len(reader)))] == wanted[::-1]
        reader.close()

    check()


def test_plain_tensorflow_reads_the_same(tmp_path: Path) -> None:
    import tensorflow as tf

    records = [_record(k) for k in range(7)]
    shard = write(tmp_path, "train-00000-of-00001", records)
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "key": tf.io.FixedLenFeature([], tf.string),
        "sha256": tf.io.FixedLenFeature([], tf.string),
    }
    found = []
    for raw in tf.data.TFRecordDataset(str(tmp_path / shard.file)):
        row = {name: value.numpy() for name, value in tf.io.parse_single_example(raw, features).items()}
        found.append(Record(row["image"], int(row["label"]), row["key"].decode(), row["sha256"].decode()))
    assert found == records
    example = tf.train.Example.FromString(serialize(records[1]))
    assert set(example.features.feature) == {"image", "label", "key", "sha256"}


def test_a_flipped_byte_anywhere_in_a_record_is_caught(tmp_path: Path) -> None:
    shard = write(tmp_path, "train-00000-of-00001", [_record(k) for k in range(3)])
    path = tmp_path / shard.file
    whole = path.read_bytes()
    sizes = [framed_size(len(serialize(_record(k)))) for k in range(3)]
    for at in range(sizes[0] + 12, sizes[0] + sizes[1]):  # the second record's data and its checksum
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        reader = Reader(tmp_path, [shard])
        assert reader[0] == _record(0)
        assert reader[2] == _record(2)
        with pytest.raises(UserError) as caught:
            reader[1]
        assert str(caught.value) == f"{path}: record 1 fails its checksum; delete that file and rerun its twofold prepare, or copy it again"
        assert caught.value.code == 2
        reader.close()


def test_the_record_named_is_counted_within_its_shard(tmp_path: Path) -> None:
    made = [write(tmp_path, f"train-{k:05d}-of-00002", [_record(3 * k + j) for j in range(3)]) for k in range(2)]
    path = tmp_path / made[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    reader = Reader(tmp_path, made)
    with pytest.raises(UserError, match=r"train-00001-of-00002\.tfrecord: record 2 fails its checksum"):
        reader[5]
    reader.close()


def test_a_shard_cut_short_after_the_start(tmp_path: Path) -> None:
    shard = write(tmp_path, "train-00000-of-00001", [_record(k) for k in range(2)])
    reader = Reader(tmp_path, [shard])
    with (tmp_path / shard.file).open("r+b") as file:
        file.truncate(shard.bytes - 20)
    assert reader[0] == _record(0)
    with pytest.raises(UserError, match="record 1 fails its checksum"):
        reader[1]
    reader.close()


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_any_damage_to_an_index_is_caught(tmp_path: Path) -> None:
    shard = write(tmp_path, "train-00000-of-00001", [_record(k) for k in range(3)])
    path = tmp_path / shard.index
    whole = path.read_bytes()
    for at in range(len(whole)):
        for flip in (0x01, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
            try:
                reader = Reader(tmp_path, [shard])
            except UserError as error:
                line = str(error)
            else:
                line = ""
                assert [reader[k] for k in range(3)] == [_record(k) for k in range(3)], f"byte {at} of the index"
                reader.close()
            assert not line or (
                line.startswith(f"{path}: is corrupt (") and line.endswith("; delete that file and rerun its twofold prepare")
            )


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04"])
def test_an_index_that_is_none(tmp_path: Path, content: bytes) -> None:
    shard = write(tmp_path, "train-00000-of-00001", [_record(0)])
    (tmp_path / shard.index).write_bytes(content)
    with pytest.raises(UserError, match="is corrupt"):
        Reader(tmp_path, [shard])


def test_a_reader_holds_few_files_open_and_gives_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("job.data.shards.OPEN", 3)
    made = [write(tmp_path, f"train-{k:05d}-of-00020", [_record(2 * k), _record(2 * k + 1)]) for k in range(20)]
    before, most = len(os.listdir("/proc/self/fd")), 0
    with Reader(tmp_path, made) as reader:
        assert [record.key for record in reader.stream()] == [_record(k).key for k in range(40)]
        assert len(os.listdir("/proc/self/fd")) == before + 3

        def read(seed: int) -> None:
            nonlocal most
            for number in np.random.default_rng(seed).permutation(40):
                assert reader[int(number)] == _record(int(number))
                most = max(most, len(os.listdir("/proc/self/fd")) - before)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(8)))
        assert most <= 3 + 4 + 4, "those kept, and those in use; the listings hold one each"
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_vanishes_is_named_with_the_record(tmp_path: Path) -> None:
    made = [write(tmp_path, f"train-{k:05d}-of-00002", [_record(2 * k), _record(2 * k + 1)]) for k in range(2)]
    with Reader(tmp_path, made) as reader:
        (tmp_path / made[1].file).unlink()
        assert reader[1] == _record(1)
        with pytest.raises(UserError) as caught:
            reader[3]
    line = f"{tmp_path / made[1].file}: is gone, record 1 cannot be read; rerun its twofold prepare, or copy it again"
    assert str(caught.value) == line


def test_an_index_of_another_shard(tmp_path: Path) -> None:
    one = write(tmp_path, "train-00000-of-00002", [_record(0), _record(1)])
    other = write(tmp_path, "train-00001-of-00002", [_record(2)])
    with pytest.raises(UserError, match=r"train-00001-of-00002\.index\.npy: is corrupt \(it is not the index of 2 records\)"):
        Reader(tmp_path, [dataclasses.replace(one, index=other.index)])

"""Cores and memory by the control group, of version 2 and version 1, on groups that are pretended."""

from __future__ import annotations

from pathlib import Path

import pytest

from job.machine import cgroup, devices

NO_LIMIT = 9223372036854771712  # what version 1 says where there is none


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "cgroup"
    root.mkdir()
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "OWN", tmp_path / "own")
    return root


def _group(folder: Path, own: str, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    cgroup.OWN.write_text(own)


def test_no_group_limits_nothing(pretend: Path) -> None:
    assert (cgroup.cores(), cgroup.free_memory()) == (None, None)
    cgroup.OWN.write_text("0::/\n")
    assert (cgroup.cores(), cgroup.free_memory()) == (None, None)


def test_version_2_in_a_container(pretend: Path) -> None:
    stat = "anon 1\ninactive_file 500"
    _group(pretend, "0::/\n", cpu__max="150000 100000", memory__max=4000, memory__current=3000, memory__stat=stat)
    assert (cgroup.cores(), cgroup.free_memory()) == (1.5, 1500)


def test_version_2_without_limits(pretend: Path) -> None:
    _group(pretend, "0::/\n", cpu__max="max 100000", memory__max="max", memory__current=3000)
    assert (cgroup.cores(), cgroup.free_memory()) == (None, None)


def test_the_tightest_of_the_groups_above_counts(pretend: Path) -> None:
    own = "0::/pod/job\n"
    _group(pretend / "pod", own, cpu__max="200000 100000", memory__max=1000, memory__current=900)
    _group(pretend / "pod" / "job", own, cpu__max="400000 100000", memory__max=5000, memory__current=900)
    assert (cgroup.cores(), cgroup.free_memory()) == (2.0, 100)


def test_version_1_beside_an_empty_version_2(pretend: Path) -> None:
    own = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/\n"  # the host's path, which a container does not see
    _group(pretend / "cpu", own, cpu__cfs_quota_us=50000, cpu__cfs_period_us=100000)
    _group(pretend / "memory", own, memory__limit_in_bytes=3000, memory__usage_in_bytes=2000, memory__stat="inactive_file 250\ntotal_rss 1")
    assert (cgroup.cores(), cgroup.free_memory()) == (0.5, 1250)


def test_version_1_without_limits(pretend: Path) -> None:
    own = "4:memory:/\n3:cpu:/\n0::/\n"
    _group(pretend / "cpu", own, cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    _group(pretend / "memory", own, memory__limit_in_bytes=NO_LIMIT, memory__usage_in_bytes=2000)
    assert (cgroup.cores(), cgroup.free_memory()) == (None, None)


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1), ("800000000", None), ("max", None)])
def test_the_job_uses_what_the_group_allows(pretend: Path, quota: str, cores: int | None) -> None:
    everything = devices.cores()
    _group(pretend, "0::/\n", cpu__max=f"{quota} 100000", memory__max=12345, memory__current=45)
    assert devices.cores() == (everything if cores is None else cores)
    assert devices.free_memory() == 12300

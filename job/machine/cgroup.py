"""What the control group of this process allows: cores and memory. Version 2 and version 1, Linux alone.

A group's limits hold for those below it, so the tightest on the way up to the root counts. Inside a container the
paths of /proc/self/cgroup may be the host's: where such a path is not there, the mount's own root is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60  # version 1 writes a number near 2**63 where there is no limit


def cores() -> float | None:
    """The quota of processor time, in cores; None where there is none."""
    quotas = []
    for group in _groups(""):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        quotas.append((quota, period))
    for group in _groups("cpu"):
        quotas.append((_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")))
    found = [int(quota) / int(period) for quota, period in quotas if quota.isdigit() and period.isdigit() and int(period)]
    return min(found, default=None)


def free_memory() -> int | None:
    """Bytes left below the tightest limit; None where there is none. The page cache counts as free."""
    left = []
    for controller, limit, used in (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")):
        for group in _groups(controller):
            most, taken = _text(group / limit), _text(group / used)
            if most.isdigit() and taken.isdigit() and int(most) < _UNLIMITED:
                left.append(max(0, int(most) - int(taken) + _cached(group)))
    return min(left, default=None)


def _cached(group: Path) -> int:
    """Bytes of the page cache that the kernel gives back when memory is short."""
    for line in _text(group / "memory.stat").splitlines():
        name, _, count = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and count.isdigit():
            return int(count)
    return 0


def _groups(controller: str) -> Iterator[Path]:
    """The group's folder and those above it, of a controller of version 1, or of version 2 where it is empty."""
    for line in _text(OWN).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mount in (ROOT / controller, ROOT / "unified") if not controller else (ROOT / controller,):
            inner = mount / path.lstrip("/")
            if not inner.is_dir():
                inner = mount
            while True:
                yield inner
                if inner == mount:
                    break
                inner = inner.parent


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""What this machine has: cores, memory, GPUs, and the precision that they are good at.

The choices are pure functions of a list of devices, so that they can be tested without one. TensorFlow is imported
only where it is set up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from job.config.resolve import Hardware, Resolved, gpus
from job.config.schema import Config
from job.errors import MachineError
from job.machine import cgroup


def cores() -> int:
    """The cores that this process may use: its affinity, within the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cores()
    return count if quota is None else min(count, max(1, round(quota)))


def free_memory() -> int:
    """Bytes of memory that can be taken, within the limits of the cgroup and of the process (`ulimit -v`)."""
    free = 4 << 30
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        pass
    return min([free, *(left for left in (cgroup.free_memory(), _free_addresses()) if left is not None)])


def _free_addresses() -> int | None:
    """Bytes left of the address space that `ulimit -v` allows; None where it sets no limit."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
    return None if limit == resource.RLIM_INFINITY else max(0, limit - used)


@dataclass(frozen=True)
class Gpu:
    """A GPU: TensorFlow's name of it, its model and its compute capability."""

    name: str
    model: str
    capability: tuple[int, int]


def select(text: str, present: Sequence[Gpu]) -> list[Gpu]:
    """The GPUs that `--gpus` asks for, of those present.

    Raises:
        MachineError: they are not there.
    """
    choice = gpus(text)
    if choice == "none":
        return []
    if choice == "auto":
        return list(present)
    there = f"this machine has {len(present)}" if present else "TensorFlow sees none on this machine"
    if choice == "all":
        if not present:
            raise MachineError(
                "--gpus all", there,
                "use --gpus none for the CPU, or check the driver and the gpu extra; "
                "in a container --gpus all stands before the image's name too (docker run --gpus all IMAGE train --gpus all)",
            )  # fmt: skip
        return list(present)
    if isinstance(choice, int):
        if choice > len(present):
            raise MachineError(f"--gpus {choice}", there, f"use --gpus {'all' if present else 'none'}")
        return list(present[:choice])
    numbers = [int(number) for number in choice]
    missing = [number for number in numbers if not 0 <= number < len(present)]
    if missing:
        raise MachineError(f"--gpus {text}", f"{there}, so there is no number {missing[0]}", "count from 0")
    return [present[number] for number in numbers]


def has_bfloat16(cpu_flags: str) -> bool:
    """Whether a CPU multiplies bfloat16 in hardware, by the flags of /proc/cpuinfo."""
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_flags.split()))


def choose_precision(asked: str | None, chosen: Sequence[Gpu], cpu_flags: str, onednn: bool) -> tuple[str, str]:
    """The precision and the reason for it.

    Raises:
        MachineError: the device lacks what was asked for.
    """
    if chosen:
        lowest = min(gpu.capability for gpu in chosen)
        device = f"compute capability {lowest[0]}.{lowest[1]}"
        best = "bfloat16" if lowest >= (8, 0) else "float16" if lowest >= (7, 0) else "float32"
        if asked == "bfloat16" and best != "bfloat16":
            raise MachineError("--precision bfloat16", f"the GPU has {device}, it needs 8.0", f"use --precision {best}")
    else:
        hardware = has_bfloat16(cpu_flags)
        device = "the CPU has bfloat16 in hardware" if hardware else "the CPU has no bfloat16 in hardware"
        best = "bfloat16" if hardware and onednn else "float32"
        device += "" if onednn else ", but TF_ENABLE_ONEDNN_OPTS=0 makes it slow"
        if asked == "bfloat16" and not onednn:
            raise MachineError(
                "--precision bfloat16", "TF_ENABLE_ONEDNN_OPTS=0 makes it 17 times slower", "unset it, or use --precision float32"
            )
    return (asked, "as configured") if asked else (best, device)


@dataclass(frozen=True)
class Devices:
    """What a run uses: the GPUs, or none for the CPU. `asked` is what `--gpus` said."""

    gpus: list[Gpu]
    hardware: Hardware
    precision_reason: str
    asked: str

    @property
    def words(self) -> str:
        if self.gpus:
            return ", ".join(gpu.model for gpu in self.gpus)
        return "CPU (no GPU found)" if self.asked == "auto" else "CPU"


def choose(config: Config) -> Devices:
    """Choose the devices of a run, and resolve what depends on the machine.

    Raises:
        MachineError: the devices, the precision or the memory asked for are not there.
    """
    machine = config.machine
    if machine.precision == "bfloat16" and os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        choose_precision("bfloat16", [], "", onednn=False)  # before TensorFlow is imported, which takes seconds
    chosen = select(machine.gpus, present())
    replicas = machine.replicas or max(1, len(chosen))
    if chosen and len(chosen) < replicas:
        raise MachineError(
            f"--gpus {machine.gpus}", f"{len(chosen)} GPUs for {replicas} replicas", f"use --replicas {len(chosen)} or more GPUs"
        )
    chosen = chosen[:replicas]
    onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    precision, reason = choose_precision(machine.precision, chosen, _cpu_flags(), onednn)
    hardware = Hardware(
        replicas=replicas, precision=precision, deterministic=not chosen and not machine.xla, threads=machine.threads or cores(),
        workers=config.work.workers or cores(), memory=_feed_memory(config.feed.memory),
    )  # fmt: skip
    return Devices(chosen, hardware, reason, machine.gpus)


def _feed_memory(asked: float | None) -> float:
    """GiB for decoded images: what is asked for, or half of what is free."""
    free = free_memory() / 2**30
    if asked is not None and asked > free:
        raise MachineError("--memory", f"{asked:g} GiB asked for, {free:.1f} GiB are free", "give less")
    return free / 2 if asked is None else asked


def set_up(config: Resolved, devices: Devices) -> None:
    """Set TensorFlow up for a run.

    Must come before TensorFlow's first operation; in a process that has run one already, what is set must agree.

    Raises:
        MachineError: TensorFlow runs already with other settings.
    """
    from job.machine.libraries import tf

    machine = config.machine
    _configure(tf, devices.gpus, machine.replicas, machine.threads, machine.deterministic)


def set_up_inference(config: Resolved, devices: Devices) -> list[Gpu]:
    """Set TensorFlow up for one replica; where it runs already in this process, take it as it is.

    Returns:
        The GPUs to use; none where TensorFlow was started without.
    """
    from job.machine.libraries import tf

    with suppress(MachineError):  # other threads may give other last digits, which training's bits alone forbid
        set_up(config, devices)
    return devices.gpus if tf.config.list_logical_devices("GPU") else []


def present() -> list[Gpu]:
    """The GPUs that TensorFlow sees."""
    from job.machine.libraries import tf

    found = []
    for device in tf.config.list_physical_devices("GPU"):
        details = tf.config.experimental.get_device_details(device)
        found.append(Gpu(device.name, details.get("device_name", "GPU"), tuple(details.get("compute_capability", (0, 0)))))
    return found


def _configure(tf: Any, chosen: Sequence[Gpu], replicas: int, threads: int, deterministic: bool) -> None:
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        physical = {device.name: device for device in tf.config.list_physical_devices("GPU")}
        tf.config.set_visible_devices([physical[gpu.name] for gpu in chosen], "GPU")
        for gpu in chosen:
            tf.config.experimental.set_memory_growth(physical[gpu.name], True)
        cpu = tf.config.list_physical_devices("CPU")[0]
        if not chosen and replicas > 1:
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    except RuntimeError:  # TensorFlow runs already, as in a sweep's reused process
        if (tf.config.threading.get_intra_op_parallelism_threads() or cores()) != threads:
            raise MachineError("--threads", "TensorFlow was started with another number in this process", "use a fresh process") from None
        if not chosen and len(tf.config.list_logical_devices("CPU")) < replicas:
            raise MachineError("--replicas", "TensorFlow was started with fewer devices in this process", "use a fresh process") from None
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")

"""Which GPUs and which precision, on machines that are pretended."""

from __future__ import annotations

import sys

import pytest

from job.config.options import build
from job.config.resolve import Hardware, resolve
from job.config.schema import Config
from job.errors import MachineError, UserError
from job.machine.devices import Gpu, choose_precision, cores, free_memory, has_bfloat16, select

PASCAL, VOLTA, TURING, AMPERE = (Gpu(f"/gpu:{k}", "GPU", c) for k, c in enumerate([(6, 1), (7, 0), (7, 5), (8, 0)]))
TWO = [AMPERE, VOLTA]


@pytest.mark.parametrize(
    ("text", "present", "wanted"),
    [
        ("auto", [], []), ("auto", TWO, TWO), ("none", TWO, []), ("none", [], []), ("all", TWO, TWO), ("1", TWO, [AMPERE]),
        ("2", TWO, TWO), ("id:1", TWO, [VOLTA]), ("id:1,0", TWO, [VOLTA, AMPERE]), ("id:0,1", TWO, TWO),
    ],
)  # fmt: skip
def test_select(text: str, present: list[Gpu], wanted: list[Gpu]) -> None:
    assert select(text, present) == wanted


@pytest.mark.parametrize(
    ("text", "present", "line"),
    [
        ("all", [],
            "--gpus all: TensorFlow sees none on this machine; use --gpus none for the CPU, or check the driver and the gpu extra; in a "
            "container --gpus all stands before the image's name too (docker run --gpus all IMAGE train --gpus all)"),
        ("1", [], "--gpus 1: TensorFlow sees none on this machine; use --gpus none"),
        ("3", TWO, "--gpus 3: this machine has 2; use --gpus all"),
        ("id:5", TWO, "--gpus id:5: this machine has 2, so there is no number 5; count from 0"),
        ("id:0,2", TWO, "--gpus id:0,2: this machine has 2, so there is no number 2; count from 0"),
        ("id:-1", TWO, "--gpus id:-1: this machine has 2, so there is no number -1; count from 0"),
        ("id:0", [], "--gpus id:0: TensorFlow sees none on this machine, so there is no number 0; count from 0"),
    ],
)  # fmt: skip
def test_gpus_that_are_not_there(text: str, present: list[Gpu], line: str) -> None:
    with pytest.raises(MachineError) as caught:
        select(text, present)
    assert str(caught.value) == line
    assert caught.value.code == 69


def test_what_is_no_choice_is_the_user_s_mistake() -> None:
    with pytest.raises(UserError, match="--gpus: 'many' is not a choice of GPUs"):
        select("many", TWO)


PLAIN, BF16, AMX = "fpu avx2 avx512f", "fpu avx512f avx512_bf16", "fpu amx_bf16 amx_tile"


@pytest.mark.parametrize(
    ("chosen", "flags", "onednn", "precision", "reason"),
    [
        ([VOLTA], PLAIN, True, "float16", "compute capability 7.0"),
        ([TURING], PLAIN, True, "float16", "compute capability 7.5"),
        ([AMPERE], PLAIN, True, "bfloat16", "compute capability 8.0"),
        ([PASCAL], BF16, True, "float32", "compute capability 6.1"),
        ([AMPERE, VOLTA], BF16, True, "float16", "compute capability 7.0"),  # the weakest decides
        ([], PLAIN, True, "float32", "the CPU has no bfloat16 in hardware"),
        ([], BF16, True, "bfloat16", "the CPU has bfloat16 in hardware"),
        ([], AMX, True, "bfloat16", "the CPU has bfloat16 in hardware"),
        ([], "", True, "float32", "the CPU has no bfloat16 in hardware"),
    ],
)  # fmt: skip
def test_precision_by_the_device(chosen: list[Gpu], flags: str, onednn: bool, precision: str, reason: str) -> None:
    assert choose_precision(None, chosen, flags, onednn) == (precision, reason)


def test_without_onednn_a_cpu_keeps_to_float32() -> None:
    assert choose_precision(None, [], BF16, onednn=False)[0] == "float32"


@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("chosen", [[], [AMPERE]])
def test_what_is_asked_for_is_taken(asked: str, chosen: list[Gpu]) -> None:
    assert choose_precision(asked, chosen, PLAIN, onednn=True) == (asked, "as configured")


@pytest.mark.parametrize(
    ("chosen", "onednn", "line"),
    [
        ([TURING], True, "--precision bfloat16: the GPU has compute capability 7.5, it needs 8.0; use --precision float16"),
        ([PASCAL], True, "--precision bfloat16: the GPU has compute capability 6.1, it needs 8.0; use --precision float32"),
        ([], False, "--precision bfloat16: TF_ENABLE_ONEDNN_OPTS=0 makes it 17 times slower; unset it, or use --precision float32"),
    ],
)
def test_precision_that_the_device_lacks(chosen: list[Gpu], onednn: bool, line: str) -> None:
    with pytest.raises(MachineError) as caught:
        choose_precision("bfloat16", chosen, BF16, onednn)
    assert str(caught.value) == line
    assert caught.value.code == 69


def test_bfloat16_is_a_whole_flag() -> None:
    assert not has_bfloat16("avx512_bf16x xavx512_bf16")
    assert has_bfloat16("a avx512_bf16")


@pytest.mark.parametrize(
    ("batch", "replicas", "fix"), [(100, 3, "99 or 102"), (2, 4, "4"), (33, 2, "32 or 34"), (7, 7, None), (256, 4, None), (5, 1, None)]
)
def test_a_batch_divides_over_the_replicas(batch: int, replicas: int, fix: str | None) -> None:
    config, hardware = build(Config, dict(batch=batch)), Hardware(replicas=replicas)
    if fix is None:
        assert resolve(config, 10_000, hardware).machine.replicas == replicas
        return
    with pytest.raises(UserError) as caught:
        resolve(config, 10_000, hardware)
    assert str(caught.value) == f"--batch: {batch} does not divide over {replicas} replicas; use {fix}"


def test_this_machine() -> None:
    import os

    assert 1 <= cores() <= len(os.sched_getaffinity(0))
    assert 0 < free_memory() < 2**46


def test_choosing_needs_no_tensorflow() -> None:
    import subprocess

    script = "import sys, job.machine.devices as d; d.select('auto', []); sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0

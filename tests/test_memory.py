"""Out of memory: which errors mean it, the line they become, and what it says to try."""

from __future__ import annotations

import resource
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from job.config import resolve
from job.config.options import build
from job.config.schema import EvaluateConfig
from job.errors import OutOfMemory, UserError
from job.evaluate import evaluate
from job.inference.forward import Inference
from job.machine import memory
from job.machine.libraries import tf
from job.models.network import activation_bytes, build_network

GPU = "CUDA_ERROR_OUT_OF_MEMORY: out of memory"
ONEDNN = "Operation received an exception:Status: 1, message: could not create a memory object"


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[64,1024,1024,8]"), True),
        (tf.errors.InternalError(None, None, GPU), True),
        (tf.errors.AbortedError(None, None, ONEDNN), True),
        (tf.errors.InternalError(None, None, "cuDNN: CUDNN_STATUS_ALLOC_FAILED"), True),
        (tf.errors.InternalError(None, None, "cuDNN: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (tf.errors.InvalidArgumentError(None, None, "Incompatible shapes"), False),
        (UserError("--memory", "out of memory", ""), False),
        (RuntimeError("out of memory"), False),
    ],
)  # fmt: skip
def test_what_means_out_of_memory(error: Exception, wanted: bool) -> None:
    assert memory.is_out_of_memory(error) is wanted


def test_opencv_says_it_too() -> None:
    error = cv2.error("Failed to allocate 4 bytes")
    error.code = -4
    assert memory.is_out_of_memory(error)
    error.code = -215
    assert not memory.is_out_of_memory(error)


def test_a_guard_says_what_is_free_and_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 3 << 29)
    with pytest.raises(OutOfMemory) as caught, memory.guard("a step", lambda free: f"take {free >> 20}"):
        raise MemoryError
    assert str(caught.value) == "a step: out of memory (1.5 GiB are free); take 1536"
    assert caught.value.code == 69
    with pytest.raises(OutOfMemory, match="the inner one"), memory.guard("a step", lambda free: "not this"):
        raise OutOfMemory("inference", "the inner one", "")
    with pytest.raises(ValueError, match="another"), memory.guard("a step", lambda free: "not this"):
        raise ValueError("another")


@pytest.mark.parametrize(
    ("batch", "replicas", "free", "said"),
    [
        (256, 1, 10**12, "try --batch 128 in a new --out"),  # it did not fit, whatever seems free
        (256, 1, 7 * 10**8, "try --batch 80 in a new --out"),  # 0.8 of what is free, at 0.7 of 10 MB an image
        (256, 3, 7 * 10**8, "try --batch 78 in a new --out"),
        (256, 1, 0, "try --batch 1 in a new --out"),
        (2, 2, 10**12, "try a smaller --size or fewer --filters in a new --out"),
        (1, 1, 10**12, "try a smaller --size or fewer --filters in a new --out"),
    ],
)
def test_the_batch_to_try(batch: int, replicas: int, free: int, said: str) -> None:
    assert memory.smaller_batch(batch, replicas, 10**7, free) == said


def test_the_bytes_of_activations_by_hand() -> None:
    network = build_network(resolve.Model(model="classic", size=32, filters=(4,), dense=(16,), batchnorm=False), 1)
    images, standardised, conv, relu, pool, flat = 3 * 32**2, 3 * 32**2, 4 * 32**2, 4 * 32**2, 4 * 16**2, 4 * 16**2
    assert activation_bytes(network, 32) == 4 * (images + standardised + conv + relu + pool + flat + 16 + 16 + 1 + 1)
    anysize = build_network(resolve.Model(model="residual", size=32, filters=(8, 16)), 1)
    assert activation_bytes(anysize, 64) == pytest.approx(4 * activation_bytes(anysize, 32), rel=0.02)


def test_evaluate_ends_in_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Inference, images: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(Inference, "_forward", exhausted)
    with pytest.raises(
        OutOfMemory, match=r"^inference of 128 images of 32 px: out of memory \([\d.]+ GiB are free\); free some memory, use "
    ):
        evaluate(run, build(EvaluateConfig, {}))


def test_what_failed_has_let_go_before_free_memory_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    monkeypatch.setattr(memory, "free_memory", lambda: 0 if held[0]() is not None else 1 << 30)

    def work() -> None:
        batch = tf.constant([1.0])
        held.append(weakref.ref(batch))
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"1\.0 GiB are free"), memory.guard("a step", lambda free: "less"):
        work()


def test_larger_images_are_inferred_in_smaller_batches() -> None:
    one = tf.distribute.OneDeviceStrategy("/cpu:0")
    network = build_network(resolve.Model(model="residual", size=32, filters=(8, 16)), 1)
    sizes = {size: Inference(network, one, size).batch for size in (32, 256, 512, 1024, 2048, 4096)}
    assert sizes == {32: 128, 256: 128, 512: 32, 1024: 8, 2048: 2, 4096: 1}
    small = Inference(network, one, 32)
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    whole = small.logits(images)
    small.batch = 3  # more images than that are taken in parts
    np.testing.assert_allclose(small.logits(images), whole, atol=1e-6)
    assert len({*whole.tolist()}) == 7


def test_a_limit_of_the_process_counts_as_what_is_free() -> None:
    program = "from job.machine.devices import free_memory; print(free_memory())"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run([sys.executable, "-c", program], preexec_fn=limit, capture_output=True, text=True, check=True, timeout=60)
    assert 0 < int(done.stdout) < 1 << 30

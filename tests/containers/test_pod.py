"""The pod of the Job in `k8s/overlays/cpu`, with its data and its run on a claimed volume."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.podman import podman
from tests.containers.pods import PHOTOGRAPHS, SMALL, configuration, grace, overlay, own_volumes, played

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    return overlay("cpu")


@pytest.fixture
def claim(documents: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """Where the claim's volume lies. It is deleted at the end."""
    claim, config = (documents[kind]["metadata"]["name"] for kind in ("PersistentVolumeClaim", "ConfigMap"))
    own_volumes(documents)
    file = tmp_path / "claim.yaml"
    file.write_text(yaml.safe_dump(documents["PersistentVolumeClaim"]))
    podman("kube", "play", str(file))
    yield Path(podman("volume", "inspect", claim, "--format", "{{.Mountpoint}}").strip())
    podman("volume", "rm", "--force", claim, config)


def _toml(documents: dict[str, Any]) -> str:
    """The ConfigMap's file with the photographs for its data, and a few lines that make it small."""
    text, changed = re.subn(r"(?m)^data = .*$", f'data = "{PHOTOGRAPHS}"', configuration(documents))
    assert changed == 1
    return text + SMALL


def test_the_pod_stops_gracefully_and_resumes_in_its_volume(
    documents: dict[str, Any], claim: Path, originals: Path, tmp_path: Path
) -> None:
    """As on a spot machine: the pod is stopped, another one takes its place with an empty cache and the same volume."""
    toml = _toml(documents)
    with played(documents, toml, originals, tmp_path) as first:
        first.says("epoch 2/")
        podman("stop", "--time", str(grace(documents)), first.name, timeout=grace(documents) + 30)
        assert first.ends() == 75, first.said()
        state = first.inspect()
        assert state["Config"]["User"] == "10001:10001"
        assert not state["EffectiveCaps"]
        assert state["HostConfig"]["ReadonlyRootfs"]
        assert "no-new-privileges" in state["HostConfig"]["SecurityOpt"]
    run = claim / "run"
    assert not (run / "model.keras").exists()
    with played(documents, toml, originals, tmp_path) as second:
        assert second.ends() == 0, second.said()
        out, errors = second.said()
    assert "resuming from step" in out
    assert errors == ""
    assert (run / "model.keras").exists()


def test_a_wrong_key_in_the_config_map_is_the_users_mistake(
    documents: dict[str, Any], claim: Path, originals: Path, tmp_path: Path
) -> None:
    toml = _toml(documents).replace("epochs =", "epoch =")
    with played(documents, toml, originals, tmp_path) as pod:
        assert pod.ends() == 2
        out, errors = pod.said()
    assert out == ""
    assert errors.startswith("twofold: ")
    assert "epoch" in errors
    assert errors.count("\n") == 1

"""The pod of the Job in `k8s/overlays/cpu`, as podman runs it: the template as it is, on real photographs.

The image's name apart, only what a user edits is changed: values in the ConfigMap, and a volume with the photographs.
`podman kube play` gives a volume's folder to the pod's user where a cluster has fsGroup, makes disk folders of
`medium: Memory`, and knows no period of grace: here `podman stop` is given the pod's own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.podman import IMAGE, Container, podman
from tests.manifests import render

pytestmark = pytest.mark.containers

OVERLAY = Path(__file__).resolve().parents[2] / "k8s" / "overlays" / "cpu"
PHOTOGRAPHS = "/photographs.zip"
SMALL = """
[model]
size = 48
filters = [16, 32, 64]

[schedule]
epochs = 6
batch = 32
"""


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """The overlay's documents by kind."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not there to render the overlay")
    return {document["kind"]: document for document in render(OVERLAY)}


@pytest.fixture
def claim(documents: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """Where the claim's volume lies. Each of the pod's volumes is podman's, by its bare name, and deleted at the end."""
    claim, config = (documents[kind]["metadata"]["name"] for kind in ("PersistentVolumeClaim", "ConfigMap"))
    own = {claim, config, *(volume["name"] for volume in documents["Job"]["spec"]["template"]["spec"]["volumes"])}
    there = own & set(podman("volume", "ls", "--format", "{{.Name}}").split())
    assert not there, f"podman has volumes of these names: podman volume rm {' '.join(there)}"
    file = tmp_path / "claim.yaml"
    file.write_text(yaml.safe_dump(documents["PersistentVolumeClaim"]))
    podman("kube", "play", str(file))
    yield Path(podman("volume", "inspect", claim, "--format", "{{.Mountpoint}}").strip())
    podman("volume", "rm", "--force", claim, config)


@contextmanager
def _played(documents: dict[str, Any], toml: str, photographs: Path, folder: Path) -> Iterator[Container]:
    """A pod of the Job's template, as the Job's controller would make it, run with another content of its ConfigMap."""
    job = documents["Job"]
    config = documents["ConfigMap"]
    spec = {**job["spec"]["template"]["spec"], "volumes": [*job["spec"]["template"]["spec"]["volumes"]]}
    (container,) = spec["containers"]
    mount = {"name": "photographs", "mountPath": PHOTOGRAPHS, "readOnly": True}
    spec["containers"] = [{**container, "image": IMAGE, "volumeMounts": [*container["volumeMounts"], mount]}]
    spec["volumes"].append({"name": "photographs", "hostPath": {"path": str(photographs), "type": "File"}})
    metadata = {**job["spec"]["template"]["metadata"], "name": job["metadata"]["name"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    file = folder / "pod.yaml"
    file.write_text(yaml.safe_dump_all([{**config, "data": dict.fromkeys(config["data"], toml)}, pod]))
    podman("kube", "play", "--network", "none", str(file))
    try:
        yield Container(f"{metadata['name']}-{container['name']}")
    finally:
        podman("kube", "down", str(file))


def _toml(documents: dict[str, Any]) -> str:
    """The ConfigMap's file with the photographs for its data, and a few lines that make it small."""
    (text,) = documents["ConfigMap"]["data"].values()
    text, changed = re.subn(r"(?m)^data = .*$", f'data = "{PHOTOGRAPHS}"', text)
    assert changed == 1
    return str(text) + SMALL


def test_the_pod_stops_gracefully_and_resumes_in_its_volume(
    documents: dict[str, Any], claim: Path, originals: Path, tmp_path: Path
) -> None:
    """As on a spot machine: the pod is stopped, another one takes its place with an empty cache and the same volume."""
    toml = _toml(documents)
    grace = documents["Job"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    with _played(documents, toml, originals, tmp_path) as first:
        first.says("epoch 2/")
        podman("stop", "--time", str(grace), first.name, timeout=grace + 30)
        assert first.ends() == 75, first.said()
        state = first.inspect()
        assert state["Config"]["User"] == "10001:10001"
        assert not state["EffectiveCaps"]
        assert state["HostConfig"]["ReadonlyRootfs"]
        assert "no-new-privileges" in state["HostConfig"]["SecurityOpt"]
    run = claim / "run"
    assert not (run / "model.keras").exists()
    with _played(documents, toml, originals, tmp_path) as second:
        assert second.ends() == 0, second.said()
        out, errors = second.said()
    assert "resuming from step" in out
    assert errors == ""
    assert (run / "model.keras").exists()


def test_a_wrong_key_in_the_config_map_is_the_users_mistake(
    documents: dict[str, Any], claim: Path, originals: Path, tmp_path: Path
) -> None:
    toml = _toml(documents).replace("epochs =", "epoch =")
    with _played(documents, toml, originals, tmp_path) as pod:
        assert pod.ends() == 2
        out, errors = pod.said()
    assert out == ""
    assert errors.startswith("twofold: ")
    assert "epoch" in errors
    assert errors.count("\n") == 1

"""Pods of our Jobs' templates, as podman runs them: the template as it is, on real photographs.

The image's name apart, only what a user edits is changed: the content of the ConfigMap, arguments, the machine's part.
`podman kube play` gives a volume's folder to the pod's user where a cluster has fsGroup, makes disk folders of
`medium: Memory`, and knows no period of grace: `podman stop` is given the pod's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.containers.podman import IMAGE, Container, podman
from tests.manifests import render

OVERLAYS = Path(__file__).resolve().parents[2] / "k8s" / "overlays"
PHOTOGRAPHS = "/photographs.zip"
SMALL = """
[model]
size = 48
filters = [16, 32, 64]

[schedule]
epochs = 6
batch = 32
"""


def overlay(name: str) -> dict[str, Any]:
    """An overlay's documents by kind."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not there to render the overlay")
    return {document["kind"]: document for document in render(OVERLAYS / name)}


def configuration(documents: Mapping[str, Any]) -> str:
    """The ConfigMap's file."""
    (text,) = documents["ConfigMap"]["data"].values()
    return str(text)


def grace(documents: Mapping[str, Any]) -> int:
    """Seconds between SIGTERM and SIGKILL."""
    return int(documents["Job"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


@contextmanager
def played(
    documents: Mapping[str, Any], toml: str, photographs: Path, folder: Path, *, network: str = "none",
    environment: Mapping[str, str] | None = None, **changes: Any,
) -> Iterator[Container]:  # fmt: skip
    """A pod of the Job's template, as the Job's controller would make it, and nothing left of it at the end.

    Args:
        toml: content of its ConfigMap.
        photographs: mounted at PHOTOGRAPHS.
        folder: for the file that podman plays.
        environment: more variables.
        changes: fields of the container in place of its own.
    """
    job, config = documents["Job"], documents["ConfigMap"]
    template = job["spec"]["template"]
    (container,) = template["spec"]["containers"]
    mount = {"name": "photographs", "mountPath": PHOTOGRAPHS, "readOnly": True}
    container = {
        **container,
        "image": IMAGE,
        "volumeMounts": [*container["volumeMounts"], mount],
        "env": [*container["env"], *(dict(name=name, value=value) for name, value in (environment or {}).items())],
        **changes,
    }
    volume = {"name": "photographs", "hostPath": {"path": str(photographs), "type": "File"}}
    spec = {**template["spec"], "containers": [container], "volumes": [*template["spec"]["volumes"], volume]}
    metadata = {**template["metadata"], "name": job["metadata"]["name"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    file = folder / "pod.yaml"
    file.write_text(yaml.safe_dump_all([{**config, "data": dict.fromkeys(config["data"], toml)}, pod]))
    podman("kube", "play", "--network", network, str(file))
    try:
        yield Container(f"{metadata['name']}-{container['name']}")
    finally:
        podman("kube", "down", str(file))


def own_volumes(*overlays: Mapping[str, Any]) -> Sequence[str]:
    """Names of podman's volumes that pods would use, by the bare names of the pod's; none of them may be there before."""
    names = {
        name
        for documents in overlays
        for name in (
            *(documents[kind]["metadata"]["name"] for kind in ("PersistentVolumeClaim", "ConfigMap") if kind in documents),
            *(volume["name"] for volume in documents["Job"]["spec"]["template"]["spec"]["volumes"]),
        )
    }
    there = names & set(podman("volume", "ls", "--format", "{{.Name}}").split())
    assert not there, f"podman has volumes of these names: podman volume rm {' '.join(sorted(there))}"
    return sorted(names)

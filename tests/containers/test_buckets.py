"""The pods of both clouds' overlays: data and run in a bucket of a store in another container, and no volume that stays.

The stores are the tests' own fake of Cloud Storage and SeaweedFS, on a network without a way out. How a pod finds its store,
and the key to it, come from its environment here, where a cloud has a ServiceAccount's identity.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from job.storage.opening import open_bucket
from tests.containers.podman import IMAGE, Container, podman, started
from tests.containers.pods import PHOTOGRAPHS, SMALL, configuration, grace, overlay, own_volumes, played
from tests.stores.fixtures import Store, gcs_place, s3_place
from tests.stores.seaweed import WRITER, s3_client

pytestmark = pytest.mark.containers

ROOT = Path(__file__).resolve().parents[2]
WEED = Path(sys.executable).with_name("weed")
HOST, PORT, BUCKET = "store", 4443, "my-bucket"
FAKE_GCS = ("python", "-m", "tests.stores.fake_gcs", "--host", "0.0.0.0", "--port", str(PORT))
SEAWEED = (
    "/weed", "server", "-dir=/tmp", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-filer", "-s3", f"-s3.port={PORT}", "-volume.max=0",
    "-master.volumeSizeLimitMB=64", "-master.peers=none", "-master.telemetry=false",
)  # fmt: skip


@dataclass(frozen=True)
class Cloud:
    """A store in a container, with a bucket. `store` is how pods on `network` reach it."""

    overlay: str
    network: str
    store: Store


def _make_gcs_bucket(endpoint: str) -> None:
    content = json.dumps({"name": BUCKET}).encode()
    request = urllib.request.Request(f"{endpoint}/storage/v1/b?project=p", content, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


def _make_s3_bucket(endpoint: str) -> None:
    client = s3_client(endpoint, *WRITER)
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
    client.delete_object(Bucket=BUCKET, Key="ready")
    client.close()


CLOUDS: dict[str, tuple[Sequence[str], Callable[[str], None], Callable[[str], Store]]] = {
    "gke": (FAKE_GCS, _make_gcs_bucket, lambda endpoint: gcs_place(f"gs://{BUCKET}", endpoint)),
    "eks": (SEAWEED, _make_s3_bucket, lambda endpoint: s3_place(f"s3://{BUCKET}", endpoint, *WRITER)),
}


@contextmanager
def _store(command: Sequence[str], network: str) -> Iterator[str]:
    """A store in a container on a new network without a way out; its endpoint for this process."""
    podman("network", "create", "--internal", network)
    store = Container(f"{network}-store")
    try:
        podman(
            "run", "--detach", "--pull=never", "--name", store.name, "--network", network, "--network-alias", HOST, "--workdir", "/tmp",
            "--volume", f"{ROOT}/tests:/src/tests:ro", "--volume", f"{WEED}:/weed:ro", "--env", "PYTHONPATH=/src",
            "--entrypoint", json.dumps(command), IMAGE,
        )  # fmt: skip
        yield f"http://{store.inspect()['NetworkSettings']['Networks'][network]['IPAddress']}:{PORT}"
    except BaseException as error:
        error.add_note(str(store.said()))
        raise
    finally:
        podman("rm", "--force", "--time", "0", store.name)
        podman("network", "rm", network)


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """A cloud's store with an empty bucket, where this process too finds it by the bucket's address."""
    command, make_bucket, place = CLOUDS[request.param]
    network = f"twofold-{uuid4().hex[:8]}"
    monkeypatch.setenv("no_proxy", "*")
    with _store(command, network) as endpoint:
        end = time.monotonic() + 60
        while True:
            try:
                make_bucket(endpoint)
                break
            except (OSError, BotoCoreError, ClientError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
        place(endpoint).use(monkeypatch)
        monkeypatch.setenv("no_proxy", "*")
        yield Cloud(request.param, network, place(f"http://{HOST}:{PORT}"))


def _names(address: str) -> set[str]:
    return {found.name for found in open_bucket(address).list()}


def test_a_pod_is_stopped_and_another_goes_on_from_the_bucket(cloud: Cloud, originals: Path, tmp_path: Path) -> None:
    """As on spot machines: prepare, train until SIGTERM, and train again in a pod with an empty cache, to the end."""
    preparing, training = overlay(f"{cloud.overlay}/prepare"), overlay(cloud.overlay)
    volumes = own_volumes(preparing, training)
    machine = overlay("cpu")["Job"]["spec"]["template"]["spec"]["containers"][0]["resources"]
    shared = dict(network=cloud.network, environment=cloud.store.environment, resources=machine)
    shards, run = (f"{cloud.store.url}/{name}" for name in ("shards", "run"))
    try:
        args = ["prepare", PHOTOGRAPHS, "--config", "/etc/twofold/prepare.toml"]
        with played(preparing, configuration(preparing), originals, tmp_path, args=args, **shared) as prepare:
            assert prepare.ends() == 0, prepare.said()
        assert "manifest.json" in _names(shards)

        toml, changed = re.subn(r'(?m)^gpus = "all"', 'gpus = "none"', configuration(training) + SMALL)
        assert changed == 1
        with played(training, toml, originals, tmp_path, **shared) as first:
            first.says("epoch 2/")
            podman("stop", "--time", str(grace(training)), first.name, timeout=grace(training) + 30)
            assert first.ends() == 75, first.said()
        assert json.loads(open_bucket(run).read("summary.json"))["status"] == "interrupted"
        assert "model.keras" not in _names(run)

        with played(training, toml, originals, tmp_path, **shared) as second:
            assert second.ends() == 0, second.said()
            out, errors = second.said()
        assert errors == ""
        assert "resuming from step" in out
        assert re.search(rf"fetching \d+ checkpoints? .*of {run}", out), "its cache was empty"
        assert json.loads(open_bucket(run).read("summary.json"))["status"] == "done"
        assert "model.keras" in _names(run)
        _evaluate(cloud, run)
    finally:
        podman("volume", "rm", "--force", *volumes)


def _evaluate(cloud: Cloud, run: str) -> None:
    """The run in the bucket, in a container where nothing can be written but the image's own cache."""
    variables = [f"--env={name}={value}" for name, value in cloud.store.environment.items()]
    confined = ["--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp", "--tmpfs=/twofold/cache:mode=1777", "--cap-drop=ALL"]
    with started("evaluate", run, "--json", options=[*confined, f"--network={cloud.network}", *variables]) as container:
        assert container.ends() == 0, container.said()
        out, _ = container.said()
    assert json.loads(out)["images"] > 0

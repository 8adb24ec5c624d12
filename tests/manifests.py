"""Manifests of Kubernetes: read, rendered, held against its schemas and against rules that the schemas do not hold.

A rule looks at one Job among the documents that are applied together, and yields what is wrong and what to do; its
docstring is the reason for it. Everything works without a cluster; rendering alone needs kubectl. The file is long
because the rules are one list.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from job import cli
from job.config import lengths
from job.config.resolve import bytes_of, gpus, resolve
from job.config.schema import Config
from job.errors import BUG, INTERRUPTED, MACHINE, USER, UserError
from job.storage.opening import is_bucket

Document = dict[str, Any]

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
ACTIONS = {INTERRUPTED: "Ignore", USER: "FailJob", MACHINE: "Count", BUG: "Count", 137: "Count"}
GKE_SPOT = "cloud.google.com/gke-spot"
SPOT = {  # a label that asks for spot machines, its value, and the seconds that such a machine leaves a pod
    GKE_SPOT: ("true", 15),
    "karpenter.sh/capacity-type": ("spot", 90),
    "eks.amazonaws.com/capacityType": ("SPOT", 90),
}
IDENTITY = {"gs": "iam.gke.io/gcp-service-account", "s3": "eks.amazonaws.com/role-arn"}
GPU = "nvidia.com/gpu"
CACHE = "/twofold/cache"  # the image's
ROOM = 2 * 2**30  # beside what --cache-size bounds: the local copy of a run, or of shards that are not sent yet
LAST = 3  # seconds between the end that the program allows itself and SIGKILL


def read(path: Path) -> list[Document]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def render(folder: Path) -> list[Document]:
    """The documents that kustomize makes of a folder."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ValueError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


# ---- schemas


@functools.cache
def _definitions(version: str) -> tuple[Any, Registry[Any]]:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    content = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    return folder, Registry().with_resource("_definitions.json", Resource.from_contents(content, DRAFT202012))


@functools.cache
def _validator(version: str, kind: str, api: str) -> Draft202012Validator:
    folder, registry = _definitions(version)
    group = re.sub(r"\.[^/]*(?=/)", "", api).replace("/", "-")  # batch/v1 is batch-v1, networking.k8s.io/v1 networking-v1
    schema = json.loads((folder / f"{kind.lower()}-{group}.json").read_text(encoding="utf-8"))
    return Draft202012Validator(schema, registry=registry)


def schema_errors(documents: Sequence[Document], file: str, version: str) -> list[str]:
    """Everything that the strict schemas of one version of Kubernetes refuse, unknown fields too."""
    return [
        f"{file}: {document['kind']}/{document['metadata']['name']}: {error.json_path}: {error.message}"
        for document in documents
        for error in _validator(version, document["kind"], document["apiVersion"]).iter_errors(document)
    ]


# ---- a Job, opened


class Refused(Exception):
    """The program's own words on arguments or a TOML that it does not take."""


@dataclass(frozen=True)
class Job:
    """A Job and the documents that are applied with it."""

    body: Document
    beside: Sequence[Document]

    @property
    def spec(self) -> Any:
        return self.body["spec"]

    @property
    def pod(self) -> Any:
        return self.spec["template"]["spec"]

    @property
    def containers(self) -> list[Any]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def volumes(self) -> dict[str, Any]:
        return {volume["name"]: volume for volume in self.pod.get("volumes", ())}

    @property
    def failures(self) -> list[Any]:
        return list(self.spec.get("podFailurePolicy", {}).get("rules", ()))

    def named(self, kind: str, name: str) -> Document | None:
        """A document that is applied with the Job."""
        return next((d for d in self.beside if (d["kind"], d["metadata"]["name"]) == (kind, name)), None)

    def mount(self, container: Any, path: str) -> tuple[Any, Any]:
        """The mount that a path of a container lies in, and its volume; empty where it lies in none."""
        inside = [m for m in container.get("volumeMounts", ()) if PurePosixPath(path).is_relative_to(m["mountPath"])]
        best: Any = max(inside, key=lambda m: len(m["mountPath"]), default={})
        return best, self.volumes.get(best.get("name"), {})

    def config_text(self, container: Any) -> str | None:
        """The content of the container's `--config`, out of the ConfigMap that is mounted there."""
        path = PurePosixPath(_config_path(container) or "/")
        mount, volume = self.mount(container, str(path))
        document = self.named("ConfigMap", volume.get("configMap", {}).get("name", ""))
        if document is None or str(path.parent) != mount["mountPath"]:
            return None
        return document.get("data", {}).get(path.name)  # type: ignore[no-any-return]

    def understood(self) -> Iterator[tuple[Any, Any, list[str]]]:
        """Each container with its configuration and its sources, as the program reads them.

        Raises:
            Refused: the program does not take them.
        """
        for container in self.pod["containers"]:
            text = self.config_text(container)
            if text is not None:
                yield container, *_configuration(tuple(container["args"]), text)


def _config_path(container: Any) -> str | None:
    args = [word for text in container.get("args", ()) for word in text.split("=", 1)]
    return args[args.index("--config") + 1] if "--config" in args[:-1] else None


@functools.cache
def _configuration(args: tuple[str, ...], text: str) -> tuple[Any, list[str]]:
    if not args or args[0] not in cli.COMMANDS:
        raise Refused(f"args {list(args)} begin with no command of twofold; begin with one")
    path = _config_path({"args": args}) or ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.toml"
        file.write_text(text, encoding="utf-8")
        try:
            request = cli.read(args[0], [word.replace(path, str(file)) for word in args[1:]], {})
            config = request.config
            if isinstance(config, Config):
                resolve(config, images=10_000)
        except UserError as error:
            raise Refused(str(error).replace(str(file), path)) from None
    return config, [*request.positional.get("source", ()), *([config.source.data] if isinstance(config, Config) else ())]


_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "": 1}


def _number(quantity: Any) -> float:
    """A quantity as Kubernetes writes it: 500m, 2Gi, 4."""
    digits, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(digits) * _UNITS[unit]


def _amount(container: Any, kind: str, resource: str) -> float | None:
    found = container.get("resources", {}).get(kind, {}).get(resource)
    return None if found is None else _number(found)


# ---- rules

Rule = Callable[[Job], Iterator[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


@dataclass(frozen=True)
class Finding:
    rule: str
    line: str


def check(documents: Sequence[Document], file: str) -> list[Finding]:
    """What the rules find in the Jobs of a file, as lines `file: kind/name: what is wrong; what to do`."""
    jobs = [Job(document, documents) for document in documents if document["kind"] == "Job"]
    return [
        Finding(name, f"{file}: Job/{job.body['metadata']['name']}: {words}")
        for job in jobs
        for name, find in RULES.items()
        for words in find(job)
    ]


@rule
def never_restarted(job: Job) -> Iterator[str]:
    """A podFailurePolicy holds only for pods that are not restarted in place; the API server refuses others."""
    if job.failures and job.pod.get("restartPolicy") != "Never":
        yield "podFailurePolicy with a restartPolicy other than Never; write restartPolicy: Never"


@rule
def disruption_first(job: Job) -> Iterator[str]:
    """The first rule that matches counts, and a preempted pod ends with 143 or 137 as others do."""
    conditions = [n for n, r in enumerate(job.failures) for c in r.get("onPodConditions", ()) if c["type"] == "DisruptionTarget"]
    codes = [n for n, r in enumerate(job.failures) if "onExitCodes" in r]
    if not conditions or job.failures[conditions[0]]["action"] != "Ignore":
        yield "a preempted pod counts as a failure; begin podFailurePolicy with Ignore on DisruptionTarget"
    elif codes and codes[0] < conditions[0]:
        yield "a rule on exit codes stands before that on DisruptionTarget; put DisruptionTarget first"


@rule
def condition_with_status(job: Job) -> Iterator[str]:
    """Some versions require the status and others assume it."""
    if any(c.get("status") != "True" for r in job.failures for c in r.get("onPodConditions", ())):
        yield 'a condition of podFailurePolicy has not the status "True"; write status: "True"'


@rule
def exit_codes(job: Job) -> Iterator[str]:
    """75 is saved and goes on for nothing, 2 is a mistake that no retry mends; 69, 1 and 137 (memory) are tried a few times."""
    for code, wanted in ACTIONS.items():
        found = next((r["action"] for r in job.failures if "onExitCodes" in r and _matches(r["onExitCodes"], code)), "Count")
        if found != wanted:
            yield f"podFailurePolicy answers exit code {code} with {found}; let it be {wanted}"


def _matches(codes: Any, code: int) -> bool:
    return bool((code in codes["values"]) == (codes["operator"] == "In"))


@rule
def container_of_exit_code(job: Job) -> Iterator[str]:
    """A rule on the exit code of a container that is not there never matches."""
    names = [container["name"] for container in job.containers]
    for failure in job.failures:
        name = failure.get("onExitCodes", {}).get("containerName")
        if name is not None and name not in names:
            yield f"podFailurePolicy names the container {name}; the pod has {', '.join(names)}"


@rule
def replaced_when_gone(job: Job) -> Iterator[str]:
    """By default a new pod starts while the old one is still saving: two writers in one run folder."""
    if job.spec.get("podReplacementPolicy") != "Failed":
        yield "a pod is replaced while it still ends; write podReplacementPolicy: Failed"


@rule
def few_retries(job: Job) -> Iterator[str]:
    """Each retry of what fails costs a machine's start; the default is 6."""
    if not 1 <= job.spec.get("backoffLimit", 6) <= 5:
        yield "backoffLimit is not given, or not small; write one from 1 to 5"


@rule
def deadline(job: Job) -> Iterator[str]:
    """What podFailurePolicy ignores is tried for ever: nothing else ends it."""
    if "activeDeadlineSeconds" not in job.spec:
        yield "pods that are ignored are tried for ever; write activeDeadlineSeconds"


@rule
def kept_a_while(job: Job) -> Iterator[str]:
    """With 0 a finished Job vanishes with its log before anyone has read it; without a number it stays for ever."""
    if not job.spec.get("ttlSecondsAfterFinished"):
        yield "a finished Job is deleted at once or never; write ttlSecondsAfterFinished, in days"


@rule
def labelled(job: Job) -> Iterator[str]:
    """The recommended labels find the Job and its pods."""
    for place, labels in (
        ("Job", job.body["metadata"].get("labels", {})),
        ("pod", job.spec["template"].get("metadata", {}).get("labels", {})),
    ):
        missing = {"app.kubernetes.io/name", "app.kubernetes.io/component"} - labels.keys()
        if missing:
            yield f"the {place} lacks {', '.join(sorted(missing))}; add the label"


@rule
def resources_given(job: Job) -> Iterator[str]:
    """Without requests a pod lands anywhere; without limits the program takes the whole machine for its own."""
    for container in job.containers:
        for resource in ("cpu", "memory"):
            request, limit = _amount(container, "requests", resource), _amount(container, "limits", resource)
            if request is None or limit is None:
                yield f"container {container['name']} has no request or no limit of {resource}; write both"
            elif request > limit:
                yield f"container {container['name']} requests more {resource} than its limit; raise the limit"


@rule
def whole_gpus(job: Job) -> Iterator[str]:
    """GPUs are whole, and given as limits alone or as equal requests and limits; the API server refuses others."""
    for container in job.containers:
        request, limit = _amount(container, "requests", GPU), _amount(container, "limits", GPU)
        if request is not None and request != limit:
            yield f"container {container['name']} requests GPUs that are not its limit; write {GPU} under limits alone"
        if limit is not None and limit % 1:
            yield f"container {container['name']} asks for a part of a GPU; give a whole number"


@rule
def gpus_used(job: Job) -> Iterator[str]:
    """GPUs that the program wants must be there (else 69), and those that are there be used: they cost."""
    for container, config, _ in _understood(job):
        if isinstance(config, Config):
            count, wanted = _amount(container, "limits", GPU) or 0, gpus(config.machine.gpus)
            least = wanted if isinstance(wanted, int) else len(wanted) if isinstance(wanted, tuple) else 1
            if wanted != "auto" and (count > 0 if wanted == "none" else count < least):
                yield f"gpus = {config.machine.gpus!r} with {count:g} GPUs in the limits; let them agree"


@rule
def memory_volumes_bounded(job: Job) -> Iterator[str]:
    """A volume in memory without a limit grows until the pod is killed."""
    for name, volume in job.volumes.items():
        if volume.get("emptyDir", {}).get("medium") == "Memory" and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {name} is in memory without a sizeLimit; write one"


@rule
def memory_suffices(job: Job) -> Iterator[str]:
    """Volumes in memory count against the memory limit, and the program needs its half."""
    limits = [_amount(container, "limits", "memory") for container in job.pod["containers"]]
    in_memory = [v["emptyDir"] for v in job.volumes.values() if v.get("emptyDir", {}).get("medium") == "Memory"]
    held = sum(_number(volume.get("sizeLimit", 0)) for volume in in_memory)
    if None not in limits and held > sum(limit or 0 for limit in limits) / 2:
        yield "volumes in memory may fill more than half of the memory limit; raise the limit, or lower a sizeLimit"


@rule
def shared_memory(job: Job) -> Iterator[str]:
    """A container's own /dev/shm holds 64 MB, too little for what GPUs exchange through it."""
    for container in job.pod["containers"]:
        mount, volume = job.mount(container, "/dev/shm")
        if mount.get("mountPath") != "/dev/shm" or volume.get("emptyDir", {}).get("medium") != "Memory":
            yield f"container {container['name']} has no volume in memory at /dev/shm; mount one"


@rule
def disk_volumes_bounded(job: Job) -> Iterator[str]:
    """A pod that fills its machine's disk is evicted, which is ignored: it would go round until the deadline."""
    disks = {name: v["emptyDir"] for name, v in job.volumes.items() if "emptyDir" in v and v["emptyDir"].get("medium") != "Memory"}
    for name, disk in disks.items():
        if "sizeLimit" not in disk:
            yield f"volume {name} has no sizeLimit; write one"
    requests = sum(_amount(container, "requests", "ephemeral-storage") or 0 for container in job.pod["containers"])
    if sum(_number(disk.get("sizeLimit", 0)) for disk in disks.values()) > requests:
        yield "volumes on the machine's disk may hold more than is requested; raise the request of ephemeral-storage"


@rule
def not_root(job: Job) -> Iterator[str]:
    """The user is a number, so that the machine can see that it is not root; the group lets it write to the volume."""
    context = job.pod.get("securityContext", {})
    users = [context, *(c.get("securityContext", {}) for c in job.containers)]
    if any(user.get("runAsNonRoot", True) is not True for user in users) or "runAsNonRoot" not in context:
        yield "the pod may run as root; write runAsNonRoot: true for the pod"
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        numbers = [context.get(field), *(user[field] for user in users[1:] if field in user)]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            yield f"{field} is no number above 0; write {field}: 10001"


CONFINED = {
    "seccompProfile": {"type": "RuntimeDefault"}, "fsGroupChangePolicy": "OnRootMismatch",
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
}  # fmt: skip


@rule
def confined(job: Job) -> Iterator[str]:
    """A pod holds no right that it does not use; this is what the strictest Pod Security Standard asks for, and a little more."""
    for container in job.containers:
        context = {**job.pod.get("securityContext", {}), **container.get("securityContext", {})}
        for field, wanted in CONFINED.items():
            if context.get(field) != wanted:
                yield f"container {container['name']} has not {field} {json.dumps(wanted)}; write it into securityContext"
        if context.get("privileged"):
            yield f"container {container['name']} is privileged; leave that out"


@rule
def no_token(job: Job) -> Iterator[str]:
    """The program asks nothing of the cluster, so it holds no key to it."""
    if job.pod.get("automountServiceAccountToken") is not False:
        yield "the pod is given a token of the cluster; write automountServiceAccountToken: false"


@rule
def no_service_links(job: Job) -> Iterator[str]:
    """A Service called twofold would set TWOFOLD_ variables, which the program refuses as unknown."""
    if job.pod.get("enableServiceLinks") is not False:
        yield "Services set variables in the pod; write enableServiceLinks: false"


@rule
def grace(job: Job) -> Iterator[str]:
    """The last checkpoint is written, and sent, between SIGTERM and SIGKILL; a spot machine leaves so many seconds, whatever is asked."""
    seconds, most = job.pod.get("terminationGracePeriodSeconds"), _spot_seconds(job)
    if seconds is None:
        yield "no time to save is named; write terminationGracePeriodSeconds"
    elif most is not None and seconds > most:
        yield f"terminationGracePeriodSeconds: {seconds} is more than a spot machine gives; write {most}"
    else:
        for _, config, _ in _understood(job):
            if isinstance(config, Config) and lengths.seconds(config.run.grace, "--grace") != seconds - LAST:
                yield f'grace = "{config.run.grace}" is not {LAST} s under terminationGracePeriodSeconds; write "{seconds - LAST}s"'


@rule
def spot_tolerated(job: Job) -> Iterator[str]:
    """Spot machines of GKE carry a taint: a pod that asks for one and does not tolerate it waits for ever."""
    if GKE_SPOT in job.pod.get("nodeSelector", {}) and all(t.get("key") != GKE_SPOT for t in job.pod.get("tolerations", ())):
        yield f"the pod asks for spot machines and does not tolerate their taint; add a toleration of {GKE_SPOT}"


def _spot_seconds(job: Job) -> int | None:
    """What the machine leaves the pod; None where it is no spot machine."""
    return next((SPOT[label][1] for label, value in job.pod.get("nodeSelector", {}).items() if SPOT.get(label, ("",))[0] == value), None)


@rule
def last_words(job: Job) -> Iterator[str]:
    """The line that explains an error then shows in the pod's state, also when the log is gone."""
    for container in job.pod["containers"]:
        if container.get("terminationMessagePolicy") != "FallbackToLogsOnError":
            yield f"the error of container {container['name']} is not kept; write terminationMessagePolicy: FallbackToLogsOnError"


@rule
def secrets_optional(job: Job) -> Iterator[str]:
    """Who reads shards or a zip has no Kaggle token, and the pod must start all the same."""
    for container in job.containers:
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference is not None and reference.get("optional") is not True:
                yield f"{variable['name']} needs the secret {reference['name']}; write optional: true"


@rule
def names_exist(job: Job) -> Iterator[str]:
    """What the Job names is applied with it; a secret alone stays out of files."""
    wanted = [("ServiceAccount", job.pod["serviceAccountName"])] if "serviceAccountName" in job.pod else []
    for volume in job.volumes.values():
        if "configMap" in volume:
            wanted.append(("ConfigMap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for kind, name in wanted:
        if job.named(kind, name) is None:
            yield f"names {kind}/{name}, which is not in the same file; add it"


@rule
def mounts_match(job: Job) -> Iterator[str]:
    """A mount without its volume is refused; a volume that nothing mounts is a slip of the pen."""
    mounted = {mount["name"] for container in job.containers for mount in container.get("volumeMounts", ())}
    for name in sorted(mounted - job.volumes.keys()):
        yield f"mounts {name}, which is no volume; add the volume"
    for name in sorted(job.volumes.keys() - mounted):
        yield f"volume {name} is mounted nowhere; mount it, or leave it out"


@rule
def tmp_writable(job: Job) -> Iterator[str]:
    """With a read-only root Python finds no folder for its temporary files."""
    for container in job.containers:
        read_only = container.get("securityContext", {}).get("readOnlyRootFilesystem")
        if read_only and job.mount(container, "/tmp")[0].get("mountPath") != "/tmp":
            yield f"container {container['name']} has a read-only root and no volume at /tmp; mount an emptyDir"


@rule
def image_pinned(job: Job) -> Iterator[str]:
    """A retry must run the same program as the start that it goes on from."""
    for container in job.containers:
        tag = re.search(r"(?::([\w.-]+)|@sha256:\w{64})$", container["image"])
        if tag is None or tag[1] == "latest":
            yield f"image {container['image']} may be another one tomorrow; give its version"


@rule
def config_mounted(job: Job) -> Iterator[str]:
    """The file given to --config is a key of the ConfigMap that is mounted there."""
    for container in job.pod["containers"]:
        if job.config_text(container) is None:
            yield f"--config {_config_path(container)} is no key of a mounted ConfigMap; let path, mount and key agree"


@rule
def program_accepts(job: Job) -> Iterator[str]:
    """The program itself reads the arguments and the TOML: a slip shows here, not after the wait for a machine."""
    try:
        list(job.understood())
    except Refused as error:
        yield str(error)


@rule
def folders_mounted(job: Job) -> Iterator[str]:
    """The root is read-only, and what must outlive the pod belongs on the claimed volume, or in a bucket."""
    for container, config, sources in _understood(job):
        mount, volume = job.mount(container, config.output.out)
        if not is_bucket(config.output.out) and ("persistentVolumeClaim" not in volume or mount.get("readOnly")):
            yield f"out = {config.output.out!r} is on no claimed volume; name a folder of one, or a bucket"
        cache = _cache(config, sources)
        mount, volume = job.mount(container, cache)
        if cache and (not volume.keys() & {"emptyDir", "persistentVolumeClaim"} or mount.get("readOnly")):
            yield f"cache = {cache!r} can't be written; name a folder of a volume"
        for source in sources:
            if ":" not in source and not job.mount(container, source)[1]:
                yield f"{source!r} is on no volume; name photographs or shards that the pod can reach"


@rule
def cache_fits(job: Job) -> Iterator[str]:
    """A pod that outgrows a volume's sizeLimit is evicted, which is ignored; disk that is requested and not used costs."""
    for container, config, sources in _understood(job):
        disk = job.mount(container, _cache(config, sources))[1].get("emptyDir", {})
        if "sizeLimit" in disk:
            limit, size = _number(disk["sizeLimit"]), bytes_of(config.feed.cache_size)
            if not limit / 2 <= size + ROOM <= limit:
                yield f"cache_size = {config.feed.cache_size!r} on a volume of {disk['sizeLimit']}; let it be 2 GiB less than the sizeLimit"


@rule
def known_to_the_cloud(job: Job) -> Iterator[str]:
    """A bucket asks who comes: the pod's ServiceAccount stands for an account of that cloud, so that no key lies anywhere."""
    for _, config, sources in _understood(job):
        for scheme in sorted({text[:2].lower() for text in (config.output.out, *sources) if is_bucket(text)}):
            account = job.named("ServiceAccount", job.pod.get("serviceAccountName", "")) or {"metadata": {}}
            if IDENTITY[scheme] not in account["metadata"].get("annotations", {}):
                yield f"{scheme}:// without an account of that cloud; name a ServiceAccount with the annotation {IDENTITY[scheme]}"


def _cache(config: Any, sources: Sequence[str]) -> str:
    """Where the cache is; empty where none is used."""
    return config.feed.cache or (CACHE if any(map(is_bucket, (config.output.out, *sources))) else "")


def _understood(job: Job) -> list[tuple[Any, Any, list[str]]]:
    """As Job.understood, and nothing where the program refuses: that is `program_accepts` to say."""
    try:
        return list(job.understood())
    except Refused:
        return []

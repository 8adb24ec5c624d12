"""The manifests in k8s/: eight versions' schemas, the rules with a planted mistake each, and what they come to."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from job.config.options import leaves
from job.storage import s3
from tests.manifests import IDENTITY, RULES, SPOT, VERSIONS, Document, Finding, Job, check, read, render, schema_errors

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
PLAIN = ("job.yaml", "prepare.yaml")
CLOUDS = {"overlays/gke": "gs", "overlays/gke/prepare": "gs", "overlays/eks": "s3", "overlays/eks/prepare": "s3"}
OVERLAYS = ("overlays/cpu", "overlays/cpu/prepare", *CLOUDS)
PAGE = ROOT / "docs" / "kubernetes.md"


@functools.cache
def _read_once(name: str) -> list[Document]:
    if name.endswith(".yaml"):
        return read(K8S / name)
    if shutil.which("kubectl") is None:
        pytest.skip("rendering needs kubectl, which is not installed")
    return render(K8S / name)


def _documents(name: str) -> list[Document]:
    return copy.deepcopy(_read_once(name))


def _job(documents: list[Document]) -> Job:
    return Job(next(d for d in documents if d["kind"] == "Job"), documents)


def _lines(findings: list[Finding]) -> list[str]:
    return [finding.line for finding in findings]


# ---- the good ones


@pytest.mark.parametrize("name", [*PLAIN, *OVERLAYS])
def test_manifests_pass_the_strict_schemas_of_each_version(name: str) -> None:
    documents = _documents(name)
    assert [error for version in VERSIONS for error in schema_errors(documents, name, version)] == []


@pytest.mark.parametrize("name", [*PLAIN, *OVERLAYS])
def test_manifests_break_no_rule(name: str) -> None:
    documents = _documents(name)
    assert any(d["kind"] == "Job" for d in documents)
    assert _lines(check(documents, name)) == []


def test_every_overlay_is_tested() -> None:
    made = {path.parent for path in K8S.rglob("kustomization.yaml") if yaml.safe_load(path.read_text())["kind"] == "Kustomization"}
    assert made == {K8S / name for name in (*OVERLAYS, "base/train", "base/prepare", "base/claim")}


@pytest.mark.parametrize(("file", "base"), [("job.yaml", "base/train"), ("prepare.yaml", "base/prepare")])
def test_the_plain_files_are_the_base_rendered(file: str, base: str) -> None:
    assert _documents(file) == _documents(base), "run k8s/render.sh"


@pytest.mark.parametrize("file", PLAIN)
def test_the_plain_files_begin_with_what_to_edit_and_mark_it(file: str) -> None:
    text = (K8S / file).read_text()
    assert text.startswith("# twofold ")
    assert [d["kind"] for d in _documents(file)] == ["ConfigMap", "PersistentVolumeClaim", "Job"]
    wanted = r"^ *(?:image|storage|cpu|memory|ephemeral-storage|nvidia\.com/gpu): |^ *(?:data|out) = |^ *- kaggle:"
    lines = [line for line in text.splitlines() if re.search(wanted, line)]
    assert len(lines) >= 8
    assert [line for line in lines if "# EDIT" not in line] == []


@pytest.mark.parametrize("name", ["job.yaml", "overlays/cpu"])
def test_train_reads_its_configuration_from_the_manifest(name: str) -> None:
    [(_, config, sources)] = _job(_documents(name)).understood()
    expected = dict(out="/twofold/run", cache="/cache", log_format="json", gpus="none" if "cpu" in name else "all")
    assert {field: leaves(config)[field] for field in expected} == expected
    assert sources == ["kaggle:salader/dogs-vs-cats"]


@pytest.mark.parametrize("name", ["prepare.yaml", "overlays/cpu/prepare"])
def test_prepare_reads_its_configuration_from_the_manifest(name: str) -> None:
    [(_, config, sources)] = _job(_documents(name)).understood()
    assert (config.output.out, config.log.log_format, sources) == ("/twofold/shards", "json", ["kaggle:salader/dogs-vs-cats"])


@pytest.mark.parametrize(("folder", "scheme"), [("overlays/gke", "gs"), ("overlays/eks", "s3")])
def test_in_a_cloud_prepare_writes_a_bucket_and_train_reads_it_and_writes_its_run_beside(folder: str, scheme: str) -> None:
    for part in ("", "/prepare"):
        assert "PersistentVolumeClaim" not in {document["kind"] for document in _documents(folder + part)}
    [(_, prepare, photographs)] = _job(_documents(f"{folder}/prepare")).understood()
    [(_, train, shards)] = _job(_documents(folder)).understood()
    assert photographs == ["kaggle:salader/dogs-vs-cats"]
    assert shards == [prepare.output.out] == [f"{scheme}://my-bucket/shards"]
    assert train.output.out == f"{scheme}://my-bucket/run"
    assert (train.machine.gpus, train.feed.cache, train.log.log_format) == ("all", "/cache", "json")


def test_the_cpu_overlay_changes_nothing_of_the_configuration_but_the_gpus_and_the_size_of_the_cache() -> None:
    [(_, cpu, _)] = _job(_documents("overlays/cpu")).understood()
    [(_, base, _)] = _job(_documents("job.yaml")).understood()
    assert leaves(cpu) == {**leaves(base), "gpus": "none", "cache_size": "3GB"}


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_the_plain_file_says_what_to_change_for_buckets(scheme: str) -> None:
    """As its head says: no claim, no line marked CLAIM, that marked BUCKET without its #."""
    text = (K8S / "job.yaml").read_text()
    for word in ("PersistentVolumeClaim", "CLAIM", "BUCKET"):
        assert word in text.partition("apiVersion:")[0]
    text = re.sub(r"(?m)^.*# CLAIM\n", "", re.sub(r"(?m)^( *)# (.* # BUCKET)", r"\1\2", text))
    documents = [document for document in yaml.safe_load_all(text) if document["kind"] != "PersistentVolumeClaim"]
    _edit(documents, "ConfigMap", TOML, _put("kaggle:salader/dogs-vs-cats", f"{scheme}://my-bucket/shards"))
    _edit(documents, "ConfigMap", TOML, _put("/twofold/run", f"{scheme}://my-bucket/run"))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "twofold", "annotations": {IDENTITY[scheme]: "it"}}}
    assert check([account, *documents], "job.yaml") == []
    assert schema_errors(documents, "job.yaml", VERSIONS[-1]) == []


def test_train_may_read_the_shards_where_prepare_writes_them() -> None:
    [(_, config, _)] = _job(_documents("prepare.yaml")).understood()
    documents = _documents("job.yaml")
    _edit(documents, "ConfigMap", "data train.toml", _put("kaggle:salader/dogs-vs-cats", config.output.out))
    assert check(documents, "job.yaml") == []
    claims = [[d for d in _documents(name) if d["kind"] == "PersistentVolumeClaim"] for name in PLAIN]
    assert claims[0] == claims[1]


@pytest.mark.parametrize("part", ["", "/prepare"])
def test_the_cpu_overlay_fits_a_small_machine(part: str) -> None:
    cpu = _job(_documents(f"overlays/cpu{part}"))
    assert cpu.containers[0]["image"] == "localhost/twofold:cpu"
    assert cpu.containers[0]["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert "tolerations" not in cpu.pod


@pytest.mark.parametrize(("name", "scheme"), CLOUDS.items())
def test_in_a_cloud_pods_run_on_spot_machines_as_an_account_of_it(name: str, scheme: str) -> None:
    job = _job(_documents(name))
    spot, gpu = {
        "gs": ("cloud.google.com/gke-spot", {"cloud.google.com/gke-accelerator": "nvidia-l4"}),
        "s3": ("karpenter.sh/capacity-type", {"eks.amazonaws.com/instance-gpu-name": "l4"}),
    }[scheme]
    value, seconds = SPOT[spot]
    assert job.pod["nodeSelector"] == {spot: value, **({} if "prepare" in name else gpu)}
    assert job.pod["terminationGracePeriodSeconds"] == seconds
    account = job.named("ServiceAccount", job.pod["serviceAccountName"])
    assert account is not None
    assert IDENTITY[scheme] in account["metadata"]["annotations"]
    variables = {variable["name"] for variable in job.containers[0]["env"]}
    assert ("AWS_REGION" in variables) == (scheme == "s3")


@pytest.mark.parametrize("name", ["overlays/eks", "overlays/eks/prepare"])
def test_the_pool_makes_the_machines_that_pods_on_eks_ask_for(name: str) -> None:
    [pool] = read(K8S / "overlays" / "eks" / "pool.yaml")
    offered = {requirement["key"]: requirement["values"] for requirement in pool["spec"]["template"]["spec"]["requirements"]}
    asked = _job(_documents(name)).pod["nodeSelector"]
    assert asked["karpenter.sh/capacity-type"] in offered["karpenter.sh/capacity-type"]
    assert "g" in offered["eks.amazonaws.com/instance-category"], "those with GPUs"
    assert "taints" not in pool["spec"]["template"]["spec"]


# ---- planted mistakes

DROP = object()
POD = "spec template spec"
BOX = f"{POD} containers 0"
RULE = "spec podFailurePolicy rules"
TOML = "data train.toml"


def _edit(documents: list[Document], kind: str, path: str, value: Any) -> None:
    """Set, drop or extend what a path of words leads to: a key, a number, `name=tmp` in a list, or `+` behind its end."""
    place: Any = next(d for d in documents if d["kind"] == kind)
    *way, last = path.split(" ")
    for word in way:
        place = place[_key(place, word)]
    if last == "+":
        place.append(value)
    elif value is DROP:
        del place[_key(place, last)]
    else:
        key = _key(place, last)
        place[key] = value(place[key]) if callable(value) else value


def _key(place: Any, word: str) -> Any:
    if not isinstance(place, list):
        return word
    name, _, value = word.partition("=")
    return next(n for n, item in enumerate(place) if item[name] == value) if value else int(word)


def _put(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


@dataclass(frozen=True)
class Mistake:
    """Edits of a good manifest that one rule alone must find."""

    rule: str
    edits: dict[str, Any]
    kind: str = "Job"
    file: str = "job.yaml"


_IGNORE_75 = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [75]}}
_DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
_FAIL_2 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
_GKE, _EKS = "overlays/gke", "overlays/eks"

MISTAKES = [
    Mistake("never_restarted", {f"{POD} restartPolicy": "OnFailure"}),
    Mistake("disruption_first", {f"{RULE} 0": DROP}),
    Mistake("disruption_first", {f"{RULE} 0 action": "Count"}),
    Mistake("disruption_first", {RULE: [_IGNORE_75, _DISRUPTED, _FAIL_2]}),
    Mistake("condition_with_status", {f"{RULE} 0 onPodConditions 0 status": DROP}),
    Mistake("condition_with_status", {f"{RULE} 0 onPodConditions 0 status": "False"}),
    Mistake("exit_codes", {f"{RULE} 1": DROP}),
    Mistake("exit_codes", {f"{RULE} 2": DROP}),
    Mistake("exit_codes", {f"{RULE} 2 action": "Ignore"}),
    Mistake("exit_codes", {f"{RULE} 1 onExitCodes values +": 137}),
    Mistake("exit_codes", {f"{RULE} 1 onExitCodes values +": 69}),
    Mistake("exit_codes", {f"{RULE} 1 onExitCodes values +": 1}),
    Mistake("exit_codes", {f"{RULE} 1 onExitCodes values +": 2}),
    Mistake("exit_codes", {f"{RULE} 1 onExitCodes operator": "NotIn"}),
    Mistake("container_of_exit_code", {f"{RULE} 1 onExitCodes containerName": "trainer"}),
    Mistake("replaced_when_gone", {"spec podReplacementPolicy": DROP}),
    Mistake("replaced_when_gone", {"spec podReplacementPolicy": "TerminatingOrFailed"}),
    Mistake("few_retries", {"spec backoffLimit": DROP}),
    Mistake("few_retries", {"spec backoffLimit": 100}),
    Mistake("deadline", {"spec activeDeadlineSeconds": DROP}),
    Mistake("kept_a_while", {"spec ttlSecondsAfterFinished": 0}),
    Mistake("kept_a_while", {"spec ttlSecondsAfterFinished": DROP}),
    Mistake("labelled", {"metadata labels app.kubernetes.io/name": DROP}),
    Mistake("labelled", {"spec template metadata labels app.kubernetes.io/component": DROP}),
    Mistake("resources_given", {f"{BOX} resources limits memory": DROP}),
    Mistake("resources_given", {f"{BOX} resources requests cpu": DROP}),
    Mistake("resources_given", {f"{BOX} resources requests memory": "64Gi"}),
    Mistake("whole_gpus", {f"{BOX} resources requests nvidia.com/gpu": 2}),
    Mistake("whole_gpus", {f"{BOX} resources limits nvidia.com/gpu": "1500m"}),
    Mistake("gpus_used", {f"{BOX} resources limits nvidia.com/gpu": DROP}),
    Mistake("gpus_used", {TOML: _put('gpus = "all"', 'gpus = "none"')}, "ConfigMap"),
    Mistake("gpus_used", {TOML: _put('gpus = "all"', 'gpus = "2"')}, "ConfigMap"),
    Mistake("gpus_used", {TOML: _put('gpus = "all"', 'gpus = "id:0,1"')}, "ConfigMap"),
    Mistake("memory_volumes_bounded", {f"{POD} volumes name=shm emptyDir sizeLimit": DROP}),
    Mistake("memory_suffices", {f"{POD} volumes name=shm emptyDir sizeLimit": "9Gi"}),
    Mistake("shared_memory", {f"{BOX} volumeMounts mountPath=/dev/shm mountPath": "/shm"}),
    Mistake("shared_memory", {f"{POD} volumes name=shm emptyDir": {"sizeLimit": "512Mi"}}),
    Mistake("disk_volumes_bounded", {f"{POD} volumes name=tmp emptyDir sizeLimit": DROP}),
    Mistake("disk_volumes_bounded", {f"{POD} volumes name=cache emptyDir sizeLimit": "12Gi"}),
    Mistake("disk_volumes_bounded", {f"{BOX} resources requests ephemeral-storage": DROP}),
    Mistake("not_root", {f"{POD} securityContext runAsNonRoot": DROP}),
    Mistake("not_root", {f"{POD} securityContext runAsUser": 0}),
    Mistake("not_root", {f"{POD} securityContext runAsUser": "twofold"}),
    Mistake("not_root", {f"{POD} securityContext runAsGroup": DROP}),
    Mistake("not_root", {f"{POD} securityContext fsGroup": DROP}),
    Mistake("not_root", {f"{BOX} securityContext runAsUser": 0}),
    Mistake("not_root", {f"{BOX} securityContext runAsNonRoot": False}),
    Mistake("confined", {f"{POD} securityContext seccompProfile type": "Unconfined"}),
    Mistake("confined", {f"{POD} securityContext fsGroupChangePolicy": DROP}),
    Mistake("confined", {f"{BOX} securityContext allowPrivilegeEscalation": DROP}),
    Mistake("confined", {f"{BOX} securityContext readOnlyRootFilesystem": False}),
    Mistake("confined", {f"{BOX} securityContext capabilities add": ["SYS_PTRACE"]}),
    Mistake("confined", {f"{BOX} securityContext privileged": True}),
    Mistake("no_token", {f"{POD} automountServiceAccountToken": DROP}),
    Mistake("no_service_links", {f"{POD} enableServiceLinks": DROP}),
    Mistake("grace", {f"{POD} terminationGracePeriodSeconds": DROP}),
    Mistake("grace", {f"{POD} terminationGracePeriodSeconds": 30}),
    Mistake("grace", {TOML: _put('"117s"', '"120s"')}, "ConfigMap"),
    Mistake("grace", {TOML: _put('grace = "117s"', "")}, "ConfigMap"),
    Mistake("grace", {f"{POD} terminationGracePeriodSeconds": 120}, file=_GKE),
    Mistake("grace", {f"{POD} terminationGracePeriodSeconds": 120}, file=_EKS),
    Mistake("grace", {TOML: _put('"12s"', '"117s"')}, "ConfigMap", _GKE),
    Mistake("spot_tolerated", {f"{POD} tolerations": DROP}, file=_GKE),
    Mistake("last_words", {f"{BOX} terminationMessagePolicy": DROP}),
    Mistake("secrets_optional", {f"{BOX} env 0 valueFrom secretKeyRef optional": DROP}),
    Mistake("names_exist", {f"{POD} volumes name=work persistentVolumeClaim claimName": "runs"}),
    Mistake("names_exist", {f"{POD} serviceAccountName": "trainer"}),
    Mistake("names_exist", {
        f"{POD} volumes +": {"name": "more", "configMap": {"name": "more"}},
        f"{BOX} volumeMounts +": {"name": "more", "mountPath": "/more"},
    }),
    Mistake("mounts_match", {f"{POD} volumes +": {"name": "spare", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}}),
    Mistake("mounts_match", {f"{BOX} volumeMounts +": {"name": "spare", "mountPath": "/spare"}}),
    Mistake("tmp_writable", {f"{BOX} volumeMounts mountPath=/tmp mountPath": "/var/tmp"}),
    Mistake("image_pinned", {f"{BOX} image": "registry.example.com:5000/you/twofold"}),
    Mistake("image_pinned", {f"{BOX} image": "registry.example.com/you/twofold:latest"}),
    Mistake("config_mounted", {f"{BOX} args 2": "/etc/twofold/prepare.toml"}),
    Mistake("config_mounted", {f"{BOX} args": ["train"]}),
    Mistake("config_mounted", {f"{BOX} volumeMounts name=config mountPath": "/etc/job"}),
    Mistake("config_mounted", {"data": {"job.toml": ""}}, "ConfigMap"),
    Mistake("program_accepts", {TOML: _put("[feed]", "[feeds]")}, "ConfigMap"),
    Mistake("program_accepts", {TOML: _put('"json"', '"jsno"')}, "ConfigMap"),
    Mistake("program_accepts", {TOML: _put("[log]", "[schedule]\ngrow_at = [0.5, 0.4]\n\n[log]")}, "ConfigMap"),
    Mistake("program_accepts", {f"{BOX} args +": "--epocs=5"}),
    Mistake("program_accepts", {f"{BOX} args 0": "trian"}),
    Mistake("folders_mounted", {TOML: _put("/twofold/run", "/tmp/run")}, "ConfigMap"),
    Mistake("folders_mounted", {TOML: _put("/twofold/run", "run")}, "ConfigMap"),
    Mistake("folders_mounted", {TOML: _put('"/cache"', '"/var/cache"')}, "ConfigMap"),
    Mistake("folders_mounted", {TOML: _put("kaggle:salader/dogs-vs-cats", "/data/shards")}, "ConfigMap"),
    Mistake("folders_mounted", {f"{BOX} volumeMounts name=work readOnly": True}),
    Mistake("folders_mounted", {f"{BOX} volumeMounts name=cache readOnly": True}),
    Mistake("folders_mounted", {f"{BOX} args 1": "/data/pets.zip"}, file="prepare.yaml"),
    Mistake("folders_mounted", {TOML: _put('cache = "/cache"', "")}, "ConfigMap", _GKE),
    Mistake("folders_mounted", {f"{BOX} volumeMounts name=cache readOnly": True}, file=f"{_GKE}/prepare"),
    Mistake("folders_mounted", {TOML: _put("s3://my-bucket/run", "/run")}, "ConfigMap", _EKS),
    Mistake("cache_fits", {TOML: _put('cache_size = "8GB"', "")}, "ConfigMap"),
    Mistake("cache_fits", {TOML: _put('"8GB"', '"10GB"')}, "ConfigMap"),
    Mistake("cache_fits", {f"{POD} volumes name=cache emptyDir sizeLimit": "9Gi"}),
    Mistake("cache_fits", {f"{POD} volumes name=cache emptyDir sizeLimit": "5Gi"}, file=f"{_EKS}/prepare"),
    Mistake("cache_fits", {TOML: _put('"6GB"', '"1GB"')}, "ConfigMap", _EKS),
    Mistake("known_to_the_cloud", {f"{POD} serviceAccountName": DROP}, file=_GKE),
    Mistake("known_to_the_cloud", {f"{POD} serviceAccountName": DROP}, file=f"{_EKS}/prepare"),
    Mistake("known_to_the_cloud", {"metadata annotations": {IDENTITY["gs"]: "twofold"}}, "ServiceAccount", _EKS),
    Mistake("known_to_the_cloud", {TOML: _put("kaggle:salader/dogs-vs-cats", "gs://my-bucket/pets")}, "ConfigMap"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: f"{m.rule}-{next(iter(m.edits)).rsplit(' ', 1)[-1]}")
def test_a_planted_mistake_is_found_by_its_rule_alone(mistake: Mistake) -> None:
    documents = _documents(mistake.file)
    for path, value in mistake.edits.items():
        _edit(documents, mistake.kind, path, value)
    found = check(documents, mistake.file)
    assert {finding.rule for finding in found} == {mistake.rule}, _lines(found)
    name = "twofold-prepare" if "prepare" in mistake.file else "twofold-train"
    for line in _lines(found):
        assert re.fullmatch(rf"{re.escape(mistake.file)}: Job/{name}: [^;]+; .+", line)


def test_every_rule_has_a_planted_mistake_and_a_reason() -> None:
    assert {mistake.rule for mistake in MISTAKES} == RULES.keys()
    for name, rule in RULES.items():
        assert rule.__doc__, f"{name} has no reason"
        assert "\n" not in rule.__doc__, f"{name}: the reason is one line"


def test_a_finding_names_its_file_and_job_and_what_to_do() -> None:
    documents = _documents("job.yaml")
    _edit(documents, "Job", f"{POD} enableServiceLinks", True)
    _edit(documents, "ConfigMap", TOML, _put("[feed]", "[fed]"))
    assert _lines(check(documents, "job.yaml")) == [
        "job.yaml: Job/twofold-train: Services set variables in the pod; write enableServiceLinks: false",
        "job.yaml: Job/twofold-train: /etc/twofold/train.toml [fed]: unknown table; did you mean feed?",
    ]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path"),
    [("Job", "spec backofLimit"), ("Job", f"{BOX} imagePullpolicy"), ("PersistentVolumeClaim", "spec size"), ("ConfigMap", "content")],
)
def test_an_unknown_field_is_refused_by_each_version(version: str, kind: str, path: str) -> None:
    documents = _documents("job.yaml")
    _edit(documents, kind, path, 5)
    [line] = schema_errors(documents, "job.yaml", version)
    assert path.rsplit(" ", 1)[-1] in line


def test_all_that_a_schema_refuses_is_listed() -> None:
    documents = _documents("job.yaml")
    _edit(documents, "Job", "spec backoffLimit", "three")
    _edit(documents, "Job", f"{POD} hostname", 5)
    _edit(documents, "PersistentVolumeClaim", "spec resources requests storage", [])
    lines = schema_errors(documents, "job.yaml", VERSIONS[-1])
    assert [re.sub(r": [^:]*$", "", line) for line in sorted(lines)] == [
        "job.yaml: Job/twofold-train: $.spec.backoffLimit",
        "job.yaml: Job/twofold-train: $.spec.template.spec.hostname",
        "job.yaml: PersistentVolumeClaim/twofold: $.spec.resources.requests.storage",
    ]


# ---- the page


def test_the_page_asks_of_aws_what_the_program_needs_and_no_more() -> None:
    policy = json.loads(re.findall(r"--policy-document '(.*?)'", PAGE.read_text(), re.DOTALL)[0])
    actions: dict[str, list[str]] = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        given = statement["Action"]
        actions.setdefault(statement["Resource"], []).extend([given] if isinstance(given, str) else given)
    assert actions == {
        "arn:aws:s3:::my-bucket": ["s3:ListBucket"],
        "arn:aws:s3:::my-bucket/*": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
    }
    assert {action for some in actions.values() for action in some} == set(s3._PERMISSIONS.values())


def test_what_the_page_shows_is_valid_and_exists() -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        documents = list(yaml.safe_load_all(block))
        assert [error for version in VERSIONS for error in schema_errors(documents, PAGE.name, version)] == []
    for path in re.findall(r"\bk8s/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path

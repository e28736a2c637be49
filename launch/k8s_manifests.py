"""The manifests of a job on Kubernetes: one indexed Job with a pod per host, and what it needs.

A pure function of the flags and the plan; nothing is started or built here. Graph servers and
trainers of a host share a pod, and with it /dev/shm. What a cluster wants otherwise (classes of
volumes, tolerations, queues) is the business of kustomize overlays over this: see deploy/k8s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.k8s import PORT
from launch.k8s_node import AGENT_GRACE_S, LAST_WORDS, TERMINATED
from partition.errors import UsageError

HOME = "/srv/lmgnn"
"""The claim's mount and the image's working folder: runs, store and data lie in it."""
CODE = "/opt/lm-gnn"
PLAN_FOLDER = "/run/lmgnn/plan"
KEY_FOLDER = "/run/lmgnn/key"
USER = 10001
"""User and group of the image."""
POD_RETRIES = 6
"""Failures of pods in all, of the kinds that may go away, before Kubernetes gives the job up."""
MAX_NAME = 40
"""Of a job: pods append an index to it, and names end at 63 letters."""
Manifest = dict[str, Any]


@dataclass(frozen=True)
class PodWishes:
    """What each pod gets."""

    image: str = "lm-gnn:latest"
    cpus: int = 4
    memory_gib: int = 16
    """With what lies in /dev/shm."""
    shm_gib: int = 8
    storage_gib: int = 100
    """Of the claim that all pods share."""
    gpus: int = 0

    def __post_init__(self) -> None:
        for key, value in (
            ("--cpus", self.cpus),
            ("--memory-gib", self.memory_gib),
            ("--shm-gib", self.shm_gib),
            ("--storage-gib", self.storage_gib),
        ):
            if value < 1:
                raise UsageError(f"{key} {value}: expected at least 1")
        if self.gpus < 0:
            raise UsageError(f"--gpus {self.gpus}: expected 0 or more")
        if self.shm_gib >= self.memory_gib:
            raise UsageError(
                f"--shm-gib {self.shm_gib}: expected less than --memory-gib {self.memory_gib}",
                hint="what lies in /dev/shm counts as memory of the pod",
            )


@dataclass(frozen=True)
class PlanSource:
    """The plan file as pods see it: a path in the image, or text that a ConfigMap carries."""

    path: str
    text: str = ""


def plan_source(config: Path, code: Path) -> PlanSource:
    """Plans of examples/ are in the image too; others travel in a ConfigMap. UsageError."""
    path = config.resolve()
    if path.is_relative_to(code / "examples"):
        return PlanSource(f"{CODE}/{path.relative_to(code)}")
    try:
        return PlanSource(f"{PLAN_FOLDER}/{path.name}", path.read_text())
    except OSError as error:
        raise UsageError(f"--config {config}: {error.strerror}") from None


def render(
    name: str, plan: PlanSource, wishes: PodWishes, *, nodes: int, arguments: Sequence[str]
) -> list[Manifest]:
    """Service, NetworkPolicy, claim, ConfigMap (where the plan needs one) and Job, in this order.

    `arguments` are further ones of `lmgnn run`.
    """
    job = _name(name)
    labels = {"app.kubernetes.io/name": "lm-gnn", "app.kubernetes.io/instance": job}
    config = [_config_map(job, labels, plan)] if plan.text else []
    return [
        _service(job, labels),
        _network_policy(job, labels),
        _claim(job, labels, wishes),
        *config,
        _job(job, labels, plan, wishes, nodes=nodes, arguments=arguments),
    ]


def to_yaml(manifests: Sequence[Manifest], *, command: str) -> str:
    """One text for `kubectl apply -f -`; its head says how it was made and how to make the key."""
    job = manifests[-1]["metadata"]["name"]
    head = (
        f"# Made by `{command}`.\n"
        "# The key by which the pods know each other is yours to make, once:\n"
        f"#   openssl rand -hex 32 | kubectl create secret generic {job}-key --from-file=key=/dev/stdin\n"
    )
    return head + str(yaml.safe_dump_all(manifests, sort_keys=False, width=110))


def _name(name: str) -> str:
    """As Kubernetes wants names (RFC 1123)."""
    job = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME].rstrip("-")
    if not job or not job[0].isalpha():
        raise UsageError(f"--name {name!r}: no letter to begin with", hint="Kubernetes wants a-z, 0-9 and -")
    return job


def _metadata(name: str, labels: dict[str, str]) -> Manifest:
    return {"name": name, "labels": dict(labels)}


def _service(job: str, labels: dict[str, str]) -> Manifest:
    """Headless, so that pods have names; also before they are ready, since they start each other."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(job, labels),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": dict(labels),
            "ports": [{"name": "pods", "port": PORT, "protocol": "TCP"}],
        },
    }


def _network_policy(job: str, labels: dict[str, str]) -> Manifest:
    """Pods of the job talk to each other, to DNS and to HTTPS (S3, model hub); nobody talks to them.

    DGL's RPC unpickles what arrives: without this, whoever reaches a pod owns it.
    """
    dns = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(job, labels),
        "spec": {
            **_pods_of(labels),
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [_pods_of(labels)]}],
            "egress": [
                {"to": [_pods_of(labels)]},
                {"ports": dns},
                {"ports": [{"port": 443, "protocol": "TCP"}]},
            ],
        },
    }


def _pods_of(labels: dict[str, str]) -> Manifest:
    return {"podSelector": {"matchLabels": dict(labels)}}


def _claim(job: str, labels: dict[str, str], wishes: PodWishes) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(job, labels),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": f"{wishes.storage_gib}Gi"}},
        },
    }


def _config_map(job: str, labels: dict[str, str], plan: PlanSource) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(job, labels),
        "data": {Path(plan.path).name: plan.text},
    }


def _job(
    job: str,
    labels: dict[str, str],
    plan: PlanSource,
    wishes: PodWishes,
    *,
    nodes: int,
    arguments: Sequence[str],
) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, labels),
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimit": POD_RETRIES,
            # Pod 0 has the job's word; another pod that misses it would wait for a pod 0 in vain.
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {"labels": dict(labels)},
                "spec": _pod(job, labels, plan, wishes, nodes=nodes, arguments=arguments),
            },
        },
    }


def _failure_rules() -> list[Manifest]:
    """A node that Kubernetes takes away says nothing about the job; some exit codes say it all."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        # Of these pods one alone was the target: pod 0 ends as well, when any of them is drained.
        {"action": "Ignore", "onExitCodes": _exits([TERMINATED])},
        {"action": "FailJob", "onExitCodes": _exits([code for code in LAST_WORDS if code])},
    ]


def _exits(codes: list[int]) -> Manifest:
    return {"containerName": "lmgnn", "operator": "In", "values": codes}


def _pod(
    job: str,
    labels: dict[str, str],
    plan: PlanSource,
    wishes: PodWishes,
    *,
    nodes: int,
    arguments: Sequence[str],
) -> Manifest:
    run = ["run", "--config", plan.path, "--nodes", str(nodes), "--run-dir", f"{HOME}/runs/{job}"]
    return {
        "subdomain": job,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": AGENT_GRACE_S + 30,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(labels)},
            }
        ],
        "containers": [_container(job, plan, wishes, [*run, *arguments])],
        "volumes": _volumes(job, plan, wishes),
    }


def _container(job: str, plan: PlanSource, wishes: PodWishes, arguments: list[str]) -> Manifest:
    needs: Manifest = {"cpu": str(wishes.cpus), "memory": f"{wishes.memory_gib}Gi"}
    needs |= {"nvidia.com/gpu": str(wishes.gpus)} if wishes.gpus else {}
    cores = {"resourceFieldRef": {"containerName": "lmgnn", "resource": "limits.cpu", "divisor": "1"}}
    plans = [{"name": "plan", "mountPath": PLAN_FOLDER, "readOnly": True}] if plan.text else []
    return {
        "name": "lmgnn",
        "image": wishes.image,
        "args": arguments,
        "env": [
            {"name": "LMGNN_HEAD", "value": f"{job}-0.{job}"},
            {"name": "LMGNN_ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "LMGNN_KEY_FILE", "value": f"{KEY_FOLDER}/key"},
            {"name": "LMGNN_CORES", "valueFrom": cores},
        ],
        "ports": [{"name": "pods", "containerPort": PORT, "protocol": "TCP"}],
        "resources": {"requests": dict(needs), "limits": dict(needs)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "work", "mountPath": HOME},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "key", "mountPath": KEY_FOLDER, "readOnly": True},
            *plans,
        ],
    }


def _volumes(job: str, plan: PlanSource, wishes: PodWishes) -> list[Manifest]:
    plans = [{"name": "plan", "configMap": {"name": job}}] if plan.text else []
    return [
        {"name": "work", "persistentVolumeClaim": {"claimName": job}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "2Gi"}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{wishes.shm_gib}Gi"}},
        {"name": "key", "secret": {"secretName": f"{job}-key", "defaultMode": 0o440}},
        *plans,
    ]

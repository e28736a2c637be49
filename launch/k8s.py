"""A pod of an indexed Job: what its environment says, and which hosts the job has.

Kubernetes sets JOB_COMPLETION_INDEX in such pods; the rest comes from our manifest (k8s_manifests):

LMGNN_HEAD       name of pod 0 in the headless service, e.g. papers-0.papers
LMGNN_ADDRESS    the pod's own address
LMGNN_KEY_FILE   file with the key that pods show each other that they belong together
LMGNN_CORES      cores that the pod may use

Pod 0 runs the supervisor (k8s_backend), the others wait for its agents' orders (k8s_node).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from launch.cluster import ClusterSpec, Host, HostsWanted, local_gpus
from partition.errors import PreflightError, UsageError

PORT = 7117
"""Where pod 0 waits for the others."""
MIN_KEY_BYTES = 16


@dataclass(frozen=True)
class Pod:
    """This process's pod."""

    index: int
    head: str
    address: str
    key_file: Path
    cores: int

    def name_of(self, index: int) -> str:
        """The name that the Job controller gives pod `index`."""
        return f"{self.head.partition('.')[0].removesuffix('-0')}-{index}"

    def key(self) -> bytes:
        """The shared key; PreflightError when the mounted file does not hold one."""
        try:
            key = self.key_file.read_bytes().strip()
        except OSError as error:
            raise PreflightError(
                f"key of the pods: {error}", hint="create the secret that the manifest names, and mount it"
            ) from None
        if len(key) < MIN_KEY_BYTES:
            raise PreflightError(
                f"key of the pods: {self.key_file} holds {len(key)} bytes, expected at least {MIN_KEY_BYTES}",
                hint="`openssl rand -hex 32` makes a good one",
            )
        return key


def this_pod(environment: Mapping[str, str] = os.environ) -> Pod | None:
    """The pod that this process runs in; None outside of a Job of ours."""
    if "JOB_COMPLETION_INDEX" not in environment or "LMGNN_HEAD" not in environment:
        return None
    missing = [n for n in ("LMGNN_ADDRESS", "LMGNN_KEY_FILE") if not environment.get(n)]
    index, cores = environment["JOB_COMPLETION_INDEX"], environment.get("LMGNN_CORES", "")
    wrong = [text for text in (index, cores) if text and not text.isdigit()]
    if missing or wrong or not index:
        raise UsageError(
            f"pod of an indexed Job: {', '.join(missing)} unset"
            if missing
            else f"pod of an indexed Job: JOB_COMPLETION_INDEX or LMGNN_CORES is {wrong or ['empty']}",
            hint="start it by the manifest of `lmgnn plan --backend k8s`",
        )
    return Pod(
        index=int(index),
        head=environment["LMGNN_HEAD"],
        address=environment["LMGNN_ADDRESS"],
        key_file=Path(environment["LMGNN_KEY_FILE"]),
        cores=int(cores or 0) or len(os.sched_getaffinity(0)),
    )


def pod_cluster(pod: Pod, wanted: HostsWanted) -> ClusterSpec:
    """One host per pod, all like this one; addresses of the others are known once they connect."""
    gpus, nodes = local_gpus(), wanted.nodes or 1
    own = facts(pod) if nodes > 1 else Host(pod.name_of(0), "127.0.0.1", "lo", pod.cores, gpus)
    others = tuple(Host(pod.name_of(k), "", "", pod.cores, gpus) for k in range(1, nodes))
    trainers = (gpus or 2) if wanted.trainers_per_host is None else wanted.trainers_per_host
    return ClusterSpec("k8s", (own, *others), trainers, wanted.servers_per_host)


def facts(pod: Pod) -> Host:
    """What this pod offers."""
    return Host(
        pod.name_of(pod.index),
        pod.address,
        interface_of(pod.address, psutil_interfaces()),
        pod.cores,
        local_gpus(),
    )


def psutil_interfaces() -> Mapping[str, list[str]]:
    """IPv4 addresses of this machine's interfaces."""
    return {
        name: [a.address for a in addresses if a.family == socket.AF_INET]
        for name, addresses in psutil.net_if_addrs().items()
    }


def interface_of(address: str, interfaces: Mapping[str, list[str]]) -> str:
    """The interface that holds an address; PreflightError when there is none."""
    for name, addresses in interfaces.items():
        if address in addresses:
            return name
    known = ", ".join(f"{n} {' '.join(a)}" for n, a in interfaces.items() if a)
    raise PreflightError(f"no network interface holds {address}", hint=f"there are {known}")

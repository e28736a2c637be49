"""Pods of a rendered Job, as simulated hosts: their own command lines and environment, their mounts.

What Kubernetes does to a pod is done here from the manifest: name, address, index, volumes, a key.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from launch.cluster import ClusterSpec, Host
from launch.k8s_manifests import CODE, HOME, KEY_FOLDER
from launch.namespaces import Switch

ROOT = Path(__file__).resolve().parents[2]
HIDDEN = ("/mnt", "/opt", "/srv", "/run")
"""What lies there on this machine cannot be seen in a pod."""
MOUNTS = f"""
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/code /mnt/work /mnt/key
mount --bind "$1" /mnt/code; mount --bind "$2" /mnt/work; mount --bind "$3" /mnt/key; shift 3
for place in /opt /srv /run; do mount -t tmpfs tmpfs $place; done
mkdir -p {CODE} {HOME} {KEY_FOLDER}
mount --bind /mnt/code {CODE}; mount --bind /mnt/work {HOME}; mount --bind /mnt/key {KEY_FOLDER}
cd {HOME}
exec "$@"
"""


class Pods:
    """The pods of one Job; `code` is a tree as the image has it."""

    def __init__(self, job: Mapping[str, Any], folder: Path, *, code: Path) -> None:
        self._pod = job["spec"]["template"]["spec"]
        self._code = code
        self.work = folder / "work"
        self._logs = folder / "pods"
        self._keys = folder / "keys"
        for path in (self.work, self._logs, self._keys):
            path.mkdir()
        stem, count = job["metadata"]["name"], job["spec"]["completions"]
        names = [f"{stem}-{k}.{self._pod['subdomain']}" for k in range(count)]
        self._hosts = [Host(name, f"10.77.0.{k + 1}", "eth0", 1) for k, name in enumerate(names)]
        self._switch = Switch(ClusterSpec("local", tuple(self._hosts), 1), code=str(ROOT))
        self._running: list[subprocess.Popen[str]] = []

    def start(self, index: int, *, key: str = "k" * 64, **more: str) -> subprocess.Popen[str]:
        """Start a pod's container; its output is in `log`."""
        keys = self._keys / f"{index}-{len(self._running)}"
        keys.mkdir()
        (keys / "key").write_text(key + "\n")
        container = self._pod["containers"][0]
        entry = [f"{CODE}/.venv/bin/python", "-P", "-m", "launch"]
        argv = [
            "sh",
            "-c",
            MOUNTS,
            "sh",
            str(self._code),
            str(self.work),
            str(keys),
            *entry,
            *container["args"],
        ]
        with self.log(index).open("a") as log:
            pod = subprocess.Popen(
                self._switch.command(self._hosts[index].name, argv),
                env=self._environment(index, container["env"]) | more,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                text=True,
            )
        self._running.append(pod)
        return pod

    def signal(self, pod: subprocess.Popen[str], number: int) -> None:
        """To the pod's first process, as the kubelet does."""
        os.kill(psutil.Process(pod.pid).children()[0].pid, number)

    def log(self, index: int) -> Path:
        return self._logs / f"{index}.log"

    def close(self) -> None:
        for pod in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)
            pod.wait()
        self._switch.close()

    def _environment(self, index: int, asked: list[dict[str, Any]]) -> dict[str, str]:
        """What the manifest asks for, with the values that Kubernetes fills in."""
        filled = {"status.podIP": self._hosts[index].address, "limits.cpu": "1"}
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": CODE, "HOME": "/tmp"}
        environment |= {"JOB_COMPLETION_INDEX": str(index)}
        for entry in asked:
            source = entry.get("valueFrom", {})
            field = source.get("fieldRef", {}).get("fieldPath") or source.get("resourceFieldRef", {}).get(
                "resource"
            )
            environment[entry["name"]] = filled[field] if field else entry["value"]
        return environment


@contextlib.contextmanager
def pods_of(job: Mapping[str, Any], folder: Path, *, code: Path) -> Iterator[Pods]:
    """Pods that are gone after the block."""
    folder.mkdir(exist_ok=True)
    interpreter = code / ".venv"
    if not interpreter.exists():
        interpreter.symlink_to(sys.prefix)
    pods = Pods(job, folder, code=code)
    try:
        yield pods
    finally:
        pods.close()

"""Several hosts on one machine: namespaces with their own network, /dev/shm, processes and name.

`python -m launch.namespaces switch FOLDER ADDRESS...` is the network switch: it runs in fresh
user, network and mount namespaces, makes one network per host on a bridge, and keeps them until
its stdin closes. `... enter NAME -- COMMAND` turns a fresh namespace into that host. Nothing of it
is visible outside, nothing outlives the switch and the hosts' first processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.cluster import ClusterSpec
from partition.errors import PreflightError

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "ip": "iproute2", "mount": "mount"}
BRIDGE = "switch"


class Switch:
    """The running switch. `user_namespace` is what makes it work for an ordinary user."""

    def __init__(self, cluster: ClusterSpec, *, code: str, user_namespace: bool | None = None) -> None:
        _check_tools()
        self._user = os.geteuid() != 0 if user_namespace is None else user_namespace
        self._folder = tempfile.mkdtemp(prefix="lmgnn-switch-")
        self._code = code
        user = ["--user", "--map-root-user"] if self._user else []
        python = [sys.executable, "-P", "-m", "launch.namespaces"]
        names = [f"{host.name}={host.address}" for host in cluster.hosts]
        self._process = subprocess.Popen(
            ["unshare", *user, "--net", "--mount", "--ipc", "--uts", *python, "switch", self._folder, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": code},
            start_new_session=True,
        )
        stdout = self._process.stdout
        if stdout is None or stdout.readline().strip() != b"ready":
            _, stderr = self._process.communicate()
            self.close()
            raise PreflightError(
                f"cannot make {len(cluster.hosts)} hosts on this machine: {_last_line(stderr)}",
                hint="namespaces need root, or a kernel that lets users make them "
                "(sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
            )

    def command(self, name: str, argv: Sequence[str]) -> list[str]:
        """What runs `argv` as the first process of a host."""
        user = ["--user", "--preserve-credentials"] if self._user else []
        return [
            *("nsenter", "--target", str(self._process.pid), *user, "--mount", "--"),
            *("nsenter", f"--net={self._folder}/{name}", "--"),
            *("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-P", "-m", "launch.namespaces", "enter", name, "--", *argv),
        ]

    def close(self) -> None:
        """End the switch; its networks go with it."""
        if self._process.stdin and not self._process.stdin.closed:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._process.communicate(timeout=10)
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def _check_tools() -> None:
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool)}
    if missing:
        raise PreflightError(
            f"hosts on this machine need {', '.join(t for t in TOOLS if not shutil.which(t))}",
            hint=f"apt-get install {' '.join(sorted(missing))}",
        )


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def serve_switch(folder: Path, hosts: Sequence[tuple[str, str]]) -> None:
    """Inside the new namespaces: make bridge and host networks, say ready, wait for end of stdin.

    The networks are kept by files on a tmpfs that exists in this mount namespace alone.
    """
    _do("mount", "-t", "tmpfs", "tmpfs", str(folder))
    _do("ip", "link", "set", "lo", "up")
    _do("ip", "link", "add", BRIDGE, "type", "bridge")
    _do("ip", "link", "set", BRIDGE, "up")
    for number, (name, address) in enumerate(hosts):
        network = folder / name
        network.touch()
        _do("unshare", f"--net={network}", "true")
        port = f"port{number}"
        _do("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(network))
        _do("ip", "link", "set", port, "master", BRIDGE, "up")
        inside = ("nsenter", f"--net={network}", "ip")
        _do(*inside, "link", "set", "lo", "up")
        _do(*inside, "address", "add", f"{address}/24", "dev", "eth0")
        _do(*inside, "link", "set", "eth0", "up")
    names = folder / "hosts"
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in hosts))
    _do("mount", "--bind", str(names), "/etc/hosts")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    _do("umount", "--lazy", str(folder))
    folder.rmdir()


def enter_host(name: str, argv: Sequence[str]) -> None:
    """Inside a host's fresh namespaces: give it a name and a /dev/shm of its own, become `argv`."""
    socket.sethostname(name)
    _do("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/dev/shm")
    os.execvp(argv[0], list(argv))


def _do(*argv: str) -> None:
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.stderr.write(f"{' '.join(argv)}: {result.stderr.strip() or result.returncode}\n")
        sys.exit(12)


def main(argv: Sequence[str]) -> int:
    if argv[0] == "switch":
        hosts = [(name, address) for name, _, address in (text.partition("=") for text in argv[2:])]
        serve_switch(Path(argv[1]), hosts)
    else:
        enter_host(argv[1], argv[3:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

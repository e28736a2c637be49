"""Real hosts with sshd for the tests: tests/hosts/hosts.sh started, entered, broken and taken away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPT = Path(__file__).with_name("hosts.sh")
NEEDED = ("unshare", "nsenter", "setpriv", "ip", "ssh", "ssh-keygen")


def can_make_hosts() -> bool:
    there = all(shutil.which(tool) for tool in NEEDED) and Path("/usr/sbin/sshd").exists()
    return os.geteuid() == 0 and there


class SshHosts:
    """host1, host2, … and a head that reaches them by ssh."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count, self.folder = count, folder
        folder.mkdir()
        self._process = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "--ipc", "bash", str(SCRIPT), str(count), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def on_head(self, argv: Sequence[str]) -> list[str]:
        """What runs `argv` on the head, in the current folder and as this very process."""
        return self._enter(self._process.pid, argv)

    def on_host(self, number: int, argv: Sequence[str]) -> list[str]:
        """What runs `argv` in network and file systems of a host, without ssh."""
        (first,) = (self.folder / f"pid.{number}").read_text().split()
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return self._enter(int(children[0]), argv)

    def in_processes_of(self, number: int, argv: Sequence[str]) -> list[str]:
        """The same, with the host's own numbers of processes."""
        enter, *rest = self.on_host(number, argv)
        return [enter, "--pid", *rest]

    def run(self, number: int, *argv: str) -> str:
        return subprocess.run(self.on_host(number, argv), capture_output=True, text=True, check=True).stdout

    def hostfile(self, *lines: str) -> str:
        """Path of a hostfile; without lines it names all hosts."""
        path = self.folder / "hostfile"
        path.write_text("\n".join(lines or [f"host{k + 1}" for k in range(self.count)]) + "\n")
        return str(path)

    def flags(self, *lines: str) -> list[str]:
        """What `lmgnn run` needs to know."""
        return ["--hostfile", self.hostfile(*lines), "--ssh-config", str(self.folder / "ssh_config")]

    def lose_power(self, number: int) -> None:
        """kill -9 of the host's first process: sshd, its sessions and all they started go."""
        os.kill(int((self.folder / f"pid.{number}").read_text()), signal.SIGKILL)

    def cut_off(self, number: int) -> None:
        """Nothing gets to the host or from it any more; its processes notice nothing."""
        subprocess.run(self.on_head(["ip", "link", "set", f"veth{number}", "down"]), check=True)

    def forget_key(self, number: int, *, put: str = "") -> None:
        """Take a host's key out of known_hosts, or put another one there."""
        path = self.folder / "known_hosts"
        kept = [line for line in path.read_text().splitlines() if not line.startswith(f"host{number} ")]
        path.write_text("\n".join([*kept, *([f"host{number} {put}"] if put else [])]) + "\n")

    def listeners(self, number: int) -> list[str]:
        """Addresses with ports on which something on a host listens, sshd's apart."""
        lines = self.run(number, "ss", "-Hltn").splitlines()
        found = [line.split()[3] for line in lines]
        return [address for address in found if not address.endswith(":22")]

    def segments(self, number: int) -> list[str]:
        return [name for name in self.run(number, "ls", "/dev/shm").split() if name.startswith("lmgnn-")]

    def close(self) -> None:
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its hosts end with it
            self._process.communicate()
            raise

    @staticmethod
    def _enter(pid: int, argv: Sequence[str]) -> list[str]:
        namespaces = ("--net", "--mount", "--uts", "--ipc")
        return ["nsenter", "--target", str(pid), *namespaces, f"--wd={os.getcwd()}", "--", *argv]


@contextmanager
def ssh_hosts(count: int, folder: Path) -> Iterator[SshHosts]:
    hosts = SshHosts(count, folder)
    try:
        yield hosts
    finally:
        hosts.close()


def environment(code: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", **(extra or {})}

"""A real Slurm over the tests' hosts: jobs submitted from a checkout, asked about, taken away."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.hosts.ssh_hosts import SshHosts, can_make_hosts
from tests.launch_tree import Tree

SCRIPT = Path(__file__).with_name("slurm.sh")


def can_queue() -> bool:
    return can_make_hosts() and all(map(shutil.which, ("slurmctld", "slurmd", "munged", "srun")))


class Queue:
    """A Slurm over two hosts, and the checkout to submit from."""

    def __init__(self, tree: Tree, hosts: SshHosts) -> None:
        self.tree, self._hosts = tree, hosts
        self.environment = {**tree.environment({}), "SLURM_CONF": str(hosts.folder / "slurm.conf")}
        self._process = subprocess.Popen(
            hosts.on_head(["bash", str(SCRIPT), str(hosts.count), str(hosts.folder)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def on_head(self, *argv: str, **fakes: str) -> str:
        result = subprocess.run(
            self._hosts.on_head(argv),
            env=self.environment | fakes,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def submit(self, *flags: str, **fakes: str) -> tuple[str, Path]:
        """Number and run folder of a job over both nodes."""
        said = self.on_head(*self.tree.command("submit", "--nodes", "2", *flags), **fakes)
        job, run = said.strip().removeprefix("job ").split(", run ")
        return job, Path(run)

    def state(self, job: str) -> str:
        shown = self.on_head("scontrol", "--oneliner", "show", "job", job)
        return next(w for w in shown.split() if w.startswith("JobState=")).removeprefix("JobState=")

    def close(self) -> None:
        try:
            self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

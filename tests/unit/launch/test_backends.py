"""Which backend a job gets, how ssh is called, and what its complaints mean."""

from __future__ import annotations

import io
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from launch import backends, preflight
from launch.backends import AgentLink, LocalBackend, choose_backend
from launch.cluster import ClusterSpec, Host, HostsWanted
from launch.console import Console
from launch.hostchecks import Seen
from launch.outcome import JobFailed
from launch.plan import Paths
from launch.ssh import SshBackend, carried, explain, ssh_command
from launch.supervisor import Supervisor
from launch.watch import Interrupts
from partition.errors import UsageError


@pytest.fixture
def hostfile(tmp_path: Path) -> str:
    path = tmp_path / "hosts"
    path.write_text("a slots=1\nb slots=1\n")
    return str(path)


def test_a_hostfile_means_ssh_and_nothing_means_this_machine(hostfile: str) -> None:
    assert isinstance(choose_backend("", HostsWanted(hostfile=hostfile), {}), SshBackend)
    assert isinstance(choose_backend("", HostsWanted(), {}), LocalBackend)
    assert isinstance(choose_backend("local", HostsWanted(nodes=2), {}), LocalBackend)


def test_a_backend_that_contradicts_the_flags_is_refused(hostfile: str) -> None:
    with pytest.raises(UsageError, match=r"--backend pdsh: there are ssh, k8s, slurm, local"):
        choose_backend("pdsh", HostsWanted(), {})
    with pytest.raises(UsageError, match="--hostfile is for ssh, not for --backend local"):
        choose_backend("local", HostsWanted(hostfile=hostfile), {})
    with pytest.raises(UsageError, match="--backend ssh needs --hostfile"):
        choose_backend("ssh", HostsWanted(), {})


@pytest.mark.parametrize("network", ["10.0.0.1/8", "private"])
def test_a_network_that_is_none_is_refused(hostfile: str, network: str) -> None:
    with pytest.raises(UsageError, match="--network"):
        choose_backend("", HostsWanted(hostfile=hostfile, network=network), {})
    with pytest.raises(UsageError, match="--network"):
        choose_backend("", HostsWanted(network=network), {"SLURM_JOB_NUM_NODES": "2"})


def test_ssh_asks_nobody_and_accepts_no_key() -> None:
    argv = ssh_command("me@a", ["python", "-m", "x y", "$HOME"], code="/code dir", config="F")
    assert argv[:3] == ["ssh", "-F", "F"]
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no", "ConnectTimeout=15"):
        assert argv[argv.index(option) - 1] == "-o"
    assert argv[-3:-1] == ["--", "me@a"]
    words = ["exec", "env", "PYTHONPATH=/code dir", "python", "-m", "x y", "$HOME"]
    assert shlex.split(argv[-1]) == words


@pytest.mark.parametrize(
    ("last_words", "what"),
    [
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "its host key has CHANGED",
        ),
        ("No ED25519 host key is known for a\nHost key verification failed.", "its host key is not known"),
        ("me@a: Permission denied (publickey).", "ssh lets nobody in"),
        ("/usr/bin/python: No module named launch", "our code is not there"),
        ("python: Error while finding module ...: No module named 'launch'", "our code is not there"),
        ("ModuleNotFoundError: No module named 'psutil'", "a package of its .venv is not there"),
        ("env: ‘/x/python’: Permission denied", "its Python is not there"),
        ("env: ‘/x/python’: No such file or directory", "its Python is not there"),
        ("noise\nssh: connect to host a port 22: No route to host", "ssh: connect to host a port 22"),
    ],
)
def test_a_complaint_becomes_what_happened_and_what_to_do(last_words: str, what: str) -> None:
    happened, hint = explain("a", last_words)
    assert what in happened
    assert not {"HOST", "SSH", "COPY"} & set(re.findall(r"\w+", hint))


@pytest.mark.parametrize("last_words", ["Host key verification failed.", "Connection refused"])
def test_a_way_out_by_ssh_takes_the_jobs_ssh_config(last_words: str) -> None:
    assert "`ssh -F 'my config' a" in explain("a", last_words, config="my config")[1]
    assert "`ssh a" in explain("a", last_words)[1]


def test_other_hosts_get_credentials_and_exports_only() -> None:
    here = {"AWS_PROFILE": "p", "HF_HOME": "h", "https_proxy": "x", "MINE": "m", "HOME": "/root", "FOO": "f"}
    assert carried(here, ["MINE"]) == {"AWS_PROFILE": "p", "HF_HOME": "h", "https_proxy": "x", "MINE": "m"}
    with pytest.raises(UsageError, match="--export GONE: it is not set"):
        carried(here, ["GONE"])


class Fleet:
    """Hosts a to d of a hostfile, two of them in use; those in `down` do not answer a preflight."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "hosts").write_text("a\nb\nc\nd\n")
        self.down: set[str] = set()
        self.said = io.StringIO()
        self._backend = SshBackend(HostsWanted(nodes=2, hostfile=str(tmp_path / "hosts")))
        self._paths = Paths(str(Path(__file__).parents[3]), "/home", "/run")
        monkeypatch.setattr(preflight, "look", self._look)

    def _look(self, names: Sequence[str], *_: object, **__: object) -> list[Seen]:
        found = []
        for name in names:
            seen = Seen(name, address=f"10.0.0.{ord(name)}", interface="eth0", facts={"cores": 1, "gpus": 0})
            if name in self.down:
                seen.fault("host", "not to be had", hint="is it up?")
            found.append(seen)
        return found

    def restart(self, *names: str) -> list[str]:
        """The hosts after a failure of a job on `names`."""
        hosts = tuple(Host(name, "", "", 1) for name in names)
        cluster = ClusterSpec("ssh", hosts, 1)
        console = Console(self.said)
        again = self._backend.check(cluster, self._paths, console, run_id="0123abcd", again=True)
        return [host.name for host in again.hosts]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(tmp_path, monkeypatch)


def test_sound_hosts_stay(fleet: Fleet) -> None:
    assert fleet.restart("a", "b") == ["a", "b"]


def test_a_spare_takes_the_part_of_a_lost_host_and_a_dead_spare_is_passed_over(fleet: Fleet) -> None:
    fleet.down = {"a", "c"}
    assert fleet.restart("a", "b") == ["d", "b"]
    assert "d takes the place of c: c: not to be had" in fleet.said.getvalue()


def test_too_few_sound_hosts_change_nothing_and_may_come_back(fleet: Fleet) -> None:
    fleet.down = {"a", "b", "c"}
    with pytest.raises(JobFailed, match="has no spare host") as caught:
        fleet.restart("a", "b")
    assert caught.value.exit_code == 10
    fleet.down = {"a"}
    assert fleet.restart("a", "b") == ["c", "b"]


def test_a_host_that_was_lost_is_the_last_spare(fleet: Fleet) -> None:
    fleet.down = {"a"}
    assert fleet.restart("a", "b") == ["c", "b"]
    fleet.down = {"c"}
    assert fleet.restart("c", "b") == ["d", "b"]
    fleet.down = {"d"}
    assert fleet.restart("d", "b") == ["a", "b"]


def link_to(script: str, folder: Path) -> AgentLink:
    """A link to something else than an agent."""
    paths = Paths(str(Path(__file__).parents[3]), str(folder), str(folder))
    return AgentLink(0, [sys.executable, "-c", script], paths=paths, log=folder / "agent.log")


@pytest.mark.parametrize(("backend", "code"), [("local", 12), ("ssh", 10), ("slurm", 10), ("k8s", 10)])
def test_a_host_lost_before_its_first_word_may_come_back_unless_it_is_this_one(
    tmp_path: Path, backend: str, code: int
) -> None:
    link = link_to("pass", tmp_path)
    cluster = ClusterSpec(backend, (Host("a", "", "", 1),), 1)
    watcher = Supervisor(
        [link], cluster, console=Console(io.StringIO()), interrupts=Interrupts(), hang_timeout_s=60
    )
    with pytest.raises(JobFailed, match="host a is lost") as caught:
        watcher.hold_ports(1)
    link.close()
    assert caught.value.exit_code == code


def test_an_agent_that_neither_speaks_nor_leaves_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "LEAVE_S", 0.5)
    ended = tmp_path / "ended"
    link = link_to(f"import time; time.sleep(20); open({str(ended)!r}, 'w')", tmp_path)
    link.close()
    assert not ended.exists()

"""Before a job starts: asks all hosts at once what they are and have, and says which cannot take part.

Owns the questions to launch.probe on every host, the table and the refusal; what must be is in
launch.hostchecks. Never starts a process of the job; how a probe gets onto a host is the backend's business.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launch.console import Console
from launch.hostchecks import Seen, Wish, compare, judge_address, judge_room, judge_software
from launch.outcome import Interrupted
from launch.watch import Interrupts
from partition.errors import LMGNNError, PreflightError

ANSWER_S = 120.0
"""For every question but the one for the part, which may read or bring all of it."""
CHECKSUM_S = 3600.0
BRING_S = 6 * 3600.0
"""Enough for 1 TB at 50 MB/s; a store that stalls is given up far earlier, see partition/objects.py."""
TICK_S = 0.2
LEAVE_S = 3.0
"""A probe whose input has closed leaves within this time; srun killed before would leave it behind."""
AT_ONCE = 64
PACKAGES = {"ssh": "openssh-client", "srun": "slurm-client"}
"""Debian's names for what brings the commands."""


class ProbeEnded(Exception):
    """A probe gave no answer; the text is the last that it wrote to stderr, or with a hint what it did."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class Probe:
    """A running launch.probe, asked from one thread."""

    def __init__(self, argv: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self._rest = b""

    def ask(self, kind: str, *, limit_s: float = ANSWER_S, **question: Any) -> dict[str, Any]:
        """The answer; ProbeEnded when there is none in time, Interrupted when somebody asked to stop."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = time.monotonic() + limit_s
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps({"ask": kind, **question}).encode() + b"\n")
            stdin.flush()
        while b"\n" not in self._rest:
            if not select.select([stdout], [], [], TICK_S)[0]:
                self._look_at_the_time(deadline, limit_s)
                continue
            data = stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not data:
                raise ProbeEnded(self._last_words())
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        return _answer(line)

    def hang_up(self) -> None:
        """Close its input, at which it leaves."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        self._process.stdin = None

    def close(self, deadline: float) -> None:
        """Wait until it has left; by force after the deadline (of time.monotonic)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=max(0.0, deadline - time.monotonic()))
            return
        self._process.kill()
        self._process.communicate()

    def _look_at_the_time(self, deadline: float, limit_s: float) -> None:
        wishes = Interrupts.current
        if wishes and wishes.count:
            raise Interrupted(wishes.code)
        if time.monotonic() > deadline:
            raise ProbeEnded(f"no answer within {limit_s:.0f} s")

    def _last_words(self) -> str:
        """What ssh or the host's Python said, and how it ended."""
        try:
            _, stderr = self._process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines) or f"it ended with {self._process.returncode}"


def look(
    names: Sequence[str],
    wish: Wish,
    *,
    command: Callable[[str], Sequence[str]],
    explain: Callable[[str, str], tuple[str, str]],
) -> list[Seen]:
    """Every host as it was found, faults and all, in the order of `names`.

    `command` is what runs launch.probe on a host; `explain` turns a name and the last words of a probe that
    could not be run into (what happened, way out). PreflightError when the program that reaches hosts is
    missing here, Interrupted when somebody asked to stop.
    """
    hosts = [Seen(name) for name in names]
    with _probes([command(name) for name in names]) as probes, ThreadPoolExecutor(AT_ONCE) as pool:
        both = list(zip(hosts, probes, range(len(names)), strict=True))

        def each(step: Callable[[Seen, Probe, int], None]) -> None:
            def one(item: tuple[Seen, Probe, int]) -> None:
                seen, probe, index = item
                if seen.cells.get("host") == "✗":
                    return
                try:
                    step(seen, probe, index)
                except ProbeEnded as ended:
                    said = str(ended)
                    what, hint = (said, ended.hint) if ended.hint else explain(seen.name, said)
                    seen.fault("host", what, hint=hint)

            list(pool.map(one, both))

        each(lambda seen, probe, _: _first_facts(seen, probe, wish))
        compare(hosts, wish)
        each(lambda seen, probe, index: _part(seen, probe, index, wish))
        if len(hosts) > 1:
            _connections(hosts, each)
    return hosts


def show(hosts: Sequence[Seen], console: Console) -> None:
    """The table: a host a line, a check a column."""
    columns = ["host", "address", "software", "ports", "disk", "/dev/shm", "limits", "clock", "run folder"]
    columns += [c for c in ("part", "peers", "GPUs") if any(c in seen.cells for seen in hosts)]
    rows = [[seen.name if c == "host" else seen.cells.get(c, "") for c in columns] for seen in hosts]
    for seen, row in zip(hosts, rows, strict=True):
        row[0] += " ✗" if seen.cells.get("host") == "✗" else ""
    console.table("Hosts", columns, rows)


def refusal(hosts: Sequence[Seen]) -> LMGNNError | None:
    """The error for all that was found; None if nothing was. Its class is the first one's."""
    bad = [seen for seen in hosts if seen.faults]
    if not bad:
        return None
    first = next((f for s in bad for f in s.faults if isinstance(f, PreflightError)), bad[0].faults[0])
    more = [f for s in bad for f in s.faults if f is not first]
    if not more:
        return first
    listed = "\n  ".join(str(fault) for fault in (first, *more))
    return type(first)(f"{len(bad)} of {len(hosts)} hosts cannot take part:\n  {listed}")


@contextlib.contextmanager
def _probes(commands: Sequence[Sequence[str]]) -> Iterator[list[Probe]]:
    """A probe by each command; all of them have ended afterwards."""
    probes: list[Probe] = []
    try:
        for argv in commands:
            probes.append(_probe(argv))
        yield probes
    finally:
        for probe in probes:
            probe.hang_up()
        deadline = time.monotonic() + LEAVE_S
        for probe in probes:
            probe.close(deadline)


def _probe(argv: Sequence[str]) -> Probe:
    try:
        return Probe(argv)
    except FileNotFoundError:
        package = PACKAGES.get(argv[0], argv[0])
        raise PreflightError(
            f"{argv[0]} is not there", hint=f"it must be on the PATH; in Debian it is in {package}"
        ) from None


def _answer(line: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        answer = json.loads(line)
        if isinstance(answer, dict):
            return answer
    said = line.decode(errors="replace").strip()[:60]
    raise ProbeEnded(
        f"it printed {said!r} instead of an answer",
        hint="do its shell's start files (.bashrc) print something? They must not without a terminal",
    )


def _first_facts(seen: Seen, probe: Probe, wish: Wish) -> None:
    probe.ask("clock")  # the first answer waits for connection and interpreter
    sent = time.time()
    there = probe.ask("clock")["time"]
    trip = time.time() - sent
    seen.skew_s = max(0.0, abs(there - sent - trip / 2) - trip / 2)
    seen.facts = probe.ask("facts", code=wish.code, run=wish.run, run_id=wish.run_id, servers=wish.servers)
    judge_software(seen, wish)
    judge_room(seen)
    judge_address(seen, wish)
    if seen.facts["gpus"]:
        seen.cells["GPUs"] = str(seen.facts["gpus"])


def _part(seen: Seen, probe: Probe, index: int, wish: Wish) -> None:
    if not wish.partition:
        return
    question = {"partition": wish.partition, "part": index, "checksums": wish.checksums}
    with contextlib.suppress(OSError):  # then each host says what it misses
        question["manifest"] = (Path(wish.partition) / "manifest.sha256").read_text().strip()
    if wish.store:
        question |= {"store": wish.store, "environment": dict(wish.environment)}
    limit_s = BRING_S if wish.store else CHECKSUM_S if wish.checksums else ANSWER_S
    answer = probe.ask("part", limit_s=limit_s, **question)
    seen.cells["part"] = f"{index} {'verified' if wish.checksums else 'there'}"
    if "error" in answer:
        hint = f"copy {wish.partition} from the head there, or keep the store on a shared file system"
        if wish.store:
            hint = f"every host must reach {wish.store} and have room for its part"
        seen.fault("part", answer["error"], hint=hint, store=True)


def _connections(hosts: Sequence[Seen], each: Callable[[Callable[[Seen, Probe, int], None]], None]) -> None:
    """Every host tries every other one on the job's addresses."""
    ports: dict[str, int] = {}

    def listen(seen: Seen, probe: Probe, _: int) -> None:
        if not seen.interface:
            return
        answer = probe.ask("listen", address=seen.address)
        if "error" in answer:
            seen.fault("peers", f"cannot listen at {seen.address}: {answer['error']}", hint="see --network")
        else:
            ports[seen.name] = answer["port"]

    def reach(seen: Seen, probe: Probe, _: int) -> None:
        peers = [[s.name, s.address, ports[s.name]] for s in hosts if s.name in ports and s is not seen]
        unreached = probe.ask("reach", peers=peers)["unreached"]
        seen.cells["peers"] = f"{len(peers) - len(unreached)} of {len(hosts) - 1}"
        if unreached:
            said = ", ".join(f"{name} ({reason})" for name, reason in unreached.items())
            hint = "a firewall between them? The job needs ports from 20000 up; see --network"
            seen.fault("peers", f"does not reach {said}", hint=hint)

    each(listen)
    each(reach)

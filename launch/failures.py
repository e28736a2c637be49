"""What the supervisor saw of a failure -> the job's failure: first failed process, exit code, message.

Owns whom a failure is put down to and its exit code. Never watches and never stops anything.
"""

from __future__ import annotations

from pathlib import Path

from launch.cluster import ClusterSpec
from launch.outcome import FirstFailed, JobFailed, exit_code_of, shell_code
from launch.plan import ProcessSpec
from launch.protocol import Report
from launch.reading import reading_of

_TAIL_CHARACTERS = 2000


def process_failed(cluster: ClusterSpec, spec: ProcessSpec, report: Report) -> JobFailed:
    """A process ended with a code other than 0."""
    reading = reading_of(
        report.code,
        tail=report.text,
        peak_bytes=report.peak_bytes,
        kernel_out_of_memory=report.kernel_out_of_memory,
    )
    host = cluster.hosts[spec.host].name
    code = shell_code(report.code)
    failed = FirstFailed(host, spec.role, spec.rank, code, reading, spec.log, report.text)
    return JobFailed(f"{failed.name} failed: {reading}", exit_code_of(report.code), failed)


def process_hung(cluster: ClusterSpec, spec: ProcessSpec, what: str) -> JobFailed:
    """A process neither ends nor goes on."""
    host = cluster.hosts[spec.host].name
    failed = FirstFailed(host, spec.role, spec.rank, 0, f"hang: {what}", spec.log)
    return JobFailed(f"{failed.name}: {what}", 11, failed)


def host_lost(cluster: ClusterSpec, number: int, log: Path, what: str, *, greeted: bool) -> JobFailed:
    """A host's agent ended or fell silent; `greeted`: it had spoken before."""
    host = cluster.hosts[number].name
    tail = log.read_text(errors="replace")[-_TAIL_CHARACTERS:] if log.exists() else ""
    failed = FirstFailed(host, "agent", number, 0, f"host lost: {what}", str(log), tail)
    # On this machine an agent that does not start lacks something; elsewhere its host may come back.
    code = 12 if cluster.backend == "local" and not greeted else 10
    return JobFailed(f"host {host} is lost: {what}", code, failed)


def not_started(cluster: ClusterSpec, number: int, log: Path, report: Report) -> JobFailed:
    """A host's agent could not do as it was told."""
    host = cluster.hosts[number].name
    failed = FirstFailed(host, "agent", number, 0, report.text, str(log))
    return JobFailed(f"host {host}: {report.text}", report.code, failed)

"""What a build is refused for before it begins, and what a dry run says of it."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_foreseen import command, foreseen, made, told
from partition_graphs import communities, write_graph

from partition import dryrun, refusals
from partition.__main__ import main
from partition.errors import DiskFullError, UsageError
from partition.forecast import Forecast
from partition.memory import machine_bytes
from partition.refusals import MEMORY_FACTOR

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a graph."""
    return write_graph(tmp_path_factory.mktemp("large") / "graph", communities(groups=100))


CAUSES: Mapping[str, tuple[dict[str, float], list[str], int, str]] = {
    # Of a graph that is so many times larger.
    "ingest": ({"ingest": 1e6}, [], 2, "--relations"),
    "writing": ({"writing": 1e6}, [], 2, "raise --hosts"),
    "method": ({"cut": 1e7}, ["--hosts", "2", "--method", "metis"], 2, "--method auto"),
    "cut": ({}, ["--hosts", "2", "--memory", "30KB"], 2, "raise --memory"),
    "disk": ({"disk": 1e-9}, [], 14, "another --store"),
}


@pytest.mark.parametrize("cause", CAUSES, ids=str)
def test_what_cannot_fit_is_refused_with_what_would_help(
    cause: str,
    graph: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    larger, flags, code, hint = CAUSES[cause]
    if "disk" in larger:
        monkeypatch.setattr(refusals.shutil, "disk_usage", lambda path: Usage(10**6, 0, 10**5))
    real = dryrun.forecast

    def grown(*arguments: Any, **options: Any) -> Forecast:
        found = real(*arguments, **options)
        return replace(found, memory={k: int(v * larger.get(k, 1)) for k, v in found.memory.items()})

    monkeypatch.setattr(dryrun, "forecast", grown)
    assert main(command(graph, tmp_path / "store", *flags)) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert hint in errors[0]
    assert main([*command(graph, tmp_path / "store", *flags), "--json"]) == code
    line = json.loads(capsys.readouterr().out)
    assert [f"error: {words}" for words in line["refusals"]] == errors
    assert not (tmp_path / "store").exists()


def test_a_build_that_the_disk_cannot_hold_ends_before_the_tables_are_read(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals.shutil, "disk_usage", lambda path: Usage(10**6, 0, 10**5))
    monkeypatch.setattr("partition.build.assemble", None)
    with pytest.raises(DiskFullError, match=r"at least .* are needed, .* another --store"):
        made(graph, tmp_path / "store")
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


@pytest.mark.parametrize(("share", "refused"), [(1.01, True), (0.99, False)])
def test_a_build_is_refused_where_even_the_least_of_its_need_is_too_much(
    share: float, refused: bool, graph: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`share`: the lower bound of the need, of the memory that is asked for."""
    flags = ["--hosts", "2", "--method", "metis"]
    need = max(told(foreseen(graph, tmp_path, hosts=2, method="metis")).memory.values())
    flags += ["--memory", str(int(need / MEMORY_FACTOR / share))]
    assert main(["build", str(graph), "--store", str(tmp_path / "store"), *flags]) == (2 if refused else 0)
    errors = capsys.readouterr().err.splitlines()
    if refused:
        assert main(command(graph, tmp_path, *flags)) == 2
        assert errors[-1] == capsys.readouterr().err.splitlines()[-1]
        assert "raise --memory" in errors[-1]
        assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]
    else:
        assert [line for line in errors if line.startswith("warning: ") and "of memory, more than" in line]


def test_a_build_is_refused_where_the_machine_has_not_the_memory(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "machine_bytes", lambda: machine_bytes() // 10**4)
    monkeypatch.setattr("partition.build.assemble", None)
    with pytest.raises(UsageError, match=r"of memory, the machine has .* \(leave relations out"):
        made(graph, tmp_path / "store")

"""Hostfiles as DeepSpeed has them: what is read, what is refused by line, which numbers follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.hostfile import ListedHost, read_hostfile, take, trainers_of
from partition.errors import UsageError

THREE = [ListedHost("a", 4), ListedHost("b", 4), ListedHost("c", 2)]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hostfile"
    path.write_text(text)
    return path


def test_comments_empty_lines_users_and_missing_slots_are_read(tmp_path: Path) -> None:
    text = "# our hosts\nworker-1 slots=4\n\n  me@10.0.0.2   slots=2 # old one\nworker_3.lan\n"
    assert read_hostfile(written(tmp_path, text)) == [
        ListedHost("worker-1", 4),
        ListedHost("me@10.0.0.2", 2),
        ListedHost("worker_3.lan"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a slots=4\na slots=2\n", "line 2: a is named twice"),
        ("a slots=0\n", "line 1: 'slots=0': expected slots=N"),
        ("a slots=four\n", "expected slots=N"),
        ("a slots=4 gpus=4\n", "expected slots=N"),
        ("a 4\n", "expected slots=N"),
        ("-oProxyCommand=evil slots=1\n", "is no name of a host"),
        ("a;b slots=1\n", "is no name of a host"),
        ("../a slots=1\n", "is no name of a host"),
        ("# nothing\n", "names no host"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_hostfile(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--hostfile .*nowhere: No such file"):
        read_hostfile(tmp_path / "nowhere")


def test_hosts_beyond_nodes_are_spare() -> None:
    assert take(THREE, 2, "F") == (THREE[:2], THREE[2:])
    assert take(THREE, None, "F") == (THREE, [])


def test_too_few_hosts_are_an_error_with_both_numbers() -> None:
    with pytest.raises(UsageError, match=r"--nodes 8, but F names 3 hosts \(add 5 to the file"):
        take(THREE, 8, "F")
    with pytest.raises(UsageError, match="expected at least 1"):
        take(THREE, 0, "F")


def test_trainers_follow_the_slots_unless_a_flag_says() -> None:
    assert trainers_of(THREE[:2], None) == 4
    assert trainers_of(THREE, 2) == 2
    assert trainers_of([ListedHost("a")], None) is None


def test_unequal_slots_and_too_many_trainers_are_refused_by_host() -> None:
    with pytest.raises(UsageError, match=r"a slots=4 but c slots=2.*--trainers-per-node"):
        trainers_of(THREE, None)
    with pytest.raises(UsageError, match="--trainers-per-node 3, but c has slots=2"):
        trainers_of(THREE, 3)

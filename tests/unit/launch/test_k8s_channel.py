"""Pods prove to each other that they hold the key, and nothing of it can be used twice."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from launch.k8s import interface_of, this_pod
from launch.k8s_channel import NotOurs, greet_head, greet_node, read_line, send_line
from partition.errors import PreflightError, UsageError

KEY, OTHER = b"k" * 32, b"o" * 32
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    head, node = socket.socketpair()
    with head, node:
        yield head, node


def greet(pair: Pair, head_key: bytes, node_key: bytes) -> list[BaseException | None]:
    """What the two sides' greetings raise; a side that fails hangs up."""

    def side(act: Callable[[socket.socket, bytes], None], link: socket.socket, key: bytes) -> None:
        try:
            act(link, key)
        except BaseException:
            link.shutdown(socket.SHUT_RDWR)
            raise

    with ThreadPoolExecutor(2) as pool:
        sides: list[Future[None]] = [
            pool.submit(side, greet_node, pair[0], head_key),
            pool.submit(side, greet_head, pair[1], node_key),
        ]
        return [future.exception(timeout=30) for future in sides]


def test_two_with_the_same_key_let_each_other_in(pair: Pair) -> None:
    assert greet(pair, KEY, KEY) == [None, None]
    send_line(pair[0], {"run": "0123abcd"})
    pair[0].sendall(b"what follows")
    assert read_line(pair[1]) == {"run": "0123abcd"}
    assert pair[1].recv(100) == b"what follows"


def test_a_pod_without_the_key_is_not_let_in(pair: Pair) -> None:
    head, node = greet(pair, KEY, OTHER)
    assert isinstance(head, NotOurs)
    assert isinstance(node, ConnectionError)


def test_a_head_without_the_key_gets_no_agent(pair: Pair) -> None:
    """It may say what it likes after the pod has shown its proof."""
    with ThreadPoolExecutor(1) as pool:
        node = pool.submit(greet_head, pair[1], KEY)
        pair[0].sendall(b"n" * 32)
        assert len(pair[0].recv(64, socket.MSG_WAITALL)) == 64
        pair[0].sendall(b"p" * 32)
        assert isinstance(node.exception(timeout=30), NotOurs)


def test_a_proof_that_was_overheard_does_not_serve_again() -> None:
    def overhear(reply: bytes | None) -> tuple[bytes, BaseException | None]:
        head, node = socket.socketpair()
        with head, node, ThreadPoolExecutor(1) as pool:
            greeting = pool.submit(greet_node, head, KEY)
            if reply is None:
                with ThreadPoolExecutor(1) as other:
                    mine, between = socket.socketpair()
                    with mine, between:
                        answering = other.submit(greet_head, between, KEY)
                        mine.sendall(node.recv(32, socket.MSG_WAITALL))
                        reply = mine.recv(64, socket.MSG_WAITALL)
                        node.sendall(reply)
                        mine.sendall(node.recv(32, socket.MSG_WAITALL))
                        answering.result(timeout=30)
            else:
                node.recv(32, socket.MSG_WAITALL)
                node.sendall(reply)
            return reply, greeting.exception(timeout=30)

    proof, error = overhear(None)
    assert error is None
    assert isinstance(overhear(proof)[1], NotOurs)


ENVIRONMENT = {
    "JOB_COMPLETION_INDEX": "2",
    "LMGNN_HEAD": "job-0.job",
    "LMGNN_ADDRESS": "10.0.0.7",
    "LMGNN_KEY_FILE": "/run/key",
    "LMGNN_CORES": "3",
}


def test_a_pod_is_known_by_its_environment() -> None:
    pod = this_pod(ENVIRONMENT)
    assert pod is not None
    assert (pod.index, pod.cores, pod.name_of(11)) == (2, 3, "job-11")
    assert this_pod({"JOB_COMPLETION_INDEX": "2"}) is None  # somebody else's indexed job


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"JOB_COMPLETION_INDEX": "x"}, "'x'"),
        ({"LMGNN_ADDRESS": ""}, "LMGNN_ADDRESS"),
        ({"LMGNN_CORES": "2.5"}, "2.5"),
    ],
)
def test_a_pod_with_half_an_environment_is_told_what_is_wrong(change: dict[str, str], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        this_pod({**ENVIRONMENT, **change})


def test_a_key_that_is_missing_or_short_is_told(tmp_path: Path) -> None:
    for file, word in ((tmp_path / "none", "No such file"), (tmp_path / "short", "holds 5 bytes")):
        (tmp_path / "short").write_text("short\n")
        pod = this_pod({**ENVIRONMENT, "LMGNN_KEY_FILE": str(file)})
        assert pod is not None
        with pytest.raises(PreflightError, match=word):
            pod.key()


def test_an_address_leads_to_its_interface() -> None:
    interfaces = {"lo": ["127.0.0.1"], "net1": ["10.0.0.7", "10.0.1.7"]}
    assert interface_of("10.0.1.7", interfaces) == "net1"
    with pytest.raises(PreflightError, match=r"10\.0\.0\.8.*net1"):
        interface_of("10.0.0.8", interfaces)

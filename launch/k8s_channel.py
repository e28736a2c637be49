"""The connection of a pod to pod 0: both prove that they hold the key, then one line each way.

Owns sockets and the proof. The key itself never crosses the network: each side signs the other's
random bytes. What follows on the connection is launch.protocol, neither signed nor encrypted, like
DGL's and gloo's own connections beside it: a NetworkPolicy keeps others out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from typing import Any

NONCE_BYTES = 32
PROOF_BYTES = 32
GREET_S = 10.0
"""A peer that takes longer for its part of the proof is turned away."""
SILENCE_S = 30
"""A peer whose machine is gone is noticed after so long (kernel's keepalive and retransmission)."""
MAX_LINE = 64 * 1024


class NotOurs(Exception):
    """The peer does not hold the key, or speaks something else."""


def watch_over(link: socket.socket) -> None:
    """Let the kernel end the connection when the other machine has gone without a word."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, SILENCE_S // 3),
        (socket.TCP_KEEPINTVL, SILENCE_S // 6),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, SILENCE_S * 1000),
    ):
        link.setsockopt(socket.IPPROTO_TCP, option, value)


def greet_node(link: socket.socket, key: bytes) -> None:
    """Pod 0's side; NotOurs or OSError when the peer cannot prove that it holds the key."""
    link.settimeout(GREET_S)
    mine = secrets.token_bytes(NONCE_BYTES)
    link.sendall(mine)
    theirs = _exactly(link, NONCE_BYTES)
    if not hmac.compare_digest(_exactly(link, PROOF_BYTES), _proof(key, b"node", mine, theirs)):
        raise NotOurs("it does not hold our key")
    link.sendall(_proof(key, b"head", theirs, mine))


def greet_head(link: socket.socket, key: bytes) -> None:
    """The other pods' side. Pod 0 speaks first, as soon as it needs hosts: that may take hours."""
    link.settimeout(None)
    theirs = _exactly(link, NONCE_BYTES)
    link.settimeout(GREET_S)
    mine = secrets.token_bytes(NONCE_BYTES)
    link.sendall(mine + _proof(key, b"node", theirs, mine))
    if not hmac.compare_digest(_exactly(link, PROOF_BYTES), _proof(key, b"head", mine, theirs)):
        raise NotOurs("it does not hold our key")


def send_line(link: socket.socket, message: dict[str, Any]) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def read_line(link: socket.socket) -> dict[str, Any]:
    """One JSON object; reads not a byte of what follows it. NotOurs or OSError."""
    line = b""
    while not line.endswith(b"\n"):
        line += _exactly(link, 1)
        if len(line) > MAX_LINE:
            raise NotOurs("its first line has no end")
    try:
        message = json.loads(line)
    except ValueError:
        raise NotOurs("its first line is no JSON") from None
    if not isinstance(message, dict):
        raise NotOurs("its first line is no JSON object")
    return message


def _proof(key: bytes, role: bytes, asked: bytes, own: bytes) -> bytes:
    return hmac.digest(key, role + asked + own, hashlib.sha256)


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the other side hung up")
        data += piece
    return data

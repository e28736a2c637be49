"""The manifests of a job in pods: valid, and true to the project's exit codes."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from launch.__main__ import main
from launch.k8s_manifests import PlanSource, PodWishes, plan_source, render
from launch.outcome import CLASSES
from partition.errors import UsageError

ROOT = Path(__file__).resolve().parents[3]
K8S = ROOT / "deploy" / "k8s"
RETRIED = {"locked", "worker failed", "hang", "store", "interrupted", "terminated"}


def check(manifests: list[dict[str, Any]]) -> None:
    """As `kubernetes-validate --strict` does: unknown fields are errors."""
    for manifest in manifests:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


IN_THE_IMAGE = PlanSource("/opt/lm-gnn/plan.toml")


def some(*, plan: PlanSource = IN_THE_IMAGE, **wishes: int) -> list[dict[str, Any]]:
    return render("Some_Job", plan, PodWishes(**wishes), nodes=3, arguments=["--set", "engine.zero=1"])


@pytest.mark.parametrize(
    ("plan", "gpus"),
    [(IN_THE_IMAGE, 0), (PlanSource("/run/p.toml", 'name = "p"\n'), 4)],
)
def test_what_is_rendered_is_valid(plan: PlanSource, gpus: int) -> None:
    check(some(plan=plan, gpus=gpus))


def test_the_check_sees_a_misspelt_field() -> None:
    wrong = copy.deepcopy(some())
    pod = wrong[-1]["spec"]["template"]["spec"]
    pod["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong)


def test_exit_codes_fail_the_job_at_once_or_are_tried_again_as_their_class_says() -> None:
    rules = some()[-1]["spec"]["podFailurePolicy"]["rules"]
    (final,) = [set(r["onExitCodes"]["values"]) for r in rules if r["action"] == "FailJob"]
    assert {CLASSES[code] for code in final} == set(CLASSES.values()) - RETRIED - {"done"}


def test_a_drained_pod_counts_neither_itself_nor_by_the_end_of_pod_0() -> None:
    rules = some()[-1]["spec"]["podFailurePolicy"]["rules"]
    assert [r["action"] for r in rules] == ["Ignore", "Ignore", "FailJob"]
    assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert [CLASSES[code] for code in rules[1]["onExitCodes"]["values"]] == ["terminated"]


def test_the_word_of_pod_0_is_the_jobs() -> None:
    assert some()[-1]["spec"]["successPolicy"]["rules"] == [{"succeededIndexes": "0"}]


@pytest.mark.parametrize(("flags", "restarts"), [([], "3"), (["--max-restarts", "0"], "0")])
def test_restarts_are_three_unless_somebody_says_otherwise(
    flags: list[str], restarts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--backend", "k8s", *flags]) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[-1]
    words = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert words[words.index("--max-restarts") + 1] == restarts


@pytest.mark.parametrize(
    "flags", [["--resume", "never"], ["--export", "A"], ["--network", "10.0.0.0/8"], ["--json"]]
)
def test_flags_that_mean_nothing_in_pods_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--backend", "k8s", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_plan_is_refused_inside_of_a_pod(
    index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pod = {"JOB_COMPLETION_INDEX": index, "LMGNN_HEAD": "a-0.a", "LMGNN_ADDRESS": "127.0.0.1"}
    for name, value in (pod | {"LMGNN_KEY_FILE": "/none"}).items():
        monkeypatch.setenv(name, value)
    assert main(["plan"]) == 2
    assert "pod of a job" in capsys.readouterr().err


def test_only_plans_of_the_examples_are_in_the_image(tmp_path: Path) -> None:
    for place in ("examples/a.toml", "b.toml"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("name = 'p'\n")
    code = tmp_path.resolve()
    assert plan_source(code / "examples/a.toml", code) == PlanSource("/opt/lm-gnn/examples/a.toml")
    assert plan_source(code / "b.toml", code) == PlanSource("/run/lmgnn/plan/b.toml", "name = 'p'\n")


def test_pods_outlive_the_grace_that_their_agents_give() -> None:
    from launch.k8s_node import AGENT_GRACE_S
    from launch.supervisor import SAVE_GRACE_S

    pod = some()[-1]["spec"]["template"]["spec"]
    assert SAVE_GRACE_S < AGENT_GRACE_S < pod["terminationGracePeriodSeconds"]


def test_a_plan_of_ones_own_travels_with_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "examples" / "smoke.toml").read_text().replace('builder = "smoke/build.py"\n', "")
    (tmp_path / "own.toml").write_text(text)
    assert main(["plan", "--backend", "k8s", "--config", str(tmp_path / "own.toml"), "--nodes", "2"]) == 0
    manifests = {m["kind"]: m for m in yaml.safe_load_all(capsys.readouterr().out)}
    check(list(manifests.values()))
    assert manifests["ConfigMap"]["data"] == {"own.toml": text}
    container = manifests["Job"]["spec"]["template"]["spec"]["containers"][0]
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    assert container["args"][1:3] == ["--config", f"{mounts['plan']}/own.toml"]


def test_a_plan_whose_builder_cannot_travel_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "examples" / "smoke.toml", tmp_path)
    assert main(["plan", "--backend", "k8s", "--config", str(tmp_path / "smoke.toml")]) == 2
    assert "graph.builder" in capsys.readouterr().err


@pytest.mark.parametrize("wishes", [{"cpus": 0}, {"gpus": -1}, {"shm_gib": 16, "memory_gib": 16}])
def test_impossible_wishes_are_refused_by_their_flag(wishes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(wishes)).replace('_', '-')}"):
        PodWishes(**wishes)


def test_the_base_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--backend", "k8s", "--nodes", "2"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    assert list(yaml.safe_load_all((K8S / "base" / "job.yaml").read_text())) == printed


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl")
def test_the_gpu_overlay_gives_every_pod_its_gpus() -> None:
    command = ["kubectl", "kustomize", str(K8S / "overlays" / "gpu")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    manifests = {m["kind"]: m for m in yaml.safe_load_all(result.stdout)}
    check(list(manifests.values()))
    pod = manifests["Job"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    shm = next(v for v in pod["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "64Gi"}
    assert manifests["PersistentVolumeClaim"]["spec"]["storageClassName"] == "shared"


@pytest.mark.parametrize(("asked", "name"), [("My_Papers", "my-papers"), ("papers", "papers")])
def test_a_name_that_kubernetes_does_not_take_is_told_what_it_became(
    asked: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--backend", "k8s", "--name", asked]) == 0
    said = capsys.readouterr()
    assert list(yaml.safe_load_all(said.out))[-1]["metadata"]["name"] == name
    assert (f"'{asked}' is called '{name}' in pods" in said.err) == (asked != name)

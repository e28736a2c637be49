"""The image's recipe, checked without building it (tests/deploy/clean_root.sh builds it)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    """Lint a Dockerfile with the hadolint of this environment, else of the PATH."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["hadolint", "--no-color", "-"],
        input=text,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_hadolint_has_nothing_to_say() -> None:
    result = hadolint((ROOT / "Dockerfile").read_text())
    assert result.returncode == 0, result.stdout


def test_hadolint_would_see_a_package_without_a_version() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("tini=0.19.0-*", "tini")
    assert "DL3008" in hadolint(text).stdout


def test_the_last_stage_has_no_build_tools_and_an_ordinary_user() -> None:
    last = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert not {"pip", "gcc", "build-essential", "python3.11-venv=3.11.2-*"} & set(last.split())
    assert "USER 10001:10001" in last
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"' in last

#!/usr/bin/env bash
# Format, lint, types, import contract and shell scripts, with the tools of .venv; changes nothing.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
bin=.venv/bin
"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/mypy" pipeline partition launch
PYTHONPATH=. "$bin/lint-imports"
mapfile -t scripts < <(find launch tests deploy -name '*.sh' 2>/dev/null)
"$bin/shellcheck" "${scripts[@]}" .ci/run

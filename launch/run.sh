#!/usr/bin/env bash
# From a bare machine to a running job: finds Python 3.11, makes or finds .venv, becomes `lmgnn "$@"`.
#   launch/run.sh                          the default job
#   launch/run.sh run --config my.toml     any other; `launch/run.sh --help` lists the commands
# Works from any folder; relative paths in the arguments are relative to where you are.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

is_python_311() { "$1" -I -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in "$root/.venv/bin/python" "${PYTHON:-}" python3.11 python3; do
    if [ -n "$name" ] && command -v "$name" >/dev/null && is_python_311 "$name"; then
      command -v "$name"
      return
    fi
  done
  echo "error: no Python 3.11 found (DGL 1.1.3 has no build for a newer one). Install it, for example with" \
    "\`apt-get install python3.11 python3.11-venv\` or \`uv python install 3.11\`, or set PYTHON=/path/to/python3.11" >&2
  return 12
}

python=$(find_python) || exit $?
"$python" -I -S "$root/launch/bootstrap.py" || exit $?
export PYTHONPATH=$root
case $0 in */*) LMGNN_COMMAND_NAME=$0 ;; *) LMGNN_COMMAND_NAME=./$0 ;; esac
export LMGNN_COMMAND_NAME # so that a command to go on with can be shown as it was typed
exec "$root/.venv/bin/python" -P -m launch "$@"

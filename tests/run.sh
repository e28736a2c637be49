#!/usr/bin/env bash
# Makes the environment, runs the checks (tests/check.sh) and the tests.
#   tests/run.sh [PYTEST ARGUMENTS]        default suite: Python 3.11 and an ordinary user are enough
#   tests/run.sh --all [PYTEST ARGUMENTS]  also drills (minutes, kills) and what needs root and Debian packages
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
cd "$root"

marks="not drill and not root"
if [ "${1:-}" = --all ]; then
  shift
  marks=""
  missing=()
  [ "$(id -u)" = 0 ] || missing+=("root (sudo tests/run.sh --all)")
  command -v ip >/dev/null || missing+=("iproute2")
  command -v unshare >/dev/null || missing+=("util-linux")
  [ -x /usr/sbin/sshd ] || missing+=("openssh-server")
  [ -x /usr/sbin/slurmctld ] || missing+=("slurm-wlm")
  [ -x /usr/sbin/munged ] || missing+=("munge")
  if [ "${#missing[@]}" -gt 0 ]; then
    printf 'error: tests/run.sh --all needs what is missing here: %s\n' "$(printf '%s; ' "${missing[@]}")" >&2
    echo "       .ci/run installs the packages (apt-get) when it is root; tests/run.sh alone needs none of it" >&2
    exit 12
  fi
fi

python=${PYTHON:-python3.11}
[ ! -x .venv/bin/python ] || python=.venv/bin/python
if ! "$python" -I -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
  echo "error: no Python 3.11 found as $python: install python3.11 and python3.11-venv, or set PYTHON" >&2
  exit 12
fi
"$python" -I -S launch/bootstrap.py --dev
tests/check.sh
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONPATH=$root
exec .venv/bin/python -P -m pytest -m "$marks" "$@"

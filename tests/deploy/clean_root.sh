#!/usr/bin/env bash
# Builds the image from nothing but a Debian mirror and a package index, without a docker daemon, and runs the
# smallest job in it as it runs in a pod: as uid 10001, on a root that is read-only.
#   tests/deploy/clean_root.sh [FOLDER]     FOLDER keeps base and layers for the next time; unset: nothing stays
# Needs root, debootstrap and buildah; takes 5 to 20 minutes, nearly all of it pip's.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../.." && pwd)
for tool in debootstrap buildah unshare setpriv; do
  command -v "$tool" >/dev/null || { echo "error: $tool is missing: apt-get install debootstrap buildah util-linux" >&2; exit 12; }
done
[ "$(id -u)" = 0 ] || { echo "error: needs root" >&2; exit 12; }
folder=${1:-}
if [ -z "$folder" ]; then
  folder=$(mktemp -d)
  trap 'umount --recursive "$folder/store/overlay" 2>/dev/null || true; rm -rf "$folder"' EXIT # buildah's own mounts
fi
mkdir -p "$folder"
buildah() { command buildah --root "$folder/store" --runroot "$folder/run" --storage-driver overlay "$@"; }

if ! buildah inspect --type image localhost/bookworm >/dev/null 2>&1; then
  rm -rf "$folder/bookworm"
  debootstrap --variant=minbase bookworm "$folder/bookworm" http://deb.debian.org/debian >"$folder/debootstrap.log" ||
    { tail "$folder/debootstrap.log" >&2; exit 12; }
  container=$(buildah from scratch)
  buildah add -q "$container" "$folder/bookworm" /
  buildah commit -q "$container" localhost/bookworm
  buildah rm "$container" >/dev/null
fi

# pip finds packages in the image where it finds them here: its settings and the local folders they name.
mounts=()
settings=$(python3 -I -m pip config list | sed -n "s/^[^.]*\.\([a-z-]*\)='\(.*\)'$/\1 = \2/p" |
  grep -E '^(index-url|extra-index-url|find-links|cert|trusted-host) = ' | sort -u -t= -k1,1 || true)
if certificates=$(grep -Po '^cert = \K.*' <<<"$settings"); then
  mounts+=(-v "$certificates:/opt/pip-cert.pem:ro")
  settings=${settings/cert = $certificates/cert = \/opt\/pip-cert.pem}
fi
mapfile -t places < <(grep -Po '(?<=file://| )/[^ ]+' <<<"$settings" | grep -v pip-cert)
for place in "${places[@]}"; do
  place=${place%/simple} # whose pages link to files beside it
  mounts+=(-v "$place:$place:ro")
done
printf '[global]\n%s\n' "$settings" >"$folder/pip.conf"
mounts+=(-v "$folder/pip.conf:/etc/pip.conf:ro")
buildah bud --isolation chroot --network host --layers --build-arg BASE=localhost/bookworm \
  --build-arg TORCH_INDEX="${TORCH_INDEX:-https://pypi.org/simple}" "${mounts[@]}" -t lm-gnn "$root"

container=$(buildah from --pull-never lm-gnn)
image=$(buildah mount "$container")
status=0
# shellcheck disable=SC2016
env -i PATH="/opt/lm-gnn/.venv/bin:$PATH" HOME=/tmp OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
  unshare --mount --pid --fork --kill-child bash -euc '
  mount --bind "$1" "$1"
  mount -t proc proc "$1/proc"
  for place in dev tmp srv/lmgnn; do mount -t tmpfs -o mode=1777 tmpfs "$1/$place"; done
  mkdir -m 1777 "$1/dev/shm"
  for device in null zero random urandom; do touch "$1/dev/$device"; mount --bind "/dev/$device" "$1/dev/$device"; done
  mount -o remount,bind,ro "$1"
  exec chroot "$1" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set -all \
    bash -euc "cd /srv/lmgnn; if touch /opt/lm-gnn/x 2>/dev/null; then echo error: the root can be written >&2; exit 1; fi; exec /usr/bin/tini -- lmgnn run --config /opt/lm-gnn/examples/smoke.toml"
' clean_root "$image" || status=$?
buildah rm "$container" >/dev/null
exit "$status"

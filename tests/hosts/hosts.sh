#!/usr/bin/env bash
# N hosts with sshd on this machine, each with its own network, /dev/shm, processes and name (host1, host2, …):
#
#   unshare --net --mount --uts --ipc bash tests/hosts/hosts.sh N FOLDER
#
# The namespaces that it runs in are the head's: `nsenter --target PID --net --mount --uts --ipc -- COMMAND` is on
# the head. FOLDER gets ssh_config, known_hosts and, for host K, pid.K: `kill -9 "$(cat FOLDER/pid.K)"` is that
# host losing power; `ip link set vethK down` on the head cuts it off. Says "ready", lives as long as its stdin,
# and takes all of it with it, however it ends. Needs root, iproute2, openssh-server.
set -euo pipefail
count=${1:?number of hosts} folder=${2:?folder}

mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/sshd
hostname head
ip link set lo up
ip link add switch type bridge
ip address add 10.78.0.254/24 dev switch
ip link set switch up
{
  printf '127.0.0.1 localhost\n10.78.0.254 head\n'
  for k in $(seq "$count"); do printf '10.78.0.%s host%s\n' "$k" "$k"; done
} > "$folder/etc_hosts"
mount --bind "$folder/etc_hosts" /etc/hosts
# Without PAM sshd lets nobody into a locked account ("!"), as root's is on Ubuntu; "*" only has no password.
(umask 077 && echo 'root:*:19000::::::' > "$folder/etc_shadow")
mount --bind "$folder/etc_shadow" /etc/shadow
# What the account's shell does at its start is not tested here and can take a minute: pyenv waits for the lock of
# a shell that was killed.
for file in ~root/.bashrc /etc/bash.bashrc; do
  [ ! -e "$file" ] || mount --bind /dev/null "$file"
done

ssh-keygen -q -t ed25519 -N '' -f "$folder/client_key"
cat > "$folder/ssh_config" << EOF2
Host *
  User root
  IdentityFile $folder/client_key
  IdentitiesOnly yes
  UserKnownHostsFile $folder/known_hosts
  GlobalKnownHostsFile /dev/null
EOF2
: > "$folder/known_hosts"

for k in $(seq "$count"); do
  ip netns add "host$k"
  ip link add "veth$k" type veth peer name eth0 netns "host$k"
  ip link set "veth$k" master switch up
  inside=(nsenter "--net=/run/netns/host$k" --)
  "${inside[@]}" ip link set lo up
  "${inside[@]}" ip address add "10.78.0.$k/24" dev eth0
  "${inside[@]}" ip link set eth0 up
  ssh-keygen -q -t ed25519 -N '' -f "$folder/host_key.$k"
  printf 'host%s %s\n' "$k" "$(cut -d' ' -f1,2 "$folder/host_key.$k.pub")" >> "$folder/known_hosts"
  cat > "$folder/sshd.$k" << EOF2
ListenAddress 10.78.0.$k
HostKey $folder/host_key.$k
AuthorizedKeysFile $folder/client_key.pub
StrictModes no
UsePAM no
PermitRootLogin yes
PidFile none
EOF2
  setpriv --pdeathsig KILL "${inside[@]}" \
    unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c "
      mount -t tmpfs -o mode=1777 tmpfs /dev/shm
      hostname host$k
      exec /usr/sbin/sshd -D -e -f '$folder/sshd.$k'" < /dev/null 2> "$folder/sshd_log.$k" &
  echo $! > "$folder/pid.$k"
done
for k in $(seq "$count"); do
  tries=0
  until ssh -F "$folder/ssh_config" -o BatchMode=yes "host$k" true < /dev/null 2> /dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || { echo "host$k did not come up: $(cat "$folder/sshd_log.$k")" >&2; exit 1; }
    sleep 0.1
  done
done
echo ready
cat > /dev/null

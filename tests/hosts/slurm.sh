#!/usr/bin/env bash
# A real Slurm over the hosts of hosts.sh, on their head: bash tests/hosts/slurm.sh N FOLDER. FOLDER is hosts.sh's and gets
# slurm.conf (SLURM_CONF for srun, sbatch and scontrol). Says "ready", lives as long as its stdin, and takes the
# daemons with it. Needs Debian's slurm-wlm and munge.
set -euo pipefail
count=${1:?number of hosts} folder=${2:?folder}
export SLURM_CONF=$folder/slurm.conf
mkdir -p /run/munge "$folder/state"
dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
chmod 600 "$folder/munge.key"
cat > "$SLURM_CONF" << EOF2
ClusterName=test
SlurmctldHost=head(10.78.0.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/munge.socket.2
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
ReturnToService=2
KillWait=30
MinJobAge=300
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
NodeName=host[1-$count] NodeAddr=10.78.0.[1-$count] CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
EOF2
die_with_me=(setpriv --pdeathsig KILL)
"${die_with_me[@]}" munged --foreground --force --key-file="$folder/munge.key" \
  --socket=/run/munge/munge.socket.2 --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
  --seed-file="$folder/munged.seed" < /dev/null > "$folder/munged.out" 2>&1 &
"${die_with_me[@]}" slurmctld -D < /dev/null > "$folder/slurmctld.out" 2>&1 &
for k in $(seq "$count"); do
  mkdir -p "$folder/spool.host$k"
  # nsenter and not `ip netns exec`, which hides /sys/fs/cgroup from slurmd. The processes of a node are in a
  # namespace of their own, so that none of them outlives it.
  "${die_with_me[@]}" nsenter --net="/run/netns/host$k" \
    unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c "
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    hostname host$k
    exec slurmd -D -N host$k" < /dev/null > "$folder/slurmd.$k.out" 2>&1 &
done
tries=0
until [ "$(sinfo --noheader --Node --format=%T 2> /dev/null | grep -cx idle)" = "$count" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 150 ] || { echo "Slurm did not come up: $(tail -3 "$folder"/slurm*.log)" >&2; exit 1; }
  sleep 0.2
done
echo ready
cat > /dev/null

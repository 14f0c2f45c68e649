#!/usr/bin/env bash
# A sweep on the nodes of one Slurm job, with a Ray of its own. From the project's folder, which all nodes share:
#
#   sbatch cluster/slurm_sweep.sh configs/sweeps/quickstart.yaml [key=value ...] [--resume]
#
# To change, here or behind `sbatch`: the lines below, and --partition and --account as your site has them.
# Shared by all nodes: INFOPROMPT_HOME, by default ~/infoprompt. A job of several nodes needs MLFLOW_TRACKING_URI.
#SBATCH --job-name=infoprompt-sweep
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=infoprompt-sweep-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?This script is for sbatch.}"
# shellcheck source=cluster/slurm_job.sh
source cluster/slurm_job.sh

file="${1:?Name a sweep file, such as configs/sweeps/quickstart.yaml.}"
shift
name="$(basename "$file")"
open_job
check_gpus
find_head

# A node was lost, or the job was preempted, and Slurm started it again: trials that ended are kept.
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && " $* " != *" --resume "* ]]; then
    set -- "$@" --resume
fi

# A token of this job's own, so that nobody else on the network gives work to its Ray.
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$state/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300 # its own 30 seconds are short for nodes with a cold file system

# `ray symmetric-run` exits 0 if `ray start` failed, without having run the command. So the command leaves its code.
ran="$state/sweep_exit_code"
rm -f "$ran"
# shellcheck disable=SC2016  # expanded where the command runs
leave_code='"$@"; code=$?; echo "$code" >"$0"; exit "$code"'
sweep=(python launcher/sweep.py "$file" "output_dir=$INFOPROMPT_HOME/sweeps/${name%.*}" "$@")

# shellcheck disable=SC2016  # expanded on each node
ray_here='exec ray symmetric-run --num-cpus="$SLURM_CPUS_ON_NODE" "$@"'
code=0
run_step bash -c "$ray_here" node --address "$head_ip:$port" --min-nodes "$SLURM_NNODES" --num-gpus="$gpus" \
    --disable-usage-stats -- bash -c "$leave_code" "$ran" env RAY_ADDRESS="$head_ip:$port" "${sweep[@]}" || code=$?

if [[ ! -f $ran ]]; then
    say "The sweep never ran: Ray did not start on every node. Look above for 'Failed to start Ray' or 'Timed out'." >&2
    exit $((code == 0 ? 1 : code))
fi
exit $((code == 0 ? $(<"$ran") : code))

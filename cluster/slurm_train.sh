#!/usr/bin/env bash
# One run on the nodes of one Slurm job: torchrun on each. From the project's folder, which all nodes share:
#
#   sbatch cluster/slurm_train.sh configs/quickstart.yaml [section.key=value ...] [--resume auto]
#
# To change, here or behind `sbatch`: the lines below, and --partition and --account as your site has them.
# RANKS_PER_NODE says how many ranks a node without GPUs takes. The rest is as in slurm_sweep.sh.
#SBATCH --job-name=infoprompt-train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=infoprompt-train-%j.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?This script is for sbatch.}"
# shellcheck source=cluster/slurm_job.sh
source cluster/slurm_job.sh

config="${1:?Name a config, such as configs/quickstart.yaml.}"
shift
name="$(basename "$config")"
open_job
check_gpus
find_head

# A node was lost, or the job was preempted, and Slurm started it again: go on from the last resume state.
if [[ ${SLURM_RESTART_COUNT:-0} -gt 0 && " $* " != *" --resume"[\ =]* ]]; then
    set -- "$@" --resume auto
fi

ranks="$gpus"
if [[ $ranks -eq 0 ]]; then
    ranks="${RANKS_PER_NODE:-1}"
fi
# The job's own, the same when Slurm starts it again: jobs with other settings do not meet in it.
output_dir="$INFOPROMPT_HOME/runs/${name%.*}-$SLURM_JOB_ID"
say "output in $output_dir, unless run.output_dir is given"
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110 # torchrun's own 30 seconds may be short for an update and its state
# Not `deepspeed`, which may exit 0 when a launcher on another node was killed; the engine is DeepSpeed all the same.
# shellcheck disable=SC2016  # expanded on each node
torchrun_here='exec torchrun --node-rank="$SLURM_NODEID" "$@"'
run_step bash -c "$torchrun_here" node --nnodes="$SLURM_NNODES" --nproc-per-node="$ranks" \
    --master-addr="$head_ip" --master-port="$port" \
    launcher/train.py "$config" "run.output_dir=$output_dir" "$@"

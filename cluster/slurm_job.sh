# shellcheck shell=bash
# What slurm_sweep.sh and slurm_train.sh have in common. It is sourced, never submitted.

say() {
    printf '%(%F %T)T %s\n' -1 "$*"
}

refuse() {
    say "$*" >&2
    exit 2
}

# Folders, variables and traps of the job. Sets `state`, a folder that all nodes share.
open_job() {
    export INFOPROMPT_HOME="${INFOPROMPT_HOME:-$HOME/infoprompt}"
    state="$INFOPROMPT_HOME/slurm/$SLURM_JOB_ID"
    mkdir -p "$state"
    rm -f "$state/exit_code" "$state/run_exit_code"
    # The first rank writes its exit code here: torchrun has 1 for whatever its ranks end with.
    export INFOPROMPT_CODE_FILE="$state/run_exit_code"
    step=""
    notice=""
    trap 'close_job $?' EXIT
    trap 'end_step TERM 143' TERM
    trap 'end_step INT 130' INT
    trap 'notice=1; end_step USR1 75' USR1
    export PATH="$PWD/.venv/bin:$PATH"
    say "job $SLURM_JOB_ID on $SLURM_JOB_NODELIST; its state is in $state"
    if [[ -z ${MLFLOW_TRACKING_URI:-} ]]; then
        if [[ $SLURM_NNODES -gt 1 ]]; then
            refuse "MLFLOW_TRACKING_URI is not set, and $SLURM_NNODES nodes cannot share a database file." \
                "Set it to your server's address, or take one node."
        fi
        export MLFLOW_TRACKING_URI="sqlite:///$INFOPROMPT_HOME/mlflow.db"
    fi
}

# However the job ends, its exit code is in a file. Slurm's own accounting may have none of it after scancel.
# 75 is a run that has saved its state because it was told to end: the job takes its place in the queue again.
close_job() {
    local code="$1"
    trap - EXIT TERM INT
    trap '' USR1
    rm -f "$state/token"
    if [[ -f $state/run_exit_code && $(<"$state/run_exit_code") == 75 && -z ${cancelled:-} ]]; then
        code=75
    fi
    echo "$code" >"$state/exit_code"
    say "job $SLURM_JOB_ID ended with exit code $code"
    if [[ $code -eq 75 ]]; then
        say "it goes on when Slurm starts it again: scontrol requeue $SLURM_JOB_ID"
        scontrol requeue "$SLURM_JOB_ID" || say "It could not be requeued. Submit it again, with --resume auto." >&2
    fi
    exit "$code"
}

# TERM and INT are scancel's: the job is not to come back. USR1 is the notice that its time is over.
end_step() {
    local code=0
    say "SIG$1: ending the step"
    if [[ -z $notice ]]; then
        cancelled=1
    fi
    if [[ -n $step ]]; then
        kill -TERM "$step" 2>/dev/null || true
        wait "$step" || code=$?
        if [[ -n $notice && $code -eq 0 ]]; then
            exit 0 # it was done
        fi
    fi
    exit "$2"
}

# One task a node, in the background: bash would not see a signal before a step in the foreground has ended.
# --cpu-bind=none: the task is a launcher, and what it starts may use every core of the job.
run_step() {
    local code=0
    srun --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=1 "$@" &
    step=$!
    wait "$step" || code=$?
    step=""
    return "$code"
}

# Sets `gpus`, how many each node has; refuses nodes where Slurm gave, or the driver finds, other than was asked.
check_gpus() {
    local node given driver
    gpus="${SLURM_GPUS_PER_NODE:-0}"
    gpus="${gpus##*:}" # of `h100:8`
    # shellcheck disable=SC2016  # expanded on each node
    run_step bash -c '
        driver=unknown
        if command -v nvidia-smi >/dev/null; then driver=$(nvidia-smi --list-gpus 2>/dev/null | wc -l); fi
        echo "$(hostname) ${SLURM_GPUS_ON_NODE:-0} $driver"' >"$state/gpus"
    while read -r node given driver; do
        if [[ $given != "$gpus" ]]; then
            refuse "--gpus-per-node is $gpus, but Slurm gave $node $given GPUs." \
                "Ask by --gpus-per-node alone, for what the nodes have."
        fi
        if [[ $driver != unknown && $driver -lt $gpus ]]; then
            refuse "Slurm gave $node $gpus GPUs, but its driver finds $driver." \
                "Leave the node out by --exclude=$node, and report it."
        fi
    done <"$state/gpus"
    if [[ $(wc -l <"$state/gpus") -ne $SLURM_NNODES ]]; then
        refuse "Of $SLURM_NNODES nodes only $(wc -l <"$state/gpus") answered; see $state/gpus."
    fi
    say "$SLURM_NNODES nodes with $gpus GPUs each"
}

# Sets `head_ip`, where the other nodes find the first one, and `port`, which no other job of the node has.
find_head() {
    local nodes
    mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head_ip="${HEAD_IP:-}"
    if [[ -z $head_ip ]]; then
        # Not by name: many nodes have their own name at 127.0.1.1.
        run_step --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname -I >"$state/head"
        read -r head_ip _ <"$state/head" || true
    fi
    if [[ -z $head_ip ]]; then
        refuse "${nodes[0]} has no address but its own loopback. Set HEAD_IP to one where the other nodes find it."
    fi
    port=$((20000 + SLURM_JOB_ID % 10000))
    say "head ${nodes[0]} at $head_ip:$port"
}

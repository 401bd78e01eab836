#!/usr/bin/env bash
# A run, or the members of a sweep, on a Slurm cluster with GPUs: one process for each GPU. Submit it in the repository's folder, after
# `make test ACCELERATOR=cuda13` or another command has made .venv there, on a file system that all nodes see:
#
#   sbatch launch/slurm.sh --config configs/imdb.py
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config configs/imdb.py
#   sbatch --array=0-5 --gpus-per-node=1 --ntasks-per-node=1 launch/slurm.sh --config configs/imdb.py --vary seed=0,1,2 --vary distill.batches=1,2
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 launch/slurm.sh --config configs/imdb.py --config.runtime.shard=8
#   .venv/bin/python -m ddllm.sweep --config configs/imdb.py --vary … --table        # the array's table, when its jobs have ended
#
# Processes find each other by JAX's own detection of Slurm. A job that is preempted, or whose time is up, is put into the queue again and
# goes on from the last checkpoint. PYTHON names another interpreter.
#SBATCH --job-name=ddllm
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail

# Not --gpus-per-task: each process has to see all GPUs of its node, of which JAX gives it the one with its local number.
command=("${PYTHON:-.venv/bin/python}" -m)
if [[ " $* " == *" --vary"* ]]; then
  if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    echo "slurm.sh: a sweep needs an array with one task for each member, such as sbatch --array=0-5 launch/slurm.sh …" >&2
    exit 2
  fi
  command+=(ddllm.sweep "$@" --member "$SLURM_ARRAY_TASK_ID")
else
  command+=(ddllm.main "$@")
fi

if ((${SLURM_NTASKS_PER_NODE:-0} == 1 && ${SLURM_GPUS_ON_NODE:-1} > 1)); then
  # One process for all GPUs of its node, as config.runtime.shard wants it; by itself JAX would give it the first one alone.
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

if ((${SLURM_NTASKS_PER_NODE:-1} > 1)); then
  # The processes of a node share the memory, here in MB, that the job was given there; 0 is all there is.
  share=$((${SLURM_MEM_PER_NODE:-0} / SLURM_NTASKS_PER_NODE))
  share=$((share > 0 ? share : ${SLURM_MEM_PER_CPU:-0} * ${SLURM_CPUS_PER_TASK:-1}))
  if ((share > 0)); then
    export DDLLM_MEMORY=$((share * 1048576))
  fi
fi

# shellcheck disable=SC2329 # a trap calls it
requeue() {
  echo "slurm.sh: the time is up; job $SLURM_JOB_ID goes into the queue again."
  scontrol requeue "$SLURM_JOB_ID"
}
trap requeue USR1

# In the background, since bash handles signals only between commands. Since Slurm 22.05, steps do not inherit --cpus-per-task.
srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "${command[@]}" &
step=$! status=0
while :; do
  wait "$step" && status=0 || status=$?
  kill -0 "$step" 2>/dev/null || break
done
exit "$status"

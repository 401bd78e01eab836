#!/usr/bin/env bash
# One run by several processes on this machine.
#
#   launch/local_multiprocess.sh [-n PROCESSES] [--all] --config FILE [ARGUMENT …]
#
#   -n PROCESSES  how many; by default one for each GPU, or 2 on a machine without
#   --all         show the output of all processes, each line with its process's number; by default that of process 0 alone
#   -h, --help    show this text
#
# Everything else goes to python -m ddllm.main. With GPUs each process has one of its own, by CUDA_VISIBLE_DEVICES. Ctrl-C ends all;
# the exit status is that of the first process that failed, and then the others are ended too. PYTHON names another interpreter.
set -euo pipefail
set -m # background processes without job control would ignore Ctrl-C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[[ -n ${PYTHON:-} || -x $python ]] || python=python3
grace=10 # seconds in which the others may end by themselves

complain() {
  echo "local_multiprocess.sh: $*" >&2
  exit 2
}

processes='' all=false
while (($#)); do
  case $1 in
    -n) processes=${2:-} && shift $(($# > 1 ? 2 : 1)) ;;
    --all) all=true && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit 0 ;;
    --) shift && break ;;
    *) break ;;
  esac
done
(($#)) || complain "nothing to run; try --help."

devices=()
if [[ ${JAX_PLATFORMS:-} != cpu ]]; then
  if [[ -v CUDA_VISIBLE_DEVICES ]]; then # empty: GPUs are hidden on purpose
    IFS=, read -r -a devices <<<"$CUDA_VISIBLE_DEVICES"
  elif listed=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null) && [[ -n $listed ]]; then
    mapfile -t devices <<<"$listed"
  fi
fi
processes=${processes:-$((${#devices[@]} > 0 ? ${#devices[@]} : 2))}
[[ $processes =~ ^[1-9][0-9]*$ ]] || complain "-n is '$processes', but must be a whole number from 1."
((${#devices[@]} == 0 || processes <= ${#devices[@]})) ||
  complain "there are ${#devices[@]} GPUs for $processes processes; use fewer, or JAX_PLATFORMS=cpu."

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
DDLLM_MEMORY=$("$python" -c 'import sys; from ddllm.runtime.host_memory import share_out; print(share_out(int(sys.argv[1])))' "$processes")
export DDLLM_MEMORY # bytes for each process
logs=$(mktemp -d)
pids=()

end_all() {
  for pid in "${pids[@]}"; do kill "-$1" -- "-$pid" 2>/dev/null || true; done
}

runs() { kill -0 "$1" 2>/dev/null; }

any_left() {
  for pid in "${pids[@]}"; do ! runs "$pid" || return 0; done
  return 1
}

# shellcheck disable=SC2329 # a trap calls it
clean_up() {
  trap '' INT TERM
  end_all KILL
  rm -rf "$logs"
}
trap clean_up EXIT
interrupted=0
trap 'interrupted=130; end_all INT' INT
trap 'interrupted=143; end_all TERM' TERM

for ((number = 0; number < processes; number++)); do
  export JAX_PROCESS_ID=$number
  ((${#devices[@]} == 0)) || export CUDA_VISIBLE_DEVICES=${devices[number]}
  if $all; then
    # The filter must outlive what it filters.
    "$python" -u -m ddllm.main "$@" > >(trap '' INT TERM && exec sed -u "s/^/[$number] /") 2>&1 &
  elif ((number == 0)); then
    "$python" -m ddllm.main "$@" &
  else
    "$python" -m ddllm.main "$@" >"$logs/$number" 2>&1 &
  fi
  pids+=($!)
done

# By looking rather than `wait -n`, which forgets processes that end at the same moment.
status=0 failed=0
while any_left && ((status == 0 && interrupted == 0)); do
  sleep 0.1
  for number in "${!pids[@]}"; do
    runs "${pids[number]}" || ((status)) || wait "${pids[number]}" 2>/dev/null || { status=$? && failed=$number; }
  done
done
if ((status || interrupted)); then
  ((status <= 2 || interrupted)) || echo "local_multiprocess.sh: process $failed has ended with status $status; ending all." >&2
  for ((tenth = 0; tenth < grace * 10; tenth++)); do
    any_left || break
    sleep 0.1
  done
  end_all TERM
  if ! $all && ((status != 2 && interrupted == 0)); then
    # Mistakes are told by process 0; a crash is told only where it happened.
    for ((number = 1; number < processes; number++)); do
      tail -n 20 "$logs/$number" | sed "s/^/[$number] /" >&2
    done
  fi
fi
exit $((interrupted ? interrupted : status))

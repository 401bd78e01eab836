#!/usr/bin/env bash
# One run on a Cloud TPU slice of any number of hosts: create it, copy the repository, install, run on all hosts, fetch the results, delete it.
#
#   launch/tpu.sh --name NAME --zone ZONE --type ACCELERATOR [OPTION …] -- --config FILE [ARGUMENT …]
#   launch/tpu.sh --name ddllm-1 --zone us-west4-a --type v5litepod-16 -- --config configs/imdb.py
#
#   --name NAME         of the TPU VM, and of the run's folder runs/NAME here and there        (or the variable TPU_NAME)
#   --zone ZONE         where                                                                  (TPU_ZONE)
#   --type ACCELERATOR  see gcloud compute tpus accelerator-types list --zone=ZONE             (TPU_TYPE)
#   --version RUNTIME   software of the VM, by default what the type needs: v2-alpha-tpuv5-lite for v5litepod, v2-alpha-tpuv5 for v5p,
#                       v2-alpha-tpuv6e for v6e, tpu-ubuntu2204-base for others                (TPU_VERSION)
#   --project PROJECT   by default gcloud's own                                                (TPU_PROJECT)
#   --spot              cheaper, may be taken away at any time
#   --queued            wait in the queue for a free slice instead of failing when there is none
#   --reuse             the VM is there already: do not create it
#   --keep              do not delete it at the end
#   --dry-run           print the commands, execute none
#   -h, --help          show this text
#
# What follows -- goes to python -m ddllm.main. Without --keep the VM is deleted however the script ends, by a failure or Ctrl-C too; what the run
# has written is fetched before. After --keep, the same command with --reuse goes on from the last checkpoint.
set -euo pipefail

name=${TPU_NAME:-} zone=${TPU_ZONE:-} type=${TPU_TYPE:-} version=${TPU_VERSION:-} project=${TPU_PROJECT:-}
spot=false queued=false reuse=false keep=false dry=false
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
poll=${TPU_POLL_SECONDS:-20} # between looks at a TPU that is not ready
tries=30                     # looks at a VM that does not let us in

complain() {
  echo "tpu.sh: $*" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --name | --zone | --type | --version | --project)
      (($# > 1)) && [[ $2 != --* ]] || complain "$1 needs a value."
      printf -v "${1#--}" %s "$2"
      shift 2
      ;;
    --spot | --queued | --reuse | --keep) printf -v "${1#--}" true && shift ;;
    --dry-run) dry=true && shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit 0 ;;
    --) shift && break ;;
    *) complain "$1 is not understood; what goes to ddllm.main comes after --, see --help." ;;
  esac
done
[[ -n $name ]] || complain "which TPU? Give --name."
[[ -n $zone ]] || complain "where? Give --zone."
[[ -n $type ]] || $reuse || complain "what kind? Give --type."
(($#)) || complain "nothing to run: give --config FILE after --."
if [[ -z $version ]]; then
  case $type in
    v5litepod*) version=v2-alpha-tpuv5-lite ;;
    v5p*) version=v2-alpha-tpuv5 ;;
    v6e*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
for argument; do
  [[ $argument != --workdir* ]] || complain "the working directory is runs/$name, after --name; leave $argument out."
done

quote() { # each argument as a shell reads it back
  local argument line=''
  for argument; do
    [[ $argument =~ ^[A-Za-z0-9_/:=.,@%+-]+$ ]] || argument=${argument@Q}
    line+=" $argument"
  done
  printf '%s' "${line# }"
}

run() {
  echo "+ $(quote "$@")" >&2
  $dry || "$@"
}

hear() { # run, and keep in the file $heard what a failure says on standard error, which is shown as ever
  { run "$@" 2>&1 >&3 | tee -i "$heard" >&2; } 3>&1 && : >"$heard"
}

where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
on_all() { # a command line on all hosts at once
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all "--command=$1"
}

resource=(gcloud compute tpus tpu-vm) # what is created and deleted
! $queued || resource=(gcloud compute tpus queued-resources)

check_absent() { # what is there already is not ours to delete
  if hear "${resource[@]}" describe "$name" "${where[@]}" '--format=value(name)' >/dev/null; then
    $dry || complain "$name is there already; use --reuse, or another --name."
  elif ! grep -q NOT_FOUND "$heard"; then
    complain "cannot tell whether $name is there already (see above), so nothing is created; mend that, or use --reuse if it is yours."
  fi
}

create() {
  local kind=("--accelerator-type=$type")
  ! $spot || kind+=(--spot)
  if ! $queued; then
    hear "${resource[@]}" create "$name" "${where[@]}" "${kind[@]}" "--version=$version"
    return
  fi
  hear "${resource[@]}" create "$name" "--node-id=$name" "${where[@]}" "${kind[@]}" "--runtime-version=$version"
  local state=''
  until [[ $state == ACTIVE ]]; do
    state=$(run "${resource[@]}" describe "$name" "${where[@]}" '--format=value(state.state)')
    ! $dry || return 0
    [[ $state != FAILED && $state != SUSPEND* ]] || complain "the request for $name is now $state."
    [[ $state == ACTIVE ]] || sleep "$poll"
  done
}

wait_for_ssh() {
  local try
  for ((try = 1; try <= tries; try++)); do
    ! on_all true || return 0
    sleep "$poll"
  done
  complain "$name did not let us in after $tries tries."
}

fetch() {
  run mkdir -p runs
  local try
  for try in 1 2 3; do
    ((try == 1)) || sleep "$poll"
    ! run gcloud compute tpus tpu-vm scp "$name:ddllm/runs/$name" runs/ "${where[@]}" --worker=0 --recurse || return 0
  done
  return 1
}

# What is still to be done when the script ends, for whatever reason.
created=false running=false archive='' heard=''
clean_up() {
  local status=$?
  trap '' INT TERM HUP
  [[ -z $archive ]] || rm -f "$archive"
  if $created && ((status)) && [[ -s $heard ]] && grep -q ALREADY_EXISTS "$heard"; then
    created=false # somebody else was faster
    echo "tpu.sh: $name is there already and is left alone; use --reuse if it is yours, or another --name." >&2
  fi
  [[ -z $heard ]] || rm -f "$heard"
  if $running; then
    if ! fetch; then
      echo "tpu.sh: nothing could be fetched." >&2
      status=$((status ? status : 1))
    fi
  fi
  if $created && ! $keep; then
    # A queued resource goes with its VM.
    $queued && force=(--force) || force=()
    if ! run "${resource[@]}" delete "$name" "${where[@]}" "${force[@]}" --quiet; then
      echo "tpu.sh: $name could not be deleted and costs money until it is: repeat the last command." >&2
      status=1
    fi
  elif $created || $reuse; then
    echo "tpu.sh: $name is kept and costs money until it is deleted." >&2
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if ! $reuse; then
  heard=$(mktemp)
  check_absent
  created=true # a creation that fails half-way may leave something behind
  create
fi
created=true
wait_for_ssh

archive=${TMPDIR:-/tmp}/ddllm-$name.tar.gz
if ! $dry; then
  # The files as they are now, changes that are not committed among them.
  git -C "$root" ls-files -z --cached --others --exclude-standard | tar -C "$root" --null --ignore-failed-read -czf "$archive" -T -
fi
run gcloud compute tpus tpu-vm scp "$archive" "$name:ddllm.tar.gz" "${where[@]}" --worker=all
jax=$(sed -n 's/^jax==\(.*\)/jax[tpu]==\1/p' "$root/requirements.txt")
# The VM's own Python is older than 3.11; uv brings one.
on_all "mkdir -p ddllm && tar -xzf ddllm.tar.gz -C ddllm && cd ddllm && python3 -m pip install --user --quiet uv \
&& python3 -m uv venv --quiet --allow-existing --python 3.11 .venv \
&& python3 -m uv pip install --quiet --python .venv -r requirements.txt '$jax' \
&& python3 -m uv pip install --quiet --python .venv --no-deps -r requirements-embedded.txt -e ."

running=true
on_all "cd ddllm && .venv/bin/python -m ddllm.main $(quote "$@" "--workdir=runs/$name")"

# shellcheck shell=bash disable=SC2034 # the sourcing script reads what this sets
# What the scripts share: paths, messages, waiting, and how a server is started, recognised and
# stopped; and its parts install.sh, postgres.sh, kafka.sh and services.sh. Sourced, never run.
#
# STATE is the folder of one stack (.local, .local/test/…). Each of its servers has three files
# there: NAME.pid, NAME.log and NAME.settings, which holds what it was started with.

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
LOCAL=$ROOT/.local
STATE=${STATE:-$LOCAL}
SERVERS=(postgres kafka like-aggregator like-api)
# The build of the services: debug shares its dependencies with `make test` and takes half the
# time; BUILD=release is what the images hold, for measurements.
BUILD=${BUILD:-debug}

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

show_tail() { # FILE
  [ -s "$1" ] || return 0
  printf -- '--- last lines of %s\n' "${1#"$ROOT"/}" >&2
  tail -n 25 -- "$1" | sed 's/^/  | /' >&2
}

# quietly LOG WHAT COMMAND…: runs COMMAND with its output in LOG, whose end it shows after a failure.
quietly() {
  local log=$1 what=$2 status=0
  shift 2
  note "$what"
  "$@" >"$log" 2>&1 </dev/null || status=$?
  [ "$status" = 0 ] || { show_tail "$log"; die "$what: exit status $status"; }
}

# wait_for SECONDS NAME COMMAND…: until COMMAND succeeds; fails when server NAME ends or at the
# timeout.
wait_for() {
  local deadline=$((SECONDS + $1)) name=$2
  shift 2
  until "$@"; do
    if [ "$SECONDS" -ge "$deadline" ] || ! alive "$name"; then
      show_tail "$STATE/$name.log"
      die "$name has exited or is not ready in time (log: $STATE/$name.log)"
    fi
    sleep 0.1
  done
}

# --- processes

# Part of a server's command line: a process with the same pid but without this text is another
# program that got the pid later.
signature_of() {
  case $1 in
    kafka) printf '%s' "kafka.Kafka $STATE/kafka/server.properties" ;;
    postgres) printf '%s' "-D $STATE/postgres/data" ;;
    # Of either build, so that both can be stopped.
    *) printf '%s' "/$1 " ;;
  esac
}

command_line() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null; }

# Whether NAME runs. A zombie has no command line and counts as dead.
alive() {
  local pid words
  pid=$(cat "$STATE/$1.pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  words=$(command_line "$pid") || return 1
  [[ "$words " == *"$(signature_of "$1")"* ]]
}

# launch NAME COMMAND…: starts a server in a session of its own, with no inherited descriptor but
# its log: a closing terminal or a job runner that waits for its pipes doesn't affect it. The
# previous log is kept as .log.old.
launch() {
  local name=$1 fd
  shift
  [ ! -e "$STATE/$name.log" ] || mv -f "$STATE/$name.log" "$STATE/$name.log.old"
  (
    for fd in /proc/self/fd/*; do
      [ "${fd##*/}" -le 2 ] || eval "exec ${fd##*/}>&-"
    done
    exec setsid "$@"
  ) </dev/null >"$STATE/$name.log" 2>&1 &
  echo $! >"$STATE/$name.pid" # setsid execs COMMAND: a script's background job leads no process group
  disown                      # or bash reports its end
  until [[ "$(command_line $!) " == *"$(signature_of "$name")"* ]] || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
}

# stop NAME SIGNAL SECONDS: sends SIGNAL, and SIGKILL after SECONDS.
stop() {
  local name=$1 pid signal deadline
  for signal in "$2" KILL; do
    alive "$name" || break
    pid=$(<"$STATE/$name.pid")
    note "$name: stopping (pid $pid, SIG$signal)"
    kill -"$signal" "$pid" 2>/dev/null || true
    deadline=$((SECONDS + $3))
    while alive "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
  done
  ! alive "$name" || die "$name (pid $pid) survives SIGKILL"
  rm -f "$STATE/$name.pid" "$STATE/$name.settings"
}

# On SIGINT PostgreSQL ends its sessions and stops; on SIGTERM it would wait for them.
stop_server() {
  case $1 in
    postgres) stop postgres INT 20 ;;
    kafka) stop kafka TERM 20 ;;
    *) stop "$1" TERM 12 ;;
  esac
}
# Services before the servers they depend on.
stop_all() {
  local i
  for ((i = ${#SERVERS[@]} - 1; i >= 0; i--)); do stop_server "${SERVERS[i]}"; done
}

# needs_start NAME SETTINGS: false if NAME runs with these settings. A server that runs with
# others is stopped.
needs_start() {
  alive "$1" || return 0
  if [ "$2" = "$(cat "$STATE/$1.settings" 2>/dev/null)" ]; then
    note "$1: already running (pid $(<"$STATE/$1.pid"))"
    return 1
  fi
  note "$1: its program or settings have changed"
  stop_server "$1"
}

# --- ports, all on loopback

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# check_port NAME VARIABLE: the port in VARIABLE is free or in use by NAME. A server that was
# killed a moment ago may still hold it.
check_port() {
  local port=${!2} deadline=$((SECONDS + 4))
  if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
    die "$2=$port is not a port number"
  fi
  while port_open "$port"; do
    alive "$1" && grep -qw -- "$port" "$STATE/$1.settings" 2>/dev/null && return
    [ "$SECONDS" -lt "$deadline" ] ||
      die "port $port is in use by another program: choose another, for example $2=$((port + 1000)) make up"
    sleep 0.1
  done
}

# free_port [PORT]: prints PORT if it is free, else a free one below the range of outgoing
# connections, none of which can then take it.
free_port() {
  local port=${1:-} tries
  for ((tries = 0; tries < 100; tries++)); do
    : "${port:=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))}"
    if ! port_open "$port"; then
      printf '%s' "$port"
      return
    fi
    port=
  done
  die 'no free port between 20000 and 32000'
}

# --- folders and locks

# Refuses a .local of another user: the files of two owners would mix.
state_dir() {
  mkdir -p "$LOCAL"
  [ "$(stat -c %u "$LOCAL")" = "$(id -u)" ] ||
    die ".local belongs to user $(stat -c %U "$LOCAL"): run this as that user, or make down as that user and remove .local"
  mkdir -p "$STATE"
}

# lock FILE: held until this script ends (launch closes it in servers).
lock() {
  mkdir -p "${1%/*}"
  exec 9>"$1"
  flock -n 9 && return
  note "waiting for another run of this clone (${1#"$ROOT"/})"
  flock 9
}

# --- a stack that lives as long as its script

# temporary_stack FOLDER: makes FOLDER this script's STATE and removes it, with its servers, when
# the script ends. After a failure the logs stay in FOLDER/../logs.
temporary_stack() {
  STATE=$1
  [ ! -e "$STATE" ] || drop_stack # of a killed run
  trap end_stack EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  state_dir
}

# Its data isn't worth an orderly shutdown. PostgreSQL's SIGQUIT leaves no shared memory behind,
# SIGKILL would.
drop_stack() {
  stop prometheus KILL 10
  [ ! -d "$STATE/standby" ] || STATE=$STATE/standby drop_stack
  stop like-api KILL 10
  stop like-aggregator KILL 10
  stop kafka KILL 10
  stop postgres QUIT 10
  rm -rf "$STATE"
}

# shellcheck disable=SC2317 # called by a trap
end_stack() {
  local status=$? logs=${STATE%/*}/logs
  trap '' INT TERM HUP
  [ -z "$group" ] || kill -KILL -- "-$group" 2>/dev/null || true
  if [ "$status" != 0 ]; then
    rm -rf "$logs"
    mkdir -p "$logs"
    cp "$STATE"/*.log "$logs/" 2>/dev/null || true
    note "logs of the servers: ${logs#"$ROOT"/}"
  fi
  drop_stack
}

# Describes the machine beside measured figures.
machine() {
  local model
  model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
  printf '%s cores (%s), %s GiB, %s %s' "$(nproc)" "${model:-$(uname -m)}" \
    "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(uname -s)" "$(uname -r | cut -d. -f1,2)"
}

# in_group COMMAND…: runs COMMAND in a process group of its own, which end_stack ends. Returns its
# exit status.
group=
in_group() {
  local status=0
  set -m
  "$@" </dev/null 9>&- &
  group=$!
  set +m
  wait "$group" || status=$?
  group=
  return "$status"
}

for part in install postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done

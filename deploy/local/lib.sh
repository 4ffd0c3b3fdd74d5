# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# What every script here shares: where things are, how to talk, wait, fail, and
# how a server is started, recognised and stopped. Sourced, never run.
#
# STATE is the folder of one stack (.local, .local/test, …): each of its servers
# has NAME.pid, NAME.log, and NAME.settings, what it was started with.

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

# show_tail FILE: the end of a log, marked as such.
show_tail() {
  [ -s "$1" ] || return 0
  printf -- '--- the end of %s\n' "${1#"$ROOT"/}" >&2
  tail -n 25 -- "$1" | sed 's/^/  | /' >&2
}

# quietly LOG WHAT COMMAND…: run with the output in LOG, a dot every two seconds
# for whoever watches, the log's end when it fails.
quietly() {
  local log=$1 what=$2 dots status=0
  shift 2
  printf '  %s ' "$what"
  # Ends with the script too, however that ends. No inherited lock on 9.
  (while sleep 2 && kill -0 $$ 2>/dev/null; do printf .; done) 9>&- &
  dots=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$dots" 2>/dev/null || true
  wait "$dots" 2>/dev/null || true
  if [ "$status" != 0 ]; then
    printf ' failed\n'
    show_tail "$log"
    die "$what: exit status $status"
  fi
  printf ' done\n'
}

# wait_for SECONDS NAME COMMAND…: until COMMAND succeeds; fails as soon as server
# NAME is dead, or when the time is up.
wait_for() {
  local deadline=$((SECONDS + $1)) name=$2 polls=0
  shift 2
  until "$@"; do
    if ! alive "$name"; then
      "$@" && break
      printf ' dead\n'
      show_tail "$STATE/$name.log"
      die "$name ended while starting"
    fi
    if [ "$SECONDS" -ge "$deadline" ]; then
      printf ' too slow\n'
      show_tail "$STATE/$name.log"
      die "$name isn't ready in time (its log: $STATE/$name.log)"
    fi
    polls=$((polls + 1))
    [ $((polls % 10)) != 0 ] || printf .
    sleep 0.1
  done
}

# --- processes

# The text by which a server's command line is told from another program's that
# was given the same pid later.
signature_of() {
  case $1 in
    kafka) printf '%s' "kafka.Kafka $STATE/kafka/server.properties" ;;
    postgres) printf '%s' "-D $STATE/postgres/data" ;;
    # Of either build, so that both can be stopped.
    *) printf '%s' "/$1 " ;;
  esac
}

command_line() { { tr '\0' ' ' <"/proc/$1/cmdline"; } 2>/dev/null; }

# alive NAME: its pid file names a process, and that process is NAME. A zombie
# has no command line, so it counts as dead.
alive() {
  local pid words
  pid=$(cat "$STATE/$1.pid" 2>/dev/null) || return 1
  [[ $pid =~ ^[0-9]+$ ]] || return 1
  words=$(command_line "$pid") || return 1
  [[ "$words " == *"$(signature_of "$1")"* ]]
}

# launch NAME COMMAND…: detached: a session of its own, no input, nothing
# inherited but the log, so that neither a closing terminal nor a job runner that
# waits for its pipes is affected. The log of the run before is kept as .log.old.
launch() {
  local name=$1
  shift
  rm -f "$STATE/$name.pid"
  [ ! -e "$STATE/$name.log" ] || mv -f "$STATE/$name.log" "$STATE/$name.log.old"
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid bash -c '
    for fd in /proc/$$/fd/*; do
      fd=${fd##*/}
      [ "$fd" -le 2 ] || eval "exec $fd>&-" 2>/dev/null
    done
    echo $$ >"$0.new" && mv "$0.new" "$0" && exec "$@"
  ' "$STATE/$name.pid" "$@" </dev/null >"$STATE/$name.log" 2>&1 &
  disown # or bash reports its end
  local deadline=$((SECONDS + 10))
  until [ -s "$STATE/$name.pid" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "$name could not be started"
    sleep 0.02
  done
}

# stop NAME SIGNAL SECONDS: ask, wait, then kill.
stop() {
  local name=$1 deadline=$((SECONDS + $3)) pid
  if alive "$name"; then
    pid=$(<"$STATE/$name.pid")
    note "$name: stopping (pid $pid)"
    kill -"$2" "$pid" 2>/dev/null || true
    while alive "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
    if alive "$name"; then
      note "$name: still there after $3 s, killing it"
      kill -KILL "$pid" 2>/dev/null || true
      deadline=$((SECONDS + 10))
      while alive "$name" && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
      ! alive "$name" || die "$name (pid $pid) can't be killed"
    fi
  fi
  rm -f "$STATE/$name.pid" "$STATE/$name.settings"
}

# Services before what they depend on. PostgreSQL takes SIGINT as "end the
# sessions and stop", SIGTERM as "wait for them".
stop_server() {
  case $1 in
    postgres) stop postgres INT 20 ;;
    kafka) stop kafka TERM 20 ;;
    *) stop "$1" TERM 12 ;;
  esac
}
stop_all() {
  local i
  for ((i = ${#SERVERS[@]} - 1; i >= 0; i--)); do stop_server "${SERVERS[i]}"; done
}

# needs_start NAME SETTINGS: false when it runs with just these settings. One
# that runs with others is stopped.
needs_start() {
  if alive "$1"; then
    if [ "$2" = "$(cat "$STATE/$1.settings" 2>/dev/null)" ]; then
      note "$1: runs already (pid $(<"$STATE/$1.pid"))"
      return 1
    fi
    note "$1: its program or settings have changed"
    stop_server "$1"
  fi
}

# --- ports, all on loopback

port_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# check_port NAME VARIABLE: the port in VARIABLE is free, or is NAME's own. A server
# that was killed just now may still be letting go of it.
check_port() {
  local port=${!2} deadline=$((SECONDS + 4))
  if ! [[ $port =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
    die "$2=$port is no port number"
  fi
  while port_open "$port"; do
    alive "$1" && grep -qw -- "$port" "$STATE/$1.settings" 2>/dev/null && return
    [ "$SECONDS" -lt "$deadline" ] ||
      die "port $port is taken by another program: set $2 to a free one, e.g. $2=$((port + 1000)) make up"
    sleep 0.1
  done
}

# free_port [PORT]: PORT if that is free, else any below the range that the kernel
# takes outgoing connections from, so that none of those can sit on it first.
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

# --- one at a time

# state_dir: make STATE, but not in a .local that another user made: PostgreSQL's
# files and the pid files would end up mixed between two owners.
state_dir() {
  mkdir -p "$LOCAL"
  [ "$(stat -c %u "$LOCAL")" = "$(id -u)" ] ||
    die ".local belongs to user $(stat -c %U "$LOCAL"): run this as that user, or make down as that user and remove .local"
  mkdir -p "$STATE"
}

# lock FILE: held by this script until it ends (launch closes it in servers).
lock() {
  exec 9>"$1"
  flock -n 9 && return
  note "waiting for another run of this clone (${1#"$ROOT"/})"
  flock 9
}

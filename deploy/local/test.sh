#!/usr/bin/env bash
# Kafka and PostgreSQL for tests, apart from those of `make up`: free ports, throw-away data,
# under .local/test.
#   test.sh run [ARG…]      start a pair, run `cargo test` with ARGs, remove the pair
#   test.sh faults [ARG…]   the same with the fault suite
#   test.sh upgrade COMMIT [ARG…]  the same with its scenario "upgrade", from the release of that commit
#   test.sh up              start a pair that stays, described in .local/test/env
#   test.sh down            stop that pair and remove its data
# For a test that breaks its servers, which are in a folder of their own (tests/testkit):
#   test.sh own FOLDER up|down                  start or remove a pair (FOLDER/env)
#   test.sh own FOLDER kill|start kafka|postgres
#   test.sh own FOLDER standby PORT         start a second PostgreSQL (FOLDER/standby/env), which follows the
#                                           first one through this port
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
unset POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT # those of `make up`
STATE=$LOCAL/test/stack

start_test_stack() { # [kafka|postgres]
  state_dir
  install_packages stack test
  resolve_dist
  # A pair that is restarted keeps its ports, so that its env file stays true.
  # shellcheck source=/dev/null
  [ ! -s "$STATE/ports" ] || . "$STATE/ports"
  alive postgres || POSTGRES_PORT=$(free_port "${POSTGRES_PORT:-}")
  alive kafka || KAFKA_PORT=$(free_port "${KAFKA_PORT:-}")
  alive kafka || KAFKA_CONTROLLER_PORT=$(free_port "${KAFKA_CONTROLLER_PORT:-}")
  printf '%s\n' "POSTGRES_PORT=$POSTGRES_PORT" "KAFKA_PORT=$KAFKA_PORT" \
    "KAFKA_CONTROLLER_PORT=$KAFKA_CONTROLLER_PORT" >"$STATE/ports"
  [ "${1:-}" = kafka ] || start_postgres test
  [ "${1:-}" = postgres ] || start_kafka
}

test_env() {
  printf '%s\n' \
    "TEST_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT" \
    "TEST_DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes" \
    "TEST_KAFKA_LIBS=$KAFKA_LIBS"
}

# Removes what killed runs (run-PID) and killed tests (own-PID-N) left behind.
sweep() {
  local dir pid
  for dir in "$LOCAL"/test/run-* "$LOCAL"/test/own-*; do
    pid=$(cut -d- -f2 <<<"${dir##*/}")
    [ -d "$dir" ] || continue
    [ ! -d "/proc/$pid" ] || continue
    say "removing the servers of an earlier test run (pid $pid)"
    STATE=$dir drop_stack
  done
}

# in_test_stack COMMAND…: on a temporary pair. Ends the script with COMMAND's exit status.
in_test_stack() {
  find_cargo
  install_packages build stack test
  sweep
  temporary_stack "$LOCAL/test/run-$$"
  say 'starting Kafka and PostgreSQL for the tests'
  start_test_stack
  set -a
  eval "$(test_env)"
  set +a
  # Tests run programs of Kafka's jars.
  find_java && export JAVA_HOME=${JAVA%/bin/java}
  cd "$ROOT"
  in_group "$@"
}

# A copy of the stopped primary: the programs don't include pg_basebackup, and another release's refuses the server.
start_standby() { # PORT
  local data=$STATE/standby/postgres/data
  start_test_stack postgres
  stop postgres INT 20
  mkdir -p "$STATE/standby/postgres"
  cp -a "$STATE/postgres/data" "$STATE/postgres/password" "$STATE/standby/postgres/"
  start_test_stack postgres
  printf "primary_conninfo = 'host=127.0.0.1 port=%s user=likes password=%s'\n" "$1" "$POSTGRES_PASSWORD" \
    >>"$data/postgresql.auto.conf"
  touch "$data/standby.signal"
  unset POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT # the first one's
  STATE=$STATE/standby
  start_test_stack postgres
  test_env >"$STATE/env"
}

command=${1:-}
[ $# = 0 ] || shift
case $command in
  run)
    all=(--workspace)
    # With --workspace cargo would ignore a -p among the arguments.
    [[ " $* " != *' -p '* && " $* " != *' --package'* ]] || all=()
    in_test_stack cargo test "${all[@]}" --locked "$@"
    ;;
  faults)
    find_cargo
    # With the features of the whole workspace, as `make test` builds it: nothing is built twice.
    (cd "$ROOT" && cargo build --quiet --workspace --locked --bin fault-suite)
    in_test_stack target/debug/fault-suite "$@"
    ;;
  upgrade)
    # The programs of the older release are built from its sources; OLD_PROGRAMS=folder names built ones.
    from=${1:?a commit}
    shift
    find_cargo
    if [ -z "${OLD_PROGRAMS:-}" ]; then
      older=$LOCAL/upgrade/$from
      say "building $from"
      mkdir -p "$older"
      git -C "$ROOT" archive "$from" | tar -x -C "$older"
      (cd "$older" && cargo build --quiet --locked -p like-api -p like-aggregator)
      OLD_PROGRAMS=$older/target/debug
    fi
    export OLD_PROGRAMS
    (cd "$ROOT" && cargo build --quiet --workspace --locked --bin fault-suite)
    in_test_stack target/debug/fault-suite --only upgrade "$@"
    ;;
  up)
    lock "$LOCAL/test/lock"
    say 'test stack:'
    start_test_stack
    (umask 077 && test_env >"$LOCAL/test/env")
    say "its settings: .local/test/env (set -a; . .local/test/env); stop it with make test-stack-down"
    ;;
  down)
    lock "$LOCAL/test/lock"
    drop_stack
    rm -f "$LOCAL/test/env"
    say 'test stack: stopped, its data removed'
    ;;
  own)
    STATE=$1
    case "$2 ${3:-}" in
      'up ') start_test_stack && test_env >"$STATE/env" ;;
      'down ') drop_stack ;;
      'kill kafka' | 'kill postgres') stop "$3" KILL 10 ;;
      'start kafka' | 'start postgres') start_test_stack "$3" ;;
      'standby '*) start_standby "$3" ;;
      *) die "own: $2 ${3:-}: expected up, down, kill NAME, start NAME or standby PORT" ;;
    esac
    ;;
  *) die 'usage: test.sh run [ARG…] | faults [ARG…] | upgrade COMMIT [ARG…] | up | down | own FOLDER …' ;;
esac

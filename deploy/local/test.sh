#!/usr/bin/env bash
# A Kafka and a PostgreSQL for tests, apart from those of `make up`: on free
# ports, with throw-away data, under .local/test.
#   test.sh run [ARG…]  start such a pair, `cargo test` with ARGs, throw it away
#   test.sh faults [ARG…]  the same with the fault suite instead of `cargo test`
#   test.sh up          start one that stays, described in .local/test/env
#   test.sh down        stop that one and throw its data away
# And for a test that breaks its servers, which it names by a folder of its own:
#   test.sh own FOLDER up|down      start or throw away a pair (FOLDER/env)
#   test.sh own FOLDER kill|start kafka|postgres
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
for part in install dist postgres kafka; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done
SERVERS=(postgres kafka)
# Never those that `make up` was given.
unset POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT
STATE=$LOCAL/test/stack

start_test_stack() { # [kafka|postgres]
  state_dir
  install_packages stack
  resolve_dist
  # A stack that stays keeps its ports, so that its env file stays true.
  # shellcheck source=/dev/null
  [ ! -s "$STATE/ports" ] || . "$STATE/ports"
  alive postgres || POSTGRES_PORT=$(free_port "${POSTGRES_PORT:-}")
  alive kafka || KAFKA_PORT=$(free_port "${KAFKA_PORT:-}")
  alive kafka || KAFKA_CONTROLLER_PORT=$(free_port "${KAFKA_CONTROLLER_PORT:-}")
  printf '%s\n' "POSTGRES_PORT=$POSTGRES_PORT" "KAFKA_PORT=$KAFKA_PORT" \
    "KAFKA_CONTROLLER_PORT=$KAFKA_CONTROLLER_PORT" >"$STATE/ports"
  case ${1:-both} in postgres | both) start_postgres test ;; esac
  case ${1:-both} in kafka | both) start_kafka ;; esac
}

test_env() {
  printf '%s\n' \
    "TEST_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT" \
    "TEST_DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes" \
    "TEST_KAFKA_LIBS=$KAFKA_LIBS"
}

# Its data isn't worth an orderly end. PostgreSQL's quick one leaves no shared
# memory behind, as killing it would.
drop_test_stack() {
  stop kafka KILL 10
  stop postgres QUIT 10
  rm -rf "$STATE"
}

# What a killed run has left behind. A run's folder ends in its pid.
sweep() {
  local dir pid
  for dir in "$LOCAL"/test/run-*; do
    [ -d "$dir" ] || continue
    pid=${dir##*-}
    [[ $(command_line "$pid") != *'test.sh '* ]] || continue
    say "clearing up after an earlier test run (pid $pid)"
    (STATE=$dir && drop_test_stack)
  done
  # Of a test that was killed itself; its folder is own-PID-N.
  for dir in "$LOCAL"/test/own-*; do
    [ -d "$dir" ] || continue
    pid=${dir##*/own-}
    [ ! -d "/proc/${pid%%-*}" ] || continue
    (STATE=$dir && drop_test_stack)
  done
}

own_stack() { # FOLDER up|down | kill|start NAME
  STATE=$1
  case "$2 ${3:-}" in
    'up ')
      start_test_stack
      test_env >"$STATE/env"
      ;;
    'down ') drop_test_stack ;;
    'kill kafka' | 'kill postgres') stop "$3" KILL 10 ;;
    'start kafka' | 'start postgres') start_test_stack "$3" ;;
    *) die "own: $2 ${3:-}: not one of up, down, kill NAME, start NAME" ;;
  esac
}

# Cargo has a process group of its own, so that being told to end (which reaches
# this script alone) ends the test programs too, whatever they have started.
tests=
stop_tests() {
  trap '' INT TERM HUP
  if [ -n "$tests" ]; then
    kill -TERM -- "-$tests" 2>/dev/null || true
    local deadline=$((SECONDS + 5))
    while kill -0 -- "-$tests" 2>/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.1; done
    kill -KILL -- "-$tests" 2>/dev/null || true
  fi
  exit "$1"
}

# in_test_stack COMMAND…: on a pair of its own, which goes with it.
in_test_stack() {
  local status=0
  find_cargo
  install_packages build stack
  sweep
  STATE=$LOCAL/test/run-$$
  trap drop_test_stack EXIT
  trap 'stop_tests 130' INT
  trap 'stop_tests 143' TERM HUP
  say 'starting Kafka and PostgreSQL for the tests'
  start_test_stack
  set -a
  eval "$(test_env)"
  set +a
  cd "$ROOT"
  set -m
  "$@" </dev/null &
  tests=$!
  set +m
  wait "$tests" || status=$?
  tests=
  exit "$status"
}

case ${1:-} in
  run)
    shift
    all=(--workspace)
    # Cargo would let --workspace win over a package that is asked for.
    [[ " $* " != *' -p '* && " $* " != *' --package'* ]] || all=()
    in_test_stack cargo test "${all[@]}" --locked "$@"
    ;;
  faults)
    shift
    find_cargo
    # Like the tests: built with the features of the whole, nothing is built twice.
    (cd "$ROOT" && cargo build --quiet --workspace --locked --bin fault-suite)
    in_test_stack target/debug/fault-suite "$@"
    ;;
  up)
    mkdir -p "$LOCAL/test"
    lock "$LOCAL/test/lock"
    say 'test stack:'
    start_test_stack
    (umask 077 && test_env >"$LOCAL/test/env")
    say "its settings: .local/test/env (set -a; . .local/test/env); stop it with make test-stack-down"
    ;;
  down)
    mkdir -p "$LOCAL/test"
    lock "$LOCAL/test/lock"
    drop_test_stack
    rm -f "$LOCAL/test/env"
    say 'test stack: stopped, its data removed'
    ;;
  own)
    shift
    own_stack "$@"
    ;;
  *) die 'usage: test.sh run [ARG…] | faults [ARG…] | up | down | own FOLDER …' ;;
esac

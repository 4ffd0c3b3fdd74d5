#!/usr/bin/env bash
# `make drain`: how fast like-aggregator works off a backlog (src/bin/drain.rs says
# what is measured), on a Kafka and a PostgreSQL of its own under .local/drain that
# keep what they acknowledge, unlike those of `make test`. Thrown away afterwards;
# the figures are added to loadtest/out/drain.jsonl. Arguments go to the program:
#   make drain ARGS="--events 100000 --modes history-user --statements"
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"
for part in install dist postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done
SERVERS=(postgres kafka)
STATE=$LOCAL/drain/stack

# What of the settings for running would change what is measured.
unset POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT KAFKA_CONFIG_FILE DEDUP_WINDOW RUST_LOG LOG_FORMAT

drop_stack() {
  stop kafka KILL 10
  stop postgres QUIT 10
  rm -rf "$STATE"
}

# The program has a process group of its own, so that whoever ends this script
# ends the aggregator under measurement too.
drain=
# shellcheck disable=SC2317 # called by traps
stop_drain() {
  trap '' INT TERM HUP
  [ -z "$drain" ] || kill -KILL -- "-$drain" 2>/dev/null || true
  exit "$1"
}

mkdir -p "$LOCAL/drain"
lock "$LOCAL/drain/lock"
find_cargo
install_packages build stack
resolve_dist
cd "$ROOT"
build_services
# Not in one go: cargo would build the services anew, with the features that both need.
cargo build --release --locked --target-dir "$ROOT/target" -p loadtest 9>&- || die 'the build failed, see above'

[ ! -e "$STATE" ] || drop_stack # left behind by a killed run
trap drop_stack EXIT
trap 'stop_drain 130' INT
trap 'stop_drain 143' TERM HUP
state_dir
say 'starting Kafka and PostgreSQL for the measurement'
POSTGRES_PORT=$(free_port '')
KAFKA_PORT=$(free_port '')
# shellcheck disable=SC2034 # read by kafka_conf
KAFKA_CONTROLLER_PORT=$(free_port '')
start_postgres local
start_kafka

export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
export DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes
DRAIN_KAFKA_PID=$(<"$STATE/kafka.pid")
export DRAIN_KAFKA_PID
status=0
set -m
"$ROOT/target/release/drain" "$@" </dev/null &
drain=$!
set +m
wait "$drain" || status=$?
drain=
exit "$status"

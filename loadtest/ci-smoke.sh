#!/usr/bin/env bash
# The smoke profile against the whole system, for CI: starts Kafka, PostgreSQL and
# both services in a place of their own (.local/smoke, free ports), so that what
# `make up` has started isn't touched, runs the profile, stops everything and
# removes its data, also on failure. Exit status: that of loadtest/run.sh, 99 when
# a rule was broken.
# shellcheck disable=SC2034 # what it sets is read by the parts it sources
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"
# What `make test` has built: no second build of everything in CI.
BUILD=debug
for part in install dist postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done
STATE=$LOCAL/smoke/stack

# What of the settings for running would change what is tested.
unset KAFKA_CONFIG_FILE KAFKA_TOPIC KAFKA_GROUP_ID DEDUP DEDUP_WINDOW BATCH_MAX_EVENTS BATCH_MAX_WAIT \
  AUTH_USER_HEADER RUST_LOG LOG_FORMAT RATE DURATION VUS USERS_PER_VU PRODUCTS READ_RATE

# Its data isn't worth an orderly end.
drop_stack() {
  trap '' INT TERM HUP
  stop like-api KILL 10
  stop like-aggregator KILL 10
  stop kafka KILL 10
  stop postgres QUIT 10
  rm -rf "$STATE"
}

# What a failed run leaves to read.
# shellcheck disable=SC2317 # called by a trap
keep_logs() {
  rm -rf "$LOCAL/smoke/logs"
  mkdir -p "$LOCAL/smoke/logs"
  cp "$STATE"/*.log "$LOCAL/smoke/logs/" 2>/dev/null || true
  note "the servers' logs: .local/smoke/logs"
}

smoke=
# shellcheck disable=SC2317 # called by traps
finish() {
  local status=$?
  trap '' INT TERM HUP
  # A process group of its own, so that k6 ends with this script.
  [ -z "$smoke" ] || kill -KILL -- "-$smoke" 2>/dev/null || true
  [ "$status" = 0 ] || keep_logs
  drop_stack
}

mkdir -p "$LOCAL/smoke"
lock "$LOCAL/smoke/lock"
find_cargo
install_packages build stack
resolve_dist
build_services

[ ! -e "$STATE" ] || drop_stack # left behind by a killed run
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
state_dir
ports=()
while [ ${#ports[@]} -lt 6 ]; do
  port=$(free_port '')
  [[ " ${ports[*]} " == *" $port "* ]] || ports+=("$port")
done
read -r POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT LIKE_API_PORT LIKE_API_ADMIN_PORT LIKE_AGGREGATOR_ADMIN_PORT \
  <<<"${ports[*]}"
say 'starting a stack for the smoke test'
start_postgres local
start_kafka
KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes
start_services
export LIKE_API_URL=http://127.0.0.1:$LIKE_API_PORT
export LIKE_API_ADMIN_URL=http://127.0.0.1:$LIKE_API_ADMIN_PORT
export LIKE_AGGREGATOR_ADMIN_URL=http://127.0.0.1:$LIKE_AGGREGATOR_ADMIN_PORT

status=0
set -m
PROFILE=smoke "$ROOT/loadtest/run.sh" </dev/null 9>&- &
smoke=$!
set +m
wait "$smoke" || status=$?
smoke=
exit "$status"

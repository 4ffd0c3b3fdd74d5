#!/usr/bin/env bash
# `make up`: the whole system on this machine without Docker: Kafka, PostgreSQL
# and both services under .local, and one like through them as proof. What runs
# already is left alone, what has died or changed is started anew.
# shellcheck disable=SC2034 # what it sets is read by the parts it sources
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
for part in install dist postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done

: "${KAFKA_PORT:=19092}" "${KAFKA_CONTROLLER_PORT:=19093}" "${POSTGRES_PORT:=15432}"
: "${LIKE_API_PORT:=18080}" "${LIKE_API_ADMIN_PORT:=18081}" "${LIKE_AGGREGATOR_ADMIN_PORT:=18082}"

# Before the minutes of building, not after.
check_ports() {
  check_port postgres POSTGRES_PORT
  check_port kafka KAFKA_PORT
  check_port kafka KAFKA_CONTROLLER_PORT
  check_port like-api LIKE_API_PORT
  check_port like-api LIKE_API_ADMIN_PORT
  check_port like-aggregator LIKE_AGGREGATOR_ADMIN_PORT
  local twice
  twice=$(printf '%s\n' "$POSTGRES_PORT" "$KAFKA_PORT" "$KAFKA_CONTROLLER_PORT" "$LIKE_API_PORT" \
    "$LIKE_API_ADMIN_PORT" "$LIKE_AGGREGATOR_ADMIN_PORT" | sort | uniq -d)
  [ -z "$twice" ] || die "port ${twice//$'\n'/, } is given to two of the servers"
}

write_env() {
  KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
  DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes
  LIKE_API_URL=http://127.0.0.1:$LIKE_API_PORT
  LIKE_API_ADMIN_URL=http://127.0.0.1:$LIKE_API_ADMIN_PORT
  LIKE_AGGREGATOR_ADMIN_URL=http://127.0.0.1:$LIKE_AGGREGATOR_ADMIN_PORT
  local name
  (
    umask 077
    for name in LIKE_API_URL LIKE_API_ADMIN_URL LIKE_AGGREGATOR_ADMIN_URL \
      KAFKA_BOOTSTRAP_SERVERS DATABASE_URL; do
      printf '%s=%s\n' "$name" "${!name}"
    done >"$LOCAL/env"
  )
}

state_dir
lock "$LOCAL/lock"
find_cargo
check_ports
say 'preparing'
install_packages build stack
resolve_dist
build_services
say 'starting'
start_postgres local
start_kafka
write_env
start_services
say 'trying it'
try_a_like

cat <<DONE

The like counter is up.
  API           $LIKE_API_URL
  metrics       $LIKE_API_ADMIN_URL/metrics and $LIKE_AGGREGATOR_ADMIN_URL/metrics
  Kafka         $KAFKA_BOOTSTRAP_SERVERS
  PostgreSQL    127.0.0.1:$POSTGRES_PORT, database and user likes, password in .local/env
Try it:
  curl -X PUT -H 'X-User-Id: me' $LIKE_API_URL/v1/products/p1/like
  curl $LIKE_API_URL/v1/products/p1/likes
Addresses for scripts: .local/env. Logs: .local/*.log. Stop it: make down.
DONE

#!/usr/bin/env bash
# `make up`: the whole system on this machine without Docker: Kafka, PostgreSQL and both services
# under .local, and one like as a proof. Servers that run already are left alone; those that have
# died or whose settings have changed are restarted.
# shellcheck disable=SC2034 # the parts read what this sets
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

: "${KAFKA_PORT:=19092}" "${KAFKA_CONTROLLER_PORT:=19093}" "${POSTGRES_PORT:=15432}"
: "${LIKE_API_PORT:=18080}" "${LIKE_API_ADMIN_PORT:=18081}" "${LIKE_AGGREGATOR_ADMIN_PORT:=18082}"

state_dir
lock "$LOCAL/lock"
find_cargo
# Before the minutes of building.
for pair in postgres:POSTGRES_PORT kafka:KAFKA_PORT kafka:KAFKA_CONTROLLER_PORT like-api:LIKE_API_PORT \
  like-api:LIKE_API_ADMIN_PORT like-aggregator:LIKE_AGGREGATOR_ADMIN_PORT; do
  check_port "${pair%:*}" "${pair#*:}"
done
say 'preparing'
install_packages build stack
resolve_dist
build_services
say 'starting'
start_postgres local
start_kafka
set_addresses
write_addresses "$LOCAL/env"
demo_settings
start_services
say 'trying it'
try_a_like

cat <<DONE

The like counter is up.
  demo page     $LIKE_API_URL/
  API           $LIKE_API_URL
  metrics       $LIKE_API_ADMIN_URL/metrics and $LIKE_AGGREGATOR_ADMIN_URL/metrics
  Kafka         $KAFKA_BOOTSTRAP_SERVERS
  PostgreSQL    127.0.0.1:$POSTGRES_PORT, database and user likes, password in .local/env
Try it:
  curl -X PUT -H 'X-User-Id: me' $LIKE_API_URL/v1/products/p1/like
  curl $LIKE_API_URL/v1/products/p1/likes
  . .local/env; target/$BUILD/like-aggregator status
Addresses for scripts: .local/env. Logs: .local/*.log. Stop it: make down.
DONE

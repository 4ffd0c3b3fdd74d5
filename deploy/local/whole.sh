# shellcheck shell=bash
# A stack for one trial or measurement, under .local/NAME on free ports, apart from `make up`. It is
# removed when the script ends; after a failure the servers' logs stay in .local/NAME/logs.
# Sourced, then: prepare NAME, start_servers (Kafka and PostgreSQL), and in_group COMMAND ARG….
# start_whole NAME does both and starts the services too.
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# The caller's settings would change what is tested.
for variable in $(compgen -e); do
  case $variable in
    KAFKA_* | AUTH_* | JWT_* | DEDUP* | BATCH_* | APPLY_* | RATE_LIMIT_* | CORS_* | TRUSTED_* | OTEL_* | LOG_FORMAT | RUST_LOG | \
      MAX_* | SHED_ABOVE | STREAM_* | DEMO* | TOKIO_WORKER_THREADS)
      unset "$variable"
      ;;
  esac
done

prepare() { # NAME
  PLACE=$LOCAL/$1
  lock "$PLACE/lock"
  find_cargo
  install_packages build stack
  resolve_dist
  build_services
}

start_servers() {
  temporary_stack "$PLACE/stack"
  local ports=() port
  while [ ${#ports[@]} -lt 6 ]; do
    port=$(free_port '')
    [[ " ${ports[*]} " == *" $port "* ]] || ports+=("$port")
  done
  # shellcheck disable=SC2034 # the parts read them
  read -r POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT LIKE_API_PORT LIKE_API_ADMIN_PORT LIKE_AGGREGATOR_ADMIN_PORT \
    <<<"${ports[*]}"
  say "starting servers in ${PLACE#"$ROOT"/}"
  start_postgres local
  start_kafka
  set_addresses
}

start_whole() { # NAME
  prepare "$1"
  start_servers
  start_services
}

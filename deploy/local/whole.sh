# shellcheck shell=bash
# The whole system for one trial, in a place of its own (.local/NAME, free ports), so
# that what `make up` has started isn't touched: Kafka, PostgreSQL and both services.
# Thrown away at the end, however that comes; after a failure the servers' logs stay.
# Sourced, then: start_whole NAME, and trial COMMAND ARG….
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
for part in install dist postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done

# What of the settings for running would change what is tested.
for variable in $(compgen -e); do
  case $variable in
    KAFKA_* | AUTH_* | JWT_* | DEDUP* | BATCH_* | RATE_LIMIT_* | CORS_* | TRUSTED_* | OTEL_* | LOG_FORMAT | RUST_LOG | \
      MAX_* | SHED_ABOVE | STREAM_*)
      unset "$variable"
      ;;
  esac
done

# Its data isn't worth an orderly end.
drop_whole() {
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
  rm -rf "$PLACE/logs"
  mkdir -p "$PLACE/logs"
  cp "$STATE"/*.log "$PLACE/logs/" 2>/dev/null || true
  note "the servers' logs: ${PLACE#"$ROOT"/}/logs"
}

tried=
# shellcheck disable=SC2317 # called by traps
finish_whole() {
  local status=$?
  trap '' INT TERM HUP
  # A process group of its own, so that what is tried ends with this script.
  [ -z "$tried" ] || kill -KILL -- "-$tried" 2>/dev/null || true
  [ "$status" = 0 ] || keep_logs
  drop_whole
}

start_whole() { # NAME
  PLACE=$LOCAL/$1
  STATE=$PLACE/stack
  mkdir -p "$PLACE"
  lock "$PLACE/lock"
  find_cargo
  install_packages build stack
  resolve_dist
  build_services

  [ ! -e "$STATE" ] || drop_whole # left behind by a killed run
  trap finish_whole EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  state_dir
  local ports=() port
  while [ ${#ports[@]} -lt 6 ]; do
    port=$(free_port '')
    [[ " ${ports[*]} " == *" $port "* ]] || ports+=("$port")
  done
  # shellcheck disable=SC2034 # read by the parts
  read -r POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT LIKE_API_PORT LIKE_API_ADMIN_PORT LIKE_AGGREGATOR_ADMIN_PORT \
    <<<"${ports[*]}"
  say "starting a system for this trial ($1)"
  start_postgres local
  start_kafka
  export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
  export DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes
  start_services
  export LIKE_API_URL=http://127.0.0.1:$LIKE_API_PORT
  export LIKE_API_ADMIN_URL=http://127.0.0.1:$LIKE_API_ADMIN_PORT
  export LIKE_AGGREGATOR_ADMIN_URL=http://127.0.0.1:$LIKE_AGGREGATOR_ADMIN_PORT
}

# Its exit status is the command's.
trial() { # COMMAND ARG…
  local status=0
  set -m
  "$@" </dev/null 9>&- &
  tried=$!
  set +m
  wait "$tried" || status=$?
  tried=
  return "$status"
}

# shellcheck shell=bash
# A Kafka and a PostgreSQL of a measurement's own, for one run of one program: on
# free ports under .local/NAME, keeping what they acknowledge (unlike those of
# `make test`), thrown away at the end. Sourced, then: start_stack NAME, and
# run_measured PROGRAM ARG…, which ends the script with the program's exit status.
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"
for part in install postgres kafka services; do
  # shellcheck source=/dev/null
  . "$ROOT/deploy/local/$part.sh"
done
# shellcheck disable=SC2034 # read by lib.sh
SERVERS=(postgres kafka)

# What of the settings for running would change what is measured.
unset POSTGRES_PORT KAFKA_PORT KAFKA_CONTROLLER_PORT KAFKA_PROXIED_PORT KAFKA_PROXY_PORT
unset KAFKA_CONFIG_FILE DEDUP_WINDOW RUST_LOG LOG_FORMAT
unset RATE_LIMIT_USER RATE_LIMIT_ADDRESS TRUSTED_PROXIES MAX_CONNECTIONS SHED_ABOVE CORS_ALLOWED_ORIGINS
unset MAX_STREAMS STREAM_INTERVAL TOKIO_WORKER_THREADS

# shellcheck disable=SC2317 # called by a trap too
drop_stack() {
  stop kafka KILL 10
  stop postgres QUIT 10
  rm -rf "$STATE"
}

# The program has a process group of its own, so that whoever ends this script
# ends what it has started too.
measured=
# shellcheck disable=SC2317 # called by traps
stop_measured() {
  trap '' INT TERM HUP
  [ -z "$measured" ] || kill -KILL -- "-$measured" 2>/dev/null || true
  exit "$1"
}

# Builds services and programs, and starts the two servers.
start_stack() { # NAME
  STATE=$LOCAL/$1/stack
  mkdir -p "$LOCAL/$1"
  lock "$LOCAL/$1/lock"
  find_cargo
  install_packages build stack
  resolve_dist
  cd "$ROOT" || exit
  build_services
  # Not in one go: cargo would build the services anew, with the features that both need.
  cargo build --release --locked --target-dir "$ROOT/target" -p loadtest 9>&- || die 'the build failed, see above'

  [ ! -e "$STATE" ] || drop_stack # left behind by a killed run
  trap drop_stack EXIT
  trap 'stop_measured 130' INT
  trap 'stop_measured 143' TERM HUP
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
}

run_measured() { # PROGRAM ARG…
  local program=$1 status=0
  shift
  # Thousands of connections, at both ends.
  ulimit -n "$(ulimit -Hn)"
  set -m
  "$ROOT/target/release/$program" "$@" </dev/null &
  measured=$!
  set +m
  wait "$measured" || status=$?
  measured=
  exit "$status"
}

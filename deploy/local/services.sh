# shellcheck shell=bash
# Builds both services, starts those that don't run or whose program or settings have changed, and
# sends a like through them. Sourced.

BIN=$ROOT/target/$BUILD

# The target folder is named because a user's own cargo settings may move it. The lock (9) is
# closed: a compiler cache may start a server that outlives this script.
build_services() {
  say 'building both services (some minutes the first time)'
  local what=(-p like-api -p like-aggregator)
  [ "$BUILD" = debug ] || what+=(--release)
  (cd "$ROOT" && cargo build --locked --target-dir "$ROOT/target" "${what[@]}" 9>&-) ||
    die 'the build failed, see above'
}

set_addresses() {
  export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
  export DATABASE_URL=postgres://likes:$POSTGRES_PASSWORD@127.0.0.1:$POSTGRES_PORT/likes
  export LIKE_API_URL=http://127.0.0.1:$LIKE_API_PORT
  export LIKE_API_ADMIN_URL=http://127.0.0.1:$LIKE_API_ADMIN_PORT
  export LIKE_AGGREGATOR_ADMIN_URL=http://127.0.0.1:$LIKE_AGGREGATOR_ADMIN_PORT
}

write_addresses() { # FILE, to be sourced
  (umask 077 && for name in LIKE_API_URL LIKE_API_ADMIN_URL LIKE_AGGREGATOR_ADMIN_URL KAFKA_BOOTSTRAP_SERVERS DATABASE_URL; do
    printf 'export %s=%s\n' "$name" "${!name}"
  done >"$1")
}

# A service is restarted when its ports, its program or the variables that it reads have changed.
service_settings() { # NAME PORT…
  local name=$1 environment
  shift
  environment=$(env | grep -E '^(KAFKA_|DATABASE_|AUTH_|JWT_|RATE_|TRUSTED_|MAX_|SHED_|CORS_|SHUTDOWN_|IDLE_|ADDRESS_|STREAM_|PUBLIC_|DOCS|DEMO|DEDUP|BATCH_|LOG_|RUST_|OTEL_)' | sort | sha256sum | cut -c1-12)
  printf '%s' "ports=$* program=$(stat -c '%i.%s.%.9Y' "$BIN/$name") environment=$environment"
}

get() { curl -fsS --noproxy '*' --max-time 15 "$@"; }
ready() { get -o /dev/null "http://127.0.0.1:$1/readyz" 2>/dev/null; }

start_service() { # NAME ADMIN_PORT PUBLIC_PORT_OR_NONE [ARG…]
  local name=$1 admin=$2 port=$3 settings
  shift 3
  settings=$(service_settings "$name" "$admin" "$port")
  if needs_start "$name" "$settings"; then
    note "$name: starting, admin port $admin"
    ADMIN_ADDR=127.0.0.1:$admin launch "$name" "$BIN/$name" "$@"
    printf '%s' "$settings" >"$STATE/$name.settings"
  fi
  wait_for 60 "$name" ready "$admin"
}

# The demo page at /. Its bursts are of users that the page makes up.
demo_settings() {
  export DEMO=true DEMO_AGGREGATOR_URL=$LIKE_AGGREGATOR_ADMIN_URL
  export BATCH_USER_IDS_FROM=${BATCH_USER_IDS_FROM:-127.0.0.0/8}
}

start_api() { LISTEN_ADDR=127.0.0.1:$LIKE_API_PORT start_service like-api "$LIKE_API_ADMIN_PORT" "$LIKE_API_PORT"; }

start_services() {
  export AUTH_MODE=trusted-header
  # Safe to repeat: changes nothing where the topic and the tables are as they should be.
  quietly "$STATE/like-aggregator-setup.log" 'like-aggregator: setup (topic, tables)' \
    "$BIN/like-aggregator" setup
  start_service like-aggregator "$LIKE_AGGREGATOR_ADMIN_PORT" none run
  start_api
}

# field NAME: the value of a string field in the JSON on standard input.
field() { sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p' | head -n 1; }

# Sends a like and polls its receipt until it is counted.
try_a_like() {
  local answer receipt status='' deadline=$((SECONDS + 60))
  answer=$(get -X PUT -H "${AUTH_USER_HEADER:-X-User-Id}: demo" "$LIKE_API_URL/v1/products/demo-product/like" 2>&1) || {
    show_tail "$STATE/like-api.log"
    die "a like was refused: $answer"
  }
  receipt=$(field receipt <<<"$answer")
  note "a like for demo-product: receipt $receipt"
  until [ "$status" = counted ]; do
    if [ "$SECONDS" -ge "$deadline" ]; then
      show_tail "$STATE/like-aggregator.log"
      die "the like is not counted: the status of its receipt is '${status:-unknown}'"
    fi
    sleep 0.1
    status=$(get "$LIKE_API_URL/v1/receipts/$receipt" 2>/dev/null | field status) || status=
  done
  note "GET /v1/products/demo-product/likes: $(get "$LIKE_API_URL/v1/products/demo-product/likes")"
}

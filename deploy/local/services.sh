# shellcheck shell=bash
# Builds the two services, starts those that don't run or whose program or
# settings have changed, and shows that a like travels through them. Sourced.

BIN=$ROOT/target/$BUILD

# Cargo shows its own progress. The folder is named so that whatever the user has
# set up for other projects, the programs are where the rest expects them. The
# lock is closed, since a compiler cache may start a server that outlives us.
build_services() {
  say 'building both services (some minutes the first time)'
  local what=(-p like-api -p like-aggregator)
  [ "$BUILD" = debug ] || what+=(--release)
  (cd "$ROOT" && cargo build --locked --target-dir "$ROOT/target" "${what[@]}" 9>&-) ||
    die 'the build failed, see above'
}

# What changes how a service behaves: its own program, and the environment's part
# that it reads (README and docs name those variables).
service_settings() { # NAME PORT…
  local name=$1 environment
  shift
  environment=$(env | grep -E '^(KAFKA_|DATABASE_|AUTH_|JWT_|RATE_|TRUSTED_|MAX_|SHED_|CORS_|DEDUP|BATCH_|LOG_|RUST_|OTEL_)' | sort | sha256sum | cut -c1-12)
  printf '%s' "ports=$* program=$(stat -c '%i.%s.%.9Y' "$BIN/$name") environment=$environment"
}

get() { curl -fsS --noproxy '*' --max-time 15 "$@"; }
ready() { get -o /dev/null "http://127.0.0.1:$1/readyz" 2>/dev/null; }

start_service() { # NAME ADMIN_PORT PUBLIC_PORT_OR_NONE [ARG…]
  local name=$1 admin=$2 port=$3 settings
  shift 3
  settings=$(service_settings "$name" "$admin" "$port")
  if needs_start "$name" "$settings"; then
    printf '  %s: starting, admin port %s ' "$name" "$admin"
    ADMIN_ADDR=127.0.0.1:$admin launch "$name" "$BIN/$name" "$@"
    printf '%s' "$settings" >"$STATE/$name.settings"
  else
    printf '  %s: ready? ' "$name"
  fi
  wait_for 60 "$name" ready "$admin"
  printf ' ready\n'
}

start_api() { LISTEN_ADDR=127.0.0.1:$LIKE_API_PORT start_service like-api "$LIKE_API_ADMIN_PORT" "$LIKE_API_PORT"; }

start_services() {
  export KAFKA_BOOTSTRAP_SERVERS DATABASE_URL AUTH_MODE=trusted-header
  # Both refuse to go on where the topic, the tables or their versions aren't as
  # expected; this makes them, and changes nothing where they are.
  quietly "$STATE/like-aggregator-setup.log" 'like-aggregator: setup (topic, tables)' \
    "$BIN/like-aggregator" setup
  start_service like-aggregator "$LIKE_AGGREGATOR_ADMIN_PORT" none run
  start_api
}

# field NAME: the string of that name in the JSON on standard input.
field() { sed -n 's/.*"'"$1"'" *: *"\([^"]*\)".*/\1/p' | head -n 1; }

# A like through HTTP, and its receipt asked for until it is in the count.
try_a_like() {
  local answer receipt status='' deadline=$((SECONDS + 60))
  answer=$(get -X PUT -H "${AUTH_USER_HEADER:-X-User-Id}: demo" "$LIKE_API_URL/v1/products/demo-product/like" 2>&1) || {
    show_tail "$STATE/like-api.log"
    die "a like was refused: $answer"
  }
  receipt=$(printf '%s\n' "$answer" | field receipt)
  [ -n "$receipt" ] || die "a like was answered without a receipt: $answer"
  printf '  a like for demo-product: receipt %s ' "$receipt"
  until [ "$status" = counted ]; do
    if [ "$SECONDS" -ge "$deadline" ] || [ "$status" = dead_letter ] || [ "$status" = lost ]; then
      printf ' %s\n' "${status:-no answer}"
      show_tail "$STATE/like-aggregator.log"
      die "the like isn't counted: its receipt says '${status:-nothing}'"
    fi
    sleep 0.1
    status=$(get "$LIKE_API_URL/v1/receipts/$receipt" 2>/dev/null | field status) || status=
    [ "$status" = counted ] || printf .
  done
  printf ' counted\n'
  note "GET /v1/products/demo-product/likes: $(get "$LIKE_API_URL/v1/products/demo-product/likes")"
}

#!/usr/bin/env bash
# `make test-containers`: builds both images, starts docker-compose.yml under its own project name
# and ports, sends likes, stops and replaces the containers, and removes everything at the end.
#
# Where images can't be pulled, STANDIN_IMAGES names a script that makes local ones with the public
# names (`SCRIPT IMAGE...`) and starts an engine if none runs (`SCRIPT --stop` stops it). They have no digest, so a copy of
# deploy/Dockerfile without digests is built; with DEBIAN=bookworm, on that Debian.
#
# Exit status: 0 all passed, 1 something failed, 2 could not be checked here.
set -euo pipefail
case ${STANDIN_IMAGES:-} in
  '' | /*) standin_images=${STANDIN_IMAGES:-} ;;
  *) standin_images=$PWD/$STANDIN_IMAGES ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Settings of the caller's own stack.
unset COMPOSE_FILE COMPOSE_PROFILES COMPOSE_PROJECT_NAME COMPOSE_ENV_FILES
project=likes-test-$$
logs=$(mktemp -d)
passed=0 failed=0
brought_up=false
started_engine=false

say() { printf '%s\n' "$*" >&2; }
cannot() { say "cannot check: $*"; exit 2; }
pass() { passed=$((passed + 1)); echo "ok    $*"; }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
check() { # NAME COMMAND...
  local name=$1; shift
  if "$@"; then pass "$name"; else fail "$name"; fi
}
same() { # NAME WANTED GOT
  if [ "$2" = "$3" ]; then pass "$1"; else fail "$1: wanted '$2', got '$3'"; fi
}
files=(--file docker-compose.yml)
compose() { docker compose --project-name "$project" --env-file /dev/null "${files[@]}" "$@"; }
state() { # SERVICE FORMAT: of its container, running or not
  docker inspect --format "$2" "$(compose ps --all --quiet "$1")"
}

finish() {
  local status=$?
  trap - EXIT
  trap '' INT TERM
  exec >&"${out:-1}"
  exec 2>&"${err:-2}"
  if [ "$status" -ne 0 ] && [ "$status" -ne 2 ] && [ "$failed" -eq 0 ]; then fail "the check completes"; fi
  if $brought_up; then
    if [ "$status" -ne 0 ] || [ "$failed" -gt 0 ]; then
      compose ps --all >&2 || true
      for service in setup like-api like-aggregator kafka postgres; do
        say "--- $service, last lines"
        compose logs --no-log-prefix --tail 40 "$service" 2>&1 | cut -c1-400 >&2 || true
      done
    fi
    compose down --volumes --rmi local --remove-orphans >"$logs/down" 2>&1 || { cat "$logs/down" >&2; fail "compose down removes everything"; }
  fi
  if $started_engine; then "$standin_images" --stop || true; fi
  rm -rf "$logs"
  if [ "$status" -eq 0 ] && [ "$failed" -gt 0 ]; then status=1; fi
  if [ "$status" -ne 2 ]; then echo "$passed passed, $failed failed"; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- an engine and the images ------------------------------------------------------------------

dockerfile=deploy/Dockerfile
if [ -n "$standin_images" ]; then
  # Compose reads none outside of the folder of the project.
  dockerfile=$PWD/.local/Dockerfile
  mkdir -p .local
  sed -E "/^FROM /{s/@[^ ]+//; s/trixie/${DEBIAN:-trixie}/}" deploy/Dockerfile >"$dockerfile"
  for service in setup like-api like-aggregator; do
    printf '  %s: { build: { dockerfile: "%s" } }\n' "$service" "$dockerfile"
  done | sed '1i services:' >"$logs/compose.yml"
  files+=(--file "$logs/compose.yml")
fi

# Prints the public images of the Dockerfile and of the compose file.
images() {
  {
    sed -nE 's/^FROM +([^ ]+).*/\1/p' "$dockerfile" | grep -F :
    sed -nE 's/^ +image: *([^ ]+).*/\1/p' docker-compose.yml
  } | sort -u
}
missing() {
  local image
  for image in $(images); do
    docker image inspect "$image" >/dev/null 2>&1 || echo "$image"
  done
}

command -v curl >/dev/null || cannot "curl is not installed"
hint="and STANDIN_IMAGES, the path of a script that makes such images here, is unset"
if [ -n "$standin_images" ]; then
  [ -x "$standin_images" ] || cannot "STANDIN_IMAGES=$STANDIN_IMAGES is not an executable file"
  docker info >/dev/null 2>&1 || started_engine=true
  if $started_engine || ! docker compose version >/dev/null 2>&1 || [ -n "$(missing)" ]; then
    # shellcheck disable=SC2046 # one argument for each image
    "$standin_images" $(images) >&2 || cannot "STANDIN_IMAGES=$STANDIN_IMAGES did not make all of" $(images) \
      "(DEBIAN=bookworm asks for those of Debian 12)"
  fi
  hint="although STANDIN_IMAGES=$STANDIN_IMAGES ran"
fi
for need in "docker --version" "docker info" "docker compose version"; do
  $need >/dev/null 2>&1 || cannot "'$need' fails, so the images ($(images | paste -sd ' ')) are not available, $hint"
done
for image in $(missing); do
  say "pulling $image"
  timeout 900 docker pull --quiet "$image" >&2 || cannot "image $image is not present and cannot be pulled, $hint"
done

# ---- up ----------------------------------------------------------------------------------------

port=$((20000 + RANDOM % 10000)) # below the port range of outgoing connections
free_port() { # sets $port to the next free one
  port=$((port + 1))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
}
for variable in LIKE_API_PORT LIKE_API_ADMIN_PORT KAFKA_PORT POSTGRES_PORT; do
  free_port
  export "$variable=$port"
done
export LIKE_AGGREGATOR_ADMIN_PORT=$((port + 1))-$((port + 3)) # of three replicas
api=http://127.0.0.1:$LIKE_API_PORT

# finish writes here, even if a signal arrives during a command whose output goes to a file.
exec {out}>&1 {err}>&2

up() { # NAME ARGUMENTS...
  local name=$1; shift
  brought_up=true
  if compose up --wait --wait-timeout 180 "$@" >"$logs/up" 2>&1 </dev/null; then
    pass "$name"
  else
    fail "$name"
    tail -n 60 "$logs/up" >&2
    exit 1 # the rest depends on it
  fi
}

check "deploy/compose.cluster.yml fits docker-compose.yml" \
  docker compose --file docker-compose.yml --file deploy/compose.cluster.yml config --quiet
say "building the images and bringing them up as $project (the first build takes minutes)"
up "docker compose up --build --wait succeeds" --build
same "setup succeeds" "exited 0" "$(state setup '{{.State.Status}} {{.State.ExitCode}}')"

for service in like-api like-aggregator; do
  same "$service is healthy" healthy "$(state "$service" '{{.State.Health.Status}}')"
  user=$(docker top "$(compose ps --quiet "$service")" -eo pid,uid | awk 'NR == 2 { print $2 }') || user=0
  check "$service does not run as root (uid $user)" [ "$user" -ne 0 ]
  points=$(docker cp "$(compose ps --quiet "$service"):/usr/local/bin/$service" - | grep -c FAULT_POINT) || true
  same "$service contains no fault points" 0 "$points"
  same "$service has a read-only root, and limits" "true 536870912 100" \
    "$(state "$service" '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}')"
  image=$(state "$service" '{{.Image}}')
  same "$service's image asks /livez" "[CMD $service healthcheck]" "$(docker image inspect --format '{{.Config.Healthcheck.Test}}' "$image")"
  same "$service's image names itself" "$service" \
    "$(docker image inspect --format '{{index .Config.Labels "org.opencontainers.image.title"}}' "$image")"
  size=$(docker image inspect --format '{{.Size}}' "$image")
  check "$service's image is below 60 MiB ($((size >> 20)) MiB)" [ "$size" -lt $((60 << 20)) ]
done
same "like-aggregator is not the owner of the tables" like_aggregator \
  "$(compose exec -T postgres psql --username likes --no-align --tuples-only \
    --command "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'like-aggregator'")"

# ---- a like ------------------------------------------------------------------------------------

product=container-test
json_field() { sed -nE 's/.*"'"$1"'" *: *"?([^",}]*)"?.*/\1/p'; }
request() { curl --silent --show-error --noproxy '*' --max-time 10 "$@"; }
# As a known caller: anonymous counts may be a second old.
count() { request --header 'X-User-Id: reader' "$api/v1/products/$product/likes" | json_field count; }
like_is_counted() { # USER
  local answer receipt status='' deadline=$((SECONDS + 60))
  answer=$(request --write-out '\n%{http_code}' --request PUT --header "X-User-Id: $1" \
    "$api/v1/products/$product/like") || return 1
  [ "${answer##*$'\n'}" = 202 ] || { say "PUT answered: $answer"; return 1; }
  receipt=$(json_field receipt <<<"$answer")
  while [ "$SECONDS" -lt "$deadline" ]; do
    status=$(request "$api/v1/receipts/$receipt" | json_field status) || true
    if [ "$status" = counted ]; then return 0; fi
    sleep 0.2
  done
  say "receipt $receipt is '$status' after 60 s"
  return 1
}

same "the count is 0 before the first like" 0 "$(count)"
check "a like sent to the published port is counted" like_is_counted user-1
same "the count says so" 1 "$(count)"
numbers=$(request "$api/demo/numbers")
same "the demo page sees the aggregator" 1 "$(json_field counted <<<"$numbers" | cut -d. -f1)"
same "the demo page may name users" true "$(json_field namesUsers <<<"$numbers")"

# ---- three aggregators, killed at random --------------------------------------------------------

wanted=$((1 + 300))
up "three aggregators start" --scale like-aggregator=3 --no-recreate
mapfile -t aggregators < <(compose ps --quiet like-aggregator)
killed='' refused=0
for user in $(seq 2 "$wanted"); do
  request --output /dev/null --fail --retry 5 --retry-all-errors --header "X-User-Id: user-$user" --header "Idempotency-Key: k$user" \
    --request PUT "$api/v1/products/$product/like" || refused=$((refused + 1))
  [ $((user % 20)) = 0 ] || continue
  [ -z "$killed" ] || docker start "$killed" >/dev/null
  killed=${aggregators[RANDOM % 3]}
  docker kill "$killed" >/dev/null
done
docker start "$killed" >/dev/null
same "all likes are acknowledged while aggregators are killed" 0 "$refused"
deadline=$((SECONDS + 60))
until [ "$(count)" = "$wanted" ] || [ "$SECONDS" -ge "$deadline" ]; do sleep 0.2; done
same "each is counted once" "$wanted" "$(count)"
up "the killed ones are healthy again" --scale like-aggregator=3 --no-recreate

# ---- stop and replace ---------------------------------------------------------------------------

began=$(date +%s%3N)
compose stop like-api like-aggregator >"$logs/stop" 2>&1 || cat "$logs/stop" >&2
took=$(($(date +%s%3N) - began))
check "both services stop within 10 s (took $took ms)" [ "$took" -lt 10000 ]
for service in like-api like-aggregator; do
  # shellcheck disable=SC2046 # one argument for each container
  same "$service ends with status 0 on SIGTERM" 0 "$(docker inspect --format '{{.State.ExitCode}}' $(compose ps --all --quiet "$service") | sort -u)"
done

# New containers; only the volumes remain.
compose down >"$logs/down" 2>&1 || { fail "down"; cat "$logs/down" >&2; }
up "new containers start with the old volumes"
same "the count is still there" "$wanted" "$(count)"
check "a like to the new containers is counted" like_is_counted user-0
same "the count says so" $((wanted + 1)) "$(count)"

# ---- three brokers ------------------------------------------------------------------------------

compose down --volumes >"$logs/down" 2>&1 || { fail "down"; cat "$logs/down" >&2; }
for variable in KAFKA_2_PORT KAFKA_3_PORT; do
  free_port
  export "$variable=$port"
done
files+=(--file deploy/compose.cluster.yml)
up "three brokers start by deploy/compose.cluster.yml"
setup_says() { compose logs --no-color --no-log-prefix setup; }
check "the topic has three replicas" grep -q 'set up.*replicas=3' <(setup_says)
same "and the settings of setup" '' "$(setup_says | grep expected)"
compose kill kafka-2 >"$logs/kill" 2>&1 || { fail "kill"; cat "$logs/kill" >&2; }
counted_without_one() {
  local deadline=$((SECONDS + 60))
  # Until another broker leads the partition, a like may be refused, or its outcome unknown.
  until like_is_counted user-1; do [ "$SECONDS" -lt "$deadline" ] || return 1; done
}
check "a like is counted while a broker is down" counted_without_one
same "the count says so" 1 "$(count)"

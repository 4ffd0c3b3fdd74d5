#!/usr/bin/env bash
# Runs a measuring program (src/bin) on its own Kafka and PostgreSQL, with release builds.
# Unlike those of `make test`, these servers keep what they acknowledge when they crash.
#   measure.sh bench     the services against what limits them; loadtest/out/bench.json
#   measure.sh claims    the design's assumptions
# Further arguments go to the program (--help lists them), for example
#   make bench ARGS="--only publish,freshness"    QUICK=1 make bench    make claims ARGS="--only 3,9"
#   make bench ARGS="--only drain --events 10000000 --modes history-user"
#   make bench ARGS="--only growth --likes 50000000"    POSTGRES_CONF="shared_buffers = 4GB" make bench ARGS="--only growth"
# To measure the services of another checkout: PROGRAMS=folder (like-api and like-aggregator).
# Exit status: the program's.
set -euo pipefail
BUILD=release
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"

program=${1:?bench or claims}
shift
cd "$ROOT"
if [ "$program" = claims ]; then
  # A second listener that advertises the program's own proxy, which loses acknowledgements.
  KAFKA_PROXIED_PORT=$(free_port '')
  KAFKA_PROXY_PORT=$(free_port '')
  export CLAIMS_PROXY_PORT=$KAFKA_PROXY_PORT CLAIMS_BEHIND_PROXY=127.0.0.1:$KAFKA_PROXIED_PORT
fi
if [[ " $* " =~ [\ ,=]growth[\ ,] ]]; then
  # A small cache, and none of the kernel's: the tables are larger than both. Other sections need other servers.
  [[ " $* " == *[\ =]growth\ * ]] || die 'growth is measured alone: --only growth'
  export POSTGRES_CONF=${POSTGRES_CONF:-"shared_buffers = 32MB
debug_io_direct = 'data'"}
fi
prepare "$program"
# Separately: together, cargo would build the services with the features that loadtest needs.
cargo build --release --locked --target-dir "$ROOT/target" -p loadtest 9>&- || die 'the build failed, see above'
start_servers

version=$(git rev-parse --short=10 HEAD)
git diff --quiet HEAD || version+=' with changes'
BENCH_VERSION="$version, $(date -u +%F), $(machine), $(basename "$KAFKA_LIBS"/kafka-clients-*.jar .jar), $(
  "$PG_HOME/bin/postgres" --version
)"
KAFKA_PID=$(<"$STATE/kafka.pid")
KAFKA_DATA=$STATE/kafka/data
export KAFKA_PID KAFKA_DATA BENCH_VERSION TEST_PROGRAMS=${PROGRAMS:-$ROOT/target/release}
export TEST_KAFKA_BOOTSTRAP_SERVERS=$KAFKA_BOOTSTRAP_SERVERS TEST_DATABASE_URL=$DATABASE_URL
mkdir -p loadtest/out
ulimit -n "$(ulimit -Hn)" # thousands of connections, at both ends
in_group "$ROOT/target/release/$program" "$@"

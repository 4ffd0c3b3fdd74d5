#!/usr/bin/env bash
# Runs one measuring program (src/bin) on its own Kafka and PostgreSQL, with release builds.
# Unlike those of `make test`, these servers keep what they acknowledge when they crash.
#   measure.sh bench      the services against what limits them; writes docs/PERFORMANCE.md
#   measure.sh claims     the design's assumptions; writes docs/CLAIMS.md
#   measure.sh drain      how fast like-aggregator consumes a backlog; loadtest/out/drain.jsonl
#   measure.sh replays    memory, disk and time of audit, audit --log and rebuild on up to ten
#                         million events (ten minutes, 15 GB of disk); loadtest/out/replays.jsonl
# Further arguments go to the program (--help lists them), for example
#   make bench ARGS="--only memory/likes,publish"    make claims ARGS="--only 3,9 --seed 7"
#   make drain ARGS="--events 100000 --modes history-user"    QUICK=1 make bench
# Exit status: the program's.
set -euo pipefail
BUILD=release
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"

program=${1:?bench, claims, drain or replays}
shift
cd "$ROOT"
case $program in
  bench) install_packages bench ;;
  claims)
    # A second listener that advertises the program's own proxy, which loses acknowledgements.
    KAFKA_PROXIED_PORT=$(free_port '')
    KAFKA_PROXY_PORT=$(free_port '')
    export CLAIMS_PROXY=127.0.0.1:$KAFKA_PROXY_PORT CLAIMS_BEHIND_PROXY=127.0.0.1:$KAFKA_PROXIED_PORT
    ;;
esac
prepare "$program"
# Separately: together, cargo would build the services with the features that loadtest needs.
cargo build --release --locked --target-dir "$ROOT/target" -p loadtest 9>&- || die 'the build failed, see above'
start_servers

KAFKA_PID=$(<"$STATE/kafka.pid")
KAFKA_VERSION=$(basename "$KAFKA_LIBS"/kafka-clients-*.jar .jar)
KAFKA_VERSION=${KAFKA_VERSION#kafka-clients-}
# The commit that is measured, and a hash of uncommitted changes.
BENCH_VERSION=$(git rev-parse --short=10 HEAD)
git diff --quiet HEAD -- '*.rs' '*.toml' '*.sql' '*.lua' ||
  BENCH_VERSION+=+$(git diff HEAD -- '*.rs' '*.toml' '*.sql' '*.lua' | sha256sum | cut -c1-6)
export KAFKA_PID KAFKA_VERSION BENCH_VERSION CLAIMS_KAFKA_VERSION=$KAFKA_VERSION
ulimit -n "$(ulimit -Hn)" # thousands of connections, at both ends
in_group "$ROOT/target/release/$program" "$@"

#!/usr/bin/env bash
# `make bench`: the services measured against what limits them (src/bench), on a
# Kafka and a PostgreSQL of its own (stack.sh). Ends with tables and a chart; where all
# of a service was measured they are written into docs/PERFORMANCE.md. Interrupted, it
# goes on where it was when it is started again on the same version.
#   QUICK=1 make bench            within five minutes
#   make bench ARGS="--only memory/likes,freshness,publish,tokens,shedding,streams"
#                                 all of like-api, a quarter of an hour
#   make bench ARGS="--only drain,growth/events"
#   make bench ARGS=--fresh       measure again what was measured before
set -euo pipefail
# shellcheck source=loadtest/stack.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

install_packages bench
start_stack bench
KAFKA_PID=$(<"$STATE/kafka.pid")
for jar in "$KAFKA_LIBS"/kafka-clients-*.jar; do
  version=${jar##*/kafka-clients-}
  KAFKA_VERSION=${version%.jar}
done
# What is measured: the commit, and what the tree has beside it.
BENCH_VERSION=$(git rev-parse --short=10 HEAD)
changes=$(git diff HEAD -- '*.rs' '*.toml' '*.sql' '*.lua' | sha256sum)
[ "${changes%% *}" = "$(sha256sum </dev/null | cut -d' ' -f1)" ] || BENCH_VERSION+="+${changes:0:6}"
export KAFKA_PID KAFKA_VERSION BENCH_VERSION
run_measured bench "$@"

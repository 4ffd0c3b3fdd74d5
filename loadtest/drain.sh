#!/usr/bin/env bash
# `make drain`: how fast like-aggregator works off a backlog (src/drain.rs says
# what is measured), on a Kafka and a PostgreSQL of its own (stack.sh). The figures
# are added to loadtest/out/drain.jsonl. Arguments go to the program:
#   make drain ARGS="--events 100000 --modes history-user --statements"
set -euo pipefail
# shellcheck source=loadtest/stack.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

start_stack drain
KAFKA_PID=$(<"$STATE/kafka.pid")
export KAFKA_PID
run_measured drain "$@"

#!/usr/bin/env bash
# `make replays`: memory, disk and time of audit, audit --log and rebuild on logs of
# one and ten million events (src/bin/replays.rs), on a Kafka and a PostgreSQL of its
# own (stack.sh). Some ten minutes and 15 GB of disk, given back at the end. The
# figures are added to loadtest/out/replays.jsonl. Arguments go to the program:
#   make replays ARGS="--events 100000"
set -euo pipefail
# shellcheck source=loadtest/stack.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

start_stack replays
run_measured replays "$@"

#!/usr/bin/env bash
# `make bench`: what the whole costs (src/bench says what is measured), on a Kafka
# and a PostgreSQL of its own (stack.sh). Arguments go to the program:
#   make bench ARGS="--only publish"
set -euo pipefail
# shellcheck source=loadtest/stack.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

install_packages bench
start_stack bench
run_measured bench "$@"

#!/usr/bin/env bash
# `make claims`: the claims that the design rests on, each tried in a small
# experiment (src/bin/claims.rs) on a Kafka and a PostgreSQL of its own (stack.sh).
# Writes the table of docs/CLAIMS.md. Exit status 1: a claim doesn't show.
# Arguments go to the program:
#   make claims ARGS="--only 3,9 --seed 7"
set -euo pipefail
# shellcheck source=loadtest/stack.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/stack.sh"

# One more listener, which tells its clients to come through a proxy. That proxy is
# the program's own: it loses acknowledgements there.
KAFKA_PROXIED_PORT=$(free_port '')
KAFKA_PROXY_PORT=$(free_port '')
start_stack claims
export CLAIMS_PROXY=127.0.0.1:$KAFKA_PROXY_PORT
export CLAIMS_BEHIND_PROXY=127.0.0.1:$KAFKA_PROXIED_PORT
for jar in "$KAFKA_LIBS"/kafka-clients-*.jar; do
  version=${jar##*/kafka-clients-}
  export CLAIMS_KAFKA_VERSION=${version%.jar}
done
run_measured claims "$@"

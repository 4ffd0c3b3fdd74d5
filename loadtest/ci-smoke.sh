#!/usr/bin/env bash
# `make test-monitoring`, also for CI: the smoke profile on a temporary system (deploy/local/whole.sh), a command with its env
# file, and the queries of the dashboard and of the alerts on a Prometheus that scrapes the services. Exit status: that of
# loadtest/run.sh or deploy/monitoring/dashboard.py. DRAW=FILE.svg also draws the dashboard.
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"
unset RATE DURATION VUS USERS_PER_VU PRODUCTS READ_RATE

prometheus_ready() { get -o /dev/null "$PROMETHEUS_URL/-/ready" 2>/dev/null; }
start_prometheus() {
  local port config=$STATE/prometheus.yml
  port=$(free_port '')
  PROMETHEUS_URL=http://127.0.0.1:$port
  cat >"$config" <<CONF
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ["$ROOT/deploy/monitoring/alerts.yml"]
scrape_configs:
  - { job_name: like-api, static_configs: [{ targets: ["${LIKE_API_ADMIN_URL#http://}"] }] }
  - { job_name: like-aggregator, static_configs: [{ targets: ["${LIKE_AGGREGATOR_ADMIN_URL#http://}"] }] }
CONF
  note "prometheus: starting on port $port"
  launch prometheus "$PROMETHEUS/prometheus" --config.file="$config" --storage.tsdb.path="$STATE/prometheus" \
    --web.listen-address="127.0.0.1:$port" --log.level=warn
  wait_for 30 prometheus prometheus_ready
}

install_packages monitoring
resolve_prometheus
start_whole smoke
start_prometheus
write_addresses "$STATE/env"
# The addresses have to reach the command through the file alone.
# shellcheck disable=SC2016 # expanded by the inner shell
env -i sh -c '. "$1"; "$2" status >/dev/null' - "$STATE/env" "$BIN/like-aggregator"
in_group env PROFILE=smoke "$ROOT/loadtest/run.sh"
[ -z "${DRAW:-}" ] || "$ROOT/deploy/monitoring/dashboard.py" draw "$PROMETHEUS_URL" 36 "$DRAW"
"$ROOT/deploy/monitoring/dashboard.py" check "$PROMETHEUS_URL"

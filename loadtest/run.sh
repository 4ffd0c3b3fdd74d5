#!/usr/bin/env bash
# `make loadtest`: sends likes over HTTP (likes-burst.js) to the system that `make up` has started,
# and compares the acknowledged likes with the counts. Writes loadtest/out/report.json and, with k6's
# charts, report.html. Exit status 99: a threshold or the comparison failed. Installs k6 into .local/bin.
# `make up` builds without optimisation: for figures, start the system with BUILD=release make up.
#   PROFILE=burst  or smoke, steady, soak, stampede (k6/profiles.js)
# These override the profile:
#   RATE=500       requests per second at the peak
#   DURATION=30s   in s, m or h
#   VUS=100        maximum of requests in flight; each has its own users
#   USERS_PER_VU=50
#   PRODUCTS=20    at most 100, new ones in each run
#   READ_RATE=200  concurrent reads per second
# Another stack on this machine: LIKE_API_URL, LIKE_API_ADMIN_URL and
# LIKE_AGGREGATOR_ADMIN_URL, all three.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"

K6_VERSION=v1.8.1
K6=$LOCAL/bin/k6
OUT=$ROOT/loadtest/out

# seconds DURATION: converts 30s, 2m or 1h to seconds.
seconds() {
  [[ $1 =~ ^([1-9][0-9]{0,5})(s|m|h)$ ]] || die "DURATION=$1: expected a duration such as 30s, 2m or 1h"
  case ${BASH_REMATCH[2]} in
    s) printf '%s' "${BASH_REMATCH[1]}" ;;
    m) printf '%s' $((BASH_REMATCH[1] * 60)) ;;
    h) printf '%s' $((BASH_REMATCH[1] * 3600)) ;;
  esac
}

not_running() { die "$1: start the stack with make up first"; }

if [ -z "${LIKE_API_URL:-}" ] || [ -z "${LIKE_API_ADMIN_URL:-}" ] || [ -z "${LIKE_AGGREGATOR_ADMIN_URL:-}" ]; then
  [ -s "$LOCAL/env" ] || not_running 'there is no .local/env'
  # shellcheck source=/dev/null
  . "$LOCAL/env"
  : "${LIKE_API_URL:?is not in .local/env}" "${LIKE_API_ADMIN_URL:?is not in .local/env}"
  : "${LIKE_AGGREGATOR_ADMIN_URL:?is not in .local/env}"
fi
# Only loopback: a run leaves its products and users in the system.
for url in "$LIKE_API_URL" "$LIKE_AGGREGATOR_ADMIN_URL"; do
  [[ $url =~ ^http://127\.0\.0\.1:[0-9]+$ ]] || die "$url: only 127.0.0.1 is allowed"
done
for url in "$LIKE_API_ADMIN_URL" "$LIKE_AGGREGATOR_ADMIN_URL"; do
  curl -fsS --noproxy '*' --max-time 5 -o /dev/null "$url/readyz" 2>/dev/null || not_running "$url/readyz isn't ready"
done

RUN=$(date -u +%y%m%d%H%M%S)
arguments=(-e "PROFILE=${PROFILE:-burst}" -e "RUN=$RUN" -e "OUT=$OUT" -e "MACHINE=$(machine)")
arguments+=(-e "LIKE_API_URL=$LIKE_API_URL" -e "LIKE_AGGREGATOR_ADMIN_URL=$LIKE_AGGREGATOR_ADMIN_URL")
[ -z "${DURATION:-}" ] || arguments+=(-e "DURATION=$(seconds "$DURATION")")
for name in RATE VUS USERS_PER_VU PRODUCTS READ_RATE AUTH_USER_HEADER; do
  [ -z "${!name:-}" ] || arguments+=(-e "$name=${!name}")
done

install_go k6 "$K6_VERSION" go.k6.io/k6
mkdir -p "$OUT"
rm -f "$OUT/report.html" "$OUT/report.json" # of an earlier run
say "profile ${PROFILE:-burst}, on $LIKE_API_URL"
status=0
# No usage report to k6's vendor. k6's line for each failed request names no request, and the script
# counts those as retries. Ctrl-C ends only k6, which then still writes its report.
K6_WEB_DASHBOARD=true K6_WEB_DASHBOARD_PORT=-1 K6_WEB_DASHBOARD_EXPORT=$OUT/report.html \
  "$K6" run --quiet --no-usage-report --address '' --log-format raw --include-system-env-vars=false \
  "${arguments[@]}" "$ROOT/loadtest/likes-burst.js" 2>&1 |
  (trap '' INT TERM && exec sed -u '/^Request Failed$/d') || status=$?
# k6 exits with 0 even if it cannot write its report. A run of a few seconds has no charts.
if [ ! -s "$OUT/report.json" ]; then
  [ "$status" != 0 ] || status=1
  printf 'error: no report was written\n' >&2
  exit "$status"
fi
say 'charts: loadtest/out/report.html, figures: loadtest/out/report.json'
exit "$status"

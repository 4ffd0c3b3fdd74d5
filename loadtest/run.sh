#!/usr/bin/env bash
# `make loadtest`: a burst of likes (likes-burst.js) on what `make up` has started,
# which ends in a comparison of what was acknowledged with what is counted. Exit
# status 99: they differ. Installs k6 into .local/bin when it isn't there.
#   RATE=500       wishes a second
#   DURATION=30s   how long, in s or m
#   VUS=100        requests in flight at most; each has users of its own
#   USERS_PER_VU=50
#   PRODUCTS=20    at most 100, new ones in every run
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"

K6_VERSION=v1.8.1
K6=$LOCAL/bin/k6

install_k6() {
  [[ "$("$K6" version 2>/dev/null)" != "k6 $K6_VERSION "* ]] || return 0
  local need="k6 $K6_VERSION is built from source by Go 1.25 or newer"
  command -v go >/dev/null ||
    die "$need, and there is no Go here (Debian's is too old: take it from https://go.dev/dl)"
  local version
  version=$(go env GOVERSION)
  if ! [[ $version =~ ^go1\.([0-9]+) ]] || [ "${BASH_REMATCH[1]}" -lt 25 ]; then
    die "$need, and this is ${version:-an older one} (Debian's is too old: take it from https://go.dev/dl)"
  fi
  mkdir -p "$LOCAL/bin"
  GOBIN=$LOCAL/bin quietly "$LOCAL/k6-install.log" "installing k6 $K6_VERSION (a minute or two)" \
    go install "go.k6.io/k6@$K6_VERSION"
}

# seconds TEXT: of a duration such as 30s or 2m.
seconds() {
  [[ $1 =~ ^([1-9][0-9]*)(s|m)$ ]] || die "DURATION=$1: expected a duration such as 30s or 2m"
  if [ "${BASH_REMATCH[2]}" = m ]; then
    printf '%s' $((BASH_REMATCH[1] * 60))
  else
    printf '%s' "${BASH_REMATCH[1]}"
  fi
}

not_running() { die "$1: start the stack with make up first"; }

[ -s "$LOCAL/env" ] || not_running 'there is no .local/env'
# shellcheck source=/dev/null
. "$LOCAL/env"
: "${LIKE_API_URL:?is not in .local/env}" "${LIKE_API_ADMIN_URL:?is not in .local/env}"
# Never by mistake on what others use: it leaves its products and users behind.
[[ $LIKE_API_URL =~ ^http://127\.0\.0\.1:[0-9]+$ ]] || die "LIKE_API_URL=$LIKE_API_URL: only 127.0.0.1 is tested"
curl -fsS --noproxy '*' --max-time 5 -o /dev/null "$LIKE_API_ADMIN_URL/readyz" 2>/dev/null ||
  not_running "like-api isn't ready ($LIKE_API_ADMIN_URL/readyz)"

SECONDS_OF_BURST=$(seconds "${DURATION:-30s}")
install_k6
mkdir -p "$ROOT/loadtest/out"
RUN=$(date -u +%y%m%d%H%M%S)
status=0
# Nothing is reported to k6's makers.
"$K6" run --quiet --no-usage-report --address '' \
  -e LIKE_API_URL="$LIKE_API_URL" -e RUN="$RUN" -e SECONDS="$SECONDS_OF_BURST" \
  -e RATE="${RATE:-500}" -e VUS="${VUS:-100}" -e PRODUCTS="${PRODUCTS:-20}" \
  -e USERS_PER_VU="${USERS_PER_VU:-50}" -e AUTH_USER_HEADER="${AUTH_USER_HEADER:-X-User-Id}" \
  -e OUT="$ROOT/loadtest/out/burst-$RUN.json" \
  "$ROOT/loadtest/likes-burst.js" || status=$?
exit "$status"

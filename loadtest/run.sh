#!/usr/bin/env bash
# `make loadtest`: likes over HTTP (likes-burst.js) on what `make up` has started,
# which ends in a comparison of what was acknowledged with what is counted. Writes
# loadtest/out/report.html and report.json. Exit status 99: a rule was broken.
# Installs k6 into .local/bin when it isn't there.
#   PROFILE=burst  a like bomb; or smoke, steady, soak, stampede (k6/profiles.js)
# What a profile says can be changed:
#   RATE=500       requests a second, where the profile peaks
#   DURATION=30s   how long, in s, m or h
#   VUS=100        requests in flight at most; each has users of its own
#   USERS_PER_VU=50
#   PRODUCTS=20    at most 100, new ones in every run
#   READ_RATE=200  reads a second beside them
# Another stack on this machine: LIKE_API_URL, LIKE_API_ADMIN_URL and
# LIKE_AGGREGATOR_ADMIN_URL, all three.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/lib.sh"
# shellcheck source=deploy/local/install.sh
. "$ROOT/deploy/local/install.sh"

K6_VERSION=v1.8.1
GO_VERSION=1.25.5
K6=$LOCAL/bin/k6
OUT=$ROOT/loadtest/out

# A Go of at least 1.25: the one that is here; or, into .local, the one that any Go
# fetches as a module and checks against the public checksum database. Debian's own
# is too old for k6, and enough for that.
recent_go() { [[ $(go env GOVERSION 2>/dev/null) =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 25 ]; }
find_go() {
  ! recent_go || return 0
  install_packages go
  say "fetching Go $GO_VERSION, which k6 is built by"
  local module dir
  module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$(go env GOARCH)
  dir=$(cd "$LOCAL" && GOMODCACHE=$LOCAL/go GOFLAGS=-modcacherw go mod download -json "$module" |
    sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  [ -x "$dir/bin" ] || die "Go $GO_VERSION can't be fetched: install Go 1.25 or newer"
  chmod -R u+w,+x "$dir/bin" "$dir/pkg/tool" # an older Go forgets what is a program
  PATH=$dir/bin:$PATH
  recent_go || die "the Go that was fetched doesn't run: install Go 1.25 or newer"
}

install_k6() {
  [[ "$("$K6" version 2>/dev/null)" != "k6 $K6_VERSION "* ]] || return 0
  mkdir -p "$LOCAL/bin"
  find_go
  GOBIN=$LOCAL/bin quietly "$LOCAL/k6-install.log" "installing k6 $K6_VERSION (a minute or two)" \
    go install "go.k6.io/k6@$K6_VERSION"
}

# seconds TEXT: of a duration such as 30s, 2m or 1h.
seconds() {
  [[ $1 =~ ^([1-9][0-9]{0,5})(s|m|h)$ ]] || die "DURATION=$1: expected a duration such as 30s, 2m or 1h"
  case ${BASH_REMATCH[2]} in
    s) printf '%s' "${BASH_REMATCH[1]}" ;;
    m) printf '%s' $((BASH_REMATCH[1] * 60)) ;;
    h) printf '%s' $((BASH_REMATCH[1] * 3600)) ;;
  esac
}

# What the figures depend on most.
machine() {
  local model
  model=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
  printf '%s cores (%s), %s GiB, %s %s; client, services and servers share it' "$(nproc)" "${model:-$(uname -m)}" \
    "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(uname -s)" "$(uname -r | cut -d. -f1,2)"
}

not_running() { die "$1: start the stack with make up first"; }

if [ -z "${LIKE_API_URL:-}" ] || [ -z "${LIKE_API_ADMIN_URL:-}" ] || [ -z "${LIKE_AGGREGATOR_ADMIN_URL:-}" ]; then
  [ -s "$LOCAL/env" ] || not_running 'there is no .local/env'
  # shellcheck source=/dev/null
  . "$LOCAL/env"
  : "${LIKE_API_URL:?is not in .local/env}" "${LIKE_API_ADMIN_URL:?is not in .local/env}"
  : "${LIKE_AGGREGATOR_ADMIN_URL:?is not in .local/env}"
fi
# Never by mistake on what others use: it leaves its products and users behind.
for url in "$LIKE_API_URL" "$LIKE_AGGREGATOR_ADMIN_URL"; do
  [[ $url =~ ^http://127\.0\.0\.1:[0-9]+$ ]] || die "$url: only 127.0.0.1 is tested"
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

install_k6
mkdir -p "$OUT"
rm -f "$OUT/report.html" "$OUT/report.json" # never mistaken for this run's
say "profile ${PROFILE:-burst}, on $LIKE_API_URL"
status=0
# Nothing is reported to k6's makers. Progress is what the script prints; k6's own
# line for each failed request doesn't say which, and is counted as sent again.
# Ctrl-C is for k6 alone, which then still writes its report.
"$K6" run --quiet --no-usage-report --address '' --log-format raw --include-system-env-vars=false \
  "${arguments[@]}" "$ROOT/loadtest/likes-burst.js" 2>&1 |
  (trap '' INT TERM && exec sed -u '/^Request Failed$/d') || status=$?
# k6 ends with 0 when writing the summary fails.
if [ ! -s "$OUT/report.html" ] || [ ! -s "$OUT/report.json" ]; then
  [ "$status" != 0 ] || status=1
  printf 'error: no report was written\n' >&2
  exit "$status"
fi
say 'a page to look at: loadtest/out/report.html, the same figures: loadtest/out/report.json'
exit "$status"

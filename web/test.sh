#!/usr/bin/env bash
# `make test-web`: the web component. Checks that web/dist is what the sources give, lints, checks the
# types (of the examples too), and runs the unit tests and then the tests in Chromium, against a
# temporary system (deploy/local/whole.sh) whose callers have tokens. Stops at the first failure.
#   web/test.sh unit                      without servers and browser
#   WEB_SCREENSHOTS=/tmp make test-web    also writes pictures of the button
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"

# Installs the packages of the lock file, unless it has done so.
packages() {
  local sum
  sum=$(sha256sum <package-lock.json)
  [ "$(cat node_modules/made-from 2>/dev/null)" != "$sum" ] || return 0
  state_dir
  quietly "$LOCAL/web-npm.log" 'web: fetching its packages' npm ci --ignore-scripts --no-audit --no-fund
  printf '%s\n' "$sum" >node_modules/made-from
}

install_packages web
cd "$ROOT/web"
packages
say 'web: build, lint, types, unit tests'
npm run --silent build -- --check
npm run --silent lint
npm run --silent types
npm test --silent
[ "${1:-}" != unit ] || exit 0

start_whole web
stop like-api TERM 12
export AUTH_MODE=jwt JWT_SECRET=web-web-web-web-web-web-web-web-web JWT_ISSUER=https://issuer.example JWT_AUDIENCE=likes
# Tests click faster than a person.
export RATE_LIMIT_USER=0
WEB_PAGE_ORIGIN=http://localhost:$(free_port '')
export WEB_PAGE_ORIGIN CORS_ALLOWED_ORIGINS=$WEB_PAGE_ORIGIN
start_api
CHROMIUM=$(command -v chromium)
export CHROMIUM
say 'web: tests in Chromium'
in_group timeout 300 npm run --silent test:browser

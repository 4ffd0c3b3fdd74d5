#!/usr/bin/env bash
# `make test-web`: the web component. Checks that web/dist is what the sources give, lints, checks the
# types (of the examples too), and runs the unit tests and then the tests in Chromium, against a
# temporary system (deploy/local/whole.sh): the demo page, and a button whose readers have tokens. Stops at the first
# failure.
#   web/test.sh unit                      without servers and browser
#   WEB_SCREENSHOTS=/tmp make test-web    also writes pictures of the button
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"

install_packages web
cd "$ROOT/web"
npm_packages
say 'web: build, lint, types, unit tests'
npm run --silent build -- --check
npm run --silent lint
npm run --silent types
npm test --silent
[ "${1:-}" != unit ] || exit 0

prepare web
CHROMIUM=$(command -v chromium)
WEB_PAGE_ORIGIN=http://localhost:$(free_port '')
export CHROMIUM WEB_PAGE_ORIGIN
start_servers
demo_settings
# Tests click and look faster than a person.
export RATE_LIMIT_USER=0
start_services
say 'web: tests of the demo page in Chromium'
in_group timeout 300 npm run --silent test:demo

stop like-api TERM 12
unset DEMO DEMO_AGGREGATOR_URL BATCH_USER_IDS_FROM
export AUTH_MODE=jwt JWT_SECRET=web-web-web-web-web-web-web-web-web JWT_ISSUER=https://issuer.example JWT_AUDIENCE=likes
export CORS_ALLOWED_ORIGINS=$WEB_PAGE_ORIGIN
start_api
say 'web: tests of the button in Chromium'
in_group timeout 300 npm run --silent test:browser

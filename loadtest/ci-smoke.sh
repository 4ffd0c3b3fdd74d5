#!/usr/bin/env bash
# For CI: the smoke profile on a temporary system (deploy/local/whole.sh). Exit status: that of
# loadtest/run.sh.
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"
unset RATE DURATION VUS USERS_PER_VU PRODUCTS READ_RATE

start_whole smoke
in_group env PROFILE=smoke "$ROOT/loadtest/run.sh"

#!/usr/bin/env bash
# The smoke profile against the whole system, for CI, on a system of its own
# (deploy/local/whole.sh). Exit status: that of loadtest/run.sh, 99 when a rule was
# broken.
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"
unset RATE DURATION VUS USERS_PER_VU PRODUCTS READ_RATE

start_whole smoke
in_group env PROFILE=smoke "$ROOT/loadtest/run.sh"

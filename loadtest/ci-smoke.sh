#!/usr/bin/env bash
# For CI: the smoke profile on a temporary system (deploy/local/whole.sh), and a command with its env file. Exit status:
# that of loadtest/run.sh.
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../deploy/local/whole.sh"
unset RATE DURATION VUS USERS_PER_VU PRODUCTS READ_RATE

start_whole smoke
write_addresses "$STATE/env"
# The addresses have to reach the command through the file alone.
# shellcheck disable=SC2016 # expanded by the inner shell
env -i sh -c '. "$1"; "$2" status >/dev/null' - "$STATE/env" "$BIN/like-aggregator"
in_group env PROFILE=smoke "$ROOT/loadtest/run.sh"

#!/usr/bin/env bash
# `make down` stops what `make up` started and keeps the data. With the argument clean
# (`make clean-local`) it also removes the data, the logs and .local/env; downloads and the test
# stack stay.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[ -d "$LOCAL" ] || exit 0
lock "$LOCAL/lock"
say 'stopping'
stop_all
if [ "${1:-}" = clean ]; then
  rm -rf "$LOCAL/kafka" "$LOCAL/postgres" "$LOCAL/env" "$LOCAL"/*.log "$LOCAL"/*.log.old
  note 'stopped; data and logs removed'
else
  note 'stopped; the data is kept (make clean-local removes it)'
fi

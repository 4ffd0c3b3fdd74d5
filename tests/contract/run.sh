#!/usr/bin/env bash
# `make contract`: what docs/asyncapi.yaml and /openapi.json say is true. The first is
# read by AsyncAPI's own parser. The second is asked of a running system, on a Kafka
# and a PostgreSQL of its own (deploy/local/whole.sh), by schemathesis: thousands of
# requests made from the description, right and wrong ones, each answer checked against
# it; once for each way to say who is calling. Fails on the first complaint.
#   SEED=7 make contract              other requests than the usual ones
#   MAX_EXAMPLES=500 make contract    more of them
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../deploy/local/whole.sh"
HERE=$ROOT/tests/contract
SEED=${SEED:-1}

# ready_made FOLDER FILE… -- COMMAND…: COMMAND made what is in FOLDER from just these
# FILEs, now or earlier.
ready_made() {
  local folder=$1 files=()
  shift
  while [ "$1" != -- ]; do
    files+=("$1")
    shift
  done
  shift
  [ "$(cat "$folder/made-from" 2>/dev/null)" != "$(cat "${files[@]}" | sha256sum)" ] || return 0
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "${files[@]}" "$folder/"
  quietly "$folder.log" "fetching ${folder##*/}" "$@"
  cat "${files[@]}" | sha256sum >"$folder/made-from"
}

check_asyncapi() {
  say 'docs/asyncapi.yaml:'
  ready_made "$LOCAL/asyncapi" "$HERE/asyncapi/package.json" "$HERE/asyncapi/package-lock.json" -- \
    npm ci --prefix "$LOCAL/asyncapi" --ignore-scripts --no-audit --no-fund
  node "$HERE/asyncapi/check.mjs" "$LOCAL/asyncapi" "$ROOT/docs/asyncapi.yaml"
}

make_python() {
  python3 -m venv "$LOCAL/python"
  "$LOCAL/python/bin/pip" install --disable-pip-version-check --no-input -r "$LOCAL/python/requirements.txt"
}

# All checks but use_after_free: it looks for a GET of what a DELETE has removed,
# `…/like` has no GET, and it takes `…/likes` for it, by its name. A product has a count
# whether or not somebody likes it.
WITHOUT=use_after_free

# ask WHO ARG…: with the credentials in ARGs.
ask() {
  local who=$1
  shift
  say "schemathesis asks $LIKE_API_URL, $who, seed $SEED:"
  trial timeout 300 "$LOCAL/python/bin/schemathesis" --config-file "$HERE/schemathesis.toml" \
    run "$LIKE_API_URL/openapi.json" --checks all --exclude-checks "$WITHOUT" \
    --max-examples "${MAX_EXAMPLES:-60}" --seed "$SEED" --continue-on-failure --generation-database none \
    --suppress-health-check all --request-timeout 60 --no-color "$@" ||
    die "schemathesis has complaints ($who, seed $SEED)"
}

# A token of user ada, good for an hour.
token() {
  "$LOCAL/python/bin/python" - <<'PYTHON'
import base64, hashlib, hmac, json, os, time

def part(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")

env = os.environ
claims = {"sub": "ada", "iss": env["JWT_ISSUER"], "aud": env["JWT_AUDIENCE"], "exp": int(time.time()) + 3600}
signed = b".".join(part(json.dumps(json_part).encode()) for json_part in ({"alg": "HS256", "typ": "JWT"}, claims))
signature = hmac.new(env["JWT_SECRET"].encode(), signed, hashlib.sha256).digest()
print((signed + b"." + part(signature)).decode())
PYTHON
}

install_packages contract
check_asyncapi
ready_made "$LOCAL/python" "$HERE/requirements.txt" -- make_python
# What one caller may ask isn't what is tried here.
export RATE_LIMIT_USER=0 RATE_LIMIT_ADDRESS=0 SHED_ABOVE=0s
start_whole contract
cd "$PLACE" # where it leaves what it found
# In this mode there are no wrong credentials: whoever the header names is believed.
WITHOUT=$WITHOUT,ignored_auth ask 'callers named by a gateway' -H 'X-User-Id: ada'

stop like-api TERM 12
export AUTH_MODE=jwt JWT_SECRET=contract-contract-contract-contract JWT_ISSUER=https://issuer.example JWT_AUDIENCE=likes
start_api
ask 'callers with a token' -H "Authorization: Bearer $(token)"

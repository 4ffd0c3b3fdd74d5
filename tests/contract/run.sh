#!/usr/bin/env bash
# `make contract`: validates docs/asyncapi.yaml with AsyncAPI's own parser, and checks a running
# system (deploy/local/whole.sh) against its /openapi.json with schemathesis, which generates
# thousands of valid and invalid requests: once per authentication mode. Stops at the first failure.
#   SEED=7 make contract              other requests
#   MAX_EXAMPLES=500 make contract    more requests
set -euo pipefail
# shellcheck source=deploy/local/whole.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../deploy/local/whole.sh"
HERE=$ROOT/tests/contract
SEED=${SEED:-1}

# installed FOLDER PREFIX COMMAND…: copies the files PREFIX* to a new FOLDER and runs COMMAND, unless
# it has done so for the same files.
installed() {
  local folder=$1 prefix=$2 sum
  shift 2
  sum=$(cat "$prefix"* | sha256sum)
  [ "$(cat "$folder/made-from" 2>/dev/null)" != "$sum" ] || return 0
  rm -rf "$folder"
  mkdir -p "$folder"
  cp "$prefix"* "$folder/"
  quietly "$folder.log" "fetching ${folder##*/}" "$@"
  printf '%s\n' "$sum" >"$folder/made-from"
}

check_asyncapi() {
  say 'docs/asyncapi.yaml:'
  installed "$LOCAL/asyncapi" "$HERE/asyncapi/package" \
    npm ci --prefix "$LOCAL/asyncapi" --ignore-scripts --no-audit --no-fund
  node "$HERE/asyncapi/check.mjs" "$LOCAL/asyncapi" "$ROOT/docs/asyncapi.yaml"
}

make_python() {
  python3 -m venv "$LOCAL/python"
  "$LOCAL/python/bin/pip" install --disable-pip-version-check --no-input -r "$LOCAL/python/requirements.txt"
}

# use_after_free expects 404 from GET after DELETE of the same resource. It takes `…/likes` for the
# GET of `…/like`, but a product has a count whether or not anyone likes it.
WITHOUT=use_after_free

# ask WHO ARG…: runs schemathesis with the credentials in ARGs.
ask() {
  local who=$1
  shift
  say "schemathesis: $LIKE_API_URL, $who, seed $SEED:"
  in_group timeout 300 "$LOCAL/python/bin/schemathesis" --config-file "$HERE/schemathesis.toml" \
    run "$LIKE_API_URL/openapi.json" --checks all --exclude-checks "$WITHOUT" \
    --max-examples "${MAX_EXAMPLES:-60}" --seed "$SEED" --continue-on-failure --generation-database none \
    --suppress-health-check all --request-timeout 60 --no-color "$@" ||
    die "schemathesis found failures ($who, seed $SEED)"
}

# Prints a token of user ada that is valid for an hour.
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
installed "$LOCAL/python" "$HERE/requirements" make_python
# Rate limits and load shedding are tested elsewhere.
export RATE_LIMIT_USER=0 RATE_LIMIT_ADDRESS=0 SHED_ABOVE=0s
start_whole contract
cd "$PLACE" # schemathesis writes its findings here
# In this mode no credentials are wrong: the header is trusted.
WITHOUT=$WITHOUT,ignored_auth ask 'callers named by a gateway' -H 'X-User-Id: ada'

stop like-api TERM 12
export AUTH_MODE=jwt JWT_SECRET=contract-contract-contract-contract JWT_ISSUER=https://issuer.example JWT_AUDIENCE=likes
start_api
ask 'callers with a token' -H "Authorization: Bearer $(token)"

#!/usr/bin/env bash
# `make sbom`: what both services are made of, in .local/sbom: a CycloneDX bill of materials of each (SERVICE.cdx.json), and the
# licence of every crate (licences.tsv). The images tell Debian's part: /var/lib/dpkg/status.d, and its licences in /usr/share/doc.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/local/lib.sh"

CYCLONEDX_VERSION=0.5.7
out=$LOCAL/sbom
cd "$ROOT"
find_cargo
mkdir -p "$out"
[ "$(cargo cyclonedx --version 2>/dev/null)" = "cargo-cyclonedx-cyclonedx $CYCLONEDX_VERSION" ] ||
  quietly "$LOCAL/cyclonedx-install.log" "installing cargo-cyclonedx $CYCLONEDX_VERSION (some minutes)" \
    cargo install --locked cargo-cyclonedx --version "$CYCLONEDX_VERSION"
make --no-print-directory deny ARGS=licenses

# It writes a file beside the manifest of each member of the workspace.
trap 'find . -name likes-sbom.json -not -path "./target/*" -delete' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --override-filename likes-sbom
for service in like-api like-aggregator; do
  sed "s#$ROOT#.#g" "$service/likes-sbom.json" >"$out/$service.cdx.json" # no path of this machine
done
cargo deny --log-level error list --layout crate --format tsv >"$out/licences.tsv"
say "in ${out#"$ROOT"/}: $(grep -c '"bom-ref": "registry+' "$out/like-api.cdx.json") crates in like-api," \
  "$(grep -c '"bom-ref": "registry+' "$out/like-aggregator.cdx.json") in like-aggregator, licences of all"

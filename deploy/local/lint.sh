#!/usr/bin/env bash
# `make lint`: formatting, clippy, documentation, links, shell scripts, alerts and manifests. Any warning
# fails. Installs the tools that are missing.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# Every relative link of the Markdown files leads to a file and, after a #, to a heading of it.
markdown_links() {
  local file link target anchor broken=0
  while IFS= read -r -d '' file; do
    file=./$file
    # shellcheck disable=SC2016 # the backticks of the sed script below are Markdown fences
    while IFS= read -r link; do
      [[ $link != *://* && $link != mailto:* ]] || continue
      target=${link%%#*} anchor=${link#"${link%%#*}"}
      target=${target:+${file%/*}/$target}
      [ -e "${target:-$file}" ] || { printf '%s: no file %s\n' "$file" "$link"; broken=1; continue; }
      # Anchors as GitHub makes them from headings.
      [ -z "$anchor" ] || sed -n 's/^##* //p' "${target:-$file}" | tr '[:upper:]' '[:lower:]' |
        sed 's/[^[:alnum:] _-]//g; s/ /-/g' | grep -qxF -- "${anchor#\#}" ||
        { printf '%s: no heading %s\n' "$file" "$link"; broken=1; }
    done < <(sed -n '/^```/,/^```/d; p' "$file" | grep -oP '\]\(\K[^)\s]+(?=\))')
  done < <(git ls-files -z --cached --others --exclude-standard '*.md')
  return $broken
}

step() {
  say "lint: $*"
  "$@"
}

cd "$ROOT"
find_cargo
install_packages build lint
resolve_prometheus
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

step cargo fmt --all --check
step markdown_links
# New files included.
mapfile -t scripts < <({
  git ls-files --cached --others --exclude-standard '*.sh'
  git grep --untracked -lE '^#!.*[/ ](ba|da)?sh( |$)'
} | sort -u)
say "lint: shellcheck of ${#scripts[@]} scripts"
shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. "${scripts[@]}"
step "$PROMETHEUS/promtool" check rules deploy/monitoring/alerts.yml
step "$PROMETHEUS/promtool" check config deploy/monitoring/prometheus.yml
step "$PROMETHEUS/promtool" test rules deploy/monitoring/alerts.test.yml
step deploy/k8s/check.sh
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo clippy -p like-aggregator --features fault-points --bins --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked
say 'lint: no warnings'

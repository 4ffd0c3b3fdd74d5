#!/usr/bin/env bash
# `make lint`: formatting, clippy, documentation, links and shell scripts. Any warning
# fails. Installs the tools that are missing.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# All files that end in .sh or start with a shell's #! line, new ones included.
shell_scripts() {
  find . \( -name target -o -name .local -o -name .git -o -name node_modules -o -path ./loadtest/out \) -prune \
    -o -type f -size -256k -print0 |
    while IFS= read -r -d '' file; do
      if [[ $file == *.sh ]] || { IFS= read -r first <"$file" || true; [[ $first =~ ^\#!.*[/\ ](ba|da)?sh( |$) ]]; }; then
        printf '%s\0' "$file"
      fi
    done 2>/dev/null
}

# Every relative link of the Markdown files leads to a file and, behind a #, to a heading of it.
markdown_links() {
  local file link target anchor broken=0
  while IFS= read -r -d '' file; do
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
  done < <(find . \( -name target -o -name .local -o -name .git -o -name node_modules \) -prune -o -name '*.md' -print0)
  return $broken
}

step() {
  say "lint: $*"
  "$@"
}

cd "$ROOT"
find_cargo
install_packages build lint
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy

step cargo fmt --all --check
step markdown_links
mapfile -d '' -t scripts < <(shell_scripts)
say "lint: shellcheck of ${#scripts[@]} scripts"
shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. "${scripts[@]}"
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo clippy -p like-aggregator --features fault-points --bins --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked
say 'lint: no warnings'

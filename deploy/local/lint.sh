#!/usr/bin/env bash
# `make lint`: formatting, clippy, documentation and shell scripts. Any warning
# fails. Installs the tools that are missing.
set -euo pipefail
# shellcheck source=deploy/local/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=deploy/local/install.sh
. "$ROOT/deploy/local/install.sh"

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
mapfile -d '' -t scripts < <(shell_scripts)
say "lint: shellcheck of ${#scripts[@]} scripts"
shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. "${scripts[@]}"
step cargo clippy --workspace --all-targets --locked -- -D warnings
step cargo clippy -p like-aggregator --features fault-points --bins --locked -- -D warnings
RUSTDOCFLAGS='-D warnings' step cargo doc --workspace --no-deps --locked
say 'lint: no warnings'

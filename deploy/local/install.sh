# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# Finds what the machine lacks for building and running without Docker, and
# installs just that from Debian's packages. Sourced.

has_command() { command -v "$1" >/dev/null; }
has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# The first java of at least version 17: the one in use, or another installed.
find_java() {
  local java major
  for java in ${JAVA_HOME:+"$JAVA_HOME/bin/java"} "$(command -v java || true)" /usr/lib/jvm/*/bin/java; do
    [ -x "$java" ] || continue
    major=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p')
    [ "${major:-0}" -ge 17 ] || continue
    JAVA=$java
    return 0
  done
  return 1
}

# rustup puts it where a shell that started earlier doesn't look.
find_cargo() {
  has_command cargo && return
  [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] || die 'no Rust toolchain: install one with rustup (https://rustup.rs)'
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# missing_packages GROUP…: by name. Where a program will do it is the program that
# is looked for: whoever has a Maven or a compiler of their own keeps it.
missing_packages() {
  local group pair
  for group; do
    case $group in
      build) # librdkafka is C, and configures itself by make; TLS is OpenSSL's
        for pair in gcc:gcc g++:g++ make:make pkg-config:pkg-config; do
          has_command "${pair%%:*}" || printf '%s\n' "${pair##*:}"
        done
        for pair in libc6-dev libssl-dev zlib1g-dev ca-certificates; do
          has_package "$pair" || printf '%s\n' "$pair"
        done
        ;;
      stack)
        for pair in curl:curl unzip:unzip xz:xz-utils mvn:maven; do
          has_command "${pair%%:*}" || printf '%s\n' "${pair##*:}"
        done
        # The release's own, whichever that is: 17 in Debian 12.
        find_java || printf '%s\n' default-jre-headless
        # PostgreSQL's programs are linked to it.
        has_package libstdc++6 || printf '%s\n' libstdc++6
        ;;
      go) has_command go || printf '%s\n' golang-go ;;
      bench) has_command wrk || printf '%s\n' wrk ;;
      contract)
        for pair in node:nodejs npm:npm python3:python3; do
          has_command "${pair%%:*}" || printf '%s\n' "${pair##*:}"
        done
        # Debian's own Python comes without what makes a virtual environment.
        python3 -c 'import ensurepip, venv' 2>/dev/null || printf '%s\n' python3-venv
        ;;
      lint) has_command shellcheck || printf '%s\n' shellcheck ;;
    esac
  done
}

# install_packages GROUP…: asks Debian's servers for nothing when nothing is missing.
install_packages() {
  local missing as_root=()
  if ! has_command dpkg-query; then
    note "this isn't Debian: what deploy/local/install.sh lists is expected to be there"
    return
  fi
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} != 0 ] || return 0
  note "missing Debian packages: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    # The password is asked for here, before the output goes to a file.
    { has_command sudo && sudo -v; } || die "ask root for: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  mkdir -p "$LOCAL"
  quietly "$LOCAL/apt.log" 'reading the package lists' \
    "${as_root[@]}" apt-get update -q -o Acquire::Retries=3
  quietly "$LOCAL/apt.log" 'installing them' \
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
    --no-install-recommends -o Acquire::Retries=3 "${missing[@]}"
}

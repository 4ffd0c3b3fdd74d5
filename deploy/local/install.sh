# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# Installs what building and running without Docker needs: missing Debian packages, and Kafka and
# PostgreSQL themselves through Maven. Sourced.

has_command() { command -v "$1" >/dev/null; }
has_package() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Sets JAVA to the first java of version 17 or later: of JAVA_HOME, the PATH, or /usr/lib/jvm.
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

# A shell that was started before rustup's installation doesn't have cargo in its PATH.
find_cargo() {
  has_command cargo && return
  [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] || die 'no Rust toolchain: install one with rustup (https://rustup.rs)'
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# missing_packages GROUP…: prints their names. Programs are looked for in the PATH, so that a
# compiler or a Maven from elsewhere is used.
missing_packages() {
  local group
  need() { has_command "$1" || printf '%s\n' "${2:-$1}"; }  # PROGRAM [PACKAGE]
  need_package() { has_package "$1" || printf '%s\n' "$1"; }
  for group; do
    case $group in
      build) # librdkafka is C, configured by make; TLS is OpenSSL
        need gcc && need g++ && need make && need pkg-config
        need_package libc6-dev && need_package libssl-dev && need_package zlib1g-dev && need_package ca-certificates
        ;;
      stack)
        need curl && need unzip && need xz xz-utils && need mvn maven
        # Debian's default: version 17 in Debian 12.
        find_java || printf '%s\n' default-jre-headless
        need_package libstdc++6 # of PostgreSQL's programs
        ;;
      test) [ -x /usr/sbin/pgbouncer ] || printf '%s\n' pgbouncer ;;
      go) need go golang-go ;;
      contract)
        need node nodejs && need npm && need python3
        # Debian's python3 has no virtual environments.
        python3 -c 'import ensurepip, venv' 2>/dev/null || printf '%s\n' python3-venv
        ;;
      web) need node nodejs && need npm && need chromium ;;
      monitoring) need python3 ;;
      k8s)
        need python3
        python3 -c 'import yaml' 2>/dev/null || printf '%s\n' python3-yaml
        ;;
      pictures) need img2webp webp && need_package fonts-dejavu-core ;;
      lint) need shellcheck ;;
    esac
  done
}

as_root() { # COMMAND…
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# install_packages GROUP…: uses the network only if a package is missing.
install_packages() {
  local missing
  if ! has_command dpkg-query; then
    note "this is not Debian: install the programs of deploy/local/install.sh by hand"
    return
  fi
  mapfile -t missing < <(missing_packages "$@")
  [ ${#missing[@]} != 0 ] || return 0
  note "missing Debian packages: ${missing[*]}"
  # Asks for the password now: the output of what follows goes to a file.
  as_root true || die "run as root: apt-get install ${missing[*]}"
  mkdir -p "$LOCAL"
  # RUNLEVEL: a package must not start its server.
  quietly "$LOCAL/apt.log" 'reading the package lists' as_root apt-get update -q -o Acquire::Retries=3
  quietly "$LOCAL/apt.log" 'installing them' \
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q \
    --no-install-recommends -o Acquire::Retries=3 "${missing[@]}"
}

# Finds Go 1.25 or later. Any older Go, such as Debian's, can fetch it as a module into .local and
# verify it against the public checksum database.
GO_VERSION=1.25.5
recent_go() { [[ $(go env GOVERSION 2>/dev/null) =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 25 ]; }
find_go() {
  ! recent_go || return 0
  install_packages go
  say "fetching Go $GO_VERSION"
  local module dir
  module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$(go env GOARCH)
  dir=$(cd "$LOCAL" && GOMODCACHE=$LOCAL/go GOFLAGS=-modcacherw go mod download -json "$module" |
    sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  [ -x "$dir/bin" ] || die "cannot fetch Go $GO_VERSION: install Go 1.25 or newer"
  chmod -R u+w,+x "$dir/bin" "$dir/pkg/tool" # an older Go drops the executable bits
  PATH=$dir/bin:$PATH
  recent_go || die "the fetched Go does not run: install Go 1.25 or newer"
}

# install_go NAME VERSION PACKAGE: builds a program of Go into .local/bin, unless that version is there.
install_go() {
  local stamp=$LOCAL/bin/$1-$2
  [ ! -x "$LOCAL/bin/$1" ] || [ ! -e "$stamp" ] || return 0
  mkdir -p "$LOCAL/bin"
  find_go
  GOBIN=$LOCAL/bin quietly "$LOCAL/$1-install.log" "installing $1 $2 (a minute or two)" go install "$3@$2"
  touch "$stamp"
}

# Sets PROMETHEUS to the folder of prometheus and promtool: those of the PATH, or Debian's, which are unpacked into
# .local/dist. Installing the package would start a server.
resolve_prometheus() {
  local new
  if has_command prometheus && has_command promtool; then
    PROMETHEUS=$(dirname "$(command -v promtool)")
    return
  fi
  PROMETHEUS=$LOCAL/dist/prometheus/usr/bin
  [ ! -d "$PROMETHEUS" ] || return 0
  new=$LOCAL/dist/prometheus.$$
  mkdir -p "$new"
  [ -n "$(apt-cache policy prometheus)" ] || quietly "$LOCAL/apt.log" 'reading the package lists' as_root apt-get update -q
  (cd "$new" && quietly "$LOCAL/apt.log" "fetching Debian's Prometheus (19 MB)" apt-get download -q prometheus)
  dpkg-deb -x "$new"/prometheus_*.deb "$new"
  rm "$new"/*.deb
  mv "$new" "$LOCAL/dist/prometheus"
}

# Installs the packages of web/package-lock.json, unless it has done so. Run in web/.
npm_packages() {
  local sum
  sum=$(sha256sum <package-lock.json)
  [ "$(cat node_modules/made-from 2>/dev/null)" != "$sum" ] || return 0
  state_dir
  quietly "$LOCAL/web-npm.log" 'web: fetching its packages' npm ci --ignore-scripts --no-audit --no-fund
  printf '%s\n' "$sum" >node_modules/made-from
}

# Unpacks Kafka's jars and PostgreSQL's programs into .local/dist, in a folder for each version of
# pom.xml; Maven verifies their checksums. Sets KAFKA_LIBS, PG_HOME and DIST_KEY.
resolve_dist() {
  local arch=amd64 dir new
  [ "$(uname -m)" != aarch64 ] || arch=arm64v8
  DIST_KEY=$(sha256sum "$ROOT/deploy/local/pom.xml" | cut -c1-12)-$arch
  dir=$LOCAL/dist/$DIST_KEY
  KAFKA_LIBS=$dir/kafka-libs
  PG_HOME=$dir/postgres
  [ ! -d "$dir" ] || return 0

  mkdir -p "$LOCAL/dist"
  (
    exec 8>"$LOCAL/dist/lock"
    flock 8
    [ ! -d "$dir" ] || exit 0 # another run was faster
    new=$dir.new
    rm -rf "$new"
    mkdir -p "$new/postgres"
    quietly "$LOCAL/dist/maven.log" 'fetching Apache Kafka and PostgreSQL (some 70 MB the first time)' \
      mvn -B -ntp --strict-checksums -f "$ROOT/deploy/local/pom.xml" -Dpostgres.arch="$arch" \
      dependency:copy-dependencies -DoutputDirectory="$new/kafka-libs"
    unzip -q -o "$new"/kafka-libs/embedded-postgres-binaries-*.jar '*.txz' -d "$new"
    rm "$new"/kafka-libs/embedded-postgres-binaries-*.jar
    tar -xJf "$new"/*.txz -C "$new/postgres"
    rm "$new"/*.txz
    # PostgreSQL may run as another user than the one who unpacked it.
    chmod -R a+rX "$new"
    mv "$new" "$dir"
  ) || exit 1
}

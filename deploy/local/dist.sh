# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# Brings Kafka's jars and PostgreSQL's programs into .local/dist by Maven, which
# checks their sums. Keyed by the pom's own sum: another pom, another folder.
# Sourced; sets KAFKA_LIBS and PG_HOME, and DIST_KEY for "was it started from this".

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

# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# A PostgreSQL cluster of the stack's own in $STATE/postgres: made once, started
# when it isn't running. Loopback only, no socket, a password of its own, since
# whoever may log in as its superuser may run programs as its owner. Sourced.

# PostgreSQL's programs refuse uid 0. For root they run inside a user namespace in
# which root's files belong to "nobody": no user is made, no path has to be opened
# to others. Where that is refused, as in most containers, or where root without
# its privileges can't reach the clone, they run as nobody itself; and if nobody
# can't reach it either, with just the privilege to (the secure bit: access(2),
# which initdb asks, is to know of it).
as_postgres=()
postgres_owner=$(id -u)
choose_postgres_user() {
  [ "$(id -u)" = 0 ] || return 0
  local server=$PG_HOME/bin/postgres reach='-all,+dac_override'
  as_postgres=(unshare --user --map-user=65534 --map-group=65534)
  ! "${as_postgres[@]}" test -x "$server" -a -w "$STATE" 2>/dev/null || return 0
  postgres_owner=65534
  as_postgres=(setpriv --reuid=65534 --regid=65534 --clear-groups)
  ! "${as_postgres[@]}" test -x "$server" 2>/dev/null || return 0
  as_postgres+=(--securebits=+no_setuid_fixup --inh-caps="$reach" --ambient-caps="$reach" --bounding-set="$reach")
  ! "${as_postgres[@]}" test -x "$server" 2>/dev/null || return 0
  die "PostgreSQL refuses to run as root, and neither unshare nor setpriv helps here: use an ordinary user"
}

postgres_conf() { # TEST: settings by which data may be lost, for tests only
  cat <<CONF
# Written by deploy/local/postgres.sh at every start; ALTER SYSTEM survives it.
listen_addresses = '127.0.0.1'
port = $POSTGRES_PORT
unix_socket_directories = ''
shared_preload_libraries = 'pg_stat_statements'
max_connections = 500
shared_buffers = 256MB
max_wal_size = 2GB
password_encryption = scram-sha-256
log_timezone = UTC
timezone = UTC
log_line_prefix = '%m [%p] %q%d '
CONF
  [ "$1" != test ] || cat <<CONF
# For tests: nothing of this cluster outlives it, and hashing a password 4,096
# times for every connection is what an unoptimised client spends its time on.
fsync = off
full_page_writes = off
scram_iterations = 1
CONF
}

# Made aside and moved into place when complete: an interrupted first run leaves
# nothing that looks like a cluster.
make_cluster() { # PROFILE
  local new=$STATE/postgres/new password
  rm -rf "$new"
  mkdir -p "$new"
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  (umask 077 && printf '%s\n' "$password" >"$STATE/postgres/password.new")
  chown "$postgres_owner" "$new" "$STATE/postgres/password.new"
  local options=(-D "$new" -U likes --pwfile="$STATE/postgres/password.new"
    --auth=scram-sha-256 --no-sync --encoding=UTF8 --locale=C)
  [ "$1" != test ] || options+=(-c scram_iterations=1)
  quietly "$STATE/postgres-init.log" 'postgres: making a cluster' \
    "${as_postgres[@]}" "$PG_HOME/bin/initdb" "${options[@]}"
  # There is no psql among the programs; single-user mode takes a statement a line,
  # and reports errors in its output only.
  printf '%s\n' 'CREATE DATABASE likes' |
    "${as_postgres[@]}" "$PG_HOME/bin/postgres" --single -D "$new" postgres >>"$STATE/postgres-init.log" 2>&1
  printf '%s\n' 'CREATE EXTENSION pg_stat_statements' |
    "${as_postgres[@]}" "$PG_HOME/bin/postgres" --single -D "$new" likes >>"$STATE/postgres-init.log" 2>&1
  if grep -Eq '(ERROR|FATAL|PANIC):' "$STATE/postgres-init.log"; then
    show_tail "$STATE/postgres-init.log"
    die 'postgres: the database likes could not be made'
  fi
  # Beside what initdb has found to work here, the kind of shared memory say.
  echo "include = 'likes.conf'" >>"$new/postgresql.conf"
  mv "$STATE/postgres/password.new" "$STATE/postgres/password"
  mv "$new" "$STATE/postgres/data"
}

postgres_ready() { grep -qs '^ready' "$STATE/postgres/data/postmaster.pid"; }

start_postgres() { # PROFILE: test or local
  local data=$STATE/postgres/data settings="port=$POSTGRES_PORT profile=$1 dist=$DIST_KEY" stale
  choose_postgres_user
  if needs_start postgres "$settings"; then
    mkdir -p "$STATE/postgres"
    [ -d "$data" ] || make_cluster "$1"
    # The cluster was made under the other of the two ways above.
    [ "$(stat -c %u "$data")" = "$postgres_owner" ] || chown -R "$postgres_owner" "$data"
    # After a crash or a reboot the pid noted there may be another program's by now,
    # which PostgreSQL would take for a running server. A dead one it sees itself.
    if stale=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) && [ -d "/proc/$stale" ] &&
      [[ $(command_line "$stale") != *"$(signature_of postgres)"* ]]; then
      rm -f "$data/postmaster.pid"
    fi
    # Not left over from before: that "ready" would be believed.
    sed -i 's/^ready.*/starting/' "$data/postmaster.pid" 2>/dev/null || true
    postgres_conf "$1" >"$data/likes.conf"

    printf '  postgres: starting on port %s ' "$POSTGRES_PORT"
    local deadline=$((SECONDS + 20))
    while :; do
      launch postgres "${as_postgres[@]}" "$PG_HOME/bin/postgres" -D "$data"
      # The children of a killed server need a moment to go; until then their
      # shared memory keeps the new one out.
      while alive postgres && ! postgres_ready; do sleep 0.05; done
      alive postgres && break
      if ! grep -qs 'still in use' "$STATE/postgres.log" || [ "$SECONDS" -ge "$deadline" ]; then break; fi
      sleep 0.2
    done
    wait_for 60 postgres postgres_ready
    printf '%s' "$settings" >"$STATE/postgres.settings"
    printf ' up\n'
  fi
  POSTGRES_PASSWORD=$(<"$STATE/postgres/password")
}

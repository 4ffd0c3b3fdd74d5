# shellcheck shell=bash disable=SC2034 # what it sets is read by those who source it
# A PostgreSQL cluster in $STATE/postgres. Loopback only, no Unix socket, a random password: its
# superuser can run programs as the owner of the cluster. Sourced.

# PostgreSQL refuses to run as root. For root this tries, in this order:
# 1. a user namespace in which root's files belong to uid 65534: no permissions change;
# 2. uid 65534 itself, where namespaces are forbidden (most containers);
# 3. uid 65534 with the capability to read and write all files, where it can't reach the clone.
#    The secure bit makes access(2), which initdb calls, respect the capability.
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
  die "PostgreSQL refuses to run as root, and neither unshare nor setpriv works here: use an ordinary user"
}

# POSTGRES_CONF may hold further lines, which take precedence.
postgres_conf() { # PROFILE
  cat <<CONF
# Written by deploy/local/postgres.sh at every start; ALTER SYSTEM takes precedence.
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
  [ -z "${POSTGRES_CONF:-}" ] || printf '%s\n' "$POSTGRES_CONF"
  [ "$1" != test ] || cat <<CONF
# For tests, whose data may be lost. Hashing a password 4,096 times per connection is slow in an
# unoptimised client.
fsync = off
full_page_writes = off
scram_iterations = 1
CONF
}

# Makes the cluster in a temporary folder and renames it when it is complete: an interrupted run
# leaves no half-made cluster.
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
  quietly "$STATE/postgres-init.log" 'postgres: creating the cluster' \
    "${as_postgres[@]}" "$PG_HOME/bin/initdb" "${options[@]}"
  # The programs don't include psql. Single-user mode takes one statement per line and reports
  # errors only in its output.
  local single=("${as_postgres[@]}" "$PG_HOME/bin/postgres" --single -D "$new")
  "${single[@]}" postgres <<<'CREATE DATABASE likes' >>"$STATE/postgres-init.log" 2>&1
  "${single[@]}" likes <<<'CREATE EXTENSION pg_stat_statements' >>"$STATE/postgres-init.log" 2>&1
  if grep -Eq '(ERROR|FATAL|PANIC):' "$STATE/postgres-init.log"; then
    show_tail "$STATE/postgres-init.log"
    die 'postgres: the database likes could not be created'
  fi
  # Keeps what initdb has detected, such as the kind of shared memory.
  echo "include = 'likes.conf'" >>"$new/postgresql.conf"
  mv "$STATE/postgres/password.new" "$STATE/postgres/password"
  mv "$new" "$STATE/postgres/data"
}

postgres_ready() { grep -qs '^ready' "$STATE/postgres/data/postmaster.pid"; }

start_postgres() { # PROFILE: test or local
  local data=$STATE/postgres/data stale
  local settings="port=$POSTGRES_PORT profile=$1 dist=$DIST_KEY ${POSTGRES_CONF:-}"
  choose_postgres_user
  if needs_start postgres "$settings"; then
    mkdir -p "$STATE/postgres"
    [ -d "$data" ] || make_cluster "$1"
    # The owner differs if choose_postgres_user has chosen differently before.
    [ "$(stat -c %u "$data")" = "$postgres_owner" ] || chown -R "$postgres_owner" "$data"
    # After a crash the pid in this file may belong to another program, which PostgreSQL would
    # take for a running server. It detects a dead process by itself.
    if stale=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) && [ -d "/proc/$stale" ] &&
      [[ $(command_line "$stale") != *"$(signature_of postgres)"* ]]; then
      rm -f "$data/postmaster.pid"
    fi
    # postgres_ready must not see the "ready" of the previous run.
    sed -i 's/^ready.*/starting/' "$data/postmaster.pid" 2>/dev/null || true
    postgres_conf "$1" >"$data/likes.conf"

    note "postgres: starting on port $POSTGRES_PORT"
    local deadline=$((SECONDS + 20))
    while :; do
      launch postgres "${as_postgres[@]}" "$PG_HOME/bin/postgres" -D "$data"
      # Until the children of a killed server have exited, their shared memory prevents a start.
      while alive postgres && ! postgres_ready; do sleep 0.05; done
      alive postgres && break
      if ! grep -qs 'still in use' "$STATE/postgres.log" || [ "$SECONDS" -ge "$deadline" ]; then break; fi
      sleep 0.2
    done
    wait_for 60 postgres postgres_ready
    printf '%s' "$settings" >"$STATE/postgres.settings"
  fi
  POSTGRES_PASSWORD=$(<"$STATE/postgres/password")
}

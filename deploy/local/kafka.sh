# shellcheck shell=bash
# Kafka in $STATE/kafka: one KRaft node, broker and controller in one process, on loopback.
# Sourced.

# KAFKA_PROXIED_PORT adds a second listener that advertises KAFKA_PROXY_PORT: its clients connect
# through a proxy.
kafka_conf() {
  local proxied=${KAFKA_PROXIED_PORT:+PROXIED://127.0.0.1}
  cat <<CONF
# Written by deploy/local/kafka.sh at every start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$KAFKA_CONTROLLER_PORT
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT,CONTROLLER://127.0.0.1:$KAFKA_CONTROLLER_PORT${proxied:+,$proxied:$KAFKA_PROXIED_PORT}
advertised.listeners=PLAINTEXT://127.0.0.1:$KAFKA_PORT${proxied:+,$proxied:$KAFKA_PROXY_PORT}
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs=$STATE/kafka/data
# A mistyped topic name is an error; it does not create a topic with the wrong partition count.
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
# Tests that kill consumers use a shorter session timeout than the default minimum of 6 s.
group.min.session.timeout.ms=1000
# Internal topics: one broker, one replica.
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
CONF
}

kafka_ready() { grep -qs 'Kafka Server started' "$STATE/kafka.log" && port_open "$KAFKA_PORT"; }

start_kafka() {
  local conf=$STATE/kafka/server.properties heap=${KAFKA_HEAP:-512m} settings options
  settings="port=$KAFKA_PORT controller=$KAFKA_CONTROLLER_PORT heap=$heap dist=$DIST_KEY"
  needs_start kafka "$settings" || return 0
  find_java || die 'kafka: Java 17 or later is required'

  mkdir -p "$STATE/kafka/tmp"
  kafka_conf >"$conf"
  options=(-cp "$KAFKA_LIBS/*" -Djava.awt.headless=true -Djava.io.tmpdir="$STATE/kafka/tmp"
    -XX:-UsePerfData -Dlog4j2.configurationFile="$ROOT/deploy/local/log4j2.yaml")
  if [ ! -s "$STATE/kafka/data/meta.properties" ]; then
    quietly "$STATE/kafka-format.log" 'kafka: formatting its storage' \
      "$JAVA" -Xmx128m -XX:TieredStopAtLevel=1 "${options[@]}" kafka.tools.StorageTool format \
      --cluster-id "$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | cut -c1-22 | sed 's/^-/A/')" --config "$conf"
  fi
  note "kafka: starting on port $KAFKA_PORT"
  launch kafka "$JAVA" "-Xms$heap" "-Xmx$heap" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
    -XX:+ExitOnOutOfMemoryError "${options[@]}" kafka.Kafka "$conf"
  wait_for 90 kafka kafka_ready
  printf '%s' "$settings" >"$STATE/kafka.settings"
}

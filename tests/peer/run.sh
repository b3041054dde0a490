#!/usr/bin/env bash
# Apache RocketMQ 5.5.0, fetched from Maven Central, run as plain processes on this machine.
#   run.sh fetch                                       the jars, once (needs java and mvn); prints their folder
#   run.sh namesrv DIR PORT [key=value...]             a name server with its files in DIR; returns when it answers
#   run.sh broker  DIR PORT NAMESRV [key=value...]     a broker registered at host:port[;host:port...]; returns when it listens
#   run.sh pair    DIR NAMESRV_PORT PORT [key=value...]  both; the keys go to the broker
#   run.sh stop    DIR                                 stops what was started with DIR, by its process ids
# A broker also takes PORT-2 (VIP) and PORT+1 (replication). Keys are those of broker.conf / namesrv.conf.
# PEER_TARGET moves the jars (default ${TMPDIR:-/tmp}/gantry-peer), PEER_HEAP the heap of each (default 512m).
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VERSION=5.5.0
TARGET=${PEER_TARGET:-${TMPDIR:-/tmp}/gantry-peer}
LIB=$TARGET/lib-$VERSION
HEAP=${PEER_HEAP:-512m}
READY_SECONDS=60

fetch() {
  mkdir -p "$TARGET"
  exec 7>"$TARGET/fetch.lock"; flock 7
  if [ ! -e "$LIB/complete" ]; then
    mvn -q -B -ntp -f "$HERE/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
      -DoutputDirectory="$LIB" </dev/null >"$TARGET/fetch.log" 2>&1 || { cat "$TARGET/fetch.log" >&2; return 1; }
    touch "$LIB/complete"
  fi
  exec 7>&-
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# java_start DIR NAME PORT MAIN ARG...: in the background, detached, its pid in DIR/NAME.pid
java_start() {
  local dir=$1 name=$2 port=$3 main=$4; shift 4
  if listening "$port"; then echo "port $port is taken" >&2; return 1; fi
  mkdir -p "$dir/home/conf"
  # One quiet configuration for every logger: warnings to the process's own log file.
  printf '%s\n' '<configuration><appender name="out" class="ch.qos.logback.core.ConsoleAppender"><encoder>' \
    '<pattern>%d %p %t - %m%n</pattern></encoder></appender><root level="WARN"><appender-ref ref="out"/></root></configuration>' \
    | tee "$dir/home/conf/rmq.broker.logback.xml" >"$dir/home/conf/rmq.namesrv.logback.xml"
  # Its pid is written before it leaves the group of this script: whoever ends the script finds one or the other.
  ( echo "$BASHPID" >"$dir/$name.pid"
    ROCKETMQ_HOME="$dir/home" exec setsid java -Xms"$HEAP" -Xmx"$HEAP" -XX:MaxDirectMemorySize="$HEAP" -XX:+UseG1GC -Duser.home="$dir/home" \
    -Drmq.logback.configurationFile="$dir/home/conf/rmq.$name.logback.xml" ${PEER_JAVA_OPTS:-} \
    --add-exports=java.base/jdk.internal.ref=ALL-UNNAMED --add-exports=java.base/sun.nio.ch=ALL-UNNAMED \
    --add-opens=java.base/java.nio=ALL-UNNAMED --add-opens=java.base/java.lang=ALL-UNNAMED \
    -cp "$LIB/*" "$main" "$@" ) </dev/null >"$dir/$name.log" 2>&1 7>&- 8>&- 9>&- &
  local pid=$!
  local until=$((SECONDS + READY_SECONDS))
  while ! grep -q 'boot success' "$dir/$name.log"; do
    if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$until" ]; then
      echo "the $name did not start:" >&2; tail -20 "$dir/$name.log" >&2; return 1
    fi
    sleep 0.2
  done
  echo "$name $pid on port $port"
}

namesrv() { # DIR PORT [key=value...]
  local dir=$1 port=$2; shift 2
  fetch; mkdir -p "$dir"
  printf '%s\n' "listenPort=$port" "bindAddress=127.0.0.1" "kvConfigPath=$dir/kvConfig.json" "$@" >"$dir/namesrv.conf"
  java_start "$dir" namesrv "$port" org.apache.rocketmq.namesrv.NamesrvStartup -c "$dir/namesrv.conf"
}

broker() { # DIR PORT NAMESRV [key=value...]
  local dir=$1 port=$2 namesrv=$3; shift 3
  fetch; mkdir -p "$dir"
  # Small files: the defaults reserve 1 GiB per log file. The caller's keys come last and win.
  printf '%s\n' "listenPort=$port" "brokerIP1=127.0.0.1" "brokerIP2=127.0.0.1" "bindAddress=127.0.0.1" \
    "brokerName=peer-$port" "brokerClusterName=PeerCluster" "storePathRootDir=$dir/store" \
    "storePathCommitLog=$dir/store/commitlog" "mappedFileSizeCommitLog=134217728" \
    "maxIndexNum=400000" "maxHashSlotNum=100000" "fileReservedTime=72" "diskMaxUsedSpaceRatio=95" "$@" >"$dir/broker.conf"
  java_start "$dir" broker "$port" org.apache.rocketmq.broker.BrokerStartup -c "$dir/broker.conf" -n "$namesrv"
}

stop() { # DIR
  local f pid i
  for f in "$1"/broker.pid "$1"/namesrv.pid; do
    [ -e "$f" ] || continue
    pid=$(cat "$f")
    if kill "$pid" 2>/dev/null; then
      for i in $(seq 1 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
      kill -9 "$pid" 2>/dev/null || true
    fi
    rm -f "$f"
  done
}

case ${1:-} in
  fetch) fetch; echo "$LIB" ;;
  namesrv|broker|stop) "$@" ;;
  pair)
    dir=$2 ns=$3 port=$4; shift 4
    namesrv "$dir" "$ns"
    broker "$dir" "$port" "127.0.0.1:$ns" "$@" ;;
  *) sed -n '2,9p' "$0" >&2; exit 2 ;;
esac

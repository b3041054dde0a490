#!/usr/bin/env bash
# Runs one `gantry bench produce` scenario on Apache RocketMQ 5.5.0 and on Gantry, alternating, on this machine, and prints
# the medians and the ratio. Needs a JDK, Maven and python3; the peer comes from Maven Central.
#   bench/compare.sh [--rounds N] [--flush ASYNC_FLUSH|SYNC_FLUSH] [arguments of gantry bench produce...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROUNDS=3; FLUSH=ASYNC_FLUSH; ARGS=()
while [ $# -gt 0 ]; do
  case $1 in
    --rounds) ROUNDS=$2; shift ;;
    --flush) FLUSH=$2; shift ;;
    *) ARGS+=("$1") ;;
  esac
  shift
done
GANTRY=${GANTRY_BIN:-target/release/gantry}
[ -x "$GANTRY" ] || cargo build --release
WORK=$(mktemp -d "${TMPDIR:-/tmp}/gantry-compare.XXXXXX")
GANTRY_PID=
cleanup() {
  [ -z "$GANTRY_PID" ] || { kill "$GANTRY_PID" 2>/dev/null || true; wait "$GANTRY_PID" 2>/dev/null || true; }
  tests/peer/run.sh stop "$WORK/peer" >/dev/null 2>&1 || true
  rm -rf "$WORK"
}
trap cleanup EXIT
# The peer with its fast-fail limits widened, so that a busy moment is waited out and not refused.
PEER_HEAP=${PEER_HEAP:-2g} tests/peer/run.sh pair "$WORK/peer" 19876 20911 flushDiskType="$FLUSH" \
  waitTimeMillsInSendQueue=10000 osPageCacheBusyTimeOutMills=10000 sendThreadPoolQueueCapacity=100000 \
  brokerFastFailureEnable=false
mkdir -p "$WORK/data"
"$GANTRY" up --data "$WORK/data" --listen 127.0.0.1 --port 21911 --namesrv-port 29876 --set flushDiskType="$FLUSH" \
  >"$WORK/gantry.log" 2>&1 &
GANTRY_PID=$!
for _ in $(seq 1 100); do grep -q '^ready' "$WORK/gantry.log" && break; sleep 0.1; done
run() { # name namesrv
  "$GANTRY" bench produce --namesrv "$2" --json --out "$WORK/$1.json" "${ARGS[@]}" >/dev/null || true
  cat "$WORK/$1.json" >>"$WORK/$1.all"; echo >>"$WORK/$1.all"
}
run warm 127.0.0.1:19876 # the JIT settles
for round in $(seq 1 "$ROUNDS"); do
  run peer 127.0.0.1:19876
  run gantry 127.0.0.1:29876
done
python3 - "$WORK" "$FLUSH ${ARGS[*]:-}" <<'PY'
import json, statistics, sys
work, what = sys.argv[1], sys.argv[2]
def load(name):
    return [json.loads(l) for l in open(f"{work}/{name}.all") if l.strip()]
rows = {n: load(n) for n in ("peer", "gantry")}
def med(name, f):
    v = [f(r) for r in rows[name] if f(r) is not None]
    return (statistics.median(v), min(v), max(v)) if v else (float("nan"),) * 3
print(f"scenario: {what}; medians (min..max) of {len(rows['peer'])} rounds")
for label, f in (("messages/s", lambda r: r["messages_per_second"]),
                 ("broker CPU-s per million", lambda r: r["broker_cpu_seconds_per_million"]),
                 ("p50 us", lambda r: r["latency_us"]["p50"]), ("p99 us", lambda r: r["latency_us"]["p99"]),
                 ("max us", lambda r: r["latency_us"]["max"]),
                 ("RSS MiB", lambda r: r["broker_rss_bytes"] and r["broker_rss_bytes"] / 2**20)):
    p, g = med("peer", f), med("gantry", f)
    print(f"{label:26} Apache {p[0]:>12.2f} ({p[1]:.2f}..{p[2]:.2f})   Gantry {g[0]:>12.2f} ({g[1]:.2f}..{g[2]:.2f})   Gantry/Apache {g[0]/p[0]:.3f}")
for n in rows:
    bad = [r["errors_by_code"] for r in rows[n] if r["errors_by_code"]]
    if bad: print(f"{n}: failed sends {bad}")
PY

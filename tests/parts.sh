# Sourced by tests/run: one function per part. Expects PASSED, FAILED, TIMES, PIDS, WORK, REPORT, QUICK, ONLY,
# CLIENTS (not empty: the real clients are run).

# The interop groups of what is built so far; later capabilities join here when they are (docs/COMPATIBILITY.md).
JAVA_CASES=(send consume order offset litepull filter query tx
  delay retry timer rpc trace)
GO_CASES=(send. filter consume.broadcasting order.by_key tx delay retry rpc)
# The stock mqadmin, each command in a process of its own, three at a time.
MQADMIN_CASES=(mqadmin)
# What a Java client does in a cluster of which one half is Apache's.
MIX_CASES=(send.sync send.auto_create_topic consume.two_instances_share_queues consume.pull_by_offset order.by_selector query.by_key)

part() { # name function arg...
  local name=$1 t=$SECONDS; shift
  echo "== $name"
  "$@"
  TIMES+=("$name $((SECONDS - t)) s")
  echo "== $name: $((SECONDS - t)) s, so far ${PASSED} passed, ${FAILED} failed"
}

pass() { PASSED=$((PASSED + 1)); echo "PASS $1"; }
fail() { FAILED=$((FAILED + 1)); echo "FAIL $1"; }

step() { # what command...: one check, counted as one
  local what=$1; shift
  if "$@" </dev/null; then pass "$what"; else fail "$what"; fi
}

# ---- setup

have() { command -v "$1" >/dev/null 2>&1; }

java_is() { # at least major version 17, with a compiler: the interop cases are Java 17
  have javac && [ "$(javac -version 2>&1 | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 17 ] 2>/dev/null
}

go_wanted() { sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' tests/interop/go/go.mod; }

go_is() { # the version that go.mod asks for, or newer
  local w h
  w=$(go_wanted)
  [ -x /usr/local/go/bin/go ] && PATH=$PATH:/usr/local/go/bin
  have go || return 1
  h=$(GOTOOLCHAIN=local go version | sed 's/.*go\([0-9]*\.[0-9]*\).*/\1/')
  [ "$(printf '%s\n%s\n' "$w" "$h" | sort -V | head -n 1)" = "$w" ]
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -y -q "$@" </dev/null >>"$REPORT/apt.log" 2>&1; }

setup() {
  local missing=() packages=()
  if ! have cargo && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
  have cargo || missing+=("a Rust toolchain (cargo, $(sed -n 's/^rust-version = "\(.*\)"/\1 or newer/p' Cargo.toml))")
  have cc || packages+=(build-essential)
  if [ -n "$CLIENTS" ]; then
    java_is || packages+=(openjdk-17-jdk-headless)
    have mvn || packages+=(maven)
    go_is || packages+=(golang-go)
  fi
  if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && have apt-get; then
    echo "installing ${packages[*]}"
    apt_get update
    local p
    for p in "${packages[@]}"; do
      apt_get install --no-install-recommends "$p" && continue
      # A newer Debian no longer has JDK 17.
      [ "$p" != openjdk-17-jdk-headless ] || apt_get install --no-install-recommends default-jdk-headless
    done
    # Debian 12's own Go is too old; its backports and Debian 13 have versioned packages.
    if [ -n "$CLIENTS" ] && ! go_is; then
      apt_get install --no-install-recommends "golang-$(go_wanted)-go" && PATH=/usr/lib/go-$(go_wanted)/bin:$PATH
    fi
  fi
  have cc || missing+=("a C compiler (cc)")
  if [ -n "$CLIENTS" ]; then
    java_is || missing+=("a JDK, 17 or newer")
    have mvn || missing+=("Maven (mvn)")
    go_is || missing+=("Go $(go_wanted) or newer")
  fi
  if [ ${#missing[@]} -gt 0 ]; then
    printf 'missing: %s\n' "${missing[@]}"
    echo "install them, or run as root on a Debian-like system (log: $REPORT/apt.log)"
    echo "0 passed, 1 failed"
    exit 1
  fi
  export PATH
  # Many idle connections are opened at once by one test.
  ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
}

# Clients and the Apache peer come over the network while the compiler has the cores.
prefetch() {
  {
    tests/peer/run.sh fetch
    tests/interop/interop.sh --list --only java,java4,go
  } </dev/null >"$PREFETCH_LOG" 2>&1 &
  PREFETCH=$!
  PIDS+=("$PREFETCH")
}

# ---- cargo tests

# Adds up every "test result:" line of a cargo test run; a run that fails without one (a compile error) counts as one failure.
cargo_tests() { # log-name cargo-arguments...
  local log=$REPORT/$1.log rc p f; shift
  cargo test --no-fail-fast "$@" </dev/null 2>&1 | tee "$log" | grep --line-buffered -vE '^(running 0 tests|test result: ok\. 0 passed|)$|^ +(Compiling|Downloaded|Downloading)'
  rc=${PIPESTATUS[0]}
  p=$(sed -n 's/^test result: .*[^0-9]\([0-9]*\) passed;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  f=$(sed -n 's/^test result: .*[^0-9]\([0-9]*\) failed;.*/\1/p' "$log" | awk '{n += $1} END {print n + 0}')
  PASSED=$((PASSED + p)); FAILED=$((FAILED + f))
  if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then fail "cargo test (exit $rc, see $log)"; fi
}

# What could not be run here, of the tests counted as passed.
tell_skipped() {
  [ -s "$GANTRY_TEST_SKIPPED" ] || return 0
  echo "$(wc -l <"$GANTRY_TEST_SKIPPED") of these skipped:"
  sed 's/^/  /' "$GANTRY_TEST_SKIPPED"
}

# The suites at the root: these need no server, all others start one.
UNIT_SUITES="tidy golden compatibility kit"
suites() { # unit | process
  local f n
  for f in tests/*.rs; do
    [ -e "$f" ] || continue
    n=$(basename "$f" .rs)
    case " $UNIT_SUITES " in *" $n "*) [ "$1" = unit ] ;; *) [ "$1" = process ] ;; esac && printf ' --test %s' "$n"
  done
}

unit_tests() {
  cargo_tests unit-crates --workspace --exclude gantry
  # shellcheck disable=SC2046
  cargo_tests unit-root -p gantry --bins $(suites unit)
}

# A minute of seeds nobody has tried; also every await of a short history, which the debug profile only samples.
simulation() {
  GANTRY_SIM_SECONDS=$([ -n "$QUICK" ] && echo 10 || echo 60) cargo_tests simulation --release -p gantry-actors --lib simulation -- --nocapture --test-threads 1
}

process_tests() {
  # shellcheck disable=SC2046
  TMPDIR=$WORK GANTRY_TEST_QUICK=$QUICK cargo_tests process -p gantry $(suites process) -- --test-threads 2
}

# ---- real clients

free_port() { # a port p with p-2 .. p+1 free, from 20000 on
  local p q ok
  for _ in $(seq 1 200); do
    p=$((20000 + RANDOM % 10000)); ok=1
    for q in $((p - 2)) "$p" $((p + 1)); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$q") 2>/dev/null; then ok=; fi
    done
    [ -z "$ok" ] || { echo "$p"; return 0; }
  done
  return 1
}

await_port() { # port pid seconds
  local until=$((SECONDS + $3))
  while ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do
    if ! kill -0 "$2" 2>/dev/null || [ "$SECONDS" -ge "$until" ]; then return 1; fi
    sleep 0.1
  done
}

# gantry NAME PORT ARG...: in the background; its pid in GANTRY_PID. Not ready: its log and a failure.
gantry_start() {
  local name=$1 port=$2; shift 2
  (cd "$WORK" && exec "$GANTRY_BIN" "$@" </dev/null >"$REPORT/$name.log" 2>&1) &
  GANTRY_PID=$!
  PIDS+=("$GANTRY_PID")
  if ! await_port "$port" "$GANTRY_PID" 20; then
    tail -n 30 "$REPORT/$name.log"
    fail "$name: not listening on $port"
    return 1
  fi
}

gantry_stop() { stop_pid "$1"; wait "$1" 2>/dev/null; }

# interop LABEL NAMESRV CLIENT CASE...: adds the kit's own counts.
interop() {
  local label=$1 ns=$2 client=$3 out rc; shift 3
  out=$REPORT/interop-$label.log
  tests/interop/interop.sh --namesrv "$ns" --only "$client" ${QUICK:+--quick} "$@" </dev/null 2>&1 \
    | tee "$out" | grep --line-buffered -E '^(PASS|FAIL|SKIP) '
  rc=${PIPESTATUS[0]}
  local p f
  p=$(grep -c '^PASS ' "$out"); f=$(grep -c '^FAIL ' "$out")
  PASSED=$((PASSED + p)); FAILED=$((FAILED + f))
  if [ $((p + f)) -eq 0 ]; then fail "interop $label ran no case (see $out)"
  elif [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then fail "interop $label (exit $rc, see $out)"; fi
}

interop_tests() {
  local ns port pid
  wait "$PREFETCH" || echo "fetching clients ahead failed, see $PREFETCH_LOG"
  ns=$(free_port); port=$(free_port)
  gantry_start gantry-interop "$port" up --data "$WORK/interop" --listen 127.0.0.1 --port "$port" --namesrv-port "$ns" \
    --set transactionCheckInterval=5000 --set recallMessageEnable=true --set enablePropertyFilter=true \
    --set traceTopicEnable=true || return
  pid=$GANTRY_PID
  # A first check-back comes after 6 s.
  export INTEROP_TX_WAIT=40
  interop java "127.0.0.1:$ns" java "${JAVA_CASES[@]}" "${MQADMIN_CASES[@]}"
  interop go "127.0.0.1:$ns" go "${GO_CASES[@]/#/go.}"
  if [ -z "$QUICK" ]; then
    interop java4 "127.0.0.1:$ns" java4 "${JAVA_CASES[@]}" "${MQADMIN_CASES[@]}"
    interop java-binary "127.0.0.1:$ns" java-binary "${JAVA_CASES[@]}"
    interop mixed "127.0.0.1:$ns" mixed
  fi
  if kill -0 "$pid" 2>/dev/null; then pass "interop.the_server_is_still_up"; else fail "interop.the_server_is_still_up"; fi
  gantry_stop "$pid"
}

# gantry admin speaks the public codes only, so another broker must answer them as well.
admin_at_apache() ( # namesrv
  local out
  exec >"$REPORT/admin-at-apache.log" 2>&1
  "$GANTRY_BIN" admin topic create admin-mix --queues 2 -n "$1" \
    && "$GANTRY_BIN" admin group create admin-mix-g --retry-max 5 -n "$1" \
    && "$GANTRY_BIN" send admin-mix "a message" --key k1 -n "$1" \
    && "$GANTRY_BIN" receive admin-mix --group admin-mix-g --from first -n "$1" \
    && "$GANTRY_BIN" admin offset reset -g admin-mix-g -t admin-mix --to first -n "$1" || exit 1
  for out in "topic list" "topic show admin-mix" "group list" "group show admin-mix-g" "broker list" "broker show" \
    "broker config get maxMessageSize" "cluster list" "message query -t admin-mix --key k1" "connection list" "stats show" \
    "offset show -g admin-mix-g" "topic delete admin-mix" "group delete admin-mix-g"; do
    # shellcheck disable=SC2086
    "$GANTRY_BIN" admin $out -n "$1" || exit 1
  done
)

# A broker that listens may still be on its way to its name server: Apache's tries again every 10 to 30 s.
await_registered() { # namesrv-port broker-port
  local until=$((SECONDS + 60))
  until "$GANTRY_BIN" admin cluster list -n "127.0.0.1:$1" 2>/dev/null | grep -q ":$2\b"; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.5
  done
}

# Either half of a cluster may be Apache's: its name server with our broker, and our name server with its broker.
apache_mix() {
  local ns port pid
  ns=$(free_port); port=$(free_port)
  if tests/peer/run.sh namesrv "$WORK/peer-ns" "$ns" 2>&1; then
    printf '%s\n' "brokerName=gantry-mix" "listenPort=$port" "bindAddress=127.0.0.1" \
      "brokerIP1=127.0.0.1" "storePathRootDir=$WORK/mix" >"$WORK/mix.conf"
    if gantry_start gantry-mix-broker "$port" broker -c "$WORK/mix.conf" -n "127.0.0.1:$ns"; then
      pid=$GANTRY_PID
      interop gantry-broker-at-apache-namesrv "127.0.0.1:$ns" java "${MIX_CASES[@]}"
      gantry_stop "$pid"
    fi
  else
    fail "apache_mix: the Apache name server did not start"
  fi
  tests/peer/run.sh stop "$WORK/peer-ns"

  ns=$(free_port); port=$(free_port)
  if gantry_start gantry-mix-namesrv "$ns" namesrv --log debug --listen 127.0.0.1 --port "$ns" \
    --set "kvConfigPath=$WORK/mix-kv.json" --set "configStorePath=$WORK/mix-namesrv.properties"; then
    pid=$GANTRY_PID
    if tests/peer/run.sh broker "$WORK/peer-broker" "$port" "127.0.0.1:$ns" 2>&1; then
      await_registered "$ns" "$port" || tail -n 30 "$WORK/peer-broker/broker.log"
      interop apache-broker-at-gantry-namesrv "127.0.0.1:$ns" java "${MIX_CASES[@]}"
      step "gantry admin at an Apache broker" admin_at_apache "127.0.0.1:$ns"
    else
      fail "apache_mix: the Apache broker did not start"
    fi
    tests/peer/run.sh stop "$WORK/peer-broker"
    gantry_stop "$pid"
  fi
}

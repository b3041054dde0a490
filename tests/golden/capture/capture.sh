#!/usr/bin/env bash
# Makes the frames beside this folder anew: unmodified clients against Apache RocketMQ 5.5.0, read along by record.py.
#   capture.sh [client...]        java-5.5.0-json java-5.5.0-binary java-4.9.8 go-2.1.2 (default: all)
# The broker registers as 127.0.0.2, where record.py listens and passes on to 127.0.0.1; its own registration passes
# through 127.0.0.3 into apache-broker-5.5.0. Takes some minutes for each client; not part of tests/run.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TESTS=$HERE/../..
NS=24876 PORT=24911
WORK=$(mktemp -d); PIDS=()
cleanup() {
  for p in "${PIDS[@]}"; do kill "$p" 2>/dev/null || true; done
  "$TESTS/peer/run.sh" stop "$WORK"
  rm -rf "$WORK"
}
trap cleanup EXIT

record() { # folder LISTEN=TARGET...
  local out=$HERE/../$1; shift
  rm -rf "$out" "$WORK/record.log"
  python3 "$HERE/record.py" "$out" "$@" >"$WORK/record.log" 2>"$WORK/record.err" &
  RECORDER=$!; PIDS+=("$RECORDER")
  until grep -qs ready "$WORK/record.log"; do kill -0 "$RECORDER"; sleep 0.1; done
}

# Of these groups the first lines are what Gantry speaks today; the others are kept for the capabilities to come.
BASIC=(send consume order offset litepull filter query)
LATER=(retry.chosen_delay_level retry.dead_letter_after_max delay.levels tx.commit_and_rollback tx.unknown rpc trace timer pop)

"$TESTS/peer/run.sh" namesrv "$WORK" $NS
record apache-broker-5.5.0 127.0.0.3:$NS=127.0.0.1:$NS
"$TESTS/peer/run.sh" broker "$WORK" $PORT 127.0.0.3:$NS brokerIP1=127.0.0.2 enablePropertyFilter=true \
  traceTopicEnable=true recallMessageEnable=true registerNameServerPeriod=10000 transactionCheckInterval=5000
[ $# -gt 0 ] || set -- java-5.5.0-json java-5.5.0-binary java-4.9.8 go-2.1.2
for client; do
  record "$client" 127.0.0.2:$NS=127.0.0.1:$NS 127.0.0.2:$PORT=127.0.0.1:$PORT 127.0.0.2:$((PORT - 2))=127.0.0.1:$((PORT - 2))
  case $client in
    java-5.5.0-json) kit=java; cases=("${BASIC[@]}" "${LATER[@]}" mqadmin) ;;
    java-5.5.0-binary) kit=java-binary; cases=("${BASIC[@]}" "${LATER[@]}") ;;
    java-4.9.8) kit=java4; cases=("${BASIC[@]}" "${LATER[@]}") ;;
    go-2.1.2) kit=go; cases=(go.) ;;
    *) echo "unknown client $client" >&2; exit 2 ;;
  esac
  "$TESTS/interop/interop.sh" --namesrv 127.0.0.2:$NS --only $kit "${cases[@]}" || true
  # These hold the configuration of the machine that captured: paths, nothing a decoder learns from.
  rm -f "$HERE/../$client"/reply-{26,28,319}-*.frame
  kill "$RECORDER"; wait "$RECORDER" 2>/dev/null || true
done

# The names of the codes, from the released classes, and one index over all folders.
JAR=$(ls "$("$TESTS/peer/run.sh" fetch)"/rocketmq-remoting-*.jar)
javap -constants -cp "$JAR" org.apache.rocketmq.remoting.protocol.RequestCode \
  | sed -n 's/.*final int \([A-Z0-9_]*\) = \([0-9]*\);/\2 \1/p' >"$WORK/names"
{
  printf 'client\tfile\tkind\tcode\tname\tbytes\n'
  for d in "$HERE"/../*/; do
    client=$(basename "$d"); [ "$client" != capture ] || continue
    for f in "$d"*.frame; do
      b=$(basename "$f" .frame); kind=${b%%-*}; code=$(echo "$b" | cut -d- -f2)
      printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$client" "$(basename "$f")" "$kind" "$code" \
        "$(awk -v c="$code" '$1 == c {print $2; exit}' "$WORK/names")" "$(stat -c %s "$f")"
    done
  done
} >"$HERE/../index.tsv"
du -sh "$HERE/.."

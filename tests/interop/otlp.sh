#!/usr/bin/env bash
# Traces as an operator sees them: authority, sidecar, demo service and command line send them to the real OpenTelemetry
# Collector. Whose call it was and what came of it must be one trace, nothing that is secret may be in it, and a collector
# that hangs or is away must not matter to anybody.
#
# Started by run.sh, which builds the collector, grpcurl and gojq.
# shellcheck disable=SC2016 # a $ in single quotes is gojq's
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/common.sh

# ---- The collector.

# Starts it at $port. Fails if it ends instead.
start_collector() {
  : >"$work/collector.log"
  "$tools/collector" --config "$work/collector.yaml" >"$work/collector.log" 2>&1 &
  collector=$!
  children+=("$collector")
  local deadline=$((SECONDS + 30))
  until grep -q 'Everything is ready' "$work/collector.log"; do
    if ((SECONDS >= deadline)) || ! kill -0 "$collector" 2>/dev/null; then
      return 1
    fi
    sleep 0.1
  done
}

# Without bash's remark that it was killed.
kill_collector() {
  {
    kill -KILL "$collector"
    wait "$collector"
  } 2>/dev/null || true
}

# It comes back to its port later, so this is one that no outgoing connection is given meanwhile.
for _ in {1..16}; do
  port=$((15000 + RANDOM % 15000))
  cat >"$work/collector.yaml" <<END
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 127.0.0.1:$port
exporters:
  file:
    path: $work/received.json
    append: true
    flush_interval: 100ms
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [file]
END
  if start_collector; then
    break
  fi
done
if ! kill -0 "$collector" 2>/dev/null; then
  printf 'the collector did not start:\n' >&2
  cat "$work/collector.log" >&2
  exit 1
fi

# ---- What it received.

# Every span: one object on each line. The last line of the file may not be complete yet.
spans() {
  "$tools/gojq" -c '.resourceSpans[]
    | (.resource.attributes[] | select(.key == "service.name").value.stringValue) as $service
    | .scopeSpans[].spans[]
    | {service: $service, name, trace: .traceId, id: .spanId, parent: .parentSpanId, state: .traceState}' \
    "$work/received.json" 2>/dev/null || true
}

# A trace: for each of its spans the service, the name, and the service of its parent. The parent's id where no service has
# sent it; `nobody` where there is none.
trace() {
  spans | "$tools/gojq" -rs --arg trace "$1" 'map(select(.trace == $trace)) as $spans
    | $spans[]
    | .parent as $parent
    | (first($spans[] | select(.id == $parent).service) // $parent // "nobody") as $parent
    | "\(.service) \(.name) of \($parent)"' | LC_ALL=C sort
}

# eventually TEST...    Waits until it succeeds, or long enough.
eventually() {
  local deadline=$((SECONDS + 15))
  until "$@" || ((SECONDS >= deadline)); do
    sleep 0.1
  done
}

is_trace() {
  [[ "$(trace "$1")" == "$2" ]]
}

# expect_trace NAME TRACE SPAN...    The trace is these spans and no others, in alphabetical order, before long.
expect_trace() {
  local name=$1 id=$2 wanted
  shift 2
  wanted=$(printf '%s\n' "$@")
  eventually is_trace "$id" "$wanted"
  if is_trace "$id" "$wanted"; then
    ok "$name: spans $#"
  else
    not_ok "$name" 'wanted' "$@" 'got' "$(trace "$id")"
  fi
}

# one_span FILTER KEY    What the one span has under a key.
one_span() {
  spans | "$tools/gojq" -rs "map(select($1)) | if length == 1 then .[0].$2 else \"\(length) spans\" end"
}

# is_sent FILTER    There is such a span.
is_sent() {
  [[ -n "$(spans | "$tools/gojq" -r "select($1).id")" ]]
}

# A caller with a trace: traced TRACE FLAGS; then in $traced.
readonly caller=b7ad6b7169203331
traced() {
  traced=(-rpc-header "traceparent: 00-$1-$caller-$2" -rpc-header 'tracestate: interop=1')
}

# What the demo service was told of a trace.
told_demo() {
  "$tools/gojq" -r --arg trace "$1" 'select(.message == "echo" and (.traceparent // "" | contains($trace))).traceparent' \
    "$environment/logs/demo.log"
}

# ---- One trace.

export OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:$port" OTEL_BSP_SCHEDULE_DELAY=100
start_environment
readonly issuing=countersign-authority\ $issue
readonly deciding=countersign-sidecar\ $echo
readonly answering=countersign-demo\ $echo

printf '\n== from the command line to the authority\n'
bound=$("$countersign" token get --dir "$environment" --client orders)
readonly command='.service == "countersign" and .name == "countersign token"'
eventually is_sent "$command"
command_trace=$(one_span "$command" trace)
expect_trace 'a command and what the authority does for it' "$command_trace" \
  'countersign countersign token of nobody' "$issuing of countersign"
unbound=$("$countersign" token get --dir "$environment" --client billing)

printf '\n== from the caller through the sidecar to the service\n'
# Not sampled comes first: once the spans of the next calls are there, its own would be, too.
unsampled=3f1e0a5fbd7a4c3c9c0d4c1ab8f0e2d1
over_tls=0af7651916cd43dd8448eb211c80319c
over_plain=5b8efff798038103d269b633813fc60c
without_token=d4cda95b652f4a1592b449d5929fda1b
bearer "$bound"
traced "$unsampled" 00
expect 'a call that its caller does not sample' OK - "${orders[@]}" "${bearer[@]}" "${traced[@]}" -d "$hello" "$proxy" "$echo"
traced "$over_tls" 01
expect 'a call over mutual TLS' OK - "${orders[@]}" "${bearer[@]}" "${traced[@]}" -d "$hello" "$proxy" "$echo"
bearer "$unbound"
traced "$over_plain" 01
expect 'a call in plaintext' OK - -plaintext "${bearer[@]}" "${traced[@]}" -d "$hello" "$plain" "$echo"
traced "$without_token" 01
expect 'a call that is refused' UNAUTHENTICATED TOKEN_MISSING -plaintext "${traced[@]}" -d "$hello" "$plain" "$echo"
for one in "$over_tls" "$over_plain"; do
  expect_trace 'the caller, the sidecar, the service' "$one" "$answering of countersign-sidecar" "$deciding of $caller"
  sidecar_span=$(one_span ".trace == \"$one\" and .service == \"countersign-sidecar\"" id)
  expect_equal 'the service was told so' "00-$one-$sidecar_span-01" "$(told_demo "$one")"
  expect_equal 'and the state of the trace came along' interop=1 \
    "$(one_span ".trace == \"$one\" and .service == \"countersign-demo\"" state)"
done
expect_trace 'what is refused goes no further' "$without_token" "$deciding of $caller"
expect_equal 'spans of what is not sampled' 0 "$(trace "$unsampled" | wc -l)"
if [[ "$(told_demo "$unsampled")" =~ ^00-$unsampled-[0-9a-f]{16}-00$ ]]; then
  ok 'and the service was told that it is not'
else
  not_ok 'the service was not told that the call is not sampled' "$(told_demo "$unsampled")"
fi

# both_are_traced DIGIT    A token and a call, and their traces, whose ids have this digit.
both_are_traced() {
  local issued=0000000000000000000000000000${1}001 called=0000000000000000000000000000${1}002
  traced "$issued" 01
  expect 'a token' OK - "${orders[@]}" "${traced[@]}" -d "$(wanted)" "$authority" "$issue"
  expect_trace 'of the authority' "$issued" "$issuing of $caller"
  traced "$called" 01
  expect 'a call' OK - -plaintext "${bearer[@]}" "${traced[@]}" -d "$hello" "$plain" "$echo"
  expect_trace 'of the sidecar' "$called" "$answering of countersign-sidecar" "$deciding of $caller"
}

# ---- Nothing that is secret.

printf '\n== what nobody may read there\n'
expect 'the operator registers a client' OK - "${operator[@]}" -d "{
  \"client_id\": \"interop\", \"with_secret\": true,
  \"grants\": [{\"audience\": \"$audience\", \"scopes\": [\"$scope\"], \"default_scopes\": [\"$scope\"]}]}" \
  "$authority" countersign.admin.v1.ClientService/CreateClient
new_secret=$("$tools/gojq" -r '.client_secret // .clientSecret' "$work/out")
fresh 'a token by a secret in the request' "${billing[@]}" \
  -d "$(wanted "\"client_id\":\"interop\",\"client_secret\":\"$new_secret\"")" "$authority" "$issue"
"$countersign" revoke token --dir "$environment" "$fresh" >"$work/out"
expect 'a wrong secret' UNAUTHENTICATED INVALID_CLIENT "${billing[@]}" \
  -d "$(wanted "\"client_id\":\"interop\",\"client_secret\":\"not-$new_secret\"")" "$authority" "$issue"
expect 'a tampered token' UNAUTHENTICATED SIG_INVALID -plaintext -rpc-header "authorization: Bearer ${fresh%?????}AAAAA" \
  -d "$hello" "$plain" "$echo"
expect 'a token where none belongs' UNIMPLEMENTED - -plaintext "${bearer[@]}" -rpc-header "x-token: $unbound" \
  -protoset proto/src/gen/descriptors.bin "$plain" countersign.verify.v1.VerifyService/GetStatus
expect 'the Verify API is asked' OK - -plaintext -d "{\"token\":\"$unbound\",\"path\":\"/$echo\"}" "$verify" \
  countersign.verify.v1.VerifyService/Verify
fresh 'a token by HTTP Basic' "${billing[@]}" -rpc-header "authorization: Basic $basic" -d "$(wanted)" "$authority" "$issue"
bearer "$fresh"
# Each process sends in order, so with these all of the above has arrived.
both_are_traced a

# nowhere NAME SECRET    Neither is the secret in what the collector received, nor is its beginning or its end.
nowhere() {
  if grep -qF -e "$2" -e "${2:0:16}" -e "${2: -16}" "$work/received.json"; then
    not_ok "$1 is in a trace"
  else
    ok "$1 is in no trace"
  fi
}

for one in "$bound" "$unbound" "$fresh"; do
  IFS=. read -r _ payload signature <<<"$one"
  nowhere 'the payload of a token' "$payload"
  nowhere 'the signature of a token' "$signature"
done
nowhere 'a secret' "$billing_secret"
nowhere 'a new secret' "$new_secret"
nowhere 'a password in base64' "$basic"

# ---- The collector does not matter.

# run_part NAME ARGUMENT...    Runs a part that sends as its configuration file says, and keeps next to nothing to be sent
#                              later. Its process is in $part.
run_part() {
  local name=$1
  shift
  env -u OTEL_EXPORTER_OTLP_ENDPOINT OTEL_BSP_MAX_QUEUE_SIZE=4 OTEL_BSP_MAX_EXPORT_BATCH_SIZE=2 \
    "$countersign" run "$name" "$@" --config "$environment/$name-otlp.toml" >"$work/$name.log" 2>&1 &
  part=$!
  children+=("$part")
}

run_authority() {
  run_part authority serve
  authority_process=$part
}

run_sidecar() {
  run_part sidecar
  sidecar_process=$part
}

# ends NAME PID    A process of ours ends in order, within the time that it gives to open calls, of which there are none.
ends() {
  local started=$SECONDS status=0
  kill -TERM "$2"
  gone "$2"
  wait "$2" || status=$?
  if ((status == 0 && SECONDS - started < 10)); then
    ok "$1 ends in time"
  else
    not_ok "$1 does not end in time" "exit code $status after $((SECONDS - started)) s"
  fi
}

# carries_on NAME    More calls than spans can be kept, and a token. An export that hangs takes 5 s until it is given up, so
#                    nobody waits for one.
carries_on() {
  local name=$1 calls=0
  while ((calls < 12)); do
    call -plaintext -max-time 3 "${bearer[@]}" -d "$hello" "$plain" "$echo"
    if [[ "$code" != OK ]]; then
      not_ok "$name: a call" "$code ${reason:--}"
      return
    fi
    calls=$((calls + 1))
  done
  ok "$name: $calls calls"
  expect "$name: a token" OK - -max-time 3 "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
  # It waits 2 s for its last spans.
  if timeout 5 "$countersign" token get --dir "$environment" --client orders >"$work/out"; then
    ok "$name: a command"
  else
    not_ok "$name: a command"
  fi
}

# Both answer, after a start.
both_answer() {
  within 20 'the authority answers' OK - "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
  within 20 'the sidecar answers' OK - -plaintext "${bearer[@]}" -d "$hello" "$plain" "$echo"
}

# lines NAME TEXT COUNT LOG    That many lines of the log have the text.
lines() {
  expect_equal "$1" "$3" "$(grep -cF -- "$2" "$work/$4.log" || true)"
}

for one in authority sidecar; do
  cp "$environment/$one.toml" "$environment/$one-otlp.toml"
  printf '\n[telemetry]\notlp_endpoint = "http://127.0.0.1:%d"\n' "$port" >>"$environment/$one-otlp.toml"
  kill -TERM "$(dev ".processes.$one.pid")"
  gone "$(dev ".processes.$one.pid")"
done

printf '\n== a collector named in the configuration files\n'
run_authority
run_sidecar
both_answer
both_are_traced b

printf '\n== a collector that hangs\n'
kill -STOP "$collector"
carries_on 'the collector hangs'
ends 'the sidecar' "$sidecar_process"
ends 'the authority' "$authority_process"

printf '\n== no collector\n'
kill_collector
run_authority
run_sidecar
both_answer
carries_on 'no collector'

printf '\n== the collector is back\n'
if start_collector; then
  ok 'it listens'
else
  not_ok 'it does not listen' "$(tail -n 3 "$work/collector.log")"
fi
both_are_traced c
lines 'the sidecar told once that spans are lost' 'the collector takes no spans' 1 sidecar
lines 'and once that they are not any more' 'the collector takes spans again' 1 sidecar

printf '\n== everything ends, without a collector\n'
kill_collector
carries_on 'no collector again'
ends 'the sidecar' "$sidecar_process"
ends 'the authority' "$authority_process"
ends 'the environment' "$supervisor"

tally dev sidecar authority collector

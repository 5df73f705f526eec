#!/usr/bin/env bash
# A Rust service that verifies its callers itself: the example of docs/embedding.md, beside a development environment, called by the
# real grpcurl.
#
# Started by run.sh, which builds grpcurl and gojq. Python finds a free port.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; common.sh sets what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/common.sh

printf '== building the example\n'
cargo build --quiet --locked -p countersign-tower --example orders
start_environment

# The example has no reflection. What it can be asked is in proto/; the details of a status, the demo service describes.
call -plaintext -protoset-out "$work/details.bin" "$plain" describe google.rpc.ErrorInfo
expect_equal 'the details of a status are described' OK "$code"

# A port that nobody has: the system's choice for a moment.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
readonly service=127.0.0.1:$port
target/debug/examples/orders "$environment" "$authority" "$service" >"$work/orders.log" 2>&1 &
example=$!
children+=("$example")
readonly example

readonly described=(-plaintext -protoset proto/src/gen/descriptors.bin -protoset "$work/details.bin")

# to_service NAME CODE REASON TOKEN [GRPCURL-ARGUMENT...]    Without a token when TOKEN is empty.
to_service() {
  local header=()
  if [[ -n "$4" ]]; then
    header=(-rpc-header "authorization: Bearer $4")
  fi
  expect "$1" "$2" "$3" "${described[@]}" "${header[@]}" "${@:5}" -d "$hello" "$service" "$echo"
}

# becomes_at_service SECONDS NAME CODE REASON TOKEN    As `to_service`, once it comes true.
becomes_at_service() {
  within "$1" "$2" "$3" "$4" "${described[@]}" -rpc-header "authorization: Bearer $5" -d "$hello" "$service" "$echo"
}

caller() {
  expect_answer "$1" '.[0].caller | "\(.client_id // .clientId) \(.subject) \(.scopes | join(" "))"' "$2"
}

# ---- Calls.

fresh 'billing gets a token' "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
good=$fresh
expect 'the operator registers a client' OK - "${operator[@]}" -d "{
  \"client_id\": \"interop\", \"with_secret\": true, \"grants\": [
    {\"audience\": \"$audience\", \"scopes\": [\"$scope\", \"interop.nothing\"], \"default_scopes\": [\"$scope\"]}]}" \
  "$authority" countersign.admin.v1.ClientService/CreateClient
interop="\"client_id\":\"interop\",\"client_secret\":\"$("$tools/gojq" -r '.client_secret // .clientSecret' "$work/out")\""
fresh 'a token with another scope' "${billing[@]}" -d "$(wanted "\"scopes\":[\"interop.nothing\"],$interop")" "$authority" "$issue"
narrow=$fresh
fresh 'a token to revoke' "${billing[@]}" -d "$(wanted "$interop")" "$authority" "$issue"
revoked=$fresh
fresh 'orders gets a token that is bound to its certificate' "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
bound=$fresh

readonly billing_is="$billing_id client:dev.countersign.test/$billing_id $scope"
printf '\n== allowed\n'
becomes_at_service 20 'a good token' OK - "$good"
caller 'the service knows who called' "$billing_is"
to_service 'nobody names himself' OK - "$good" -rpc-header 'x-countersign-client: root' -rpc-header 'x-countersign-subject: root'
caller 'nobody names himself' "$billing_is"
to_service 'another client' OK - "$revoked"
caller 'another client' "interop client:dev.countersign.test/interop $scope"
expect 'a stream' OK - "${described[@]}" -rpc-header "authorization: Bearer $good" -d '{"message":"x","count":3}' "$service" \
  "$demo/Expand"
expect_answer 'a stream' 'length | tostring' 3

printf '\n== refused\n'
to_service 'without a token' UNAUTHENTICATED TOKEN_MISSING ''
to_service 'a name is no token' UNAUTHENTICATED TOKEN_MISSING '' -rpc-header 'x-countersign-client: root'
to_service 'garbage' UNAUTHENTICATED TOKEN_MALFORMED garbage
to_service 'another scope' PERMISSION_DENIED SCOPE_INSUFFICIENT "$narrow"
to_service 'a bound token without its certificate' UNAUTHENTICATED CNF_MISMATCH "$bound"
expect 'a method that nobody has named needs a token, too' UNAUTHENTICATED TOKEN_MISSING "${described[@]}" -d '{}' "$service" \
  countersign.verify.v1.VerifyService/GetStatus
expect 'and is not there for who has one' UNIMPLEMENTED - "${described[@]}" -rpc-header "authorization: Bearer $good" -d '{}' "$service" \
  countersign.verify.v1.VerifyService/GetStatus

# ---- A verifier like any other.

printf '\n== fleet\n'
"$countersign" fleet --dir "$environment" --json >"$work/fleet" 2>"$work/err" || true
expect_found 'two verifiers, both up to date' -r '[.verifiers[] | select(.connected and .up_to_date)] | length | tostring' \
  "$work/fleet" 2
expect_found 'each with a name of its own' -r '[.verifiers[].verifier_id] | unique | length | tostring' "$work/fleet" 2

if "$countersign" revoke token --dir "$environment" --reason interop --json - <<<"$revoked" >"$work/receipt" 2>"$work/err"; then
  ok 'the operator revokes a token'
else
  not_ok 'the operator revokes a token' "$(cat "$work/err")"
fi
expect_found 'the receipt counts both' -r '"\(.in_force) of \(.live)"' "$work/receipt" '2 of 2'
becomes_at_service 5 'revoked' UNAUTHENTICATED TOKEN_REVOKED "$revoked"

# ---- Without the authority.

# still_decides NAME
still_decides() {
  becomes_at_service 20 "$1: a good token passes" OK - "$good"
  caller "$1: the service knows who called" "$billing_is"
  to_service "$1: the revoked one does not" UNAUTHENTICATED TOKEN_REVOKED "$revoked"
  to_service "$1: nor does none" UNAUTHENTICATED TOKEN_MISSING ''
}

printf '\n== the authority is killed\n'
kill -KILL "$(dev .processes.authority.pid)"
gone "$(dev .processes.authority.pid)"
expect 'no more tokens' 'no status' - "${orders[@]}" -connect-timeout 2 -d "$(wanted)" "$authority" "$issue"
still_decides 'authority down'

printf '\n== the service is killed and started again, offline\n'
{
  kill -KILL "$example"
  wait "$example"
} 2>/dev/null || true
target/debug/examples/orders "$environment" "$authority" "$service" >"$work/orders.log" 2>&1 &
example_again=$!
children+=("$example_again")
still_decides 'service restarted, authority down'

printf '\n== it ends when it is told to\n'
kill -INT "$example_again"
gone "$example_again"
status=0
wait "$example_again" || status=$?
expect_equal 'exit' 0 "$status"

tally dev orders

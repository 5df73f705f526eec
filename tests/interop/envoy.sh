#!/usr/bin/env bash
# The real Envoy, configured by k8s/envoy/envoy.yaml, before the demo service, with a sidecar as its external authorization: what
# passes and what is told of the caller, what is refused with which status and reason, and what stands in Envoy's log of each (I-18);
# stale trust; and no sidecar (F14, F42).
#
# Started by run.sh. Installs Envoy, which envoy.txt pins, in target/. Everything runs in a network namespace without a way out, where
# all of the ports in the configuration are free; that needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
readonly venv=target/interop/python
if [[ ${1:-} != inside ]]; then
  if ! "$venv/bin/pip" --version >/dev/null 2>&1; then
    python3 -m venv --clear "$venv"
  fi
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/interop/envoy.txt
  exec unshare --map-root-user --net tests/interop/envoy.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=4 budget=4
# As the configuration names them.
readonly plain_port=8080 tls_port=8443 service_port=50051 ask_port=9003 envoy_admin=9901
envoy=$("$venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin/envoy")')
readonly envoy

# ---- The processes.

run_authority() {
  start authority "$countersign" run authority serve --config "$work/authority.toml"
  authority_process=$started
}
# run_sidecar [LINE...]    With more lines in [ext_authz].
run_sidecar() {
  configure 01
  printf '%s\n' '[ext_authz]' "grpc = \"127.0.0.1:$ask_port\"" 'believe_peer_certificate = true' "$@" >>"$work/01.toml"
  start 01 "$countersign" run sidecar --config "$work/01.toml"
  sidecar=$started
}
decides() {
  [[ $(ready "$(admin_port 01)" 2>/dev/null || true) == 200 ]]
}
takes_calls() {
  [[ $(ready "$envoy_admin" 2>/dev/null || true) == 200 ]]
}

start_fleet
on_loopback
certificate 01
configure_authority authority "$authority_port" "$environment/authority/store.redb" 01
run_authority
until admin fleet >/dev/null 2>&1; do sleep 0.1; done
forget_environment
run_sidecar 'disclose_reasons = true'
start demo "$countersign" run demo --listen "127.0.0.1:$service_port"
demo_process=$started
sed -e "s|/run/envoy/tls.crt|$environment/pki/sidecar.pem|; s|/run/envoy/tls.key|$environment/pki/sidecar-key.pem|" \
  -e "s|/run/envoy/ca.crt|$environment/pki/ca.pem|" k8s/envoy/envoy.yaml >"$work/envoy.yaml"
start envoy "$envoy" --config-path "$work/envoy.yaml" --concurrency 1 --use-dynamic-base-id --log-level warning \
  --file-flush-interval-msec 20
expect_equal 'which Envoy' 1.40.0 "$("$envoy" --version | sed -n 's|.*/\([0-9.]*\)/Clean/.*|\1|p')"
becomes 20 'the sidecar decides' decides
becomes 20 'Envoy takes calls' takes_calls

# What statuses have in them, as the sidecar describes it: asked once, so that each call is one request.
expect 'the sidecar describes its service and what is in statuses' OK - -plaintext -protoset-out "$work/details" \
  "127.0.0.1:$ask_port" describe google.rpc.ErrorInfo

printf '\n== its protocol, as we wrote it down\n'
"$tools/envoyapi" proto/src/gen/descriptors.bin >"$work/found" || true
count_found

# ---- Requests, and what Envoy's log has of each.

requests=0
# Calls the demo service through Envoy: grpc GRPCURL-ARGUMENT...
grpc() {
  requests=$((requests + 1))
  call -protoset proto/src/gen/descriptors.bin -protoset "$work/details" -d "$hello" "$@" "$demo/Echo"
  got="$code ${reason:--}"
}
# Any other request: http CURL-ARGUMENT...    The answer is in $work/out, its headers in $work/head.
http() {
  requests=$((requests + 1))
  got=$(curl --silent --max-time 10 --path-as-is --output "$work/out" --dump-header "$work/head" --write-out '%{http_version} %{http_code}' \
    "$@" || true)
}
# The line of the last request, as decision, reason and client; in $work/line.
written() {
  local deadline=$((SECONDS + 10))
  until (($(grep -c '^{' "$work/envoy.log") >= requests)) || ((SECONDS >= deadline)); do sleep 0.02; done
  grep '^{' "$work/envoy.log" | sed -n "${requests}p" >"$work/line"
  "$tools/gojq" -r '[.decision, .reason, .client] | map(. // "-") | join(" ")' "$work/line" 2>&1 || true
}
# answers NAME WANTED LOGGED COMMAND...    What a request comes to, for the caller and in the log.
answers() {
  local logged
  "${@:4}"
  logged=$(written)
  if [[ "$got" == "$2" && "$logged" == "$3" ]]; then
    ok "$1: $got, logged as $logged"
  else
    not_ok "$1" "wanted $2, got $got" "wanted the log to say $3, it says $logged" "$(head -c 600 "$work/err")"
  fi
}
# answered STATUS COMMAND...    For `becomes`.
answered() {
  "${@:2}"
  [[ $got == "$1" ]]
}
# has_header NAME HEADER VALUE    Of the last answer to `http`.
has_header() {
  expect_equal "$1" "$3" "$(tr -d '\r' <"$work/head" | sed -n "s/^$2: //ip")"
}

readonly pod=(-plaintext "127.0.0.1:$plain_port") web=http://127.0.0.1:$plain_port
with() {
  bearer "$1"
  grpc "${bearer[@]}" "${@:2}" "${pod[@]}"
}
# with_certificate WHO TOKEN    Over mutual TLS.
with_certificate() {
  local pki=$environment/pki
  bearer "$2"
  grpc "${bearer[@]}" -cacert "$ca" -cert "$pki/$1.pem" -key "$pki/$1-key.pem" "localhost:$tls_port"
}

new_client caller
admin client create narrow --grant "$audience=interop.nothing" --grant "elsewhere.example=$scope" --with-secret \
  --secret-file "$work/narrow" >/dev/null 2>&1
narrow_token() {
  as billing token get --client narrow --secret-file "$work/narrow" --audience "$1" 2>/dev/null
}
good=$(new_token caller)
short=$(new_token caller --lifetime 1s)
bound=$(as orders token get --client orders --audience "$audience" 2>/dev/null)

printf '\n== gRPC\n'
answers 'a good token' 'OK -' 'allowed token_verified caller' with "$good"
expect_answer 'the service is told who calls' '.[0].caller | "\(.subject) \(.clientId) \(.scopes)"' \
  "client:dev.countersign.test/caller caller [\"$scope\"]"
expect_found 'the log has token, scopes, epoch and status' -r \
  '[(.token_id | type), (.scopes | tostring), (.epoch | tonumber > 0), .status, .protocol] | join(" ")' "$work/line" \
  "string [\"$scope\"] true 200 HTTP/2"
answers 'identity that the caller made up' 'OK -' 'allowed token_verified caller' with "$good" \
  -rpc-header 'x-countersign-client: root' -rpc-header 'x-countersign-subject: client:dev.countersign.test/root'
expect_answer 'is overwritten' '.[0].caller | "\(.subject) \(.clientId)"' 'client:dev.countersign.test/caller caller'
answers 'no token' 'UNAUTHENTICATED TOKEN_MISSING' 'refused token_missing -' grpc "${pod[@]}"
expect_found 'the log has the status' -r '"\(.status) \(.grpc_status) \(.details)"' "$work/line" \
  '200 Unauthenticated ext_authz_denied'
answers 'no token, in words' 'UNAUTHENTICATED TOKEN_MALFORMED' 'refused token_malformed -' with x
answers 'two of them' 'UNAUTHENTICATED TOKEN_MALFORMED' 'refused token_malformed -' with "$good" \
  -rpc-header "authorization: Bearer $good"
becomes 10 'a token expires' answered 'UNAUTHENTICATED TOKEN_EXPIRED' with "$short"
answers 'an expired token' 'UNAUTHENTICATED TOKEN_EXPIRED' 'refused token_expired -' with "$short"
answers 'a token for another service' 'UNAUTHENTICATED AUD_MISMATCH' 'refused aud_mismatch -' with \
  "$(narrow_token elsewhere.example)"
answers 'a token without the scope' 'PERMISSION_DENIED SCOPE_INSUFFICIENT' 'refused scope_insufficient -' with \
  "$(narrow_token "$audience")"
revoked=$(new_token caller)
answers 'before it is revoked' 'OK -' 'allowed token_verified caller' with "$revoked"
printf '%s' "$revoked" | admin revoke token - --reason interop --wait >/dev/null 2>"$work/err" || not_ok 'revoking' "$(cat "$work/err")"
answers 'after it is revoked' 'UNAUTHENTICATED TOKEN_REVOKED' 'refused token_revoked -' with "$revoked"

printf '\n== mutual TLS\n'
answers 'a bound token with its certificate' 'OK -' 'allowed token_verified orders' with_certificate orders "$bound"
answers 'with another certificate' 'UNAUTHENTICATED CNF_MISMATCH' 'refused cnf_mismatch -' with_certificate billing "$bound"
answers 'without one' 'UNAUTHENTICATED CNF_MISMATCH' 'refused cnf_mismatch -' with "$bound"

printf '\n== HTTP\n'
readonly authorized=(-H "authorization: Bearer $good")
answers 'HTTP/1.1 without a token' '1.1 401' 'refused token_missing -' http "$web/orders/17"
has_header 'with a challenge' www-authenticate Bearer
answers 'HTTP/2 without a token' '2 401' 'refused token_missing -' http --http2-prior-knowledge "$web/orders/17"
answers 'a scope is missing' '1.1 403' 'refused scope_insufficient -' http "$web/$demo/Echo" \
  -H "authorization: Bearer $(narrow_token "$audience")"
for path in /orders/../admin /orders%2f17 //orders /orders/; do
  answers "two readings: $path" '1.1 400' 'refused request_malformed -' http "${authorized[@]}" "$web$path"
done
answers 'two readings, HTTP/2' '2 400' 'refused request_malformed -' http --http2-prior-knowledge "${authorized[@]}" \
  "$web/orders/../admin"
answers 'a token that is none for its size' '1.1 431' 'refused token_too_large -' http "$web/orders" \
  -H "authorization: Bearer $(printf 'x%.0s' {1..9000})"
answers 'as many headers as Envoy takes' '1.1 401' 'refused token_missing -' http "$web/orders" -H "x-long: $(printf 'x%.0s' {1..40000})"
answers 'no method that asks for something' '1.1 405' 'refused not_a_call -' http -X TRACE "${authorized[@]}" "$web/orders"

# A service that speaks HTTP/1.1 and answers with the headers that it got.
end "$demo_process"
start echo "$venv/bin/python" -c '
import http.server, json, sys
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()' "$service_port"
echo_process=$started
becomes 10 'a service that speaks HTTP/1.1' answered '1.1 200' http "${authorized[@]}" "$web/orders/17"
answers 'HTTP/1.1 with a token' '1.1 200' 'allowed token_verified caller' http "${authorized[@]}" \
  -H 'x-countersign-client: root' -H 'x-countersign-admin: yes' -H 'x-forwarded-client-cert: By=me' "$web/orders/17?limit=3"
expect_found 'the service is told who calls, and gets neither the token nor what the caller made up' -r \
  '[."x-countersign-client", has("x-countersign-admin"), has("x-forwarded-client-cert"), has("authorization")] | map(tostring) | join(" ")' \
  "$work/out" 'caller false false false'
end "$echo_process"
start demo "$countersign" run demo --listen "127.0.0.1:$service_port"
becomes 10 'the demo service is back' answered 'OK -' with "$good"

printf '\n== the authority is off\n'
end "$authority_process"
answers 'within the budget' 'OK -' 'allowed token_verified caller' with "$good"
becomes 30 'trust becomes stale' answered 'UNAVAILABLE TRUST_STALE' with "$good"
answers 'stale, gRPC' 'UNAVAILABLE TRUST_STALE' 'refused trust_stale -' with "$good"
answers 'stale, HTTP' '1.1 503' 'refused trust_stale -' http "${authorized[@]}" "$web/orders/17"
has_header 'and when to come again' retry-after 2
run_authority
becomes 30 'the authority is back' answered 'OK -' with "$good"

printf '\n== the sidecar is killed\n'
end "$sidecar"
answers 'no sidecar, gRPC' 'UNAVAILABLE -' '- - -' with "$good"
expect_found 'for that reason' -r .details "$work/line" ext_authz_error
answers 'no sidecar, HTTP' '1.1 503' '- - -' http "${authorized[@]}" "$web/orders/17"
answers 'no sidecar, no token' '1.1 503' '- - -' http "$web/orders/17"
run_sidecar
becomes 30 'another one, which tells callers little' answered 'OK -' with "$good"
answers 'Envoy is told why, and the caller is not' 'UNAUTHENTICATED INVALID_TOKEN' 'refused token_revoked -' with "$revoked"

if grep -qF -e "${good##*.}" "$work/envoy.log"; then
  not_ok 'no token is in the log'
else
  ok "no token is in the log: $requests requests"
fi

tally authority 01 envoy

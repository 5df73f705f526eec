#!/usr/bin/env bash
# Countersign as somebody sees it who has never seen it: a development environment and the real grpcurl, nothing else of
# ours on the caller's side. Every expectation is one line of output; the last line counts them.
#
# Started by run.sh, which builds grpcurl and gojq. Needs nothing but those, Rust and coreutils.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/common.sh

start_environment

# ---- What anybody can look up.

printf '\n== reflection\n'
expect_services 'the authority lists its services' \
  countersign.token.v1.TokenService countersign.sync.v1.SyncService countersign.admin.v1.ClientService \
  countersign.admin.v1.KeyService countersign.admin.v1.RevocationService countersign.admin.v1.FleetService \
  countersign.admin.v1.PublishingKeyService countersign.admin.v1.DrillService countersign.admin.v1.TrustService \
  -- "${orders[@]}" "$authority"
expect_services 'the demo lists its services, through the sidecar' "$demo" -- "${orders[@]}" "$proxy"
expect_services 'the demo lists its services, through the plaintext listener' "$demo" -- -plaintext "$plain"
expect_services 'the sidecar lists its own services' countersign.verify.v1.VerifyService -- -plaintext "$verify"
expect 'the authority describes no service of others' 'no status' - "${orders[@]}" "$authority" \
  describe countersign.verify.v1.VerifyService
expect 'the authority is healthy' OK - "${orders[@]}" "$authority" grpc.health.v1.Health/Check
expect_answer 'the authority is healthy' '.[0].status' SERVING
expect 'nobody talks to the authority without a certificate' 'no status' - -cacert "$ca" "$authority" list

# ---- Tokens.

printf '\n== tokens\n'
fresh 'orders gets a token by its certificate' "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
bound=$fresh
expect_answer 'it lives a quarter of an hour' '.[0] | (.expires_in // .expiresIn) | tostring' 900
fresh 'billing gets a token by its secret' "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
unbound=$fresh
fresh 'billing gets a token by HTTP Basic' "${billing[@]}" -H "authorization: Basic $basic" -d "$(wanted)" \
  "$authority" "$issue"
expect 'never both at once' INVALID_ARGUMENT INVALID_REQUEST "${billing[@]}" -H "authorization: Basic $basic" \
  -d "$(wanted "$(credentials)")" "$authority" "$issue"
expect 'a wrong secret' UNAUTHENTICATED INVALID_CLIENT "${billing[@]}" \
  -d "$(wanted "\"client_id\":\"$billing_id\",\"client_secret\":\"wrong\"")" "$authority" "$issue"
expect 'an unknown client looks the same' UNAUTHENTICATED INVALID_CLIENT "${billing[@]}" \
  -d "$(wanted '"client_id":"nobody","client_secret":"wrong"')" "$authority" "$issue"
expect 'a stolen secret over the certificate of another client' UNAUTHENTICATED INVALID_CLIENT "${orders[@]}" \
  -d "$(wanted "$(credentials)")" "$authority" "$issue"
expect 'another grant' INVALID_ARGUMENT UNSUPPORTED_GRANT_TYPE "${orders[@]}" -d '{"grant_type":"password"}' \
  "$authority" "$issue"
expect 'an audience that is not registered' INVALID_ARGUMENT INVALID_TARGET "${orders[@]}" \
  -d '{"grant_type":"client_credentials","audience":"elsewhere"}' "$authority" "$issue"
expect_detail 'the reason stands there as in metrics, too' '.details[0].metadata.reason' invalid_target
expect 'a scope that is not registered' INVALID_ARGUMENT INVALID_SCOPE "${orders[@]}" \
  -d "$(wanted '"scopes":["everything"]')" "$authority" "$issue"
expect 'no token is endless' INVALID_ARGUMENT INVALID_REQUEST "${orders[@]}" -d "$(wanted '"lifetime_seconds":0')" \
  "$authority" "$issue"
expect 'a field of the wrong form' INVALID_ARGUMENT INVALID_ARGUMENT "${operator[@]}" -d '{"client_id":"*"}' "$authority" \
  countersign.admin.v1.ClientService/GetClient
expect_detail 'is named' '[.details[].fieldViolations[]?.field] | join(" ")' client_id
expect 'a client is no operator' PERMISSION_DENIED NOT_AN_OPERATOR "${orders[@]}" "$authority" \
  countersign.admin.v1.ClientService/ListClients

# ---- Calls that pass.

printf '\n== allowed\n'
bearer "$bound"
expect 'orders calls over mutual TLS' OK - "${orders[@]}" "${bearer[@]}" -d "$hello" "$proxy" "$echo"
expect_answer 'the answer comes from the service' '.[0].message' hello
expect_answer 'which knows who called' '.[0].caller.client_id // .[0].caller.clientId' orders
expect 'nobody names himself' OK - "${orders[@]}" "${bearer[@]}" -rpc-header 'x-countersign-client: root' \
  -d "$hello" "$proxy" "$echo"
expect_answer 'nobody names himself' '.[0].caller.client_id // .[0].caller.clientId' orders
expect 'client streaming' OK - "${orders[@]}" "${bearer[@]}" -d '{"message":"a"}{"message":"b"}' "$proxy" "$demo/Collect"
expect_answer 'client streaming' '.[0].message' 'a b'
expect 'server streaming' OK - "${orders[@]}" "${bearer[@]}" -d '{"message":"x","count":3}' "$proxy" "$demo/Expand"
expect_answer 'server streaming' 'length | tostring' 3
expect 'both ways' OK - "${orders[@]}" "${bearer[@]}" -d '{"message":"a"}{"message":"b"}' "$proxy" "$demo/Chat"
expect_answer 'both ways' '[.[].message] | join(" ")' 'a b'
bearer "$unbound"
expect 'billing calls in plaintext' OK - -plaintext "${bearer[@]}" -d "$hello" "$plain" "$echo"
expect_answer 'billing calls in plaintext' '.[0].caller.client_id // .[0].caller.clientId' "$billing_id"
expect 'billing calls over mutual TLS' OK - "${billing[@]}" "${bearer[@]}" -d "$hello" "$proxy" "$echo"
expect 'the Verify API allows the same' OK - -plaintext -d "{\"token\":\"$unbound\",\"path\":\"/$echo\"}" "$verify" \
  countersign.verify.v1.VerifyService/Verify
expect_answer 'the Verify API allows the same' '.[0].allowed.client_id // .[0].allowed.clientId' "$billing_id"

# ---- Calls that do not.

# refused NAME CODE REASON TOKEN    Through both listeners. Without a token when TOKEN is empty.
refused() {
  local header=()
  if [[ -n "$4" ]]; then
    header=(-rpc-header "authorization: Bearer $4")
  fi
  expect "$1, mutual TLS" "$2" "$3" "${billing[@]}" "${header[@]}" -d "$hello" "$proxy" "$echo"
  expect "$1, plaintext" "$2" "$3" -plaintext "${header[@]}" -d "$hello" "$plain" "$echo"
}

printf '\n== refused\n'
refused 'without a token' UNAUTHENTICATED TOKEN_MISSING ''
refused 'garbage' UNAUTHENTICATED TOKEN_MALFORMED garbage
expect 'another scheme' UNAUTHENTICATED TOKEN_MISSING -plaintext -rpc-header "authorization: Basic $basic" -d "$hello" \
  "$plain" "$echo"
expect 'two tokens' UNAUTHENTICATED TOKEN_MALFORMED -plaintext -rpc-header "authorization: Bearer $unbound" \
  -rpc-header "authorization: Bearer $unbound" -d "$hello" "$plain" "$echo"

IFS=. read -r header payload signature <<<"$unbound"
# The first character of a signature has no spare bits: another one is another signature.
case $signature in A*) other=B ;; *) other=A ;; esac
refused 'a tampered signature' UNAUTHENTICATED SIG_INVALID "$header.$payload.$other${signature:1}"
IFS=. read -r _ bound_payload _ <<<"$bound"
refused 'the claims of another token' UNAUTHENTICATED SIG_INVALID "$header.$bound_payload.$signature"
none=$(printf '{"alg":"none","typ":"at+jwt"}' | base64 | tr -d '=\n' | tr '+/' '-_')
refused 'no algorithm' UNAUTHENTICATED ALG_NOT_ALLOWED "$none.$payload."

refused 'a bound token over the certificate of somebody else' UNAUTHENTICATED CNF_MISMATCH "$bound"

# A client with more than one audience and scope, registered by the operator, over gRPC too.
expect 'the operator registers a client' OK - "${operator[@]}" -d "{
  \"client_id\": \"interop\", \"with_secret\": true, \"grants\": [
    {\"audience\": \"$audience\", \"scopes\": [\"$scope\", \"interop.nothing\"], \"default_scopes\": [\"$scope\"]},
    {\"audience\": \"elsewhere.example\", \"scopes\": [\"$scope\"], \"default_scopes\": [\"$scope\"]}]}" \
  "$authority" countersign.admin.v1.ClientService/CreateClient
interop_secret=$("$tools/gojq" -r '.client_secret // .clientSecret' "$work/out")
interop="\"client_id\":\"interop\",\"client_secret\":\"$interop_secret\""

fresh 'a token for another audience' "${billing[@]}" \
  -d "{\"grant_type\":\"client_credentials\",\"audience\":\"elsewhere.example\",$interop}" "$authority" "$issue"
refused 'for another audience' UNAUTHENTICATED AUD_MISMATCH "$fresh"
fresh 'a token with another scope' "${billing[@]}" -d "$(wanted "\"scopes\":[\"interop.nothing\"],$interop")" \
  "$authority" "$issue"
refused 'without the scope' PERMISSION_DENIED SCOPE_INSUFFICIENT "$fresh"

fresh 'a token that lives a second' "${billing[@]}" -d "$(wanted "\"lifetime_seconds\":1,$interop")" "$authority" "$issue"
within 10 'expired' UNAUTHENTICATED TOKEN_EXPIRED -plaintext -rpc-header "authorization: Bearer $fresh" -d "$hello" \
  "$plain" "$echo"
refused 'expired' UNAUTHENTICATED TOKEN_EXPIRED "$fresh"

fresh 'a token to revoke' "${billing[@]}" -d "$(wanted "$interop")" "$authority" "$issue"
revoked=$fresh
bearer "$revoked"
expect 'before it is revoked' OK - -plaintext "${bearer[@]}" -d "$hello" "$plain" "$echo"
expect 'the operator revokes it' OK - "${operator[@]}" -d "{\"token\":\"$revoked\",\"reason\":\"interop\"}" "$authority" \
  countersign.admin.v1.RevocationService/Revoke
expect_answer 'it is in force on the only verifier' '.[0].reach | "\(.live) \(.inForce) \(.complete)"' '1 1 true'
expect 'the operator watches the epoch' OK - "${operator[@]}" -d '{"tokens_end":"2100-01-01T00:00:00Z"}' "$authority" \
  countersign.admin.v1.FleetService/WatchEpoch
expect_answer 'the stream ends when it is complete' '.[-1].reach.complete' true
within 5 'revoked' UNAUTHENTICATED TOKEN_REVOKED -plaintext "${bearer[@]}" -d "$hello" "$plain" "$echo"
refused 'revoked' UNAUTHENTICATED TOKEN_REVOKED "$revoked"
expect 'the Verify API refuses the same' OK - -plaintext -d "{\"token\":\"$revoked\",\"path\":\"/$echo\"}" "$verify" \
  countersign.verify.v1.VerifyService/Verify
expect_answer 'the Verify API refuses the same' '.[0].refused.reason' token_revoked

fresh 'a token of a client to revoke' "${billing[@]}" -d "$(wanted "$interop")" "$authority" "$issue"
expect 'the operator revokes the client' OK - "${operator[@]}" -d '{"client_id":"interop","reason":"interop"}' \
  "$authority" countersign.admin.v1.RevocationService/Revoke
within 5 'the client is revoked' UNAUTHENTICATED CLIENT_REVOKED -plaintext -rpc-header "authorization: Bearer $fresh" \
  -d "$hello" "$plain" "$echo"

expect 'a method that is not there' UNIMPLEMENTED - -plaintext -rpc-header "authorization: Bearer $unbound" \
  -protoset proto/src/gen/descriptors.bin "$plain" countersign.verify.v1.VerifyService/GetStatus

# ---- A rehearsal, and the key that publishes.

printf '\n== drill and publishing key\n'
expect 'the operator rehearses a compromise' OK - "${operator[@]}" -d '{"reason":"interop"}' "$authority" \
  countersign.admin.v1.DrillService/RunDrill
expect_answer 'every verifier was safe' '.[-1].drill.state' DRILL_STATE_COMPLETE
publishing=countersign.admin.v1.PublishingKeyService
expect 'a publishing key is prepared' OK - "${operator[@]}" "$authority" "$publishing/PreparePublishingKey"
expect 'the sidecar holds it' OK - "${operator[@]}" "$authority" countersign.admin.v1.FleetService/WatchEpoch
expect 'it signs' OK - "${operator[@]}" "$authority" "$publishing/ActivatePublishingKey"
expect 'the one before is forgotten' OK - "${operator[@]}" "$authority" "$publishing/RetirePublishingKey"
expect_answer 'two sets on' '.[0].publishers | "\(.generation) \(.keys | length)"' '3 1'
expect 'nobody but an operator does that' PERMISSION_DENIED NOT_AN_OPERATOR "${orders[@]}" "$authority" \
  "$publishing/ListPublishingKeys"

# ---- A rotation while calls go on.

# The kid in a token's header.
kid() {
  tr '_-' '/+' <<<"${1%%.*}" | "$tools/gojq" -rR '@base64d | fromjson | .kid'
}

printf '\n== rotation\n'
expect 'the operator prepares a key' OK - "${operator[@]}" "$authority" countersign.admin.v1.KeyService/PrepareKey
expect 'and lets it sign' OK - "${operator[@]}" "$authority" countersign.admin.v1.KeyService/ActivateKey
calls=0
deadline=$((SECONDS + 20))
fresh=$unbound
until [[ "$(kid "$fresh")" != "$(kid "$unbound")" ]] || ((SECONDS >= deadline)); do
  call "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
  fresh=$(token)
  for one in "$unbound" "$fresh"; do
    call -plaintext -rpc-header "authorization: Bearer $one" -d "$hello" "$plain" "$echo"
    calls=$((calls + 1))
    if [[ "$code" != OK ]]; then
      not_ok 'a call during the rotation' "$code ${reason:--}"
    fi
  done
done
if [[ "$(kid "$fresh")" != "$(kid "$unbound")" ]]; then
  ok "the new key signs, after $calls calls under either key"
else
  not_ok 'the new key does not sign'
fi
bearer "$unbound"
expect 'a token of the old key is still good' OK - -plaintext "${bearer[@]}" -d "$hello" "$plain" "$echo"

# ---- The drill: the authority dies, the sidecar is restarted without it, the authority comes back.

# still_decides NAME    A good token passes, a revoked one does not.
still_decides() {
  within 20 "$1: a good token passes" OK - -plaintext -rpc-header "authorization: Bearer $unbound" -d "$hello" "$plain" \
    "$echo"
  refused "$1: the revoked one does not" UNAUTHENTICATED TOKEN_REVOKED "$revoked"
  expect "$1: a bound token passes" OK - "${orders[@]}" -rpc-header "authorization: Bearer $bound" -d "$hello" "$proxy" \
    "$echo"
}

printf '\n== the authority is killed\n'
kill -KILL "$(dev .processes.authority.pid)"
gone "$(dev .processes.authority.pid)"
expect 'no more tokens' 'no status' - "${orders[@]}" -connect-timeout 2 -d "$(wanted)" "$authority" "$issue"
still_decides 'authority down'

printf '\n== the sidecar is killed and started again, offline\n'
kill -KILL "$(dev .processes.sidecar.pid)"
gone "$(dev .processes.sidecar.pid)"
"$countersign" run sidecar --config "$(dev .processes.sidecar.config)" >"$work/sidecar.log" 2>&1 &
children+=($!)
still_decides 'sidecar restarted, authority down'

printf '\n== the authority is back\n'
"$countersign" run authority serve --config "$(dev .processes.authority.config)" >"$work/authority.log" 2>&1 &
children+=($!)
within 20 'it issues again' OK - "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
bearer "$(token)"
within 5 'and what it issues is accepted' OK - "${orders[@]}" "${bearer[@]}" -d "$hello" "$proxy" "$echo"
still_decides 'authority back'
fresh 'a token to revoke after the outage' "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
expect 'the operator revokes it' OK - "${operator[@]}" -d "{\"token\":\"$fresh\",\"reason\":\"interop\"}" "$authority" \
  countersign.admin.v1.RevocationService/Revoke
within 15 'the stream has resumed by itself' UNAUTHENTICATED TOKEN_REVOKED -plaintext \
  -rpc-header "authorization: Bearer $fresh" -d "$hello" "$plain" "$echo"

tally dev sidecar authority

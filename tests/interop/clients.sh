#!/usr/bin/env bash
# The Verify API asked by the clients that docs/verify-api.md shows, in Python, Go and Rust: over the unix socket and over loopback,
# call by call, in batches and in a stream; about good tokens and bad ones, and with nobody there to answer. And the token agent asked
# with the lines of Python that docs/agent.md shows.
#
# Started by run.sh, which builds the tools. The stubs are generated from proto/ here, and the clients are the files that the page
# shows. Installs nothing outside target/.
# shellcheck disable=SC2154 # common.sh sets what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/interop/common.sh

# ---- The clients, as somebody else would build them.

printf '== building the clients\n'
readonly venv=target/interop/python stubs=$work/stubs import=countersign.example/interop/verifyv1
readonly proto=countersign/verify/v1/verify.proto
mkdir "$stubs"
if ! "$venv/bin/pip" --version >/dev/null 2>&1; then
  python3 -m venv --clear "$venv"
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r docs/clients/requirements.txt
"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$stubs" --grpc_python_out="$stubs" \
  --plugin="protoc-gen-go=$tools/protoc-gen-go" --go_out="$stubs" --go_opt="module=$import,M$proto=$import" \
  --plugin="protoc-gen-go-grpc=$tools/protoc-gen-go-grpc" --go-grpc_out="$stubs" --go-grpc_opt="module=$import,M$proto=$import" \
  "$proto"
"$venv/bin/python" -m grpc_tools.protoc -I proto --python_out="$stubs" --grpc_python_out="$stubs" countersign/agent/v1/agent.proto
# The stubs appear to Go as a package of the module here, whose go.mod pins what they need.
printf '{"Replace":{"%s":"%s","%s":"%s"}}' "$PWD/tests/interop/verifyv1/verify.pb.go" "$stubs/verify.pb.go" \
  "$PWD/tests/interop/verifyv1/verify_grpc.pb.go" "$stubs/verify_grpc.pb.go" >"$work/overlay.json"
(cd tests/interop && GOFLAGS=-mod=readonly go build -overlay "$work/overlay.json" -o "$work/verify-go" ../../docs/clients/verify.go)
cargo build --quiet --locked -p countersign-tower --example verify

python_client() { PYTHONPATH=$stubs "$venv/bin/python" -B docs/clients/verify.py "$@"; }
go_client() { "$work/verify-go" "$@"; }
rust_client() { target/debug/examples/verify "$@"; }
readonly clients=(python go rust)

# ---- Tokens, and what is expected of each.

start_environment
socket=unix://$(dev .sidecar.verify_uds)
readonly socket

# The `jti` of a token.
token_id() {
  local payload
  IFS=. read -r _ payload _ <<<"$1"
  tr '_-' '/+' <<<"$payload" | "$tools/gojq" -rR '. + "==="[0:((4 - length % 4) % 4)] | @base64d | fromjson | .jti'
}

expect 'the operator registers a client' OK - "${operator[@]}" -d "{
  \"client_id\": \"interop\", \"with_secret\": true, \"grants\": [
    {\"audience\": \"$audience\", \"scopes\": [\"$scope\", \"interop.nothing\"], \"default_scopes\": [\"$scope\"]},
    {\"audience\": \"elsewhere.example\", \"scopes\": [\"$scope\"], \"default_scopes\": [\"$scope\"]}]}" \
  "$authority" countersign.admin.v1.ClientService/CreateClient
interop="\"client_id\":\"interop\",\"client_secret\":\"$("$tools/gojq" -r '.client_secret // .clientSecret' "$work/out")\""
fresh 'a token that lives a second' "${billing[@]}" -d "$(wanted "\"lifetime_seconds\":1,$interop")" "$authority" "$issue"
expired=$fresh
fresh 'a good token' "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
good=$fresh
fresh 'a good token of another client' "${billing[@]}" -d "$(wanted "$interop")" "$authority" "$issue"
other=$fresh
fresh 'a token to revoke' "${billing[@]}" -d "$(wanted "$interop")" "$authority" "$issue"
revoked=$fresh
fresh 'a token for another audience' "${billing[@]}" \
  -d "{\"grant_type\":\"client_credentials\",\"audience\":\"elsewhere.example\",$interop}" "$authority" "$issue"
elsewhere=$fresh
fresh 'a token without the scope' "${billing[@]}" -d "$(wanted "\"scopes\":[\"interop.nothing\"],$interop")" "$authority" "$issue"
narrow=$fresh

# One of another authority, which has the same name.
"$countersign" dev --dir "$work/foreign" >"$work/foreign.log" 2>&1 &
children+=($!)
deadline=$((SECONDS + 60))
until [[ -s "$work/foreign/dev.json" ]] || ((SECONDS >= deadline)); do sleep 0.1; done
foreign=$("$countersign" token get --dir "$work/foreign" --client billing --secret-file \
  "$("$tools/gojq" -r .clients.billing.secret_file "$work/foreign/dev.json")" 2>"$work/err" || true)
if [[ "$foreign" == *.*.* ]]; then
  ok 'a token of another authority'
else
  not_ok 'a token of another authority' "$(cat "$work/err")"
fi
kill "${children[-1]}"

said() {
  printf 'allowed %s %s' "$1" "$(token_id "$2")"
}
said_good=$(said "$billing_id" "$good")
said_other=$(said interop "$other")
said_revoked=$(said interop "$revoked")
readonly said_good said_other said_revoked

# asked CLIENT FORM TARGET METHOD TOKEN...    Asks about these. The answers, on one line.
asked() {
  local client=$1
  { "${client}_client" "${@:2:3}" < <(printf '%s\n' "${@:5}") 2>"$work/said" || true; } | paste -sd, -
}

# The expired one has expired, whoever asks afterwards.
deadline=$((SECONDS + 20))
until [[ "$(asked rust one "$verify" "/$echo" "$expired")" == 'refused token_expired' ]] || ((SECONDS >= deadline)); do sleep 0.2; done

# ---- One, many, and a thousand in a stream.

# What is asked, and what is answered.
questions=("$good" "$expired" "$other" '' "$foreign" "$elsewhere" "$good" "$narrow" garbage "$other" "$revoked")
answers=("$said_good" 'refused token_expired' "$said_other" 'refused token_missing' 'refused kid_unknown' 'refused aud_mismatch'
  "$said_good" 'refused scope_insufficient' 'refused token_malformed' "$said_other" "$said_revoked")
for ((at = 0; at < 1000; at++)); do
  # Squares, so that the order is none that a mistake would come to.
  one=$((at * at % 7919 % 11))
  printf '%s\n' "${questions[one]}" >&3
  printf '%s\n' "${answers[one]}" >&4
done 3>"$work/thousand" 4>"$work/wanted"

for client in "${clients[@]}"; do
  for target in "$socket" "$verify"; do
    case $target in unix:*) way="$client, socket" ;; *) way="$client, loopback" ;; esac
    printf '\n== %s\n' "$way"
    expect_equal "$way: a good token" "$said_good" "$(asked "$client" one "$target" "/$echo" "$good")"
    expect_equal "$way: an expired one" 'refused token_expired' "$(asked "$client" one "$target" "/$echo" "$expired")"
    expect_equal "$way: one of another authority" 'refused kid_unknown' "$(asked "$client" one "$target" "/$echo" "$foreign")"
    expect_equal "$way: one for another audience" 'refused aud_mismatch' "$(asked "$client" one "$target" "/$echo" "$elsewhere")"
    expect_equal "$way: one without the scope" 'refused scope_insufficient' "$(asked "$client" one "$target" "/$echo" "$narrow")"
    expect_equal "$way: none" 'refused token_missing' "$(asked "$client" one "$target" "/$echo" '')"
    expect_equal "$way: a batch, in order" "$(printf '%s,' "${answers[@]}" | sed 's/,$//')" \
      "$(asked "$client" batch "$target" "/$echo" "${questions[@]}")"
    if "${client}_client" stream "$target" "/$echo" <"$work/thousand" >"$work/out" 2>"$work/said" &&
      cmp -s "$work/wanted" "$work/out"; then
      ok "$way: a stream of $(wc -l <"$work/out"), in order"
    else
      not_ok "$way: a stream of 1000, in order" "$(wc -l <"$work/out") answers" "$(diff "$work/wanted" "$work/out" | head -n 4)" \
        "$(cat "$work/said")"
    fi
    ahead=$(sed -n 's/^at most \([0-9]*\) without an answer$/\1/p' "$work/said")
    if ((${ahead:-0} > 1)); then
      ok "$way: which does not wait for answers: $(cat "$work/said")"
    else
      not_ok "$way: which does not wait for answers" "$(cat "$work/said")"
    fi
    status=0
    "${client}_client" batch "$target" "/$echo" </dev/null >"$work/out" 2>"$work/said" || status=$?
    if ((status != 0)) && [[ ! -s "$work/out" ]] && grep -qE 'no answer: (INVALID_ARGUMENT|InvalidArgument)' "$work/said"; then
      ok "$way: a batch of none is an error: $(cat "$work/said")"
    else
      not_ok "$way: a batch of none is an error" "exit $status" "$(head -c 300 "$work/out")" "$(tail -n 3 "$work/said")"
    fi
  done
done

# ---- Revoked, and nobody there.

printf '\n== revoked\n'
if "$countersign" revoke token --dir "$environment" --reason interop - <<<"$revoked" >"$work/receipt" 2>&1; then
  ok 'the operator revokes a token'
else
  not_ok 'the operator revokes a token' "$(cat "$work/receipt")"
fi
deadline=$((SECONDS + 5))
until [[ "$(asked rust one "$verify" "/$echo" "$revoked")" == 'refused token_revoked' ]] || ((SECONDS >= deadline)); do sleep 0.1; done
for client in "${clients[@]}"; do
  for target in "$socket" "$verify"; do
    for form in one batch stream; do
      expect_equal "$client, ${target%%:*}, $form" "refused token_revoked,$said_good" \
        "$(asked "$client" "$form" "$target" "/$echo" "$revoked" "$good")"
    done
  done
done

printf '\n== the sidecar is killed\n'
kill -KILL "$(dev .processes.sidecar.pid)"
gone "$(dev .processes.sidecar.pid)"
for client in "${clients[@]}"; do
  for form in one batch stream; do
    status=0
    "${client}_client" "$form" "$socket" "/$echo" <<<"$good" >"$work/out" 2>"$work/said" || status=$?
    if ((status != 0)) && [[ ! -s "$work/out" ]] && grep -qi 'no answer: unavailable' "$work/said"; then
      ok "$client, $form: nothing is allowed"
    else
      not_ok "$client, $form: nothing is allowed" "exit $status" "$(head -c 300 "$work/out")" "$(tail -n 3 "$work/said")"
    fi
  done
done

# ---- The token agent, as the page shows it.

printf '\n== the sidecar is started again, with an agent\n'
agent=$environment/sidecar/agent.sock
printf '[agent]\nunix = "%s"\n' "$agent" >>"$(dev .processes.sidecar.config)"
"$countersign" client create beside --dir "$environment" --spiffe-id spiffe://dev.countersign.test/countersign/sidecar/demo \
  --grant stock=stock.read --default stock=stock.read >"$work/registered"
"$countersign" run sidecar --config "$(dev .processes.sidecar.config)" >"$work/sidecar.log" 2>&1 &
children+=($!)
deadline=$((SECONDS + 20))
until [[ -S "$agent" ]] || ((SECONDS >= deadline)); do sleep 0.1; done
{
  printf 'import grpc\nfrom countersign.agent.v1 import agent_pb2, agent_pb2_grpc\n'
  sed -n '/^```python$/,/^```$/p' docs/agent.md | sed -e '1d' -e '/^stock\.Get/,$d' -e "s|/run/countersign-sidecar/agent.sock|$agent|"
  printf 'print(token)\n'
} >"$work/agent.py"
token=$(PYTHONPATH=$stubs "$venv/bin/python" -B "$work/agent.py" 2>"$work/said" || true)
if [[ "$token" == *.*.* ]]; then
  ok "python, socket: the agent gives a token: $(token_id "$token")"
else
  not_ok 'python, socket: the agent gives a token' "$(tail -n 3 "$work/said")" "$(tail -n 3 "$work/sidecar.log")"
fi

tally dev foreign

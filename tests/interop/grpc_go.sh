#!/usr/bin/env bash
# gRPC's official interop client and server (grpc-go's) with the sidecar between them: every case that the client has and that needs
# no credentials of Google's comes out as it does without a sidecar, in plaintext and over mutual TLS. Without a token, nothing gets
# to the server.
#
# Started by run.sh. Everything runs in a network namespace without a way out, because the server listens on every address; that
# needs the right to make one.
# shellcheck disable=SC2154 # the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/grpc_go.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly server_port=20300 mtls_port=20301
readonly service=/grpc.testing.TestService
# What the client's help names and is not run: these ask Google for a token.
readonly googles=(compute_engine_channel_credentials compute_engine_creds google_default_credentials jwt_token_creds
  oauth2_auth_token per_rpc_creds service_account_creds)
# The soaks are not in the help. What shows little: timeout_on_sleeping_server grants a millisecond, which is mostly over before there
# is a connection.
readonly cases=(empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server
  cancel_after_begin cancel_after_first_response status_code_and_message special_status_message custom_metadata
  unimplemented_method unimplemented_service orca_per_rpc orca_oob rpc_soak channel_soak)

# ---- The sidecar of a development environment, before another service.

ip link set lo up
start_environment
config=$(dev .processes.sidecar.config)
admin_address=$(dev .sidecar.admin)
readonly config metrics_port=${admin_address##*:}

listens() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

start server "$tools/grpc-go-server" "-port=$server_port"
becomes 10 "grpc-go's server listens" listens "$server_port"
start mtls "$tools/mtls" -listen "127.0.0.1:$mtls_port" -to "$proxy" "${orders[@]}"
becomes 10 'connections can be carried over mutual TLS' listens "$mtls_port"

# Every method needs the scope, those that are not there as well. One is open: the client asks for out-of-band reports on its own
# account, without the metadata of its calls.
end "$(dev .processes.sidecar.pid)"
gone "$(dev .processes.sidecar.pid)"
sed -i -e "s|^upstream = .*|upstream = \"http://127.0.0.1:$server_port\"\ndefault_scopes = [\"$scope\"]|" "$config"
cat >>"$config" <<TOML
[[method]]
path = "$service/*"
scopes = ["$scope"]
[[method]]
path = "/xds.service.orca.v3.OpenRcaService/*"
open = true
TOML
start sidecar "$countersign" run sidecar --config "$config"
is_ready() {
  [[ $(ready "$metrics_port" 2>/dev/null || true) == 200 ]]
}
becomes 20 'the sidecar decides' is_ready

fresh 'billing gets a token by its secret' "${billing[@]}" -d "$(wanted "$(credentials)")" "$authority" "$issue"
unbound=$fresh
fresh 'orders gets one that is bound to its certificate' "${orders[@]}" -d "$(wanted)" "$authority" "$issue"
bound=$fresh

# ---- How the client is called.

# interop CASE ARGUMENT...    Runs one case. What it says is in $work/case.
interop() {
  local arguments=("-test_case=$1" -server_host=127.0.0.1)
  case $1 in
    orca_*) arguments+=('-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}') ;;
    *_soak)
      arguments+=(-soak_iterations=200 -soak_num_threads=8 -soak_overall_timeout_seconds=60
        -soak_per_iteration_max_acceptable_latency_ms=5000)
      ;;
  esac
  timeout 90 "$tools/grpc-go-client" "${arguments[@]}" "${@:2}" >"$work/case" 2>&1 </dev/null
}

# every_case WAY ARGUMENT...    Each of the cases passes.
every_case() {
  local way=$1 case
  shift
  for case in "${cases[@]}"; do
    if interop "$case" "$@"; then
      ok "$way: $case"
    else
      not_ok "$way: $case" "$(tail -n 5 "$work/case" | cut -c -600)"
    fi
  done
  # More calls at once than a connection to us or to the server takes.
  if interop rpc_soak "$@" -soak_num_threads=300 -soak_iterations=3000 -soak_request_size=1000 -soak_response_size=1000; then
    ok "$way: rpc_soak, 300 calls at once"
  else
    not_ok "$way: rpc_soak, 300 calls at once" "$(grep -v succeeded "$work/case" | tail -n 5 | cut -c -600)"
  fi
  # grpc-go's server does not say which server it is, as this case wants. It must not pass, and for that reason.
  if ! interop pick_first_unary "$@" && grep -q 'iteration 0, got empty server ID$' "$work/case"; then
    ok "$way: pick_first_unary is answered, by a server that cannot name itself"
  else
    not_ok "$way: pick_first_unary" "$(tail -n 5 "$work/case" | cut -c -600)"
  fi
}

# A counter of the sidecar, 0 before it has counted: counted NAME
counted() {
  local count
  count=$(metric "$metrics_port" "$1")
  printf '%d' "${count:-0}"
}
decided() {
  counted "countersign_decisions_total{decision=\"$1\",reason=\"$2\"}"
}

printf '\n== the cases\n'
("$tools/grpc-go-client" -help 2>&1 || true) | sed -n 's/^[[:space:]]*\([a-z0-9_]*\) \{0,1\}: .*/\1/p' | sort >"$work/listed"
printf '%s\n' "${googles[@]}" "${cases[@]}" pick_first_unary | grep -v _soak | sort >"$work/known"
if missed=$(diff "$work/listed" "$work/known"); then
  ok "the client has no others: $(wc -l <"$work/listed"), and two soaks"
else
  not_ok 'the client has no others' "$missed"
fi

printf '\n== without a sidecar\n'
every_case directly "-server_port=$server_port"

printf '\n== through the sidecar, in plaintext\n'
every_case plaintext "-server_port=${plain##*:}" "-additional_metadata=authorization:Bearer $unbound"

printf '\n== through the sidecar, over mutual TLS\n'
every_case 'mutual TLS' "-server_port=$mtls_port" "-additional_metadata=authorization:Bearer $bound"
if ! interop large_unary "-server_port=${proxy##*:}" -use_tls -use_test_ca "-ca_file=$ca" -server_host_override=localhost \
  "-additional_metadata=authorization:Bearer $unbound" && grep -q 'code = Unavailable' "$work/case" &&
  (($(counted 'countersign_handshakes_refused_total{reason="no_certificate"}') > 0)); then
  ok 'without a certificate no connection comes about, good token or not: UNAVAILABLE'
else
  not_ok 'without a certificate no connection comes about' "$(tail -n 5 "$work/case")"
fi

printf '\n== what is left\n'
expect_metric 'the service was always reached' 0 "$metrics_port" countersign_upstream_failures_total
becomes 10 'no call is left in the proxy' metric_is 0 "$metrics_port" countersign_active_streams

# every_refusal WAY ARGUMENT...    No case gets to the server.
every_refusal() {
  local way=$1 case let_in refused answered
  shift
  let_in=$(decided allowed token_verified)
  answered=$(counted "countersign_requests_total{method=\"$service/*\",decision=\"allowed\",reason=\"token_verified\",code=\"OK\"}")
  for case in "${cases[@]}" pick_first_unary; do
    refused=$(decided refused token_missing)
    if interop "$case" "$@"; then
      # Each of these ends its own call, and does not wait for what it would be told.
      case $case in
        timeout_on_sleeping_server | cancel_after_begin)
          expect_equal "$way: $case: calls let in, as many as before" "$let_in" "$(decided allowed token_verified)"
          ;;
        *) not_ok "$way: $case has passed" ;;
      esac
    elif grep -q Unauthenticated "$work/case"; then
      ok "$way: $case: UNAUTHENTICATED"
    elif grep -q 'error EOF while sending\|error sending: EOF' "$work/case" && (($(decided refused token_missing) > refused)); then
      # The call had ended when the client went on sending; in that case it does not look at the status.
      ok "$way: $case: UNAUTHENTICATED while it was sending"
    else
      not_ok "$way: $case" "$(tail -n 5 "$work/case" | cut -c -600)"
    fi
  done
  becomes 10 "$way: no call is left in the proxy" metric_is 0 "$metrics_port" countersign_active_streams
  expect_equal "$way: calls let in, and calls answered, as many as before" "$let_in $answered" \
    "$(decided allowed token_verified) $(counted "countersign_requests_total{method=\"$service/*\",decision=\"allowed\",reason=\"token_verified\",code=\"OK\"}")"
}

printf '\n== without a token\n'
every_refusal plaintext "-server_port=${plain##*:}"
every_refusal 'mutual TLS' "-server_port=$mtls_port"

tally dev sidecar mtls server

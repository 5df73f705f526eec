#!/usr/bin/env bash
# h2spec, with its strict tests, against every port of sidecar and authority that speaks HTTP/2. What is missed stands in h2spec/misses.go
# with the reason; any other miss fails, and so does one that is listed and is none.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2154 # the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/h2spec.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly ask_port=20300 agent_port=20301

# ---- The sidecar of a development environment, with all that it can serve.

ip link set lo up
start_environment
config=$(dev .processes.sidecar.config)
admin_address=$(dev .sidecar.admin)
readonly config metrics_port=${admin_address##*:}
end "$(dev .processes.sidecar.pid)"
gone "$(dev .processes.sidecar.pid)"
printf '%s\n' '[ext_authz]' "grpc = \"127.0.0.1:$ask_port\"" '[agent]' "grpc = \"127.0.0.1:$agent_port\"" >>"$config"
start sidecar "$countersign" run sidecar --config "$config"
is_ready() {
  [[ $(ready "$metrics_port" 2>/dev/null || true) == 200 ]]
}
becomes 20 'the sidecar decides' is_ready

# ---- The tests.

# specified NAME ADDRESS PATH [ARGUMENT...]
specified() {
  printf '\n== %s\n' "$1"
  "$tools/h2spec" -name "$1" -address "$2" -path "/$3" "${@:4}" >"$work/found" || true
  count_found
}
readonly certificate=(-cert "$environment/pki/orders.pem" -key "$environment/pki/orders-key.pem")

specified 'proxy' "$plain" "$echo" -misses http1
specified 'proxy over mutual TLS' "$proxy" "$echo" -misses none "${certificate[@]}"
specified 'external authorization' "127.0.0.1:$ask_port" envoy.service.auth.v3.Authorization/Check -misses none
specified 'Verify API' "$verify" countersign.verify.v1.VerifyService/Verify -misses bodiless
specified 'agent' "127.0.0.1:$agent_port" countersign.agent.v1.TokenAgentService/GetToken -misses bodiless
specified 'authority over mutual TLS' "$authority" "$issue" -misses bodiless "${certificate[@]}"

printf '\n== afterwards\n'
expect 'the sidecar still decides' UNAUTHENTICATED TOKEN_MISSING -plaintext -d "$hello" "$plain" "$echo"

tally sidecar

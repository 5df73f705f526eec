#!/usr/bin/env bash
# Everything at once, for long: an authority and three sidecars, tokens that live for seconds, shown over connections old and new and
# held on to in streams, while tokens, clients and keys are revoked, keys are rotated and one of the sidecars is stopped and killed.
# Not one verdict is wrong, and no process grows.
#
#   tests/interop/soak.sh                                    a minute, as run.sh does
#   SOAK_MINUTES=30 BINARIES=target/release tests/interop/soak.sh
#
# Everything runs in a network namespace without a way out, which needs the right to make one. The calls are made and judged by
# countersign-rig.
# shellcheck disable=SC2154 # the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/soak.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly minutes=${SOAK_MINUTES:-1} calls=${SOAK_CALLS:-300}
readonly lease=4 budget=12 sidecars=(01 02 03) clients=(caller-1 caller-2 caller-3 caller-4 caller-5 caller-6 caller-7 caller-8)
# MiB an hour. Over half an hour not nothing: revocations are kept for longer than that, and once in 512 to 1024 epochs a sidecar
# has a snapshot sent in place of its log, which the allocator keeps the room of. Over a minute a slope says nothing at all.
if ((minutes >= 10)); then
  growth=16
else
  growth=10000
fi
readonly growth

start_fleet
on_loopback
for name in "${sidecars[@]}"; do
  certificate "$name"
  configure "$name"
done
configure_authority authority "$authority_port" "$environment/authority/store.redb" "${sidecars[@]}"
start authority "$countersign" run authority serve --config "$work/authority.toml"
authority_process=$started
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
demo_process=$started
until admin fleet >/dev/null 2>&1; do sleep 0.1; done
forget_environment
arguments=()
for name in "${clients[@]}"; do
  new_client "$name"
  arguments+=(--client "$name")
done

printf '== %d min, %d calls a second, programs of %s\n' "$minutes" "$calls" "$binaries"
"$rig" soak --authority "127.0.0.1:$authority_port" --pki "$environment/pki" --audience "$audience" "${arguments[@]}" \
  --countersign "$countersign" --folder "$work" --sidecars "${#sidecars[@]}" --process "authority=$authority_process" \
  --process "demo=$demo_process" --minutes "$minutes" --calls "$calls" --growth "$growth" | tee "$work/told" || true
grep -E '^(ok|FAIL)' "$work/told" >"$work/found" || true
count_found >/dev/null

tally authority "${sidecars[@]}"

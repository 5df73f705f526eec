#!/usr/bin/env bash
# "When is it safe?" on real processes: an authority and twenty sidecars, one of them cut off in a network namespace of its own.
# A revocation says on how many it is in force and by when on all, and the one that is cut off refuses by then; a rotation names
# it, waits for it, and goes on when it has stopped; not one call fails on the others.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; common.sh sets what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/drill.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly count=20
readonly lease=4 budget=12
names=()
for ((n = 1; n <= count; n++)); do
  names+=("$(printf '%02d' "$n")")
done
readonly far_one=${names[count - 1]} near=("${names[@]:0:count-1}")

start_fleet
start_far
printf '== %d sidecars, one of them in a namespace of its own\n' "$count"
for name in "${names[@]}"; do
  certificate "$name"
  configure "$name"
done
configure_authority authority "$authority_port" "$environment/authority/store.redb" "${names[@]}"
start authority "$countersign" run authority serve --config "$work/authority.toml"
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
start far-demo "${far[@]}" "$countersign" run demo --listen "127.0.0.1:$demo_port"
for name in "${near[@]}"; do
  start "$name" "$countersign" run sidecar --config "$work/$name.toml"
done
start "$far_one" "${far[@]}" "$countersign" run sidecar --config "$work/$far_one.toml"
becomes 20 "all $count sidecars are up to date" all_current "$count"
forget_environment

# ---- Callers.

new_client steady
new_client thief
new_token steady >"$work/token.steady"
stolen=$(new_token thief)

# Calls the others without end, each answer a line.
load() {
  local name
  while [[ ! -e $work/enough ]]; do
    for name in "${near[@]}"; do
      printf '%s %s\n' "$name" "$(through "$name" "$(cat "$work/token.steady")")" >>"$work/answers"
    done
  done
}

for name in "$far_one" "${near[0]}"; do
  got=$(through "$name" "$stolen")
  [[ $got == OK ]] && ok "$name accepts a good token" || not_ok "$name accepts a good token" "$got"
done
load &
loader=$!
children+=("$loader")

# ---- One is cut off; a revocation.

printf '== one sidecar is cut off\n'
ip link set near down
began=$(date +%s)
admin revoke client thief --json >"$work/receipt"
expect_found "the receipt: in force now on" -r '"\(.in_force) of \(.live)"' "$work/receipt" "$((count - 1)) of $count"
expect_found "the receipt names who is left" -r '[.laggards[].spiffe_id] | join(" ")' "$work/receipt" \
  "spiffe://dev.countersign.test/countersign/sidecar/$far_one"
by=$(date -d "$("$tools/gojq" -r .by "$work/receipt")" +%s)
# The last lease was granted before the cut; clocks and whole seconds add a little.
if ((by > began && by <= began + lease + budget + 2)); then
  ok "the receipt says by when on all: in $((by - began)) s"
else
  not_ok "the receipt says by when on all" "in $((by - began)) s"
fi
admin revoke client thief | head -n 3
got=$(through "${near[0]}" "$stolen")
[[ $got == "UNAUTHENTICATED CLIENT_REVOKED" ]] && ok "the others refuse it: $got" || not_ok "the others refuse it" "$got"
got=$(through "$far_one" "$stolen")
[[ $got == OK ]] && ok "the one that is cut off does not know yet" || not_ok "the one that is cut off does not know yet" "$got"

# ---- A rotation meanwhile.

printf '== a rotation waits for it\n'
start rotate admin key rotate --wait 60s --json
rotation=$started
is_prepared() {
  admin key list --json | grep -q '"prepared"'
}
becomes 10 "a key is prepared" is_prepared
if admin key activate >"$work/activate" 2>&1; then
  not_ok "the key does not sign yet" "$(cat "$work/activate")"
else
  ok "the key does not sign yet"
fi

while (($(date +%s) < by)); do sleep 0.1; done
got=$(through "$far_one" "$stolen")
[[ $got == "UNAVAILABLE TRUST_STALE" ]] && ok "at the time told, it refuses: $got" || not_ok "at the time told, it refuses" "$got"
if wait "$rotation"; then
  ok "the rotation goes on once it has stopped"
else
  not_ok "the rotation goes on once it has stopped" "$(tail -n 5 "$work/rotate.log")"
fi
new_token steady >"$work/token.new"
mv "$work/token.new" "$work/token.steady"
sleep 2

# ---- It comes back.

printf '== it comes back\n'
ip link set near up
becomes 30 "all $count are up to date again" all_current "$count"
got=$(through "$far_one" "$stolen")
[[ $got == "UNAUTHENTICATED CLIENT_REVOKED" ]] && ok "it refuses what was revoked: $got" || not_ok "it refuses what was revoked" "$got"
got=$(through "$far_one" "$(cat "$work/token.steady")")
[[ $got == OK ]] && ok "it accepts a token of the new key" || not_ok "it accepts a token of the new key" "$got"

touch "$work/enough"
wait "$loader" || true
calls=$(wc -l <"$work/answers")
failures=$(grep -cv ' OK$' "$work/answers" || true)
if ((calls > 100 && failures == 0)); then
  ok "not one of $calls calls failed on the others"
else
  not_ok "calls on the others" "$failures of $calls failed" "$(grep -v ' OK$' "$work/answers" | sort | uniq -c | head)"
fi
tally authority

#!/usr/bin/env bash
# No way back (K12, K13, D17, F30): yesterday's sidecar directory, yesterday's cache under today's floor, and yesterday's authority
# database are put back, and two authorities run with one name. Each is refused and alarmed, the documented command ends the
# recovery, and what was revoked in between is accepted by nobody who has refused it.
#
# Started by run.sh. Everything runs in a network namespace without a way out, which needs the right to make one.
# shellcheck disable=SC2016,SC2154 # a $ in single quotes is gojq's; the sourced files set what is not set here
set -euo pipefail
cd "$(dirname "$0")/../.."
if [[ ${1:-} != inside ]]; then
  exec unshare --map-root-user --net tests/interop/restored.sh inside
fi
source tests/interop/common.sh
source tests/interop/fleet.sh

readonly lease=4 budget=6
# Of two methods, so that a strict one can be asked, too.
methods() {
  printf '[[method]]\npath = "/%s/%s"\nclass = "%s"\n' "$demo" Collect strict "$demo" Echo normal
}
declare -A process

start_fleet
on_loopback
readonly names=(01 02 03 04)
for name in "${names[@]}"; do
  certificate "$name"
  configure "$name"
done
readonly database=$environment/authority/store.redb
configure_authority authority "$authority_port" "$database" "${names[@]}"

run_authority() {
  start authority "$countersign" run authority serve --config "$work/authority.toml"
  process[authority]=$started
}
run_sidecar() {
  start "$1" "$countersign" run sidecar --config "$work/$1.toml"
  process[$1]=$started
}
stop() {
  end "${process[$1]}"
}
# The state directory of a sidecar, to be put back later: keep NUMBER NAME, put_back NUMBER NAME
keep() {
  rm -rf "$work/kept.$1.$2"
  cp -a "$work/state/$1" "$work/kept.$1.$2"
}
put_back() {
  rm -rf "${work:?}/state/$1"
  cp -a "$work/kept.$1.$2" "$work/state/$1"
}
# What an epoch metric says.
epoch() {
  metric "$(admin_port "$1")" countersign_epoch"${2:-}"
}
logged() {
  grep -q "$2" "$work/$1.log"
}
# expect_logged NAME LOG PATTERN
expect_logged() {
  if logged "$2" "$3"; then
    ok "$1: $(grep -o "$3" "$work/$2.log" | tail -n 1)"
  else
    not_ok "$1" "nothing of $3"
  fi
}
# expect_refused NAME REASON COMMAND...    A command of the operator or a client that the authority refuses.
expect_refused() {
  local reason
  if "${@:3}" --json >"$work/answer" 2>"$work/answer.err"; then
    not_ok "$1" 'it is not refused'
    return
  fi
  reason=$(tail -n 1 "$work/answer.err" | "$tools/gojq" -r '.error.reason')
  expect_equal "$1" "$2" "$reason"
}
get_token() {
  as billing token get --client caller --secret-file "$work/caller" --audience "$audience" "$@"
}

# Two workloads by what their tokens are bound to, which a certificate of that name is for.
readonly workloads=(spiffe-id certificate)
declare -A thumbprint
spiffe_id() {
  printf 'spiffe://dev.countersign.test/countersign/sidecar/%s' "$1"
}
# A token for the workload, got with its certificate: workload_token WORKLOAD
workload_token() {
  "$countersign" token get --audience "$audience" --authority "127.0.0.1:$authority_port" --ca "$ca" \
    --cert "$work/pki/$1.pem" --key "$work/pki/$1-key.pem" 2>/dev/null
}
# What a sidecar says of a token over the workload's certificate: over_certificate NUMBER WORKLOAD TOKEN
over_certificate() {
  "$tools/grpcurl" -plaintext -max-time 5 -protoset proto/src/gen/descriptors.bin -d "{\"token\": \"$3\", \"path\": \"/$demo/Echo\",
    \"peer_certificate_sha256\": \"${thumbprint[$2]}\", \"peer_spiffe_id\": \"$(spiffe_id "$2")\"}" \
    "127.0.0.1:$(verify_port "$1")" countersign.verify.v1.VerifyService/Verify 2>&1 </dev/null |
    "$tools/gojq" -r 'if .allowed then "allowed" else .refused.reason end' 2>&1
}
says_over_certificate() {
  [[ $(over_certificate "${@:2}") == "$1" ]]
}

run_authority
start demo "$countersign" run demo --listen "127.0.0.1:$demo_port"
for name in "${names[@]}"; do run_sidecar "$name"; done
becomes 20 "all ${#names[@]} sidecars are up to date" all_current "${#names[@]}"
forget_environment
new_client caller
new_client thief
good=$(new_token caller)
stolen=$(new_token caller)
thiefs=$(new_token thief)
for token in "$good" "$stolen" "$thiefs"; do
  expect_through 'a good token' OK 01 "$token"
done
for workload in "${workloads[@]}"; do
  certificate "$workload"
  thumbprint[$workload]=$(openssl x509 -in "$work/pki/$workload.pem" -outform der | openssl dgst -sha256 -binary | base64)
  admin client create "bound-to-$workload" --spiffe-id "$(spiffe_id "$workload")" --token-binding "$workload" \
    --grant "$audience=$scope" >/dev/null
  for name in "${names[@]}"; do
    got=$(over_certificate "$name" "$workload" "$(workload_token "$workload")")
    expect_equal "$name: a token that is bound to a $workload" allowed "$got"
  done
done

printf '== yesterday\n'
for name in authority 02 03; do stop "$name"; done
cp "$database" "$work/yesterday.redb"
keep 02 yesterday
keep 03 yesterday
kept_at=$SECONDS
run_authority
run_sidecar 02
run_sidecar 03
becomes 20 'all are up to date' all_current "${#names[@]}"

printf '== today: a token, a client and certificates are revoked\n'
declare -A bound
for workload in "${workloads[@]}"; do
  bound[$workload]=$(workload_token "$workload")
  admin revoke certificate "$work/pki/$workload.pem" >/dev/null
done
printf '%s' "$stolen" | admin revoke token - >/dev/null
admin revoke client thief >/dev/null
admin client create newcomer --grant "$audience=$scope" >/dev/null
for name in "${names[@]}"; do
  becomes 10 "$name refuses the token" comes_to 'UNAUTHENTICATED TOKEN_REVOKED' "$name" "$stolen"
  becomes 10 "$name refuses the client's" comes_to 'UNAUTHENTICATED CLIENT_REVOKED' "$name" "$thiefs"
  for workload in "${workloads[@]}"; do
    becomes 10 "$name refuses over the certificate what is bound to a $workload" \
      says_over_certificate token_revoked "$name" "$workload" "${bound[$workload]}"
  done
done

# From now on, whatever runs is asked again and again, until the end.
watch_revoked() {
  local name token
  while [[ ! -e $work/enough ]]; do
    for name in "${names[@]}"; do
      for token in "$stolen" "$thiefs"; do
        printf '%s %s\n' "$name" "$(through "$name" "$token")" >>"$work/watched"
      done
    done
  done
}
watch_revoked &
watcher=$!
children+=("$watcher")

printf "== a sidecar's directory as it was a moment ago\n"
# Nothing on one machine can tell that it is older. It is like one that was cut off since: it catches up when it reaches the
# authority, and stops at the end of each budget.
new_token caller >"$work/token.moment"
becomes 10 'a token is good' comes_to OK 02 "$(cat "$work/token.moment")"
stop 02
keep 02 moment
run_sidecar 02
becomes 10 'it is up to date' all_current "${#names[@]}"
admin revoke token - <"$work/token.moment" >/dev/null
becomes 10 'it refuses the token' comes_to 'UNAUTHENTICATED TOKEN_REVOKED' 02 "$(cat "$work/token.moment")"
stop 02
put_back 02 moment
began=$(now_ms)
run_sidecar 02
accepted=0
until got=$(through 02 "$(cat "$work/token.moment")") && [[ $got == "UNAUTHENTICATED TOKEN_REVOKED" ]]; do
  [[ $got == OK ]] && accepted=$((accepted + 1))
  if (($(now_ms) - began > (lease + budget) * 1000)); then
    break
  fi
done
expect_equal 'it catches up, and refuses' 'UNAUTHENTICATED TOKEN_REVOKED' "$got"
printf '      %d ms after its start, after %d calls that were accepted within its budget\n' $(($(now_ms) - began)) "$accepted"

printf "== yesterday's directory\n"
stop authority
today=$(epoch 01)
stop 02
while ((SECONDS - kept_at <= lease + budget)); do sleep 0.1; done
put_back 02 yesterday
run_sidecar 02
becomes 10 'its trust is too old: nothing is decided' comes_to 'UNAVAILABLE TRUST_STALE' 02 "$good"
expect_through 'the revoked token' 'UNAVAILABLE TRUST_STALE' 02 "$stolen"
expect_through 'the revoked token, strict' 'UNAVAILABLE TRUST_STALE' 02 "$stolen" Collect
printf '      epoch %s, its floor %s; today is %s\n' "$(epoch 02)" "$(epoch 02 _floor)" "$today"

printf "== yesterday's cache under today's floor\n"
stop 03
cp "$work/state/03/floor" "$work/floor"
put_back 03 yesterday
cp -p "$work/floor" "$work/state/03/floor"
run_sidecar 03
becomes 10 'nothing is decided' comes_to 'UNAVAILABLE TRUST_COLD' 03 "$good"
expect_through 'the revoked token' 'UNAVAILABLE TRUST_COLD' 03 "$stolen"
expect_logged 'it is told' 03 'below_floor'
expect_equal 'not ready' 503 "$(ready "$(admin_port 03)")"
expect_equal 'no trust is in force' 0 "$(epoch 03)"
expect_equal 'the floor stays' "$today" "$(epoch 03 _floor)"
run_authority
becomes 20 'with the authority, all are up to date' all_current "${#names[@]}"
for name in 02 03; do
  expect_through "$name: the revoked token" 'UNAUTHENTICATED TOKEN_REVOKED' "$name" "$stolen"
  expect_through "$name: a good token" OK "$name" "$good"
done

printf "== yesterday's directory and yesterday's database\n"
stop authority
stop 02
cp "$work/yesterday.redb" "$database"
put_back 02 yesterday
began=$(now_ms)
run_authority
becomes 20 'the authority knows that it is behind' metric_is 1 $((authority_port + 1)) countersign_recovery_required
printf '      %d ms after its start\n' $(($(now_ms) - began))
expect_equal 'an alarm is counted' 1 "$(metric $((authority_port + 1)) 'countersign_alarms_total{reason="recovery_required"}')"
expect_logged 'and logged' authority '"alarm":"recovery_required"'
expect_equal 'not ready' 503 "$(ready $((authority_port + 1)))"
run_sidecar 02
expect_refused 'no token is issued' recovery_required get_token
expect_refused 'nothing is revoked' recovery_required admin revoke client caller
expect_refused 'no client is made' recovery_required admin client create another --grant "$audience=$scope"
expect_equal 'reading goes on' 0 "$(admin client list >/dev/null 2>&1; printf '%d' $?)"
becomes 10 'a sidecar raises an alarm' metric_is 1 "$(admin_port 01)" 'countersign_trust_alarm{reason="epoch_regressed"}'
becomes 10 'the restored sidecar is granted nothing' comes_to 'UNAVAILABLE TRUST_STALE' 02 "$good"
expect_through 'and does not accept the revoked token' 'UNAVAILABLE TRUST_STALE' 02 "$stolen"
becomes $((lease + budget + 2)) 'the others go on until their budgets end' comes_to 'UNAVAILABLE TRUST_STALE' 01 "$good"

printf '== recovery\n'
stop authority
if "$countersign" run authority recover --config "$work/authority.toml" >"$work/recovered" 2>&1; then
  ok "the documented command: $(grep -m 1 '^recovered' "$work/recovered")"
else
  not_ok 'the documented command' "$(tail -n 3 "$work/recovered")"
fi
if "$countersign" run authority recover --config "$work/authority.toml" >"$work/again" 2>&1; then
  not_ok 'it works once'
else
  expect_equal 'it works once' recovery_not_required "$(grep -o recovery_not_required "$work/again" | head -n 1)"
fi
began=$(now_ms)
run_authority
becomes 20 'all are up to date' all_current "${#names[@]}"
printf '      %d ms after its start\n' $(($(now_ms) - began))
fresh=$(new_token caller)
for name in "${names[@]}"; do
  expect_through "$name: a new token" OK "$name" "$fresh"
  expect_through "$name: the revoked token" 'UNAUTHENTICATED KEY_REVOKED' "$name" "$stolen"
  expect_through "$name: the revoked client's" 'UNAUTHENTICATED KEY_REVOKED' "$name" "$thiefs"
  expect_through "$name: one from before" 'UNAUTHENTICATED KEY_REVOKED' "$name" "$good"
done
# The authority does not know that the certificates are revoked, and gives tokens over them. Who knew goes on refusing, also after a
# start.
stop 04
run_sidecar 04
becomes 20 'all are up to date' all_current "${#names[@]}"
for workload in "${workloads[@]}"; do
  unknowing=$(workload_token "$workload")
  for name in 01 03 04; do
    got=$(over_certificate "$name" "$workload" "$unknowing")
    expect_equal "$name: a new token bound to a $workload, over the revoked one" token_revoked "$got"
  done
  got=$(over_certificate 02 "$workload" "$unknowing")
  expect_equal '02, whose directory is of yesterday, cannot know' allowed "$got"
  admin revoke certificate "$work/pki/$workload.pem" >/dev/null
  becomes 10 'revoked again, it does' says_over_certificate token_revoked 02 "$workload" "$unknowing"
done
expect_metric 'the authority is well' 0 $((authority_port + 1)) countersign_recovery_required
expect_metric 'and the alarm ends' 0 "$(admin_port 01)" 'countersign_trust_alarm{reason="epoch_regressed"}'

# twin NAME DATABASE PORT    A second authority of the same name, on a copy.
twin() {
  configure_authority "$1" "$3" "$2" "${names[@]}"
  start "$1" "$countersign" run authority serve --config "$work/$1.toml"
  process[$1]=$started
}
# moves_to NAME PORT ALARM    Sidecar 04 is pointed at an authority, which is refused and alarmed.
moves_to() {
  stop 04
  configure 04 "$2"
  run_sidecar 04
  becomes 20 "$1 knows that it is not the only one" metric_is 1 $(($2 + 1)) countersign_recovery_required
  expect_logged 'it is logged' "$1" '"alarm":"recovery_required"'
  becomes 10 'the sidecar raises an alarm' metric_is 1 "$(admin_port 04)" "countersign_trust_alarm{reason=\"$3\"}"
  at=$2 expect_refused "$1 issues nothing" recovery_required get_token
  becomes $((lease + budget + 2)) "$1 grants nothing: the sidecar stops" comes_to 'UNAVAILABLE TRUST_STALE' 04 "$fresh"
  expect_through 'the first authority goes on' OK 01 "$(new_token caller)"
  stop "$1"
  stop 04
  configure 04
  run_sidecar 04
  becomes 20 'and takes the sidecar back' comes_to OK 04 "$fresh"
}

printf "== two authorities: the second from yesterday's copy\n"
twin older "$work/yesterday.redb" 20220
moves_to older 20220 epoch_regressed

printf '== two authorities: copies of one moment\n'
stop authority
cp "$database" "$work/moment.redb"
run_authority
becomes 20 'all are up to date' all_current "${#names[@]}"
twin fork "$work/moment.redb" 20230
other=$(new_token caller)
printf '%s' "$other" | admin revoke token - >/dev/null
becomes 10 'the first has gone on' comes_to 'UNAUTHENTICATED TOKEN_REVOKED' 04 "$other"
forks() {
  at=20230 admin revoke client thief >/dev/null 2>&1
}
becomes 10 'and so has the second' forks
moves_to fork 20230 epoch_fork

touch "$work/enough"
wait "$watcher" || true
calls=$(wc -l <"$work/watched")
accepted=$(grep -c ' OK$' "$work/watched" || true)
if ((calls > 200 && accepted == 0)); then
  ok "what was revoked was accepted by nobody in $calls calls: $(cut -d' ' -f2- "$work/watched" | sort | uniq -c |
    awk '{ n = $1; $1 = ""; printf "%s%s%s", sep, n, $0; sep = ", " }')"
else
  not_ok 'what was revoked' "$accepted of $calls calls were accepted" "$(grep ' OK$' "$work/watched" | sort | uniq -c)"
fi
tally authority 01 02 03 04

#!/usr/bin/env bash
# Does what the README's five minutes say, command for command, and looks at what comes of it.
#
# Started by run.sh, which builds grpcurl and gojq (which stands in for jq here).
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
readonly work
supervisor=

cleanup() {
  if [[ -n "$supervisor" ]]; then
    kill "$supervisor" 2>/dev/null || true
    wait "$supervisor" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap cleanup EXIT

mkdir "$work/bin"
ln -s "$PWD/target/interop/bin/grpcurl" "$work/bin/grpcurl"
ln -s "$PWD/target/interop/bin/gojq" "$work/bin/jq"
export PATH="$work/bin:$PATH" TMPDIR="$work"

cargo build --quiet --locked --bin countersign
target/debug/countersign dev >"$work/dev.log" 2>&1 &
supervisor=$!
deadline=$((SECONDS + 60))
until [[ -s "$work/countersign-dev/dev.json" ]]; do
  if ((SECONDS >= deadline)) || ! kill -0 "$supervisor" 2>/dev/null; then
    cat "$work/dev.log" >&2
    printf '0 passed, 1 failed\n'
    exit 1
  fi
  sleep 0.1
done

# The shell blocks of that section, with the binary that is built here.
awk '/^## /{inside = /^## Five minutes/} inside && /^```/{block = !block; next} inside && block' README.md |
  sed 's#target/release/#target/debug/#' >"$work/tour.sh"
# Refused calls fail, so there is no `-e`. What is refused and what is answered tells whether it went as it should.
bash -O expand_aliases "$work/tour.sh" >"$work/tour.log" 2>&1 || true

grep -oE '"message": "hello"|Message: the token[^:]*: [a-z_]+|^(key|audience) +(pass|FAIL)|in force on the only verifier' \
  "$work/tour.log" | sed -E 's/ +/ /g' >"$work/found" || true
cat >"$work/wanted" <<'END'
"message": "hello"
Message: the token is refused: token_missing
Message: the token is refused: aud_mismatch
key pass
audience FAIL
"message": "hello"
in force on the only verifier
Message: the token is refused: client_revoked
in force on the only verifier
"message": "hello"
Message: the token is refused: client_revoked
END
if diff -u "$work/wanted" "$work/found"; then
  printf '%d passed, 0 failed\n' "$(wc -l <"$work/wanted")"
else
  cat "$work/tour.log" >&2
  printf '0 passed, 1 failed\n'
  exit 1
fi

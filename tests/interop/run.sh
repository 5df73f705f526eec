#!/usr/bin/env bash
# Builds the tools that tests/interop/go.mod pins, into target/, and runs every interoperability test. It never skips: what
# is missing is a failure.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)

if ! command -v go >/dev/null; then
  printf 'tests/interop needs Go, at least the version that go.mod names\n' >&2
  exit 1
fi
mkdir -p "$root/target/interop/bin"
for tool in ./collector github.com/fullstorydev/grpcurl/cmd/grpcurl github.com/itchyny/gojq/cmd/gojq; do
  GOFLAGS=-mod=readonly go build -trimpath -o "$root/target/interop/bin/${tool##*/}" "$tool"
done

status=0
results=
for test in grpcurl otlp readme drill; do
  printf '\n==== %s.sh\n' "$test"
  ./"$test.sh" | tee "$root/target/interop/$test.log" || status=1
  results+=$(tail -n 1 "$root/target/interop/$test.log")$'\n'
done
awk '{ passed += $1; failed += $3 } END { printf "\n%d passed, %d failed\n", passed, failed }' <<<"$results"
exit "$status"

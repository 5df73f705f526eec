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
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  printf 'tests/interop needs Python 3 with venv and pip\n' >&2
  exit 1
fi
mkdir -p "$root/target/interop/bin"
for tool in ./collector ./envoyapi ./h2spec ./mtls github.com/fullstorydev/grpcurl/cmd/grpcurl github.com/itchyny/gojq/cmd/gojq \
  google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
  GOFLAGS=-mod=readonly go build -trimpath -o "$root/target/interop/bin/${tool##*/}" "$tool"
done
for side in client server; do
  GOFLAGS=-mod=readonly go build -trimpath -o "$root/target/interop/bin/grpc-go-$side" "google.golang.org/grpc/interop/$side"
done

# libfaketime, of which clock.sh's processes have their clocks: the system's, or the distribution's package, which is unpacked into
# target/ and not installed. The second attempt is for a system whose lists of packages are not there.
readonly unpacked=$root/target/interop/faketime
find_faketime() {
  FAKETIME_LIBRARY=$(find /usr/lib /usr/lib64 "$unpacked" -name libfaketimeMT.so.1 -print -quit 2>/dev/null || true)
}
find_faketime
if [[ -z $FAKETIME_LIBRARY ]]; then
  mkdir -p "$unpacked/lists/partial" "$unpacked/cache/archives/partial"
  own=(-o "Dir::State::Lists=$unpacked/lists" -o "Dir::Cache=$unpacked/cache" -o APT::Sandbox::User=)
  (
    cd "$unpacked"
    apt-get download --quiet libfaketime || {
      apt-get update --quiet "${own[@]}"
      apt-get download --quiet "${own[@]}" libfaketime
    }
    dpkg -x libfaketime_*.deb .
  )
  find_faketime
fi
if [[ -z $FAKETIME_LIBRARY ]]; then
  printf 'tests/interop needs libfaketime\n' >&2
  exit 1
fi
export FAKETIME_LIBRARY

status=0
results=
for test in grpcurl clients layer otlp readme drill restored stopped clock streams loss grpc_go envoy h2spec soak; do
  printf '\n==== %s.sh\n' "$test"
  ./"$test.sh" | tee "$root/target/interop/$test.log" || status=1
  results+=$(tail -n 1 "$root/target/interop/$test.log")$'\n'
done
awk '{ passed += $1; failed += $3 } END { printf "\n%d passed, %d failed\n", passed, failed }' <<<"$results"
exit "$status"

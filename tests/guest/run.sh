#!/usr/bin/env bash
# run.sh [x86|chips|arm|vhost|payloads|systemd|all]: boots a stock Debian kernel in QEMU and compares what the shipped rigd publishes with what
# the kernel's own drivers read from the same chips. Exits with 0 only if every reading is the same, or differs as explained.
#   RIGD_X86=FILE RIGD_ARM=FILE          the static binaries; by default those of the release build
#   RIGD_VHOST_I2C=FILE RIGD_BUS_TRAPS=FILE   of rigd-sim, for vhost; by default those of the debug build
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$here/../../target
rings=(x86 chips arm vhost payloads systemd)
[ "${1:-all}" = all ] || rings=("$1")
"$here/setup.sh" "${1:-all}"
status=0
for ring in "${rings[@]}"; do
  others=()
  case $ring in
    x86 | chips | payloads | systemd) rigd=${RIGD_X86:-$target/x86_64-unknown-linux-musl/release/rigd} ;;
    arm) rigd=${RIGD_ARM:-$target/aarch64-unknown-linux-musl/release/rigd} ;;
    vhost)
      rigd=${RIGD_X86:-$target/x86_64-unknown-linux-musl/release/rigd}
      others=("${RIGD_VHOST_I2C:-$target/debug/vhost-i2c}" "${RIGD_BUS_TRAPS:-$target/debug/bus-traps}")
      ;;
    *) echo "usage: run.sh [x86|chips|arm|vhost|payloads|systemd|all]" >&2; exit 2 ;;
  esac
  for program in "$rigd" "${others[@]}"; do
    [ -x "$program" ] || { echo "guest: no $program" >&2; exit 2; }
  done
  ! readelf -lW "$rigd" | grep -q INTERP || { echo "guest: $rigd is not static" >&2; exit 2; }
  echo "== $ring: $rigd"
  "$here/$ring.sh" "$rigd" "${others[@]}" || status=1
done
exit "$status"

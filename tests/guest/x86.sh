#!/usr/bin/env bash
# x86.sh RIGD: ring (a). Register images in i2c-stub, read by the kernel's drivers and by RIGD (static, x86_64): first through
# those drivers' hwmon attributes, then, with the drivers gone, by RIGD's own over an adapter that knows SMBus only.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readonly SETS=(load reverse extreme)

# The keys of the same chips read through hwmon.
through_kernel() {
  sed -E 's/^([a-z]+\.[a-z0-9]+)/\1_kernel/'
}

# A duty of 511 in 511, as a word: in bits 15:7, the high byte first.
readonly FULL=0x80ff
# shellcheck disable=SC2317 # called by check
all_fans_at() { # DUTY
  [ "$(guest duties)" = "$1 $1 $1 $1 $1 $1" ]
}

begin
image amd64 "i2c-dev i2c-stub ina2xx lm75 max31790 pmbus virtio_net" \
  "$HERE/inside/hwmon.sh:test/hwmon.sh" "$HERE/inside/x86.sh:test/x86.sh" "$HERE/inside/rigd.sh:test/rigd.sh" \
  "$HERE/../../boards/guest-x86.toml:test/board.toml" "$1:bin/rigd"
broker
boot amd64 ttyS1 console=ttyS0 -M q35 -cpu max -m 256 -nodefaults -serial "file:$work/console" \
  -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands \
  "${network[@]}"
guest '. /test/hwmon.sh; . /test/x86.sh; . /test/rigd.sh; online'
guest 'prepare && lay load && bind' || die "the kernel's drivers do not bind"

guest 'start guest-hwmon 10.0.2.100:1883'
for set in "${SETS[@]}"; do
  change guest-hwmon guest "lay $set"
  guest readings > "$work/kernel.$set"
  guest alarms > "$work/alarms.$set"
  { cat "$work/kernel.$set"; grep '^fans' "$work/alarms.$set"; } | through_kernel > "$work/expected"
  expect guest-hwmon "through the kernel's drivers: $set"
done
# Their chips are theirs: rigd reads them, and drives their fans, through those drivers; a supply it leaves alone.
grep -v ' pmbus@' "$work/kernel.extreme" > "$work/expected"
grep ' pmbus@' "$work/kernel.extreme" | missing >> "$work/expected"
expect guest-hwmon "chips that the kernel's drivers own"
stop 1 # what that driver reads back stands in a register that does not follow in an image, and rigd says so
check "max31790@20 all fans at full duty, through the kernel's driver" all_fans_at $FULL

guest unbind
guest 'lay load; start guest-raw 10.0.2.100:1883'
for set in "${SETS[@]}"; do
  change guest-raw guest "lay $set"
  cat "$work/kernel.$set" "$work/alarms.$set" > "$work/expected"
  echo "sensors.absent none - tmp75@4f temperature" >> "$work/expected"
  expect guest-raw "raw, over SMBus: $set"
done
through_kernel < "$work/kernel.load" | missing > "$work/expected"
expect guest-raw "through the kernel's drivers, which are gone"

check "max31790@20 all fans at full duty in the heat" all_fans_at $FULL
guest idle
check "max31790@20 all fans at full duty again after someone lowered them" all_fans_at $FULL
stop
guest 'idle; rigd leave-safe --config /tmp/rigd.toml' || true
check "max31790@20 all fans at full duty after rigd leave-safe" all_fans_at $FULL

guest bind
guest readings > "$work/kernel.after"
check "kernel's readings before and after rigd had the chips" diff "$work/kernel.extreme" "$work/kernel.after"
finish x86

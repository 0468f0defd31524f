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

# A duty of 511 in 511 and of 153 in 511, as words: in bits 15:7, the high byte first.
readonly FULL=0x80ff IDLE=0x804c
# shellcheck disable=SC2317 # called by check
all_fans_at() { # DUTY
  [ "$(guest duties)" = "$1 $1 $1 $1 $1 $1" ]
}

begin
image amd64 "i2c-dev i2c-stub ina2xx lm75 max31790 pmbus virtio_net" \
  "$HERE/inside/hwmon.sh:test/hwmon.sh" "$HERE/inside/stub.sh:test/stub.sh" "$HERE/inside/rigd.sh:test/rigd.sh" \
  "$HERE/inside/x86.sh:test/x86.sh" "$HERE/../../boards/guest-x86.toml:test/x86.toml" "$1:bin/rigd"
broker
boot amd64 ttyS1 console=ttyS0 -M q35 -cpu max -m 256 -nodefaults -serial "file:$work/console" \
  -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands \
  "${network[@]}"
guest '. /test/hwmon.sh; . /test/stub.sh; . /test/x86.sh; . /test/rigd.sh; online'
guest 'prepare && lay load && bind' || die "the kernel's drivers do not bind"

guest 'hwmon_alone; start guest-hwmon 10.0.2.100:1883'
for set in "${SETS[@]}"; do
  change guest-hwmon guest "lay $set"
  guest readings > "$work/kernel.$set"
  guest alarms > "$work/alarms.$set"
  { cat "$work/kernel.$set"; grep '^fans' "$work/alarms.$set"; } | through_kernel > "$work/expected"
  expect guest-hwmon "through the kernel's drivers: $set"
done
missing < "$work/kernel.load" > "$work/expected"
expect guest-hwmon "chips of an adapter that is not there"
stop 1 # it could not leave the fans at full air, and it says so
check "max31790@20 duties left alone" all_fans_at $IDLE

# The chips that the kernel's drivers own, by the names of chips: read and driven through those drivers, all but the supply, for
# the kernel's names of a PMBus supply are not known in advance.
guest 'chips_alone; follow & follower=$!; start guest-owned 10.0.2.100:1883'
for set in "${SETS[@]}"; do
  change guest-owned guest "lay $set"
  { cat "$work/kernel.$set"; grep '^fans.front' "$work/alarms.$set"; } |
    awk '/pmbus@58/ { print $1, "bus", "-", $4, $5; next } { print }' > "$work/expected"
  expect guest-owned "chips that the kernel's drivers own: $set"
done
for chip in U1=1 U2=1 U3=1 U4=1 U5=1 U6=1 U7=0 U8=1 U9=0; do
  echo "through_kernel.${chip%=*} ${chip#*=} - ${chip%=*} read-through-the-kernel"
done > "$work/expected"
expect guest-owned "the list of chips that are read through the kernel"
check "max31790@20 all fans at full duty in the heat, through its driver" all_fans_at $FULL
guest idle
check "max31790@20 all fans at full duty again after someone lowered them" all_fans_at $FULL
guest idle
stop
check "max31790@20 all fans at full duty after rigd has stopped" all_fans_at $FULL
guest 'kill $follower'

guest unbind
guest 'lay load; idle; whole; start guest-raw 10.0.2.100:1883'
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

#!/usr/bin/env bash
# arm.sh RIGD: ring (b). QEMU's own TMP105 sensors on an i.MX 8M Plus board, read over raw I2C by RIGD (static, aarch64), their
# temperatures changed from outside while it runs. This machine has no network: the broker runs inside the guest.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# Millidegrees of sensor 1 to 4: ordinary, below zero and steps of 1/16 °C, ends of the scale.
readonly SETS=("21500 38250 45063 61938" "-10000 -63 -24688 63" "127938 -55000 0 -1000")

messages() { # RIG
  guest "grep '^r1/$1/up/birth ' /tmp/messages | tail -n 1; grep '^r1/$1/up/tele ' /tmp/messages | tail -n 1"
}

heat() { # FOUR TEMPERATURES
  local sensor=1 millidegrees
  for millidegrees in "$@"; do
    monitor qom-set "{\"path\":\"/machine/peripheral/t$sensor\",\"property\":\"temperature\",\"value\":$millidegrees}"
    sensor=$((sensor + 1))
  done
}

begin
image arm64 "i2c-dev i2c-imx lm75" "$HERE/inside/arm.sh:test/arm.sh" "$HERE/inside/rigd.sh:test/rigd.sh" \
  "$HERE/../../boards/guest-arm.toml:test/board.toml" "$1:bin/rigd" \
  "$CACHE/broker-arm64/libraries:lib" "$CACHE/broker-arm64/usr/sbin/mosquitto:bin/mosquitto" \
  "$CACHE/broker-arm64/usr/bin/mosquitto_sub:bin/mosquitto_sub"
sensors=()
for at in 1=0x48 2=0x49 3=0x4a 4=0x4f; do sensors+=(-device "tmp105,id=t${at%=*},address=${at#*=},bus=i2c-bus.0"); done
boot arm64 ttymxc2 console=ttymxc1,115200 -M imx8mp-evk -m 1024 -nic none \
  -dtb "$(echo "$CACHE"/kernel-arm64/usr/lib/linux-image-*/freescale/imx8mp-evk.dtb)" "${sensors[@]}" \
  -serial null -serial "file:$work/console" -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands
guest '. /test/arm.sh; . /test/rigd.sh; prepare' || die "no adapter or no broker in the guest"

guest bind || die "the kernel's driver does not bind"
for i in "${!SETS[@]}"; do
  # shellcheck disable=SC2086 # four words
  heat ${SETS[i]}
  guest readings > "$work/kernel.$i"
done
guest unbind

guest 'start guest-arm 127.0.0.1:1883'
for i in "${!SETS[@]}"; do
  # shellcheck disable=SC2086
  change guest-arm heat ${SETS[i]}
  { cat "$work/kernel.$i"; echo "sensors.absent none - tmp105@4c temperature"; } > "$work/expected"
  expect guest-arm "raw I2C: ${SETS[i]}"
done
stop
finish arm

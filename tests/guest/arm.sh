#!/usr/bin/env bash
# arm.sh RIGD: ring (b). QEMU's own models of chips on an i.MX 8M Plus board, an adapter with raw I2C, what they measure changed
# from outside while it runs; read by the kernel's drivers, by RIGD (static, aarch64) through those drivers, and by RIGD's own,
# with a multiplexer that the kernel switches or RIGD itself. This machine has no network: the broker runs inside the guest.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readonly SERIAL=SN-0042
# By device and property: ordinary; below zero and between steps; ends of the scale. Millidegrees, hundredths of a degree for the
# MAX34451, millivolts, milliamperes, watts.
readonly SETS='
t48 temperature 21500 -10000 127938
t49 temperature 38250 -63 -55000
t4a temperature 45063 -24688 0
t4f temperature 61938 63 -1000
mux3 temperature 33000 -5063 61000
mux5 temperature 44500 1000 127000
tmp421 temperature0 31250 -39938 126940
tmp421 temperature1 71250 -63 -40000
emc1413 temperature0 30500 125 127875
emc1413 temperature1 55125 0 1000
emc1413 temperature2 42750 63875 90375
emc1414 temperature0 29875 0 127000
emc1414 temperature1 60250 1125 125
emc1414 temperature2 33625 250 64000
emc1414 temperature3 47500 375 127875
adm1272 vin 48000 1 60000
adm1272 vout 47900 0 60000
adm1272 iout 20000 100 40000
adm1272 pin 960 1 1500
max34451 vout[0] 12000 1 32767
max34451 vout[15] 3300 0 32768
max34451 temperature[0] 3150 65036 12799
max34451 temperature[4] 2575 1 55537
'
# The LTC4282's registers: voltage, current, power, status.
readonly REGISTERS=("47260 47185 34000 0x8880" "30001 0 0 0x8a80" "65535 65535 65535 0x8d80")
# What rigd reads otherwise than the kernel's drivers, in the last set: key, what it has to publish, why.
readonly EXPLAINED='rails.max34451_16.mv implausible no rail is below ground'

messages() { # RIG
  guest "grep '^r1/$1/up/birth ' /tmp/messages | tail -n 1; grep '^r1/$1/up/tele ' /tmp/messages | tail -n 1"
}

lay() { # SET, from 0
  local device property values
  while read -r device property values; do
    [ -n "$device" ] || continue
    read -ra values <<< "$values"
    monitor qom-set "{\"path\":\"/machine/peripheral/$device\",\"property\":\"$property\",\"value\":${values[$1]}}"
  done <<< "$SETS"
  guest "ltc4282 ${REGISTERS[$1]}"
}

explain() { # SET: the kernel's table as rigd's own drivers have to publish it
  local known ours why
  read -r known ours why <<< "$EXPLAINED"
  [ "$1" = 2 ] || known=
  awk -v known="$known" -v ours="$ours" -v why="$why" '$1 == known { print $1, ours, $3, $4, $5, $2, why; next } { print }'
}

# identity NAME REVISION SERIAL: what an EEPROM says of its board
identity() {
  local text length
  {
    printf 'RIGD\1'
    for text in "$@"; do
      printf -v length '%03o' ${#text}
      printf '%b' "\\0$length"
    done
    printf %s "$@"
  } > "$work/identity"
  cat "$work/identity"
  gzip -c "$work/identity" | tail -c 8 | head -c 4 # CRC-32, least significant byte first
}

begin
identity guest-arm a "$SERIAL" > "$work/eeprom"
truncate -s 4096 "$work/eeprom"
image arm64 "i2c-dev i2c-imx i2c-stub i2c-mux-pca954x pmbus_core lm75 tmp421 emc1403 adm1275 max34440 ltc4282 described" \
  "$HERE/inside/stub.sh:test/stub.sh" "$HERE/inside/hwmon.sh:test/hwmon.sh" "$HERE/inside/arm.sh:test/arm.sh" \
  "$HERE/inside/rigd.sh:test/rigd.sh" "$HERE/../../boards/guest-arm.toml:test/board.toml" "$1:bin/rigd" \
  "$CACHE/broker-arm64/libraries:lib" "$CACHE/broker-arm64/usr/sbin/mosquitto:bin/mosquitto" \
  "$CACHE/broker-arm64/usr/bin/mosquitto_sub:bin/mosquitto_sub"
# shellcheck disable=SC2054 # commas are QEMU's
devices=(-drive "if=none,id=eeprom,format=raw,file=$work/eeprom"
  -device at24c-eeprom,address=0x50,bus=i2c-bus.0,rom-size=4096,drive=eeprom
  -device pca9548,id=mux,address=0x70,bus=i2c-bus.0)
for chip in tmp105,id=t48,address=0x48 tmp105,id=t49,address=0x49 tmp105,id=t4a,address=0x4a tmp105,id=t4f,address=0x4f \
  tmp421,id=tmp421,address=0x2a emc1413,id=emc1413,address=0x18 emc1414,id=emc1414,address=0x1c adm1272,id=adm1272,address=0x10 \
  max34451,id=max34451,address=0x34; do devices+=(-device "$chip,bus=i2c-bus.0"); done
for channel in 3 5; do devices+=(-device "tmp105,id=mux$channel,address=0x4d,bus=i2c.$channel"); done
boot arm64 ttymxc2 console=ttymxc1,115200 -M imx8mp-evk -m 1024 -nic none \
  -dtb "$(echo "$CACHE"/kernel-arm64/usr/lib/linux-image-*/freescale/imx8mp-evk.dtb)" "${devices[@]}" \
  -serial null -serial "file:$work/console" -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands
guest '. /test/stub.sh; . /test/hwmon.sh; . /test/arm.sh; . /test/rigd.sh; prepare' || die "no adapter or no broker in the guest"
absent="sensors.absent none - tmp105@4c temperature"

guest bind || die "the kernel's drivers do not bind: $(guest 'dmesg | tail -n 20')"
guest 'start guest-arm-kernel 127.0.0.1:1883'
for set in 0 1 2; do
  change guest-arm-kernel lay $set
  guest readings > "$work/kernel.$set"
  guest unnamed > "$work/unnamed.$set"
  guest alarms > "$work/alarms.$set"
  { cat "$work/kernel.$set"; missing < "$work/unnamed.$set"; echo "$absent"; } > "$work/expected"
  expect guest-arm-kernel "through the kernel's drivers: set $set"
done
for chip in U1 U2 U3 U4 mux3 mux5 tmp421 emc1413 emc1414 adm1272 max34451 ltc4282; do
  echo "through_kernel.$chip 1 - $chip read-through-the-kernel"
done > "$work/expected"
for chip in U5 eeprom; do echo "through_kernel.$chip 0 - $chip read-through-the-kernel"; done >> "$work/expected"
expect guest-arm-kernel "through the kernel's drivers: the list of chips"
stop
guest unbind

guest 'start guest-arm 127.0.0.1:1883'
for set in 0 1 2; do
  change guest-arm lay $set
  { cat "$work/kernel.$set" "$work/unnamed.$set" "$work/alarms.$set" | explain $set; echo "$absent"; } > "$work/expected"
  [ $set != 0 ] || echo "serial $SERIAL - at24c32@50 serial" >> "$work/expected"
  expect guest-arm "raw I2C, rigd switches the multiplexer: set $set"
done
stop

guest switch
guest 'start guest-arm-mux 127.0.0.1:1883'
for set in 0 1; do
  change guest-arm-mux lay $set
  grep '^sensors.mux' "$work/kernel.$set" > "$work/expected"
  expect guest-arm-mux "raw I2C, the kernel switches the multiplexer: set $set"
done
stop
guest unswitch

guest bind
lay 2
guest readings > "$work/kernel.after"
check "kernel's readings before and after rigd had the chips" diff "$work/kernel.2" "$work/kernel.after"
finish arm

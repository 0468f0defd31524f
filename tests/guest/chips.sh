#!/usr/bin/env bash
# chips.sh RIGD: ring (a), every chip that the kernel has a driver for, in rounds: register images in i2c-stub, read by
# the kernel's drivers, by RIGD (static, x86_64) through those drivers, and by RIGD's own.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readonly SETS=(load reverse extreme) BOARD=$HERE/../../boards/guest-chips
# By round: what the kernel's pwm attributes and the chips' registers read at full duty.
declare -rA DRIVE=([fans]=255 [pages]=100) OUTPUT=([fans]=0xff [pages]=0x2710)

# Where rigd publishes something else than the kernel's drivers read, and why: set, by which way (raw, or both, through the
# kernel's drivers too), key, what rigd has to publish.
readonly EXPLAINED='
extreme raw rails.ina219.mw implausible the chip says that it could not multiply (OVF)
reverse raw rails.ina238.mv 12766 the kernel cuts off 12765.625
reverse raw rails.ina238.ma -10001 the kernel calibrates the chip to steps of four and cuts off -10000.5
reverse raw rails.ina238.mw 120313 the kernel calibrates the chip to steps of four, of 120312.5
extreme raw rails.ina238.mv 102397 the kernel cuts off 102396.875
extreme raw rails.ina238.ma 16384 the kernel calibrates the chip to steps of four and cuts off 16383.5
extreme raw rails.ina238.mw 1677722 the kernel calibrates the chip to steps of four, of 1677721.5
reverse both rails.ina3221_1.mv implausible no rail is below ground
reverse raw rails.ina3221_1.mw implausible no rail is below ground
load raw fans.emc2305_3.rpm 3001 the kernel measures in a coarser range, and doubles after it has cut off
reverse raw fans.emc2305_1.rpm 960 the kernel calls 960 rpm and less none
reverse raw fans.emc2305_4.rpm 2999 the kernel measures in a coarser range, and doubles after it has cut off
extreme raw fans.emc2305_1.rpm 16049 the kernel measures in a coarser range, and doubles after it has cut off
extreme raw fans.emc2305_4.rpm 491 the kernel calls 960 rpm and less none
extreme raw fans.nct7802_1.rpm implausible a count of 0 is no speed
extreme raw fans.adt7475_1.rpm implausible a count of 0 is no speed
reverse raw fans.amc6821_1.rpm 0 the count ran over: no pulse came
reverse raw sensors.emc1413_local -10875 the kernel does not know the range from -64 C
reverse raw sensors.emc1413_remote1 -48000 the kernel does not know the range from -64 C
load raw sensors.max31785_2 not_present a sensor that is switched off reads as zero
reverse raw sensors.max31785_2 implausible the sensor of this number does not answer, or its diode is open
reverse raw rails.max34451_1.mv implausible no rail is below ground
extreme raw sensors.tmp421_local implausible the diode is there, the supply was too low for the conversion (PVLD)
'

# explain SET raw|both: the kernel's table as rigd has to publish it, with the reason where that differs
explain() {
  awk -v set="$1" -v way="$2" '
    NR == FNR {
      if ($1 == set && ($2 == way || $2 == "both")) { ours[$3] = $4; why[$3] = $0; sub(/^([^ ]+ ){4}/, "", why[$3]) }
      next
    }
    $1 in ours { print $1, ours[$1], $3, $4, $5, $2, why[$1]; next }
    { print }' <(echo "$EXPLAINED") -
}

# shellcheck disable=SC2317 # these are called by check
reads() { # KEY
  fetch "$1"
  [[ ${now[$2]:-} =~ ^-?[0-9]+$ ]]
}

# shellcheck disable=SC2317
through_kernel() { # RIG 0|1
  local key found=
  fetch "$1"
  for key in "${!now[@]}"; do
    [[ $key != through_kernel.* ]] || found+=${now[$key]}
  done
  [[ $found =~ ^$2+$ ]]
}

# shellcheck disable=SC2317
all() { # COMMAND VALUE: all that COMMAND prints
  [ "$(guest "$1" | tr ' ' '\n' | sort -u)" = "$2" ]
}

begin
image amd64 "i2c-dev i2c-stub ina2xx ina3221 ina238 ltc2945 ltc4151 pmbus_core adm1275 max31785 max34440 lm90 emc2305 nct7802 \
  adt7475 amc6821 tmp102 lm75 tmp464 tmp421 tmp401 emc1403 virtio_net" \
  "$HERE/inside/hwmon.sh:test/hwmon.sh" "$HERE/inside/stub.sh:test/stub.sh" "$HERE/inside/rigd.sh:test/rigd.sh" \
  "$HERE/inside/chips.sh:test/chips.sh" "$HERE/inside/chips:test/chips" "$1:bin/rigd" \
  "$BOARD-power.toml:test/power.toml" "$BOARD-fans.toml:test/fans.toml" "$BOARD-pages.toml:test/pages.toml"
broker
boot amd64 ttyS1 console=ttyS0 -M q35 -cpu max -m 256 -nodefaults -serial "file:$work/console" \
  -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands "${network[@]}"
guest '. /test/hwmon.sh; . /test/stub.sh; . /test/chips.sh; . /test/rigd.sh; online'

for round in power fans pages; do
  rig=guest-$round
  seen=0
  guest "round $round" || die "no chips: $round"
  guest bind || die "the kernel's drivers do not bind: $(guest 'dmesg | tail -n 20')"
  guest "start $rig 10.0.2.100:1883"
  for set in "${SETS[@]}"; do
    change $rig guest "lay $set"
    guest readings > "$work/kernel.$set"
    guest blocks_$round > "$work/blocks.$set"
    guest products_$round > "$work/products.$set"
    guest alarms_$round > "$work/alarms.$set"
    {
      cat "$work/kernel.$set" "$work/blocks.$set" | explain "$set" both
      grep -E '^fans\.(emc2305|amc6821|max31785)' "$work/alarms.$set" || true
      missing < "$work/products.$set"
    } > "$work/expected"
    expect $rig "through the kernel's drivers: $round, $set"
  done
  check "all chips listed as read through the kernel" through_kernel $rig 1

  if [ $round = power ]; then
    guest unplug || die "the adapter does not go"
    awk '{ print $1, "bus", "-", $4, $5 }' "$work/kernel.load" > "$work/expected"
    expect $rig "without the adapter"
    guest "round $round" || die "the adapter does not come back"
  else
    check "all fans at full duty in the heat, by the kernel's pwm attributes" all drives "${DRIVE[$round]}"
    check "all fans at full duty, in the chips' registers" all outputs "${OUTPUT[$round]}"
    stop
    guest unbind
    rig=guest-$round-raw
    guest "lay load; start $rig 10.0.2.100:1883"
  fi
  check "rigd reads the chips, which nobody owns" reads $rig "$(head -n 1 "$work/kernel.load" | cut -d' ' -f1)"
  check "no chip listed as read through the kernel" through_kernel $rig 0
  for set in "${SETS[@]}"; do
    change $rig guest "lay $set"
    {
      cat "$work/kernel.$set" "$work/products.$set" "$work/alarms.$set" | explain "$set" raw
      missing < "$work/blocks.$set"
    } > "$work/expected"
    expect $rig "raw, over SMBus: $round, $set"
  done
  if [ $round != power ]; then
    check "all fans at full duty in the heat, in the chips' registers" all outputs "${OUTPUT[$round]}"
    guest idle
    check "all fans at full duty again after someone lowered them" all outputs "${OUTPUT[$round]}"
    stop
    guest 'idle; rigd leave-safe --config /tmp/rigd.toml' || die "rigd leave-safe fails"
    check "all fans at full duty after rigd leave-safe" all outputs "${OUTPUT[$round]}"
  else
    stop
  fi
  guest 'agent=; unplug'
done
finish chips

# Sourced by the Arm guest's shell: the adapters, the kernel's drivers, the broker.

adapter() { # NAME: its number
  for found in /sys/class/i2c-dev/*; do
    [ "$(cat $found/name)" = "$1" ] && echo ${found##*-} && return
  done
  return 1
}

prepare() {
  modprobe i2c-stub chip_addr=0x50 functionality=0x0fff0000 && modprobe -a i2c-dev i2c-imx || return
  stub=$(adapter "SMBus stub driver") && imx=$(adapter 30a20000.i2c) && bus=$imx || return
  with_stub "pair 0x50 0x00 0xbb02; byte 0x50 0x11 0x85" # LTC4282: 16.64 V; current limit 25 mV, measures the output
  echo "root:x:0:0::/:/bin/sh" > /etc/passwd # mosquitto asks who it is
  printf '%s\n' "listener 1883 127.0.0.1" "allow_anonymous true" "user root" > /tmp/broker.conf
  mosquitto -c /tmp/broker.conf > /tmp/broker.log 2>&1 &
  patience=50
  until nc -w 1 127.0.0.1 1883 </dev/null 2>/dev/null; do
    patience=$((patience - 1))
    [ $patience -gt 0 ] || return
    sleep 0.2
  done
  mosquitto_sub -h 127.0.0.1 -V 5 -v -t 'r1/#' > /tmp/messages 2>/tmp/subscriber.log &
}

with_stub() { # COMMAND: with i2c-stub as the adapter
  bus=$stub
  eval "$1"
  bus=$imx
}

ltc4282() { with_stub "pair 0x50 0x3a $1; pair 0x50 0x40 $2; pair 0x50 0x46 $3; pair 0x50 0x1e $4"; } # VOLTAGE CURRENT POWER STATUS

sensors="48=intake 49=exhaust 4a=board 4f=psu"
chips="tmp421=0x2a emc1413=0x18 emc1414=0x1c adm1272=0x10 max34451=0x34"
muxed="3 5"

switch() { # the kernel takes the multiplexer, and its channels are adapters
  modprobe i2c-mux-pca954x && echo pca9548 0x70 > $devices/i2c-$imx/new_device
}

unswitch() { echo 0x70 > $devices/i2c-$imx/delete_device && rmmod i2c-mux-pca954x; }

behind() { readlink $devices/$imx-0070/channel-$1 | sed 's/.*i2c-//'; } # CHANNEL: the number of its adapter

bind() {
  modprobe -a lm75 tmp421 emc1403 adm1275 max34440 ltc4282 && switch || return
  for sensor in $sensors; do echo tmp105 0x${sensor%=*} > $devices/i2c-$imx/new_device || return; done
  for chip in $chips; do
    echo ${chip%=*} ${chip#*=} > $devices/i2c-$imx/new_device && [ -d $devices/$imx-00${chip#*=0x}/hwmon ] || return
  done
  for channel in $muxed; do echo tmp105 0x4d > $devices/i2c-$(behind $channel)/new_device || return; done
  modprobe described bus=$stub addr=0x50 name=ltc4282 property=adi,rsense-nano-ohms value=500000 && [ -d $devices/$stub-0050/hwmon ]
}

unbind() {
  for channel in $muxed; do echo 0x4d > $devices/i2c-$(behind $channel)/delete_device || return; done
  unswitch || return
  for sensor in $sensors; do echo 0x${sensor%=*} > $devices/i2c-$imx/delete_device || return; done
  for chip in $chips; do echo ${chip#*=} > $devices/i2c-$imx/delete_device || return; done
  rmmod described
}

diodes() { # ADDR PART CHANNEL...
  at=$1 part=$2
  shift 2
  for channel in "$@"; do
    row sensors.${part}_${channel#*=} m°C $at $part ${channel#*=} temp${channel%=*}_input
  done
}

readings() {
  sleep 0.6 # tmp421 keeps what it read for half a second
  for sensor in $sensors; do row sensors.${sensor#*=} m°C ${sensor%=*} tmp105 temperature temp1_input; done
  for channel in $muxed; do
    bus=$(behind $channel)
    row sensors.mux$channel m°C 4d tmp105 behind-channel-$channel temp1_input
    bus=$imx
  done
  diodes 2a tmp421 1=local 2=remote1
  diodes 18 emc1413 1=local 2=remote1 3=remote2
  diodes 1c emc1414 1=local 2=remote1 3=remote2 4=remote3
  row rails.adm1272.mv mV 10 adm1272 voltage in1_input
  row rails.adm1272.ma mA 10 adm1272 current curr1_input
  row rails.adm1272.mw mW 10 adm1272 power power1_input
  row sensors.adm1272 m°C 10 adm1272 temperature temp1_input
  for channel in 1 2 5; do row sensors.max34451_$channel m°C 34 max34451 temperature$channel temp${channel}_input; done
  bus=$stub
  row rails.ltc4282.mv mV 50 ltc4282 voltage in0_input
  row rails.ltc4282.ma mA 50 ltc4282 current curr1_input
  row rails.ltc4282.mw mW 50 ltc4282 power power1_input
  bus=$imx
}

# What the kernel's names on a board do not tell in advance: rigd does not read these through its driver.
unnamed() {
  for channel in 1 16; do
    row rails.max34451_$channel.mv mV 34 max34451 voltage$channel $(labelled 34 vout$channel in)_input
  done
}

alarms() {
  bus=$stub
  flag faults.ltc4282.over_voltage 50 ltc4282 over-voltage in1_crit_alarm
  flag faults.ltc4282.under_voltage 50 ltc4282 under-voltage in1_lcrit_alarm
  flag faults.ltc4282.over_current 50 ltc4282 over-current curr1_crit_alarm
  bus=$imx
}

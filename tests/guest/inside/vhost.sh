# Sourced by the shell of the guest whose adapter leads to the simulated chips.

# prepare: finds the adapter and gives its name to rigd's board
prepare() {
  modprobe -a i2c-dev i2c-virtio || return
  bus=
  for found in /sys/class/i2c-dev/*; do
    name=$(cat $found/name)
    case $name in i2c_virtio*) bus=${found##*-} adapter=$name ;; esac
  done
  [ -n "$bus" ] || return
  sed "s/^socket = .*/adapter = \"$adapter\"/" /test/simulated.toml > /test/board.toml
}

chips="ina226=0x40 ina226=0x41 tmp75=0x48 lm75=0x4a max31790=0x20 pmbus=0x58 emc2305=0x2c"
# Behind the multiplexer, by channel.
behind="0:ina3221=0x43 1:tmp421=0x4c 3:tmp75=0x49 5:tmp75=0x49"

# on CHANNEL COMMAND...: runs COMMAND with the adapter that the kernel made of the multiplexer's channel
on() {
  root=$bus link=$(readlink $devices/$bus-0070/channel-$1) || return
  shift
  bus=${link##*i2c-}
  "$@"
  status=$?
  bus=$root
  return $status
}

new() { echo $1 $2 > $devices/i2c-$bus/new_device; } # NAME ADDR
delete() { echo $1 > $devices/i2c-$bus/delete_device; }

bind_mux() { modprobe i2c-mux-pca954x && new pca9548 0x70; }

bind() { # the kernel's drivers take the chips
  modprobe -a ina2xx lm75 max31790 pmbus emc2305 ina3221 tmp421 && bind_mux || return
  for chip in $chips; do new ${chip%=*} ${chip#*=} || return; done
  for chip in $behind; do
    device=${chip#*:}
    on ${chip%%:*} new ${device%=*} ${device#*=} || return
  done
  for shunt in 40=500 41=2000; do echo ${shunt#*=} > "$(attribute ${shunt%=*} shunt_resistor)" || return; done
  for channel in 1 2 3; do on 0 shunt $channel 500 || return; done
  for fan in 1 2 3 4 5 6; do echo 1 > "$(attribute 20 fan${fan}_enable)" || return; done
}

shunt() { echo $2 > "$(attribute 43 shunt${1}_resistor)"; }

unbind() {
  for chip in $behind; do on ${chip%%:*} delete ${chip#*=} || return; done
  for chip in $chips; do delete ${chip#*=} || return; done
  delete 0x70
}

# image STUB: lays what the simulated ADM1278 reads into i2c-stub on adapter STUB, whose driver wants an adapter that reads
# blocks, as i2c-virtio does not
image() {
  i2cset -y $bus 0x10 0xd4 0x071e w || return # measure the output and the temperature, too
  for byte in 0x19 0x98; do i2cset -y $1 0x10 $byte $(i2cget -y $bus 0x10 $byte) || return; done
  i2cset -y $1 0x10 0x20 0x40 || return # DIRECT; the chip itself has no VOUT_MODE, a stub has all commands
  for word in 0x88 0x8b 0x8c 0x8d 0x97 0xd4 0xd8; do i2cset -y $1 0x10 $word $(i2cget -y $bus 0x10 $word w) w || return; done
  for block in 0x99=3 0x9a=9; do
    text=$(i2ctransfer -y $bus w1@0x10 ${block%=*} r$((${block#*=} + 1))) || return
    i2cset -y $1 0x10 ${block%=*} ${text#* } s || return
  done
}

# stubbed COMMAND...: runs COMMAND with the adapter of i2c-stub, which is loaded for the ADM1278
stubbed() {
  modprobe i2c-stub chip_addr=0x10 functionality=0x0fff0000 || return
  for stub in /sys/class/i2c-dev/*; do [ "$(cat $stub/name)" = "SMBus stub driver" ] && stub=${stub##*-} && break; done
  image $stub || return
  root=$bus bus=$stub
  "$@"
  status=$?
  bus=$root
  rmmod i2c_stub
  return $status
}

hot_swap() {
  modprobe adm1275 && new adm1278 0x10 || return
  row rails.gpu5.mv mV 10 adm1278 voltage $(labelled 10 vin in)_input
  row rails.gpu5.ma mA 10 adm1278 current $(labelled 10 iout1 curr)_input
  row rails.gpu5.mw mW 10 adm1278 power $(labelled 10 pin power)_input
  row sensors.switch m°C 10 adm1278 temperature temp1_input
  delete 0x10
}

readings() {
  sleep 1.1 # max31790 keeps what it read for a second
  for rail in gpu0=40 gpu1=41; do
    at=${rail#*=}
    rail=rails.${rail%=*}
    row $rail.mv mV $at ina226 voltage in1_input
    row $rail.ma mA $at ina226 current curr1_input
    row $rail.mw mW $at ina226 power power1_input
  done
  row sensors.intake m°C 48 tmp75 temperature temp1_input
  row sensors.exhaust m°C 4a lm75 temperature temp1_input
  for fan in 1 2 3 4 5 6; do row fans.front$fan.rpm rpm 20 max31790 fan$fan fan${fan}_input; done
  row supplies.psu.input.mv mV 58 pmbus input-voltage $(labelled 58 vin in)_input
  row supplies.psu.input.ma mA 58 pmbus input-current $(labelled 58 iin curr)_input
  row supplies.psu.input.mw mW 58 pmbus input-power $(labelled 58 pin power)_input
  row supplies.psu.output.mv mV 58 pmbus output-voltage $(labelled 58 vout1 in)_input
  row supplies.psu.output.ma mA 58 pmbus output-current $(labelled 58 iout1 curr)_input
  row supplies.psu.output.mw mW 58 pmbus output-power $(labelled 58 pout1 power)_input
  row sensors.psu m°C 58 pmbus temperature temp2_input
  row fans.psu.rpm rpm 58 pmbus fan fan1_input
  for channel in 1 2 3; do
    on 0 row rails.gpu$((channel + 1)).mv mV 43 ina3221 voltage$channel in${channel}_input
    on 0 row rails.gpu$((channel + 1)).ma mA 43 ina3221 current$channel curr${channel}_input
  done
  on 1 row sensors.intake_board m°C 4c tmp421 local temp1_input
  on 1 row sensors.cards m°C 4c tmp421 remote temp2_input
  on 3 row sensors.left m°C 49 tmp75 left temp1_input
  on 5 row sensors.right m°C 49 tmp75 right temp1_input
}

# The driver takes it that the chip measures in its range after reset, which rigd changes.
side_fans() {
  for fan in 1 2 3 4 5; do row fans.side$fan.rpm rpm 2c emc2305 fan$fan fan${fan}_input; done
}

# side VALUE: pwm1 of the emc2305, which its driver gives to all five, in ten steps
side() { echo $1 > "$(attribute 2c pwm1)"; }

flags() {
  fan_faults
  flag fans.psu.fault 58 pmbus fan-fault fan1_fault
  flag faults.U7.fan 58 pmbus fan-fault fan1_fault
  flag faults.U7.input 58 pmbus input-alarm in1_alarm
  flag faults.U7.over_current 58 pmbus over-current-alarm curr2_alarm
  flag faults.U7.temperature 58 pmbus temperature-alarm temp2_alarm
}

# limit MILLIVOLTS: sets the lowest voltage that the first INA226 takes without an alarm, and prints the alarm
limit() {
  echo $1 > "$(attribute 40 in1_lcrit)" && sleep 0.2 && cat "$(attribute 40 in1_lcrit_alarm)"
}

# drive VALUE...: pwm1 to pwm6 of the kernel's driver
drive() {
  fan=1
  for value in "$@"; do
    echo $value > "$(attribute 20 pwm$fan)" || return
    fan=$((fan + 1))
  done
}

drives() { # pwm1 to pwm6, as the driver reads them back
  cat "$(attribute 20 pwm1)" "$(attribute 20 pwm2)" "$(attribute 20 pwm3)" "$(attribute 20 pwm4)" "$(attribute 20 pwm5)" \
    "$(attribute 20 pwm6)" | xargs
}

idle() { # all fans at about 30 %, behind everybody's back
  for fan in 0 1 2 3 4 5; do i2cset -y $bus 0x20 $(printf 0x%x $((0x40 + 2 * fan))) 0x804c w || return; done
  for fan in 3 4 5 6 7; do i2cset -y $bus 0x2c 0x${fan}0 0x4c || return; done
}

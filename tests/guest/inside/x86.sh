# Sourced by the x86 guest's shell: register images in i2c-stub, and the kernel's drivers that read them.

# The board without its adapter, without the kernel's devices, or whole.
hwmon_alone() { sed 's/^adapter = .*/adapter = "none"/' /test/x86.toml > /test/board.toml; }
chips_alone() { sed 's/^device = .*/device = "none"/' /test/x86.toml > /test/board.toml; }
whole() { cp /test/x86.toml /test/board.toml; }

# prepare: loads the chips and writes what the measurements do not change
prepare() {
  plug 0x40,0x41,0x44,0x48,0x49,0x4a,0x20,0x58 || return
  for chip in 0x40 0x41 0x44; do # INA226: configuration at reset, calibrated, maker, die
    big $chip 0 0x4127
    big $chip 5 0x0800
    big $chip 0xfe 0x5449
    big $chip 0xff 0x2260
  done
  byte 0x20 0 0x20 # MAX31790: tachometers on, four revolutions counted
  for fan in 0 1 2 3 4 5; do
    byte 0x20 "2 + $fan" 0x08
    byte 0x20 "8 + $fan" 0x4c
    pair 0x20 "0x30 + 2 * $fan" 0x4c80
    pair 0x20 "0x50 + 2 * $fan" 0x3d00
  done
  idle
  byte 0x58 0x20 0x17 # PMBus: VOUT_MODE linear, exponent -9; no PEC, one fan in rpm, revision 1.1
  byte 0x58 0x19 0
  byte 0x58 0x3a 0x90
  byte 0x58 0x98 0x11
  little 0x58 0x52 "$(linear11 0 -5)" # UT_WARN_LIMIT: the kernel compares before it calls a temperature's bit an alarm
  i2cset -f -y $bus 0x58 0x99 0x44 0x45 0x4c 0x54 0x41 s                # "DELTA"
  i2cset -f -y $bus 0x58 0x9a 0x44 0x50 0x53 0x2d 0x38 0x30 0x30 s      # "DPS-800"
}

idle() { # all fans at about 30 %
  for fan in 0 1 2 3 4 5; do pair 0x20 "0x40 + 2 * $fan" 0x4c80; done
}

ina226() { # ADDR shunt bus power mask/enable
  big $1 1 $2
  big $1 2 $3
  big $1 3 $4
  big $1 4 $2
  big $1 6 ${5:-0}
}

tachometers() { # six counts, already left aligned (the low five bits are always zero)
  fan=0
  for count in "$@"; do
    pair 0x20 "0x18 + 2 * $fan" $count
    fan=$((fan + 1))
  done
}

supply() { # vout (LINEAR16) and vin iin iout temp fan pout pin (LINEAR11)
  little 0x58 0x8b "$1"
  little 0x58 0x88 "$2"
  little 0x58 0x89 "$3"
  little 0x58 0x8c "$4"
  little 0x58 0x8d "$5"
  little 0x58 0x90 "$6"
  little 0x58 0x96 "$7"
  little 0x58 0x97 "$8"
}

# status STATUS_WORD STATUS_VOUT STATUS_IOUT STATUS_INPUT STATUS_TEMPERATURE STATUS_FANS_1_2, of the supply
status() {
  status_now="$*"
  byte 0x58 0x78 "$1 & 0xff"
  little 0x58 0x79 $1
  byte 0x58 0x7a $2
  byte 0x58 0x7b $3
  byte 0x58 0x7c $4
  byte 0x58 0x7d $5
  byte 0x58 0x81 $6
}

faulty() { byte 0x20 0x11 $1; } # Fan Fault Status 1: a bit for each fan

# lay SET: what the chips measure
lay() {
  case $1 in
    load) # 20 A at 12 V; all fans turn, nothing is wrong
      ina226 0x40 4000 9600 1920
      ina226 0x41 4000 9601 480
      ina226 0x44 1234 2688 53
      big 0x48 0 0x1940
      big 0x49 0 0x0010
      big 0x4a 0 0x19b3
      tachometers 0x1000 0x1220 0x2000 0x2fe0 0x7d00 0x0fa0
      faulty 0
      supply 12*512 "$(linear11 -1 460)" "$(linear11 -5 80)" "$(linear11 -2 160)" "$(linear11 -2 172)" \
        "$(linear11 2 800)" "$(linear11 0 500)" "$(linear11 0 540)"
      status 0 0 0 0 0 0
      ;;
    # Current flows back, frost (below half a degree, what an LM75 leaves undefined), one fan stands still, a low bus raises
    # its alert; the supply: input under-voltage and over-power faults, under-temperature warning, fan 1 fault.
    reverse)
      ina226 0x40 -4000 9760 1952
      ina226 0x41 -3 9999 1
      ina226 0x44 -1 8400 0 0x1010
      big 0x48 0 0xe700
      big 0x49 0 0xfff0
      big 0x4a 0 0xfffb
      tachometers 0x1100 0x1240 0xffe0 0x3000 0x7d20 0x0fc0
      faulty 0x04
      supply 6149 "$(linear11 -2 921)" "$(linear11 -6 161)" "$(linear11 -4 -17)" "$(linear11 -2 -42)" \
        "$(linear11 3 1001)" "$(linear11 -3 1023)" "$(linear11 -1 1001)"
      status 0x640c 0 0x02 0x10 0x20 0x80
      ;;
    # Ends of the scales, halves that must round away from zero, a heat that must bring all fans to full duty; the supply:
    # output over-voltage and over-current faults.
    extreme)
      ina226 0x40 32767 32767 17000
      ina226 0x41 -2 1 2
      ina226 0x44 -32768 28800 65535
      big 0x48 0 0x7ff0
      big 0x49 0 0xc900
      big 0x4a 0 0x7d7f
      tachometers 0x0800 0x4000 0x6660 0x8880 0xffc0 0x0b20
      faulty 0
      supply 0x7fff "$(linear11 -10 1023)" "$(linear11 -16 1023)" "$(linear11 -10 1023)" "$(linear11 -10 -1)" \
        "$(linear11 4 1023)" "$(linear11 1 1000)" "$(linear11 1 1023)"
      status 0xc030 0x80 0x80 0 0 0
      ;;
  esac
}

bind() { # the kernel's drivers take the chips
  modprobe -a ina2xx lm75 max31790 pmbus || return
  for chip in "ina226 0x40" "ina226 0x41" "ina226 0x44" "tmp75 0x48" "tmp75 0x49" "lm75 0x4a" "max31790 0x20" "dps800 0x58"; do
    echo $chip > $devices/i2c-$bus/new_device || return
  done
  for shunt in 40=500 41=10000 44=2000; do echo ${shunt#*=} > "$(attribute ${shunt%=*} shunt_resistor)" || return; done
}

unbind() {
  for chip in 0x40 0x41 0x44 0x48 0x49 0x4a 0x20 0x58; do echo $chip > $devices/i2c-$bus/delete_device || return; done
}

readings() {
  sleep 1.1 # max31790 keeps what it read for a second
  for rail in gpu0=40 aux=41 board=44; do
    at=${rail#*=}
    rail=rails.${rail%=*}
    row $rail.mv mV $at ina226 voltage in1_input
    row $rail.ma mA $at ina226 current curr1_input
    row $rail.mw mW $at ina226 power power1_input
  done
  row sensors.intake m°C 48 tmp75 temperature temp1_input
  row sensors.exhaust m°C 49 tmp75 temperature temp1_input
  row sensors.board m°C 4a lm75 temperature temp1_input
  for fan in 1 2 3 4 5 6; do row fans.front$fan.rpm rpm 20 max31790 fan$fan fan${fan}_input; done
  row supplies.psu.input.mv mV 58 pmbus input-voltage in1_input
  row supplies.psu.input.ma mA 58 pmbus input-current curr1_input
  row supplies.psu.input.mw mW 58 pmbus input-power power1_input
  row supplies.psu.output.mv mV 58 pmbus output-voltage in3_input
  row supplies.psu.output.ma mA 58 pmbus output-current curr2_input
  row supplies.psu.output.mw mW 58 pmbus output-power power2_input
  row sensors.psu m°C 58 pmbus temperature temp1_input
  row fans.psu.rpm rpm 58 pmbus fan fan1_input
}

# supply_flag KEY QUANTITY ATTRIBUTE: the kernel clears an alarm by writing back its bit, which i2c-stub stores in place of the byte
supply_flag() {
  flag $1 58 pmbus $2 $3
  status $status_now
}

# alarms: of the INA226 whose alert pin is set up to watch for under-voltage, of the fans, of the supply
alarms() {
  flag faults.U3.under_voltage 44 ina226 under-voltage-alarm in1_lcrit_alarm
  fan_faults
  supply_flag fans.psu.fault fan-fault fan1_fault
  supply_flag faults.U7.over_voltage output-over-voltage in3_crit_alarm
  supply_flag faults.U7.under_voltage input-under-voltage in1_lcrit_alarm
  supply_flag faults.U7.input input-under-voltage in1_lcrit_alarm
  supply_flag faults.U7.over_current output-over-current curr2_crit_alarm
  supply_flag faults.U7.over_power output-over-power power2_crit_alarm
  supply_flag faults.U7.other under-temperature temp1_min_alarm
  supply_flag faults.U7.fan fan-fault fan1_fault
}

# The MAX31790's outputs follow its targets, which nothing does in i2c-stub by itself: while `follow` runs in the background.
follow() {
  while sleep 0.5; do
    for output in 0x40=0x30 0x42=0x32 0x44=0x34 0x46=0x36 0x48=0x38 0x4a=0x3a; do
      i2cset -f -y $bus 0x20 ${output#*=} $(i2cget -f -y $bus 0x20 ${output%=*} w) w
    done
  done
}

duties() { # the MAX31790's six duty registers
  for fan in 0 1 2 3 4 5; do i2cget -f -y $bus 0x20 "$(hex "0x40 + 2 * $fan")" w; done | xargs
}

# Sourced by the x86 guest's shell for chips.sh: power monitors and hot-swap controllers.
power="ina219=0x40 ina3221=0x41 ina238=0x45 ltc2945=0x67 ltc4151=0x68 adm1272=0x10 adm1275=0x11 adm1278=0x12 tmp451=0x4c"

prepare_power() {
  big 0x40 0 0x399f # INA219: configuration at reset, calibrated
  big 0x40 5 4096
  big 0x41 0xfe 0x5449 # INA3221: maker, die
  big 0x41 0xff 0x3220
  big 0x45 1 0xfb68 # INA238: configuration and calibration at reset, maker, die
  big 0x45 2 0x1000
  big 0x45 0x3e 0x5449
  big 0x45 0x3f 0x2381
  byte 0x67 0 0x05 # LTC2945: power is current times voltage
  byte 0x68 0x06 0x08 # LTC4151: several bytes can be read at once; the register again, eight further
  byte 0x68 0x0e 0x08
  for adm in 1272 1275 1278; do
    at=$(echo $adm | sed 's/1272/0x10/; s/1275/0x11/; s/1278/0x12/')
    block $at 0x99 ADI
    block $at 0x9a ADM$adm-1
    byte $at 0x20 0x40 # VOUT_MODE: DIRECT
    byte $at 0x98 0x22
    byte $at 0xd3 1
  done
  little 0x10 0xd4 0x801f # 60 V, 30 mV; temperature, input and output
  byte 0x11 0xd4 0xa0     # 20 V, input
  little 0x12 0xd4 0x801e
  byte 0x4c 0x04 0x08 # TMP451: 16 conversions a second, maker
  byte 0x4c 0x22 0x01
  byte 0x4c 0xfe 0x55
}

ina219() { # shunt bus power
  big 0x40 1 $1
  big 0x40 2 $2
  big 0x40 3 $3
  big 0x40 4 $1
}

ina3221() { # shunt bus shunt bus shunt bus (13 bits) mask/enable
  at=1
  for value in $1 $2 $3 $4 $5 $6; do
    big 0x41 $at "$value << 3"
    at=$((at + 1))
  done
  big 0x41 0x0f $7
}

# ina238 shunt bus temperature power alerts: current and power as the chip makes them of its calibration: the larger that is,
# the coarser they are.
ina238() {
  coarse=1
  [ $(i2cget -f -y $bus 0x45 0x02 w) = 0x0040 ] && coarse=4
  big 0x45 4 $1
  big 0x45 5 $2
  big 0x45 6 "$3 << 4"
  big 0x45 7 "$1 / $coarse"
  for at in 8 9 10; do byte 0x45 $at "$4 / $coarse >> (8 * (10 - $at))"; done
  big 0x45 0x0b $5
}

ltc2945() { # current voltage power faults
  pair 0x67 0x14 "$1 << 4"
  pair 0x67 0x1e "$2 << 4"
  bytes 0x67 5 "$3 >> 16" "$3 >> 8" $3
  bytes 0x67 3 $4 $4 # the second is cleared by being read
}

ltc4151() { # current voltage
  pair 0x68 0x00 "$1 << 4"
  pair 0x68 0x02 "$2 << 4"
}

adm() { # ADDR vin vout iout pin temp
  little $1 0x88 $2
  little $1 0x8b $3
  little $1 0x8c $4
  little $1 0x97 $5
  little $1 0x8d $6
}

tmp451() { # configuration local remote status, which is laid first; 256 a degree
  byte 0x4c 0x02 $4
  byte 0x4c 0x03 $1
  byte 0x4c 0x00 "$2 >> 8"
  byte 0x4c 0x15 $2
  byte 0x4c 0x01 "$3 >> 8"
  byte 0x4c 0x10 $3
}

lay_power() {
  case $1 in
    load) # 12 V, 10 A; nothing is wrong
      ina219 2000 0x5dc2 1200
      ina3221 1000 1500 400 620 40 412 0
      ina238 20000 3840 252 1200000 0x2001
      ltc2945 400 480 192000 0
      ltc4151 500 480
      adm 0x10 3250 3249 2400 1650 3600
      adm 0x11 2304 2304 2853 0 0
      adm 0x12 2352 2351 2848 1837 3600
      tmp451 0 0x1e80 0x2dc0 0
      ;;
    # Current flows back where the chip can tell; frost; a bus below ground; alarms of what is too low; an open diode.
    reverse)
      ina219 -2001 0x5782 1121
      ina3221 -1000 -5 -1 1499 0 0 0x0200
      ina238 -20001 4085 -81 1203125 0x2029
      ltc2945 0 430 0 0x54
      ltc4151 0 1
      adm 0x10 2999 0 2045 1 3060
      adm 0x11 1 1 2046 0 0
      adm 0x12 1001 0 2047 1 3070
      tmp451 0 0 0x0010 0x04
      ;;
    # Ends of the scales; alarms of what is too high; the INA219 could not multiply.
    extreme)
      ina219 32000 0xfa03 20000
      ina3221 4095 4095 -4096 3250 1 1 0x0010
      ina238 32767 32767 2047 16777215 0x20d5
      ltc2945 4095 4095 16769025 0xa8
      ltc4151 4095 4095
      adm 0x10 4095 4095 4095 4095 4095
      adm 0x11 4095 4095 4095 0 0
      adm 0x12 4095 4095 4095 4095 4095
      tmp451 0 0x7ff0 0x7f10 0
      ;;
  esac
}

# product KEY ADDR PART QUANTITY VOLTAGE CURRENT: power of a chip that has no register for it, of the kernel's other readings
product() {
  value=$(($(cat "$(attribute $2 $5)") * $(cat "$(attribute $2 $6)")))
  echo $1 $(((${value#-} + 500) / 1000)) mW $3@$2 $4
}

readings_power() {
  for part in ina219=40 ina238=45 ltc2945=67; do
    at=${part#*=}
    part=${part%=*}
    row rails.$part.mv mV $at $part voltage in1_input
    row rails.$part.ma mA $at $part current curr1_input
    row rails.$part.mw mW $at $part power power1_input
  done
  for channel in 1 2 3; do
    row rails.ina3221_$channel.mv mV 41 ina3221 voltage$channel in${channel}_input
    row rails.ina3221_$channel.ma mA 41 ina3221 current$channel curr${channel}_input
  done
  row rails.ltc4151.mv mV 68 ltc4151 voltage in1_input
  row rails.ltc4151.ma mA 68 ltc4151 current curr1_input
  row sensors.ina238 m°C 45 ina238 temperature temp1_input
  for channel in 1=local 2=remote1; do temperature sensors.tmp451_${channel#*=} 4c tmp451 temp${channel%=*}; done
}

# Of what rigd computes itself; the kernel has no such attribute.
products_power() {
  for channel in 1 2 3; do product rails.ina3221_$channel.mw 41 ina3221 power$channel in${channel}_input curr${channel}_input; done
  product rails.ltc4151.mw 68 ltc4151 power in1_input curr1_input
}

# Hot-swap controllers of PMBus, whose blocks i2c-stub keeps where rigd cannot read them.
blocks_power() {
  for part in adm1272=10 adm1275=11 adm1278=12; do
    at=${part#*=}
    part=${part%=*}
    row rails.$part.mv mV $at $part voltage in1_input
    row rails.$part.ma mA $at $part current curr1_input
    [ $part = adm1275 ] && continue
    row rails.$part.mw mW $at $part power power1_input
    row sensors.$part m°C $at $part temperature temp1_input
  done
}

alarms_power() {
  flag faults.ina238.over_voltage 45 ina238 bus-over-limit in1_max_alarm
  flag faults.ina238.under_voltage 45 ina238 bus-under-limit in1_min_alarm
  flag faults.ina238.over_current 45 ina238 shunt-over-limit in0_max_alarm
  flag faults.ina238.under_current 45 ina238 shunt-under-limit in0_min_alarm
  flag faults.ina238.over_power 45 ina238 power-over-limit power1_max_alarm
  flag faults.ina238.temperature 45 ina238 temperature-over-limit temp1_max_alarm
  any faults.ina3221.over_current 41 ina3221 current-alarms curr1_max curr2_max curr3_max curr1_crit curr2_crit curr3_crit curr4_crit
  flag faults.ltc2945.over_voltage 67 ltc2945 voltage-over-limit in1_max_alarm
  flag faults.ltc2945.under_voltage 67 ltc2945 voltage-under-limit in1_min_alarm
  flag faults.ltc2945.over_current 67 ltc2945 current-over-limit curr1_max_alarm
  flag faults.ltc2945.under_current 67 ltc2945 current-under-limit curr1_min_alarm
  flag faults.ltc2945.over_power 67 ltc2945 power-over-limit power1_max_alarm
  any faults.ltc2945.other 67 ltc2945 other-limits power1_min in2_min in2_max
}

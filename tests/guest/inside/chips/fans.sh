# Sourced by the x86 guest's shell for chips.sh: fan controllers and thermometers.
fans="emc2305=0x2d nct7802=0x28 adt7475=0x2e amc6821=0x18 tmp102=0x48 tmp105=0x49 tmp464=0x4b tmp421=0x2a tmp401=0x4c emc1413=0x4d"

prepare_fans() {
  byte 0x2d 0xfd 0x34 # EMC2305: product, maker; each fan in the range of the reset
  byte 0x2d 0xfe 0x5d
  for fan in 0 1 2 3 4; do
    byte 0x2d "0x30 + 16 * $fan" 0x4c
    byte 0x2d "0x32 + 16 * $fan" 0x2b
    byte 0x2d "0x33 + 16 * $fan" 0x28
  done
  bytes 0x28 0x21 0x01 0x69 0 0x07 # NCT7802: measures; RTD1 a diode, RTD2 and RTD3 thermistors, its own; three fans
  bytes 0x28 0xfd 0x50 0xc3 0x21
  bytes 0x28 0x60 0x4c 0x4c 0x4c
  bytes 0x2e 0x3d 0x75 0x41 0x69 0x01 # ADT7475: device, company, revision; measures
  bytes 0x2e 0x30 0x4c 0x4c 0x4c
  bytes 0x2e 0x5c 0xe2 0xe2 0xe2 # outputs by hand
  bytes 0x2e 0x7b 0x55 0x01 0    # two pulses; two's complement; the fourth tachometer is one
  bytes 0x18 0x00 0x01 0x07      # AMC6821: measures, output and tachometer on
  byte 0x18 0x04 0x88
  byte 0x18 0x20 0x80
  byte 0x18 0x22 0x4c
  bytes 0x18 0x3d 0x21 0x49
  big 0x48 1 0x60a0 # TMP102: configuration and limits at reset
  big 0x48 2 0x4b00
  big 0x48 3 0x5000
  big 0x49 2 0x4b00 # TMP105: limits at reset
  big 0x49 3 0x5000
  big 0x4b 0x30 0x0f9c # TMP464: all channels, eight conversions a second
  big 0x4b 0xfe 0x5449
  big 0x4b 0xff 0x1468
  byte 0x2a 0x0a 0x18 # TMP421: both channels
  byte 0x2a 0x0b 0x05
  bytes 0x2a 0xfe 0x55 0x21
  byte 0x4c 0x03 0x04 # TMP401: range from -64 C
  byte 0x4c 0x04 0x06
  bytes 0x4c 0xfe 0x55 0x11
  bytes 0x4d 0xfd 0x21 0x5d 0x01 # EMC1413
}

# A chip's status is laid before its results: rigd, which reads while they are laid, lets go of a bit when the result that it
# was read with has changed.

# emc2305 failing count...: counts of a clock as they are in the narrowest range; the chip counts m times of it, m by the fan's
# configuration, to 13 bits.
emc2305() {
  byte 0x2d 0x27 $1
  byte 0x2d 0x24 "$1 == 0 ? 0 : 4"
  shift
  at=0x32
  for count in "$@"; do
    count=$((count << (($(i2cget -f -y $bus 0x2d $at) >> 5) & 3)))
    [ $count -gt 8191 ] && count=8191
    pair 0x2d "$at + 12" "$count << 3"
    at=$(hex $at+16)
  done
}

# nct7802 RTD1 RTD2 RTD3 local count count count, then the low bits of temperature and of count, alarm, fault
nct7802() {
  bytes 0x28 0x01 $1 $2 $3 $4 $8
  bytes 0x28 0x10 $5 $6 $7 $9
  shift 9
  byte 0x28 0x1a $1
  byte 0x28 0x17 $2
}

adt7475() { # remote1 local remote2 quarters count count count count status
  byte 0x2e 0x42 $9
  bytes 0x2e 0x25 $1 $2 $3
  byte 0x2e 0x77 $4
  bytes 0x2e 0x28 $5 "$5 >> 8" $6 "$6 >> 8" $7 "$7 >> 8" $8 "$8 >> 8"
}

amc6821() { # status1 status2 count local remote
  bytes 0x18 0x02 $1 $2
  bytes 0x18 0x08 $3 "$3 >> 8" $4 $5
}

tmp464() { # five temperatures in sixteenths, open
  big 0x4b 0x23 $6
  at=0
  for sixteenths in $1 $2 $3 $4 $5; do
    big 0x4b $at "$sixteenths << 3"
    at=$((at + 1))
  done
}

tmp421() { # range local remote
  byte 0x2a 0x09 $1
  byte 0x2a 0x00 "$2 >> 8"
  byte 0x2a 0x10 $2
  byte 0x2a 0x01 "$3 >> 8"
  byte 0x2a 0x11 $3
}

tmp401() { # local remote status
  byte 0x4c 0x02 $3
  big 0x4c 0x00 $1
  byte 0x4c 0x15 $1
  big 0x4c 0x01 $2
  byte 0x4c 0x10 $2
}

emc1413() { # range local remote1 remote2 faulty
  byte 0x4d 0x1b $5
  byte 0x4d 0x03 $1
  byte 0x4d 0x00 "$2 >> 8"
  byte 0x4d 0x29 $2
  byte 0x4d 0x01 "$3 >> 8"
  byte 0x4d 0x10 $3
  byte 0x4d 0x23 "$4 >> 8"
  byte 0x4d 0x24 $4
}

lay_fans() {
  case $1 in
    load) # all fans turn, nothing is wrong
      emc2305 0 1000 786 1310 2000 500
      nct7802 0x1f 0x2d 0x28 0x23 0x20 0x10 0x0c 0x60 0x48 0 0
      adt7475 0x24 0x28 0x32 0x6c 1350 1351 900 2700 0
      amc6821 0 0 2000 0x1e 0x2d
      big 0x48 0 0x0cc1
      big 0x49 0 0x1a40
      tmp464 488 489 640 641 799 0
      tmp421 0 0x1c40 0x2d80
      tmp401 0x5e80 0x6d40 0
      emc1413 0 0x1f60 0x2b20 0x2800 0
      ;;
    # Frost; a fan of each controller stands, a slow one; open diodes; ranges from -64 C.
    reverse)
      emc2305 0x04 4094 786 8191 1311 501
      nct7802 0xf6 0x00 0xff 0xf1 0x20 0xff 0x0c 0xa0 0xf8 0x02 0x02
      adt7475 0xf0 0xff 0x80 0x6c 1349 0xffff 901 5000 0x88
      amc6821 0x22 0 0xffff 0xf6 0x81
      big 0x48 0 0xf379
      big 0x49 0 0xfff0
      tmp464 -1 -161 -640 -8 -880 0x0200
      tmp421 0x04 0x3010 0x2d81
      tmp401 0x2ff0 0x6d40 0x04
      emc1413 0x04 0x3520 0x1000 0x2800 0x04
      ;;
    # Ends of the scales; counts of nothing; a supply too low for a conversion; a heat that must bring all fans to full duty.
    extreme)
      emc2305 0 245 246 8190 8000 250
      nct7802 0x7f 0x80 0x64 0x7f 0x00 0x02 0x04 0xe0 0x00 0 0
      adt7475 0x7f 0x81 0x7f 0xfc 0 0xfffe 180 181 0
      amc6821 0 0x18 200 0x7f 0x80
      big 0x48 0 0x4b01
      big 0x49 0 0x7ff0
      tmp464 4095 -4096 2400 1 0 0
      tmp421 0 0x7ff2 0x8000
      tmp401 0xfff0 0x0000 0
      emc1413 0 0x7fe0 0x0000 0xffe0 0
      ;;
  esac
}

readings_fans() {
  for fan in 1 2 3 4 5; do row fans.emc2305_$fan.rpm rpm 2d emc2305 fan$fan fan${fan}_input; done
  for fan in 1 2 3; do row fans.nct7802_$fan.rpm rpm 28 nct7802 fan$fan fan${fan}_input; done
  for fan in 1 2 3 4; do row fans.adt7475_$fan.rpm rpm 2e adt7475 fan$fan fan${fan}_input; done
  row fans.amc6821_1.rpm rpm 18 amc6821 fan1 fan1_input
  for channel in 1 2 3 4; do temperature sensors.nct7802_$channel 28 nct7802 temp$channel; done
  for channel in 1=remote1 2=local 3=remote2; do temperature sensors.adt7475_${channel#*=} 2e adt7475 temp${channel%=*}; done
  for channel in 1=local 2=remote; do temperature sensors.amc6821_${channel#*=} 18 amc6821 temp${channel%=*}; done
  temperature sensors.tmp102 48 tmp102 temp1
  temperature sensors.tmp105 49 tmp105 temp1
  for channel in 1=local 2=remote1 3=remote2 4=remote3 5=remote4; do
    temperature sensors.tmp464_${channel#*=} 4b tmp464 temp${channel%=*}
  done
  for channel in 1=local 2=remote1; do
    temperature sensors.tmp421_${channel#*=} 2a tmp421 temp${channel%=*}
    temperature sensors.tmp401_${channel#*=} 4c tmp401 temp${channel%=*}
  done
  for channel in 1=local 2=remote1 3=remote2; do temperature sensors.emc1413_${channel#*=} 4d emc1413 temp${channel%=*}; done
}

products_fans() { :; }
blocks_fans() { :; }

alarms_fans() {
  for fan in 1 2 3 4 5; do flag fans.emc2305_$fan.fault 2d emc2305 fan$fan-fault fan${fan}_fault; done
  for fan in 1 2 3; do flag fans.nct7802_$fan.fault 28 nct7802 fan$fan-alarm fan${fan}_alarm; done
  for fan in 1 2 3 4; do flag fans.adt7475_$fan.fault 2e adt7475 fan$fan-alarm fan${fan}_alarm; done
  flag fans.amc6821_1.fault 18 amc6821 fan1-fault fan1_fault
  any faults.amc6821.temperature 18 amc6821 critical-alarms temp1_crit temp2_crit
}

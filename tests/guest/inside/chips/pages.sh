# Sourced by the x86 guest's shell for chips.sh: PMBus parts with pages.
pages="max31785=0x52 max34451=0x34"

# paged ADDR COMMAND: with the agent standing still, since it selects pages too, and the page as it was after it, since the
# kernel's driver remembers it.
paged() {
  [ -z "$agent" ] || kill -STOP $agent 2>/dev/null
  before=$(i2cget -f -y $bus $1 0x00)
  eval "$2"
  byte $1 0x00 $before
  [ -z "$agent" ] || kill -CONT $agent 2>/dev/null
}

everywhere() { # ADDR PAGES MODEL REVISION: what answers on every page; 31 is what is left of 255
  for page in $2 31; do
    byte $1 0x00 $page
    byte $1 0x20 0x40
    byte $1 0x99 0x4d
    byte $1 0x9a $3
    little $1 0x9b $4
  done
}

prepare_pages() {
  everywhere 0x52 "$(seq 0 22)" 0x53 0x3030
  for page in 0 1 2 3 4; do # enabled, two pulses, 30 %
    byte 0x52 0x00 $page
    byte 0x52 0x3a 0x90
    little 0x52 0x3b 3000
    little 0x52 0xf3 3000
  done
  everywhere 0x34 "$(seq 0 20)" 0x59 0x0011
  for channel in 0=0x20 1=0x22 2=0x30 15=0x21; do # voltage, current, an input, voltage that is only read
    byte 0x34 0x00 ${channel%=*}
    little 0x34 0xe4 ${channel#*=}
  done
}

fan_pages() { # five speeds; status of the third
  page=0
  for speed in $1 $2 $3 $4 $5; do
    byte 0x52 0x00 $page
    little 0x52 0x90 $speed
    page=$((page + 1))
  done
  byte 0x52 0x00 2
  byte 0x52 0x81 $6
}

temperature_pages() { # ADDR PAGE=VALUE...: hundredths of a degree
  at=$1
  shift
  for value in "$@"; do
    byte $at 0x00 ${value%=*}
    little $at 0x8d ${value#*=}
  done
}

hot_page() { # too hot, or 0: of the MAX31785's first temperature
  byte 0x52 0x00 6
  little 0x52 0x79 "$1 ? 4 : 0"
  byte 0x52 0x7d $1
}

channel_pages() { # voltage current voltage; too high, or 0: of the first
  for value in 0=0x8b=$1 1=0x8c=$2 15=0x8b=$3; do
    byte 0x34 0x00 ${value%%=*}
    value=${value#*=}
    little 0x34 ${value%=*} ${value#*=}
  done
  byte 0x34 0x00 0
  little 0x34 0x79 "$4 ? 0x8000 : 0"
  byte 0x34 0x7a $4
}

lay_pages() {
  case $1 in
    load) # the second sensor is off
      paged 0x52 "fan_pages 3000 3100 2950 3050 3001 0; temperature_pages 0x52 6=2550 7=0 12=3125 16=4101; hot_page 0"
      paged 0x34 "channel_pages 12001 2500 3301 0; temperature_pages 0x34 16=3150 20=2575"
      ;;
    # A fan stands; frost; a diode is open; current flows back, a voltage is below ground.
    reverse)
      paged 0x52 "fan_pages 900 901 0 902 903 0x80; temperature_pages 0x52 6=-2050 7=0x7fff 12=-1 16=-4000; hot_page 0"
      paged 0x34 "channel_pages -1 -250 1 0; temperature_pages 0x34 16=-1 20=-5500"
      ;;
    # Ends of the scales; a heat that must bring all fans to full duty, a voltage too high.
    extreme)
      paged 0x52 "fan_pages 32767 1 16000 24000 32766 0; temperature_pages 0x52 6=32766 7=12800 12=10001 16=-32768; hot_page 0x40"
      paged 0x34 "channel_pages 32767 32767 32766 0x80; temperature_pages 0x34 16=32766 20=12500"
      ;;
  esac
}

readings_pages() {
  for fan in 1 2 3 4 5; do row fans.max31785_$fan.rpm rpm 52 max31785 fan$fan fan${fan}_input; done
  for channel in 1 2 7 11; do row sensors.max31785_$channel m°C 52 max31785 temperature$channel temp${channel}_input; done
  for channel in 1 5; do row sensors.max34451_$channel m°C 34 max34451 temperature$channel temp${channel}_input; done
}

# What the kernel's names are on a board is not known in advance: rigd does not read these through its driver.
products_pages() {
  for channel in 1 16; do
    row rails.max34451_$channel.mv mV 34 max34451 voltage$channel $(labelled 34 vout$channel in)_input
  done
  row rails.max34451_2.ma mA 34 max34451 current2 $(labelled 34 iout2 curr)_input
}

blocks_pages() { :; }

alarms_pages() {
  for fan in 1 2 3 4 5; do flag fans.max31785_$fan.fault 52 max31785 fan$fan-fault fan${fan}_fault; done
  any faults.max31785.temperature 52 max31785 temperature-alarms temp1_max temp1_crit
  any faults.max34451.over_voltage 34 max34451 over-voltage $(labelled 34 vout1 in)_crit
}

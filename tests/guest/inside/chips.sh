# Sourced by the x86 guest's shell: register images of every chip that the kernel has a driver for, in rounds of no more than
# i2c-stub takes. A round is a file in chips/, which lays the images and reads the kernel's attributes; the comments of a set say
# what is out of the ordinary in it.
for round in power fans pages; do . /test/chips/$round.sh; done
drivers="max31785 max34440 ina2xx ina3221 ina238 ltc2945 ltc4151 adm1275 lm90
  emc2305 nct7802 adt7475 amc6821 tmp102 tmp464 tmp421 tmp401 emc1403"

# round NAME: plugs its chips in and gives rigd its board. Drivers that look for chips by themselves are loaded before there
# is one; lm75, which takes zeros for a chip, is loaded last.
round() {
  round=$1
  eval "chips=\$$round"
  cp /test/$round.toml /test/board.toml
  modprobe -a $drivers || return
  rmmod lm75 2>/dev/null
  banks=
  [ $round = pages ] && banks="bank_reg=0,0 bank_mask=0x1f,0x1f bank_start=0x20,0x20 bank_end=0xff,0xff" # PAGE
  plug $(for chip in $chips; do echo ${chip#*=}; done | xargs | tr ' ' ,) $banks && prepare_$round && lay load && modprobe lm75
}

bind() { # the kernel's drivers take the chips
  for chip in $chips; do
    echo ${chip%=*} ${chip#*=} > $devices/i2c-$bus/new_device && [ -d $devices/$bus-00${chip#*=0x}/hwmon ] || return
  done
  case $round in
    power)
      echo 2000 > "$(attribute 40 shunt_resistor)"
      for channel in 1 2 3; do echo 2000 > "$(attribute 41 shunt${channel}_resistor)"; done
      ;;
  esac
}

unbind() {
  for chip in $chips; do echo ${chip#*=} > $devices/i2c-$bus/delete_device || return; done
}

# The adapter goes, as one does that hangs on a cable; its chips are the kernel drivers', so nobody has it open.
unplug() {
  patience=50
  until rmmod i2c-stub; do
    patience=$((patience - 1))
    [ $patience -gt 0 ] || return
    sleep 0.1
  done
}

lay() { lay_$round $1; } # SET

block() { # ADDR REGISTER TEXT: an SMBus block
  i2cset -f -y $bus $1 $2 $(echo -n $3 | od -An -tx1 | sed 's/ / 0x/g') s
}

# temperature KEY ADDR PART CHANNEL: missing where the driver calls the channel faulty
temperature() {
  if [ "$(cat "$(attribute $2 $4_fault)" 2>/dev/null)" = 1 ]; then
    echo $1 not_present m°C $3@$2 $4
  else
    row $1 m°C $2 $3 $4 $4_input
  fi
}

any() { # KEY ADDR PART QUANTITY ATTRIBUTE...: 1 where one of these alarms is
  line="raised $3@$2 $4" at=$2 key=$1 found=0
  shift 4
  for alarm in "$@"; do
    value=$(cat "$(attribute $at ${alarm}_alarm)") || value=unreadable
    [ $value = 0 ] || found=$value
  done
  echo $key $found $line
}

readings() {
  cat $devices/$bus-00*/hwmon/hwmon*/temp*_fault > /dev/null 2>&1 # lm90 keeps one until it was read: that is another set's
  case $round in
    fans) sleep 2.1 ;; # adt7475 keeps what it read for two seconds
    power) sleep 0.6 ;; # lm90 for half a second
  esac
  readings_$round
}

drives() { # the kernel's pwm attributes of all fan controllers
  for pwm in $devices/$bus-00*/hwmon/hwmon*/pwm?; do cat $pwm; done | sort -u | xargs
}

outputs() { # the drive registers of all fan controllers
  if [ $round = pages ]; then
    paged 0x52 'for page in 0 1 2 3 4; do byte 0x52 0x00 $page; i2cget -f -y $bus 0x52 0x3b w; done'
    return
  fi
  for at in 0x30 0x40 0x50 0x60 0x70; do i2cget -f -y $bus 0x2d $at; done
  for at in 0x60 0x61 0x62; do i2cget -f -y $bus 0x28 $at; done
  for at in 0x30 0x31 0x32; do i2cget -f -y $bus 0x2e $at; done
  i2cget -f -y $bus 0x18 0x22
}

idle() { # all fans at about 30 %
  if [ $round = pages ]; then
    paged 0x52 'for page in 0 1 2 3 4; do byte 0x52 0x00 $page; little 0x52 0x3b 3000; done'
    return
  fi
  for at in 0x30 0x40 0x50 0x60 0x70; do byte 0x2d $at 0x4c; done
  bytes 0x28 0x60 0x4c 0x4c 0x4c
  bytes 0x2e 0x30 0x4c 0x4c 0x4c
  byte 0x18 0x22 0x4c
}

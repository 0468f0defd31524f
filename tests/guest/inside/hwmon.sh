# Sourced by the x86 guests' shells: what the kernel's drivers say of the chips on adapter i2c-$bus, as lines
# "KEY VALUE UNIT PART@ADDR QUANTITY".
devices=/sys/bus/i2c/devices

attribute() { echo $devices/$bus-00$1/hwmon/hwmon*/$2; } # ADDR NAME

# row KEY UNIT ADDR PART QUANTITY ATTRIBUTE: one line of the table; power is in microwatts in hwmon, here in mW
row() {
  value=$(cat "$(attribute $3 $6)") || value=unreadable
  [ $2 = mW ] && value=$(((value + 500) / 1000))
  echo $1 $value $2 $4@$3 $5
}

# flag KEY ADDR PART QUANTITY ATTRIBUTE: one line of the table, 1 or 0
flag() { row $1 raised $2 $3 $4 $5; }

# max31790 asks the chip once a second, and keeps a fault until anyone (rigd, too) has read it: what is left of another set
# is let go of, then a fault seen once counts.
fan_faults() {
  raised=
  for fan in 1 2 3 4 5 6; do cat "$(attribute 20 fan${fan}_fault)" > /dev/null; done
  for pass in 1 2 3 4 5 6 7 8; do
    sleep 0.4
    for fan in 1 2 3 4 5 6; do
      value=$(cat "$(attribute 20 fan${fan}_fault)") || value=unreadable
      [ $value = 0 ] || raised="$raised $fan=$value"
    done
  done
  for fan in 1 2 3 4 5 6; do
    value=0
    for found in $raised; do [ ${found%=*} = $fan ] && value=${found#*=}; done
    echo fans.front$fan.fault $value raised max31790@20 fan$fan-fault
  done
}

# labelled ADDR LABEL PREFIX: the attribute that the PMBus core found for LABEL, such as in1 for vin
labelled() {
  for file in $(attribute $1 "$3*_label"); do
    [ "$(cat $file)" = $2 ] && file=${file##*/} && echo ${file%_label}
  done
}

# Sourced by the Arm guest's shell: the adapter, the kernel's driver, the broker.
devices=/sys/bus/i2c/devices

prepare() {
  modprobe -a i2c-dev i2c-imx || return
  for bus in /sys/class/i2c-dev/*; do
    [ "$(cat $bus/name)" = 30a20000.i2c ] && bus=${bus##*-} && break
  done
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

sensors="48=intake 49=exhaust 4a=board 4f=psu"

bind() {
  modprobe lm75 || return
  for sensor in $sensors; do echo tmp105 0x${sensor%=*} > $devices/i2c-$bus/new_device || return; done
}

unbind() {
  for sensor in $sensors; do echo 0x${sensor%=*} > $devices/i2c-$bus/delete_device || return; done
}

readings() {
  for sensor in $sensors; do
    value=$(cat $devices/$bus-00${sensor%=*}/hwmon/hwmon*/temp1_input) || value=unreadable
    echo sensors.${sensor#*=} $value m°C tmp105@${sensor%=*} temperature
  done
}

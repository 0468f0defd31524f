#!/usr/bin/env bash
# vhost.sh RIGD SIM TRAPS: ring (c). The chips of the simulated rig (SIM, the vhost-i2c of this machine) behind the kernel's i2c-virtio,
# an adapter with raw I2C. The kernel's own drivers are the judges of the chips: what they read must be what is true in the
# simulated world, and what they write must arrive there. Then RIGD (static, x86_64) reads and drives the same chips, and TRAPS
# (bus-traps, linked to this machine's libraries) tries its bus layer.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
readonly BOARD=$HERE/../../boards/guest-vhost.toml
# What is said to the simulated rig before each set of readings; its time stands otherwise.
declare -rA SETS=(
  [work]="set gpu all load 0.6; advance 30"
  [frost]="set gpu all load 0.02; set ambient -25000; set mains 187000; fault fan seized front2; advance 120"
  [heat]="set gpu 0 load 1.0; set gpu 1 load 0.3; set ambient 61000; set mains 242000; clear fan; fault fan seized psu; advance 300"
  [brownout]="set mains 150000; clear fan; advance 60"
)

# world COMMANDS: what is said to the simulated rig, separated by semicolons; prints its answers
world() {
  local answer
  answer=$(tr ';' '\n' <<< "$1" | socat -t 10 - "UNIX-CONNECT:$work/sim/control")
  ! grep '^error' <<< "$answer" || die "the simulated rig refuses: $1"
  grep -v '^ok$' <<< "$answer" || true
}

# truth: what is true in the simulated world, in rigd's keys
truth() {
  world "get world" | awk -F '[.=]' -v OFS= '
    { value = $NF == "true" ? 1 : $NF == "false" ? 0 : $NF }
    /^rail\./ { print "rails.", $2, ".", $3, " ", value }
    /^sensor\./ { print "sensors.", $2, " ", value }
    /^fan\..*\.rpm=/ { print "fans.", $2, ".rpm ", value; print "fans.", $2, ".fault ", value == 0 } # all are driven
    /^supply\..*put_m[vaw]=/ { sub(/_/, ".", $3); print "supplies.", $2, ".", $3, " ", value }
    /^supply\..*\.mc=/ { print "sensors.", $2, " ", value }
    /^supply\..*\.rpm=/ { print "fans.", $2, ".rpm ", value }
    /^supply\..*\.fan_fails=/ { print "fans.", $2, ".fault ", value; print "faults.U7.fan ", value }
    /^supply\..*\.input_low=/ { print "faults.U7.input ", value }
    /^supply\..*\.hot=/ { print "faults.U7.temperature ", value }
    /^supply\..*\.overloaded=/ { print "faults.U7.over_current ", value }'
}

# resolves KEY: what the chip behind it can tell apart, in its unit, and in parts of a thousand of the value
resolves() {
  case $1 in
    rails.gpu[01].mv) echo 2 0 ;;        # 1.25 mV
    rails.gpu0.ma) echo 5 0 ;;           # 2.5 uV at 0.5 mOhm
    rails.gpu1.ma) echo 2 0 ;;           # 2.5 uV at 2 mOhm
    rails.gpu0.mw) echo 190 0 ;;         # 25 times that of the current, which was cut before
    rails.gpu1.mw) echo 50 0 ;;
    rails.gpu5.mv) echo 4 0 ;;           # DIRECT: 5.1 mV
    rails.gpu5.ma) echo 8 0 ;;           # 12.5 mA
    rails.gpu5.mw) echo 10 0 ;;          # 16 mW
    rails.*.mv) echo 5 0 ;;              # 8 mV
    rails.*.ma) echo 41 0 ;;             # 40 uV at 0.5 mOhm
    rails.*.mw) echo 600 1 ;;            # their product
    sensors.switch) echo 130 0 ;;        # DIRECT: a quarter of a degree
    sensors.exhaust) echo 500 0 ;;       # nine bits
    sensors.psu2) echo 9 0 ;;            # 1/64 degree
    sensors.psu) echo 1 1 ;;
    sensors.*) echo 63 0 ;;              # 1/16 degree, cut
    fans.front*.rpm) echo 2 4 ;;         # a count of at least 160
    fans.side*.rpm) echo 2 2 ;;          # a count of at least 400
    supplies.psu2.input.mv) echo 17 0 ;; # 1/32 V
    supplies.psu2.input.ma) echo 5 0 ;;  # 1/128 A
    supplies.psu2.output.mv) echo 3 0 ;; # 1/256 V
    supplies.psu2.output.ma) echo 9 0 ;; # 1/64 A
    supplies.psu2.*.mw) echo 260 0 ;;    # half a watt
    supplies.*.output.mv) echo 2 0 ;;    # LINEAR16 at 2^-9
    *.fault | faults.*) echo 0 0 ;;      # yes or no
    *) echo 1 1 ;;                       # LINEAR11: eleven bits
  esac
}

# judge WHO TABLE TRUTH: the table of kernel or rigd against the world's
judge() {
  local key value unit chip quantity coarse permille far verdict
  local -A is=()
  while read -r key value; do is[$key]=$value; done < "$3"
  while read -r key value unit chip quantity; do
    read -r coarse permille < <(resolves "$key")
    verdict=DIFFERENT
    if [[ $value =~ ^-?[0-9]+$ && -n ${is[$key]:-} ]]; then
      far=$((value - is[$key]))
      [ $((1000 * ${far#-})) -gt $((1000 * coarse + permille * ${is[$key]#-})) ] || verdict=same
    fi
    count $verdict
    echo "$verdict $chip $quantity $1=$value $unit world=${is[$key]:-unknown} $unit"
  done < "$2"
}

# unheard: what rigd publishes of readings that the kernel has no say on, as a table
unheard() {
  local key
  for key in rails.gpu{2,3,4}.mw; do echo "$key ${now[$key]:-unpublished} mW ina3221@43 ${key#rails.}"; done
  for key in fans.side{1,2,3,4,5}.rpm; do echo "$key ${now[$key]:-unpublished} rpm emc2305@2c ${key#fans.}"; done
  for key in supplies.psu2.{in,out}put.m{v,a,w} sensors.psu2 fans.psu2.rpm; do
    echo "$key ${now[$key]:-unpublished} - hp-common-slot@5f $key"
  done
}

# agent NAME: starts rigd under a name of its own, so that nothing is left of another start
agent() {
  rig=$1
  seen=0
  guest "start $rig 10.0.2.100:1883"
}

# duties: the drive of each fan in the simulated world, hundredths of a percent
duties() {
  world "get fans" | sed -nE 's/^fan\.\w+\.duty_pct=([0-9]+)\.([0-9]+)$/\1\2/p' | sed 's/^0*\(.\)/\1/' | xargs
}

# shellcheck disable=SC2317 # these are called by check
all_fans_at() { # DUTY [SIDE]: of the max31790's six, and of the emc2305's five
  local side=${2:-$1}
  [ "$(duties)" = "$1 $1 $1 $1 $1 $1 $side $side $side $side $side" ]
}

# shellcheck disable=SC2317
regulated() { # rigd's drive has arrived, and is neither nothing nor all
  local fan list=
  fetch "$rig"
  for fan in front1 front2 front3 front4 front5 front6 side1 side2 side3 side4 side5; do
    list+=" ${now[fans.$fan.duty]:-unpublished}"
  done
  [ "$list" = " $(duties)" ] && [ "${now[fans.front1.duty]}" -gt 2000 ] && [ "${now[fans.front1.duty]}" -lt 9000 ]
}

# shellcheck disable=SC2317
is_there() { # KEY: it has a value
  fetch "$rig"
  [[ ${now[$1]:-} =~ ^-?[0-9]+$ ]]
}

# traps free|owned: bus-traps in the guest, each of its lines a comparison
traps() {
  local line
  echo "-- the adapter's traps: $1"
  while read -r line; do
    count "${line%% *}"
    echo "$line"
  done < <(guest "bus-traps \"\$adapter\" $1")
}

begin
"$2" --dir "$work/sim" --board "$BOARD" --bus main --speed 0 --strict > "$work/sim.log" 2>&1 &
started+=($!)
wait_until 10 test -S "$work/sim/vhost" || die "no simulated rig: $(cat "$work/sim.log")"
world "fault main gone U9"
mapfile -t traps < <(with_libraries "$3")
image amd64 "i2c-dev i2c-virtio i2c-stub i2c-mux i2c-mux-pca954x ina2xx ina3221 lm75 tmp421 max31790 emc2305 pmbus adm1275 virtio_net" \
  "$HERE/inside/hwmon.sh:test/hwmon.sh" "$HERE/inside/vhost.sh:test/vhost.sh" "$HERE/inside/rigd.sh:test/rigd.sh" \
  "$BOARD:test/simulated.toml" "$1:bin/rigd" "${traps[@]}"
broker
boot amd64 ttyS1 console=ttyS0 -M q35,memory-backend=ram -object memory-backend-memfd,id=ram,size=256M,share=on -cpu max -m 256 \
  -nodefaults -serial "file:$work/console" -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands \
  -chardev "socket,id=i2c,path=$work/sim/vhost" -device vhost-user-i2c-pci,chardev=i2c "${network[@]}"
guest '. /test/hwmon.sh; . /test/vhost.sh; . /test/rigd.sh; online && prepare' || die "no adapter in the guest"

# What the kernel's drivers write arrives.
world "advance 30"
guest bind || die "the kernel's drivers do not bind"
for values in "255 200 128 100 64 0" "1 77 127 129 254 255"; do
  guest "drive $values; side ${values%% *}"
  world "advance 5"
  # shellcheck disable=SC2086 # six words; one driver makes 9 bits of 8, the other ten steps
  wanted=$(printf '%s\n' $values | awk '
    { printf "%d ", int(int($1 * 511 / 255 + 0.5) / 511 * 10000 + 0.5) } NR == 1 { side = int(int($1 / 25.5 + 0.5) * 25.5 + 0.5) }
    END { for (i = 0; i < 5; i++) printf "%d ", int(side / 255 * 10000 + 0.5) }')
  check "max31790@20 emc2305@2c duties of the simulated fans for pwm $values: $wanted" [ "$(duties) " = "$wanted" ]
  check "max31790@20 the driver reads them back" [ "$(guest drives)" = "$values" ]
done
guest "drive 76 76 76 76 76 76; side 76"
volts=$(truth | sed -n 's/^rails.gpu0.mv //p')
check "ina226@40 no under-voltage alarm with the limit 100 mV below $volts mV" [ "$(guest "limit $((volts - 100))")" = 0 ]
check "ina226@40 under-voltage alarm with the limit 100 mV above" [ "$(guest "limit $((volts + 100))")" = 1 ]
guest "limit 0" > /dev/null
guest unbind

# What they read is what is true, and what rigd reads.
for set in work frost heat brownout; do
  # The emc2305 is reset, because its driver counts on the range of the tachometer after that.
  world "${SETS[$set]}; fault main gone U10; clear main 0x2c"
  guest 'bind && side 128' || die "the kernel's drivers do not bind"
  world "advance 20"
  guest "readings; flags; stubbed hot_swap" > "$work/kernel.$set"
  guest side_fans > "$work/side"
  guest unbind
  truth > "$work/truth"
  echo "-- the kernel's drivers on the simulated chips: $set"
  cat "$work/kernel.$set" "$work/side" > "$work/kernel"
  judge kernel "$work/kernel" "$work/truth"
  agent "guest-$set"
  { cat "$work/kernel.$set"; echo "sensors.absent not_present - tmp75@4f temperature"; } > "$work/expected"
  [ $set = brownout ] && sed -i -E 's/^(supplies\.psu\.output\.m[vaw]) [0-9]+/\1 off/' "$work/expected"
  expect "$rig" "rigd on the same chips, by raw I2C: $set"
  unheard > "$work/rigd"
  judge rigd "$work/rigd" "$work/truth"
  stop
done

traps free

# A chip that is plugged in.
agent guest-plugged
world "clear main 0x4f; advance 1"
check "tmp75@4f is read once it is there" is_there sensors.absent
stop

# rigd drives the fans, in running time.
world "set mains 230000; set ambient 25000; set gpu all load 0.5; advance 600; set speed 2"
agent guest-drives
check "fans at the duty that rigd publishes" regulated
world "set ambient 75000"
check "all fans at full duty in the heat" all_fans_at 10000
world "set ambient 25000"
check "fans regulated again when it is cool" regulated
guest murder > /dev/null || true
check "all fans at full duty by the chips' watchdogs when rigd is killed" all_fans_at 10000
agent guest-again
check "fans regulated after the watchdog had run out" regulated
stop
check "all fans at full duty after rigd has stopped" all_fans_at 10000
world "set speed 0"
guest idle
check "all fans at 30 % after somebody lowered them" all_fans_at 2994 2980
guest 'rigd leave-safe --config /tmp/rigd.toml' || die "rigd leave-safe fails"
check "all fans at full duty after rigd leave-safe" all_fans_at 10000
guest idle

# Their chips are theirs: rigd reads them, and drives their fans, through those drivers; a supply it leaves alone, and says so.
guest bind
guest readings > "$work/owned"
guest ": > /tmp/rigd.log"
agent guest-owned
{ grep -v ' pmbus@' "$work/owned"; awk '/ pmbus@/ { print $1, "bus", "-", $4, $5 }' "$work/owned"; } > "$work/expected"
expect "$rig" "chips that the kernel's drivers own"
traps owned
check "pmbus@58 rigd says who owns it" guest "grep -q '(pmbus at .*a kernel driver owns this address' /tmp/rigd.log"
stop
check "all fans at full duty, through the kernel's driver" all_fans_at 10000
guest unbind

# The kernel's multiplexer, whose channels are adapters, and nobody on them.
guest bind_mux
agent guest-channels
grep -E ' (ina3221@43|tmp421@4c|tmp75@49) ' "$work/owned" > "$work/expected"
expect "$rig" "raw I2C on the kernel's adapters for a multiplexer's channels"
stop
finish vhost

# shellcheck shell=bash
# Sourced by the scripts of this folder: the cache, the guest and its command channel, the comparison.

readonly CACHE=${RIGD_GUEST_CACHE:-$HOME/.cache/rigd-guest}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly BOOT_S=120   # from power on to the first prompt; 10 s on two idle cores
readonly COMMAND_S=60 # for one command inside the guest
readonly SETTLE_S=20  # from a change in a chip to its arrival in the telemetry

# What Debian's kernels are built without, below drivers/ of their source: the kernel's own word on chips that ours are
# compared with, an adapter whose chips are simulated on the host, and the mux before them; `described` is ours.
declare -rA REFERENCE_DRIVERS=(
  [amd64]="hwmon/emc2305 hwmon/ina238 hwmon/ina2xx hwmon/ina3221 hwmon/ltc2945 hwmon/max31790 hwmon/tmp464
    hwmon/pmbus/adm1275 hwmon/pmbus/max31785 hwmon/pmbus/max34440 i2c/busses/i2c-virtio i2c/muxes/i2c-mux-pca954x"
  [arm64]="hwmon/ltc4282 hwmon/pmbus/adm1275 hwmon/pmbus/max34440 i2c/i2c-stub described"
)

# Where they are, built, for an architecture: a name that changes with the list and the kernel, so that a stale cache is not
# taken for them.
reference_drivers_dir() {
  local key
  key=$(cat "$CACHE/kernel-$1/version" "$HERE/described.c" - <<< "${REFERENCE_DRIVERS[$1]}" | cksum)
  echo "$CACHE/drivers-$1-${key%% *}"
}

die() {
  echo "guest: $*" >&2
  exit 1
}

# wait_until SECONDS COMMAND...: polls until COMMAND succeeds; fails when the time is over
wait_until() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

qemu_has() { # ARCH MACHINE
  command -v "qemu-system-$1" >/dev/null && "qemu-system-$1" -machine help | grep -q "^$2 "
}

# --- a scratch directory, and everything that was started in the background -----------------------------------------------

work=
qemu=
started=()

begin() {
  work=$(mktemp -d)
  trap end EXIT
  trap 'echo "guest: ${BASH_SOURCE[0]##*/}, line $LINENO: failed" >&2' ERR
}

end() {
  local status=$? pid
  if [ "$status" -ne 0 ] && [ -n "$qemu" ] && kill -0 "$qemu" 2>/dev/null; then
    echo "--- the guest's console, last lines" >&2
    tail -n 20 "$work/console" >&2
  fi
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}

# --- the guest ------------------------------------------------------------------------------------------------------------

# image ARCH MODULES [SRC:DEST ...]: an initramfs of busybox, the modules with all they depend on, and the files given
image() {
  local arch=$1 modules=$2 root=$work/root spec
  shift 2
  local kernel=$CACHE/kernel-$arch release
  release=$(cat "$kernel/release")
  local to=$root/lib/modules/$release built
  built=$(reference_drivers_dir "$arch")
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp} "$to/extra"
  cp "$CACHE/busybox-$arch/bin/busybox" "$root/bin/busybox"
  ln -s busybox "$root/bin/sh"
  cp "$HERE/inside/init" "$root/init"
  local module verb path
  for module in $modules; do
    if [ -f "$built/$module.ko" ]; then
      cp "$built/$module.ko" "$to/extra"
      continue
    fi
    while read -r verb path _; do # "insmod PATH", dependencies first, or "builtin NAME"
      [ "$verb" = insmod ] || continue
      path=${path#*"/lib/modules/$release/"}
      mkdir -p "$to/$(dirname "$path")"
      xz -dc "$kernel/lib/modules/$release/$path" > "$to/${path%.xz}"
    done < <(modprobe -d "$kernel" -S "$release" -C /dev/null --show-depends "$module" || echo "insmod missing/$module")
  done
  cp "$kernel/lib/modules/$release"/modules.{builtin,order}* "$to"
  depmod -b "$root" "$release"
  for spec in "$@"; do
    mkdir -p "$(dirname "$root/${spec#*:}")"
    cp -aT "${spec%%:*}" "$root/${spec#*:}"
  done
  (cd "$root" && find . -print0 | cpio --null -o -H newc --quiet -R 0:0 | gzip -1) > "$work/image"
}

# with_libraries FILE: FILE and the libraries it is linked to, as `image` wants them
with_libraries() {
  local library
  echo "$1:bin/${1##*/}"
  for library in $(ldd "$1" | grep -o '/[^ ]*'); do echo "$(realpath "$library"):${library#/}"; done
}

# boot ARCH PORT KERNEL_WORDS QEMU_ARGS...: starts the guest and waits for its prompt on serial port PORT, which QEMU knows as
# the character device "commands". Emulated, never with KVM: a machine that has KVM need not be able to run a stock kernel.
boot() {
  local arch=$1 port=$2 words=$3 binary=aarch64
  shift 3
  [ "$arch" = amd64 ] && binary=x86_64
  mkfifo "$work"/{commands,monitor}.{in,out}
  exec {commands_in}<>"$work/commands.in" {commands_out}<>"$work/commands.out"
  exec {monitor_in}<>"$work/monitor.in" {monitor_out}<>"$work/monitor.out"
  "qemu-system-$binary" "$@" -accel tcg -display none -no-reboot -monitor none \
    -chardev pipe,id=monitor,path="$work/monitor" -mon chardev=monitor,mode=control \
    -kernel "$CACHE/kernel-$arch"/boot/vmlinuz-* -initrd "$work/image" -append "quiet guest.port=$port $words" \
    </dev/null > "$work/qemu.log" 2>&1 &
  qemu=$!
  started+=("$qemu")
  local line=
  until [ "$line" = READY ]; do
    read -r -t "$BOOT_S" -u "$commands_out" line || { cat "$work/qemu.log" >&2; die "no prompt within $BOOT_S s"; }
  done
  monitor qmp_capabilities
  echo "guest: $(guest 'uname -mr; cut -d" " -f1 /proc/uptime' | xargs printf '%s %s, prompt after %s s')"
}

# guest COMMAND: runs one line in the guest's shell, prints what it printed, returns its status
guest() {
  local line
  printf '%s\n' "$1" >&"$commands_in"
  while IFS= read -r -t "$COMMAND_S" -u "$commands_out" line; do
    case $line in
      DONE\ *) return "${line#DONE }" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
  die "no answer within $COMMAND_S s to: $1"
}

# monitor COMMAND [ARGUMENTS]: one QMP command
monitor() {
  local line
  printf '{"execute":"%s","arguments":%s}\n' "$1" "${2:-{\}}" >&"$monitor_in"
  while read -r -t "$COMMAND_S" -u "$monitor_out" line; do
    case $line in
      *'"return"'*) return ;;
      *'"error"'*) die "monitor: $1: $line" ;;
    esac
  done
  die "monitor: no answer within $COMMAND_S s to $1"
}

stop() { # [STATUS]: asks rigd to stop; 0, clean, or the status that must come instead
  local status=0
  guest stop || status=$?
  [ "$status" -eq "${1:-0}" ] || die "rigd stopped with $status: $(guest 'tail -n 20 /tmp/rigd.log')"
}

power_off() {
  printf 'poweroff -f\n' >&"$commands_in"
  wait_until 10 eval "! kill -0 $qemu 2>/dev/null" || kill "$qemu"
}

# --- the broker ------------------------------------------------------------------------------------------------------------

# broker: mosquitto here on the host, on a socket; with the words of `network` a guest reaches it, and nothing else, at
# 10.0.2.100:1883.
broker() {
  printf '%s\n' "listener 0 $work/broker" "allow_anonymous true" "user $(id -un)" > "$work/broker.conf"
  mosquitto -c "$work/broker.conf" > "$work/broker.log" 2>&1 &
  started+=($!)
  wait_until 10 test -S "$work/broker" || die "no broker: $(cat "$work/broker.log")"
  mosquitto_sub --unix "$work/broker" -V 5 -v -t 'r1/#' > "$work/messages" &
  started+=($!)
  # shellcheck disable=SC2034 # for the rings
  network=(-netdev "user,id=net,restrict=on,guestfwd=tcp:10.0.2.100:1883-cmd:socat - UNIX-CONNECT:$work/broker"
    -device "virtio-net-pci,netdev=net")
}

# messages RIG: its latest birth and telemetry, as "TOPIC PAYLOAD" lines; a guest with a broker of its own has another
messages() {
  grep "^r1/$1/up/birth " "$work/messages" | tail -n 1
  grep "^r1/$1/up/tele " "$work/messages" | tail -n 1
}

# --- what rigd publishes against what the kernel reads ---------------------------------------------------------------------
#
# Both are tables of lines "KEY VALUE", the keys being rigd's: rails.gpu0.ma, sensors.intake, fans.front1.rpm.

compared=0
different=0
explained=0
declare -A now # the latest telemetry

# published RIG: "seq N", then the latest telemetry as such a table
published() {
  { messages "$1" || true; } | cut -d' ' -f2- | jq -nrR -f "$HERE/published.jq"
}

# fetch RIG: takes the latest telemetry into `now`
fetch() {
  local key value
  now=()
  while read -r key value; do now[$key]=$value; done < <(published "$1")
}

# change RIG COMMAND...: runs COMMAND, which changes a chip; only telemetry sent later will count
change() {
  local rig=$1
  shift
  "$@"
  fetch "$rig"
  seen=${now[seq]:-0}
}

# expect RIG LABEL: waits until RIG publishes each line of $work/expected (KEY VALUE UNIT CHIP QUANTITY, then the kernel's value
# and the reason where that is another one), and prints the comparison. VALUE "none" is a reading that must be missing, for
# whatever reason; the name of a reason is that one.
expect() {
  local rig=$1 key value unit chip quantity other why verdict
  echo "-- $2"
  if ! wait_until "$SETTLE_S" all_same "$rig" && [ -z "${now[seq]:-}" ]; then
    guest 'tail -n 40 /tmp/rigd.log' >&2
    die "$rig publishes nothing"
  fi
  while read -r key value unit chip quantity other why; do
    verdict=same
    [ -z "$why" ] || verdict=explained
    same "$key" "$value" || verdict=DIFFERENT
    count "$verdict"
    case $value in
      [a-z]*)
        echo "$verdict $chip $quantity must be missing${other:+, kernel=$other}: rigd=${now[$key]:-unpublished}${why:+: $why}"
        ;;
      *) echo "$verdict $chip $quantity kernel=${other:-$value} $unit rigd=${now[$key]:-unpublished} $unit${why:+: $why}" ;;
    esac
  done < "$work/expected"
}

# check WHAT COMMAND...: waits until COMMAND succeeds; counted like a comparison
check() {
  local what=$1 verdict=same
  shift
  wait_until "$SETTLE_S" "$@" || verdict=DIFFERENT
  count "$verdict"
  echo "$verdict $what"
}

count() {
  compared=$((compared + 1))
  case $1 in
    DIFFERENT) different=$((different + 1)) ;;
    explained) explained=$((explained + 1)) ;;
  esac
}

missing() { # turns a table into one whose readings must be missing
  awk '{ print $1, "none", "-", $4, $5 }'
}

same() { # KEY EXPECTED
  case $2 in
    none) [[ ${now[$1]:-} =~ ^[a-z_]+$ ]] ;;
    *) [ "$2" = "${now[$1]:-}" ] ;;
  esac
}

all_same() { # RIG
  local key value
  fetch "$1"
  [ "${now[seq]:-0}" -gt "${seen:-0}" ] || return 1
  while read -r key value _; do same "$key" "$value" || return 1; done < "$work/expected"
}

# finish RING: stops the guest, says the last word, and exits with 0 only if nothing differed
finish() {
  [ "$different" -eq 0 ] || guest 'echo "--- what rigd logged"; tail -n 40 /tmp/rigd.log'
  power_off
  echo "$1: compared $compared readings: $((compared - different - explained)) same, $explained explained, $different different"
  exit $((different > 0))
}

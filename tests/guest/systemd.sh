#!/usr/bin/env bash
# systemd.sh RIGD: the shipped units under a real systemd, this machine's: RIGD (static, x86_64) as the user rigd, its payloads as
# others, and what of it outlives what.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# shellcheck disable=SC2317 # these are called by check
says() { # WORDS COMMAND...
  local words=$1
  shift
  [ "$(guest "$*")" = "$words" ]
}
# shellcheck disable=SC2317
lives() { # PID START: the same process still, by when it was started
  [ "$(guest "cut -d' ' -f22 /proc/$1/stat")" = "$2" ]
}

begin
inside=$HERE/inside
files=("$1:usr/bin/rigd" "$HERE/../../systemd:systemd" "$inside/guest.service:lib/systemd/system/guest.service")
for name in {systemd,worker,try,podman}.sh; do files+=("$inside/$name:test/$name"); done
for name in {basic,local-fs,paths,shutdown,slices,sockets,swap,sysinit,timers,umount}.target; do
  files+=("$(realpath "/lib/systemd/system/$name"):lib/systemd/system/$name")
done
for program in /lib/systemd/systemd "$(command -v systemctl)" "$(command -v systemd-sysusers)" "$(command -v systemd-tmpfiles)"; do
  mapfile -t -O ${#files[@]} files < <(with_libraries "$(realpath "$program")")
done
# From systemd 255 on; what it is linked to, systemd is.
executor=/usr/lib/systemd/systemd-executor
[ ! -e $executor ] || files+=("$executor:${executor#/}")
mapfile -t files < <(printf '%s\n' "${files[@]}" | sort -u)
image amd64 "" "${files[@]}"
boot amd64 ttyS1 "console=ttyS0 systemd.unit=guest.service systemd.log_target=console" -M q35 -cpu max -m 512 -nodefaults \
  -serial "file:$work/console" -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands
guest '. /test/systemd.sh; prepare && systemctl start rigd' || die "no units, or no agent: $(guest 'cat /tmp/rigd.log')"

wait_until "$COMMAND_S" guest 'can worker filter > /dev/null' || die "no word of its payload: $(guest 'cat /tmp/rigd.log')"
for what in home directory tmpdir tmp gpu render netlink user no-new-privs filter Cap{Inh,Prm,Eff,Bnd,Amb}\ none; do
  check "a payload of another user: $what" says "$what" "can worker '$what'"
done
for what in other-gpu others-state; do check "a payload of another user: no $what" says "no $what" "can worker $what"; done
check "its /tmp is its own" guest '[ -e /var/lib/rigd/payloads/worker/tmp/of-a-payload ] && ! [ -e /tmp/of-a-payload ]'
check "no layer of its sandbox was missing" guest '! logged "runs without these layers"'
check "it is in a unit of its own" says /sys/fs/cgroup/system.slice/rigd-payloads.service/payloads/worker 'group $(first worker)'
check "its limit is the kernel's" says 67108864 'cat $(group $(first worker))/memory.max'
check "no limit went unheld" guest '! logged "cannot be passed on" && ! logged "limits that do not hold here"'
check "the agent's own memory is bounded still" says 67108864 'cat $(group $(agent))/memory.max'

worker=$(guest 'first worker')
began=$(guest "cut -d' ' -f22 /proc/$worker/stat")
for how in 'kill -9 $(agent)' 'systemctl restart rigd' 'systemctl stop rigd; systemctl start rigd'; do
  agent=$(guest agent)
  guest ": > /tmp/rigd.log; $how"
  check "another agent after $how" guest "again $agent"
  check "it takes up what runs" guest "logged 'payload worker: adopted, process $worker'"
  check "and that is the same process" lives "$worker" "$began"
done
check "its limit still holds" says 67108864 "cat \$(group $worker)/memory.max"
guest "kill -9 $worker"
check "the end of another agent's child is seen, and it runs again" guest 'logged "payload worker: started"'

guest 'container; systemctl restart rigd; rm /var/lib/rigd/payloads/worker/state/can; kill -9 $(first worker)'
for what in split mounts node gpu root; do check "a container's podman: $what" says "$what" "can web $what"; done
check "a payload of another user: CapEff none" says "CapEff none" "can worker 'CapEff none'"
all=$(guest 'everyone; agent' | xargs)
check "keeper, payloads and who writes their logs: at least 7" [ "$(wc -w <<< "$all")" -ge 8 ]
guest 'systemctl stop rigd-payloads'
check "with their unit all payloads end, and the agent" says "" "left $all"

# Not as the README says: without limits rather than without payloads, or without an agent after the first.
guest 'rm /usr/lib/systemd/system/rigd-payloads.service; systemctl daemon-reload; : > /tmp/rigd.log; systemctl start rigd'
check "without that unit the agent says that no limit holds" guest 'logged "limits do not hold: there is no rigd-payloads.service"'
check "and payloads run" guest 'logged "payload worker: started"'
agent=$(guest agent)
guest "kill -9 $agent"
check "and there is another agent when that one was killed" guest "again $agent"
finish systemd

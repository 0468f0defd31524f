#!/usr/bin/env bash
# payloads.sh RIGD: the limits of payloads under a kernel whose only hierarchy is cgroup v2, as root: what RIGD (static, x86_64) asks
# for, what the kernel holds, and what RIGD makes of how they end.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# shellcheck disable=SC2317 # called by check
limit_is() { # NAME FILE VALUE
  [ "$(guest "limit $1 $2")" = "$3" ]
}
# shellcheck disable=SC2317
count_is() { # NAME COUNT
  [ "$(guest "count $1")" = "$2" ]
}
# shellcheck disable=SC2317
none_left() { # PIDS
  [ -z "$(guest "left $1")" ]
}
# shellcheck disable=SC2317
lives() { # PID START: the same process still, by when it was started
  [ "$(guest "cut -d' ' -f22 /proc/$1/stat")" = "$2" ]
}
# shellcheck disable=SC2317
between() { # LEAST VALUE MOST
  echo "   $2, of $1 to $3"
  [ "$1" -le "$2" ] && [ "$2" -le "$3" ]
}

begin
image amd64 "" "$HERE/inside/payloads.sh:test/payloads.sh" "$1:bin/rigd"
boot amd64 ttyS1 console=ttyS0 -M q35 -cpu max -m 512 -nodefaults -serial "file:$work/console" \
  -chardev "pipe,id=commands,path=$work/commands" -serial chardev:commands
guest '. /test/payloads.sh; prepare && start' || die "no cgroup2, or no agent"

check "memory: the limit is the kernel's" limit_is killed memory.max 33554432
check "memory: no swap beside it" limit_is killed memory.swap.max 0
check "memory: who takes more is known to have been killed for it" \
  guest 'logged "payload memory: .*the kernel killed it for its memory"'
check "memory: the kernel counts that kill" guest 'grep -q "^oom_kill [1-9]" $groups/memory/memory.events'
guest 'kill -9 $(first killed)'
check "memory: who is killed by somebody else is not taken for that" \
  guest 'logged "payload killed: .*it was ended by signal 9" && ! logged "payload killed: .*memory"'

check "processes: the limit is the kernel's" limit_is crowd pids.max 10
check "processes: there were as many and no more" limit_is crowd pids.peak 10
check "processes: all but the one that was refused go on" count_is crowd 9
check "processes: the kernel has refused one" guest 'grep -q "^max [1-9]" $groups/crowd/pids.events'

check "the agent has left the group that passes controllers on" guest 'grep -q "^0::/rigd/agent$" /proc/$agent/cgroup'
check "processor: the limit is the kernel's" limit_is busy cpu.max "20000 100000"
check "processor: a busy loop gets what it is given" between 15 "$(guest 'share busy')" 21
check "processor: the kernel has held it back" guest 'grep -q "^nr_throttled [1-9]" $groups/busy/cpu.stat'

check "ports: it listens on the one that its manifest names" guest 'grep -q ":1B59 0*:0000 0A" /proc/net/tcp /proc/net/tcp6'
check "ports: and on no other" guest 'said refused | grep -q "denied" && ! grep -q ":1B5A 0*:0000 0A" /proc/net/tcp /proc/net/tcp6'

check "daemon: what left its session is in its group" guest '[ $(count daemon) -ge 2 ]'
busy=$(guest 'first busy')
began=$(guest "cut -d' ' -f22 /proc/$busy/stat")
guest 'murder; start'
check "the next agent takes up what runs" guest "logged 'payload busy: adopted, process $busy'"
check "and it is the same process" lives "$busy" "$began"
check "its limit still holds" between 15 "$(guest 'share busy')" 21
daemon=$(guest 'xargs < $groups/daemon/cgroup.procs')
guest 'kill -9 $(first daemon)'
check "daemon: all of it ends with its first process" none_left "$daemon"
# How it ended, only a kernel from 6.15 on tells of another's child.
check "daemon: its end is seen, though it was another agent's child" \
  guest 'logged "payload daemon: starting again: it ended unseen" || logged "payload daemon: starting again: it was ended by signal 9"'
# Its group was killed: some kernels kill whoever is started in such a one.
check "daemon: it runs again, all of it" guest '[ $(count daemon) -ge 2 ]'
check "daemon: that took one start" guest '[ $(grep -c "payload daemon: started" /tmp/rigd.log) = 2 ]'

check "no limit of a manifest went unheld" guest '! logged "limits that do not hold here"'
check "no layer of the sandbox was missing" guest '! logged "runs without these layers"'
check "no cgroup could not be killed or removed" guest '! logged "could not be killed" && ! logged "could not be removed"'
guest 'echo 1 > $groups/cgroup.kill'
finish payloads

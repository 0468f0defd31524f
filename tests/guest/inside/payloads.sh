# Sourced by the payloads guest's shell: a rig without chips, its agent, and programs that want more than they are given.

# The agent's own group, as a starter without systemd would give it one.
readonly own=/sys/fs/cgroup/rigd
readonly groups=$own/payloads

# prepare: the kernel's one hierarchy, a user to run payloads as, a rig without chips
prepare() {
  mount -t cgroup2 none /sys/fs/cgroup || return
  echo '+cpu +memory +pids' > /sys/fs/cgroup/cgroup.subtree_control
  mkdir $own
  mkdir -p /etc/rigd/payloads.d /var/lib/rigd
  echo 'root:x:0:0::/:/bin/sh
nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
  echo 'nogroup:x:65534:' > /etc/group
  cat > /tmp/rigd.toml <<CONFIG
rig = "guest-payloads"
board = "/tmp/board.toml"
state = "/var/lib/rigd"
[local]
socket = "/tmp/rigd.sock"
[broker]
url = "mqtt://127.0.0.1:1"
CONFIG
  printf 'name = "bare"\nrevision = "a"\n' > /tmp/board.toml
  # Takes all the memory that there is.
  payload memory 'exec tail /dev/zero' 'memory_mib = 32'
  # The same limit, and ended by somebody else.
  payload killed 'exec sleep 1000' 'memory_mib = 32'
  # A shell that may not fork ends; the one around it does not.
  payload crowd 'sh -c "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done"; exec sleep 1000' 'pids = 10'
  payload busy 'while :; do :; done' 'cpu_pct = 20'
  # Of two ports it may have one.
  payload ports 'nc -l -p 7001 > taken 2>&1 & nc -l -p 7002 > refused 2>&1; echo $? >> refused; exec sleep 1000' 'pids = 20
[sandbox]
tcp_bind = [7001]
tcp_connect = []'
  # Out of its session, its parent gone, deaf to SIGTERM.
  payload daemon "(setsid sh -c 'trap \"\" TERM; while :; do sleep 1; done' &) ; exec sleep 1000" 'memory_mib = 64' always
}

# payload NAME SCRIPT LIMITS [POLICY]
payload() {
  cat > /etc/rigd/payloads.d/$1.toml <<MANIFEST
kind = "ai"
autostart = true
user = "nobody"
argv = ["/bin/sh", "-c", '''$2''']
[restart]
policy = "${4:-never}"
[limits]
$3
[stop]
grace_s = 1
MANIFEST
}

# start: in its own group; once that passes controllers on, in the one that the first agent has left it for
start() {
  (
    for group in $own $own/agent; do
      if echo 0 > $group/cgroup.procs; then break; fi
    done 2>/dev/null
    exec rigd run --config /tmp/rigd.toml 2>>/tmp/rigd.log
  ) &
  agent=$!
}

murder() {
  kill -9 $agent
  wait $agent
}

logged() { grep -q "$1" /tmp/rigd.log; } # TEXT

# limit NAME FILE: what the kernel says that it holds a payload to
limit() { cat $groups/$1/$2; }

# left PID...: those of these processes that are still there
left() {
  for pid in "$@"; do [ ! -d /proc/$pid ] || echo $pid; done
}

# said FILE: what the payload with ports has left in its directory
said() { cat /var/lib/rigd/payloads/ports/state/$1; }

count() { wc -l < $groups/$1/cgroup.procs; } # NAME: processes of a payload

# first NAME: its first process, by the agent's log
first() { sed -n "s/.*payload $1: started, process //p" /tmp/rigd.log | tail -n 1; }

# share NAME: hundredths of a processor that a payload has used of three seconds
share() {
  from=$(sed -n 's/^usage_usec //p' $groups/$1/cpu.stat)
  began=$(cut -d' ' -f1 /proc/uptime | tr -d .)
  sleep 3
  to=$(sed -n 's/^usage_usec //p' $groups/$1/cpu.stat)
  ended=$(cut -d' ' -f1 /proc/uptime | tr -d .)
  echo $(((to - from) / 100 / (ended - began)))
}

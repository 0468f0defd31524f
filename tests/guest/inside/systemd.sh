# Sourced by the systemd guest's shell: a rig without chips, its agent installed as the README says, and payloads that tell what
# they can do.

# prepare: users, files and units as on a rig, then a GPU's device node whose driver is another one's
prepare() {
  chmod 1777 /tmp
  mkdir -p /usr/lib/systemd/system /usr/lib/sysusers.d /usr/lib/tmpfiles.d /etc/systemd/system/rigd.service.d /var/lib /home /root
  echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd
  echo 'root:x:0:' > /etc/group
  cp /systemd/rigd.sysusers /usr/lib/sysusers.d/rigd.conf
  printf 'g render - -\nu miner - -\nm miner render\n' > /usr/lib/sysusers.d/miner.conf
  SYSTEMD_LOG_LEVEL=warning systemd-sysusers || return
  cp /systemd/rigd.tmpfiles /usr/lib/tmpfiles.d/rigd.conf
  systemd-tmpfiles --create || return
  cp /systemd/rigd*.service /usr/lib/systemd/system/
  drop_in payloads.conf
  # There is no journal.
  printf '[Service]\nStandardError=append:/tmp/rigd.log\n' > /etc/systemd/system/rigd.service.d/log.conf
  mkdir -p /dev/dri /etc/rigd/payloads.d
  number=$(tr : ' ' < /sys/class/misc/fuse/dev)
  mknod -m 666 /dev/nvidia0 c $number
  mknod -m 666 /dev/nvidia1 c $number
  mknod -m 660 /dev/dri/renderD128 c $number
  chown root:render /dev/dri/renderD128
  cat > /etc/rigd/rigd.toml <<CONFIG
rig = "guest-systemd"
board = "/etc/rigd/board.toml"
[broker]
url = "mqtt://127.0.0.1:1"
CONFIG
  printf 'name = "bare"\nrevision = "a"\n' > /etc/rigd/board.toml
  systemd-tmpfiles --create
  cat > /etc/rigd/payloads.d/worker.toml <<MANIFEST
kind = "ai"
autostart = true
user = "miner"
argv = ["/bin/sh", "/test/worker.sh"]
[limits]
memory_mib = 64
[sandbox]
read = ["/test"]
write = ["/dev/nvidia0", "/dev/dri/renderD128"]
MANIFEST
}

drop_in() { # NAME
  cp /systemd/$1 /etc/systemd/system/rigd.service.d/
  systemctl daemon-reload
}

logged() { grep -q "$1" /tmp/rigd.log; } # TEXT

# first NAME: its first process, by the agent's log
first() { sed -n "s/.*payload $1: started, process //p" /tmp/rigd.log | tail -n 1; }

# group PID: its cgroup
group() { sed -n 's|^0::|/sys/fs/cgroup|p' /proc/$1/cgroup; }

# can NAME WHAT: what a payload said of it, once it has
can() { grep -sx "$2\|no $2" /var/lib/rigd/payloads/$1/state/can; }

# everyone: all processes in the payloads' unit
everyone() { find /sys/fs/cgroup/system.slice/rigd-payloads.service -name cgroup.procs -exec cat {} +; }

agent() { systemctl show -P MainPID rigd; }

# again PID: another agent than that one runs
again() { [ "$(systemctl is-active rigd)" = active ] && [ "$(agent)" != "$1" ]; }

# left PID...: those of these processes that are still there
left() {
  for pid in "$@"; do [ ! -d /proc/$pid ] || echo $pid; done
}

# container: a payload that is one, and the drop-in for it
container() {
  drop_in podman.conf
  cat > /etc/rigd/payloads.d/web.toml <<MANIFEST
kind = "ai"
autostart = true
user = "root"
[container]
image = "none"
podman = "/test/podman.sh"
MANIFEST
}

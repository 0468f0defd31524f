# Sourced by both guests' shells: the agent under test.

# online: the way to the broker on the host, at 10.0.2.100
online() { modprobe virtio_net && ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0; }

# start RIG BROKER: runs rigd with board.toml
start() {
  cat > /tmp/rigd.toml <<CONFIG
rig = "$1"
board = "/test/board.toml"
encoding = "json"
[telemetry]
period_ms = 500
[broker]
url = "mqtt://$2"
plain_text = true
CONFIG
  rigd run --config /tmp/rigd.toml 2>>/tmp/rigd.log &
  agent=$!
}

# stop: asks rigd to stop; its exit status is ours
stop() {
  kill $agent
  wait $agent
}

murder() {
  kill -9 $agent
  wait $agent
}

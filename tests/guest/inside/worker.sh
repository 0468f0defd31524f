# A payload of the systemd guest.
. /test/try.sh
try home written "$HOME/x"
try directory written ./x
try tmpdir written "$TMPDIR/x"
try tmp written /tmp/of-a-payload
try gpu opened /dev/nvidia0
try render opened /dev/dri/renderD128
try other-gpu opened /dev/nvidia1
try netlink ip link
try others-state ls /var/lib/rigd
try user [ "$(id -un)" = miner ]
for set in Inh Prm Eff Bnd Amb; do try "Cap$set none" own Cap$set 0000000000000000; done
try no-new-privs own NoNewPrivs 1
try filter own Seccomp 2
exec sleep 100000

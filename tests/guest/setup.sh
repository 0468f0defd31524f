#!/usr/bin/env bash
# setup.sh [x86|chips|arm|vhost|payloads|systemd|all]: everything the guest tests need and the machine lacks.
#
# Installs with apt, as root, only the host tools that are missing, and says which. All that belongs to a guest (kernel,
# drivers, busybox, the Arm broker) is unpacked below the cache directory and installed nowhere. Done once: when everything
# is there, this returns at once.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Newer than Debian 12's own: QEMU 10 has the imx8mp-evk machine, and its kernel 6.12 derives current as documented.
readonly SUITE=bookworm-backports
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
# The broker of the Arm guest and all it links to.
readonly ARM_BROKER=(mosquitto mosquitto-clients libmosquitto1 libc6 libcap2 libc-ares2 libcjson1 libcom-err2 libdlt2 libev4
  libgcrypt20 libgpg-error0 libgssapi-krb5-2 libk5crypto3 libkeyutils1 libkrb5-3 libkrb5support0 liblz4-1 liblzma5 libnsl2
  libssl3 libsystemd0 libtirpc3 libuv1 libwebsockets17 libwrap0 libzstd1 zlib1g)

mirror() { # the archive this machine already uses
  local found
  found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    grep -v '^ *#' | grep -oE 'https?://[^ ]*/debian/?( |$)' | head -n 1 | sed 's|/\? *$||' || true)
  echo "${found:-http://deb.debian.org/debian}"
}

install_host_tools() {
  local wanted=() tool package
  while read -r tool package; do
    command -v "$tool" >/dev/null || wanted+=("$package")
  done <<'TOOLS'
cpio cpio
depmod kmod
xz xz-utils
jq jq
make make
gcc-12 gcc-12
socat socat
mosquitto mosquitto
mosquitto_sub mosquitto-clients
systemctl systemd
TOOLS
  qemu_has x86_64 q35 || wanted+=(qemu-system-x86)
  ! on arm || qemu_has aarch64 imx8mp-evk || wanted+=(qemu-system-arm)
  ! on arm || command -v aarch64-linux-gnu-gcc-12 >/dev/null || wanted+=(gcc-12-aarch64-linux-gnu)
  [ ${#wanted[@]} -eq 0 ] && return
  echo "setup: installing ${wanted[*]} (apt, as root; QEMU from $SUITE)"
  # The backports suite is named on the command line only: the machine's own list of sources stays as it is.
  {
    cat /etc/apt/sources.list 2>/dev/null || true
    echo "deb [signed-by=$KEYRING] $(mirror) $SUITE main"
  } > "$CACHE/sources.list"
  local apt=(apt-get -qq -o "Dir::Etc::SourceList=$CACHE/sources.list")
  "${apt[@]}" update
  DEBIAN_FRONTEND=noninteractive "${apt[@]}" -y --no-install-recommends -t "$SUITE" install "${wanted[@]}" \
    > "$CACHE/apt.log" 2>&1 || { tail -n 20 "$CACHE/apt.log"; return 1; }
}

# A private apt root: foreign architectures and suites without touching the machine's configuration.
private_apt() {
  [ -n "${APT_CONFIG:-}" ] && return
  local root=$CACHE/apt
  mkdir -p "$root"/{etc/apt.conf.d,etc/preferences.d,state/lists/partial,cache/archives/partial}
  printf "deb [arch=amd64,arm64 signed-by=$KEYRING] $(mirror) %s main\n" bookworm "$SUITE" > "$root/etc/sources.list"
  cat > "$root/apt.conf" <<CONF
Dir::Etc "$root/etc"; Dir::State "$root/state"; Dir::State::status "/dev/null"; Dir::Cache "$root/cache";
APT::Architecture "amd64"; APT::Architectures { "amd64"; "arm64"; }; APT::Sandbox::User "root";
CONF
  export APT_CONFIG=$root/apt.conf
  apt-get -qq update
}

# unpack DIR NAME:ARCH[=VERSION]...: downloads packages and unpacks them below DIR, without their documentation
unpack() {
  local dir=$1 debs=$1/debs deb
  shift
  mkdir -p "$debs"
  private_apt
  (cd "$debs" && apt-get -qq download "$@")
  for deb in "$debs"/*.deb; do
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$dir" --exclude='./usr/share' --exclude='*/kernel/sound' \
      --exclude='*/drivers/gpu' --exclude='*/drivers/media' --exclude='*/drivers/net/wireless'
  done
  rm -rf "$debs"
}

# once DIR COMMAND...: runs COMMAND with a scratch directory and moves that to DIR only when it succeeded
once() {
  local dir=$1
  shift
  [ -d "$dir" ] && return
  echo "setup: ${dir#"$CACHE"/}"
  rm -rf "$dir.new"
  mkdir -p "$dir.new"
  "$@" "$dir.new"
  mv "$dir.new" "$dir"
}

kernel() { # ARCH DIR
  local arch=$1 dir=$2 version image
  private_apt
  version=$(apt-cache madison "linux-image-$arch:$arch" | awk -v suite="$SUITE/" 'index($0, suite) { print $3; exit }')
  image=$(apt-cache show "linux-image-$arch:$arch=$version" | grep -oE '^Depends: linux-image-[^ ,]+' | cut -d' ' -f2)
  unpack "$dir" "$image:$arch"
  echo "$version" > "$dir/version"
  echo "${image#linux-image-}" > "$dir/release"
  depmod -b "$dir" "${image#linux-image-}"
}

busybox() { # ARCH DIR
  unpack "$2" "busybox-static:$1"
}

# Compiled, unmodified, from Debian's own kernel source; `described` from ours.
reference_drivers() { # ARCH DIR
  local arch=$1 dir=$2 version release common series drivers strip=strip
  [ "$arch" = amd64 ] || strip=aarch64-linux-gnu-strip
  version=$(cat "$CACHE/kernel-$arch/version")
  release=$(cat "$CACHE/kernel-$arch/release")
  common=${release%-"$arch"}
  series=$(grep -oE '^[0-9]+\.[0-9]+' <<< "$release")
  read -ra drivers -d '' <<< "${REFERENCE_DRIVERS[$arch]}" || true
  # The tools of the build run here, whatever they build for.
  unpack "$dir/work" "linux-headers-$release:$arch" "linux-headers-$common-common:all" "linux-kbuild-$common:amd64" \
    "linux-source-$series:all=$version"
  local usr=$dir/work/usr headers=$dir/work/usr/src/linux-headers-$release build=$dir/work/build
  sed -i "s|^include /usr/src/|include $usr/src/|" "$headers/Makefile"
  rm -f "$headers/vmlinux" # with it present, the build would want pahole for type information
  local sources=(hwmon/pmbus/pmbus.h) driver
  mkdir -p "$build"
  for driver in "${drivers[@]}"; do
    if [ -f "$HERE/$driver.c" ]; then cp "$HERE/$driver.c" "$build"; else sources+=("$driver.c"); fi
  done
  # tar stops at the last file it wants, for which xz blames it.
  xz -dc "$usr/src/linux-source-$series.tar.xz" 2>/dev/null |
    tar -x -C "$build" --occurrence=1 --transform='s|.*/||' \
      "${sources[@]/#/linux-source-$series/drivers/}" || [ "${PIPESTATUS[1]}" = 0 ]
  printf 'obj-m += %s\n' "${drivers[@]/%/.o}" | sed 's|[^ ]*/||' > "$build/Kbuild"
  make -C "$headers" M="$build" modules > "$dir/build.log" 2>&1 || { tail -n 20 "$dir/build.log"; return 1; }
  "$strip" --strip-debug "$build"/*.ko
  cp "$build"/*.ko "$dir"
  rm -rf "$dir/work"
}

# The archive has one version at a time: a kernel whose headers it has dropped is fetched anew, with them.
headers_are_there() { # ARCH
  private_apt
  apt-cache show "linux-headers-$(cat "$CACHE/kernel-$1/release"):$1" > /dev/null 2>&1
}

guest_of() { # ARCH: kernel, drivers, busybox
  once "$CACHE/kernel-$1" kernel "$1"
  once "$CACHE/busybox-$1" busybox "$1"
  if [ ! -d "$(reference_drivers_dir "$1")" ]; then
    headers_are_there "$1" || rm -rf "$CACHE/kernel-$1"
    once "$CACHE/kernel-$1" kernel "$1"
    once "$(reference_drivers_dir "$1")" reference_drivers "$1"
  fi
}

arm_broker() { # DIR
  unpack "$1" "${ARM_BROKER[@]/%/:arm64}"
  mkdir "$1/libraries"
  mv "$1"/{usr/,}lib/aarch64-linux-gnu/*.so* "$1/libraries"
}

ring=${1:-all}
on() { [ "$ring" = all ] || [ "$ring" = "$1" ]; }
mkdir -p "$CACHE"
install_host_tools
if on x86 || on chips || on vhost || on payloads || on systemd; then guest_of amd64; fi
if on arm; then
  guest_of arm64
  once "$CACHE/broker-arm64" arm_broker
fi
rm -rf "$CACHE/apt"

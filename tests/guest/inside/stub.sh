# Sourced by the x86 guests' shells: how registers get into i2c-stub.
# Busybox's i2cset takes the register number in hexadecimal and the value as C does.
bus=0

hex() { printf 0x%x $((($1) & 0xffff)); }
byte() { i2cset -f -y $bus "$1" "$(hex "$2")" $((($3) & 0xff)); }
little() { i2cset -f -y $bus "$1" "$(hex "$2")" $((($3) & 0xffff)) w; }
big() { little "$1" "$2" "(($3) & 0xff) << 8 | (($3) >> 8 & 0xff)"; }
# A word of a chip with 8-bit registers: i2c-stub keeps words and bytes apart, real hardware does not.
pair() {
  big "$1" "$2" "$3"
  byte "$1" "$2 + 1" "$3"
}
bytes() { # ADDR REGISTER VALUE...: into this register and those that follow
  at=$(($2))
  chip=$1
  shift 2
  for value in "$@"; do
    byte $chip $at $value
    at=$((at + 1))
  done
}

linear11() { echo "(($1) & 0x1f) << 11 | (($2) & 0x7ff)"; } # EXPONENT MANTISSA

# plug ADDRESS,... OPTIONS: an adapter without raw I2C, and its chips. Its functions: quick, byte, byte data, word data, block
# data, I2C block.
plug() { modprobe i2c-stub chip_addr="$@" functionality=0x0fff0000 && modprobe i2c-dev; }

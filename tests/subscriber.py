#!/usr/bin/env python3
"""Reads messages of rigs by src/wire/README.md and nothing else: its tables are the schema.

    subscriber.py HOST PORT FILTER COUNT     from a broker: MQTT 5, plain text, QoS 0
    subscriber.py -                          from standard input: a message in hexadecimal a line
"""
import json, pathlib, re, socket, struct, sys

PAGE = pathlib.Path(__file__).resolve().parent.parent / "src/wire/README.md"
TABLES, STRUCTS = {}, set()
for line in PAGE.read_text(encoding="utf-8").splitlines():
    cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    if line.startswith("### "):
        name = line[4:]
    elif cells[:2] == ["field", "type"]:
        STRUCTS.add(name)
        TABLES[name] = []
    elif cells[:2] == ["number", "name"]:
        TABLES[name] = []
    elif line.startswith("| ") and name in TABLES:
        TABLES[name].append(cells)
    elif line.startswith("#"):
        name = None


def split(text):
    """At the commas that are in no brackets."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", text) if part.strip()]


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        if self.at > len(self.data):
            raise ValueError("cut short")
        return self.data[self.at - count:self.at]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def read(self, kind):
        if kind.endswith("?"):
            return self.read(kind[:-1]) if self.take(1)[0] else None
        if kind.startswith("["):
            return [self.read(kind[1:-1]) for _ in range(self.varint())]
        if kind.startswith("("):
            return [self.read(part) for part in split(kind[1:-1])]
        if kind.startswith("value("):
            byte = self.take(1)[0]
            return TABLES["Missing"][byte - 1][1] if byte else self.read(kind[6:-1])
        if kind.startswith("bytes("):
            return self.take(int(kind[6:-1])).hex()
        if kind == "bytes":
            return self.take(self.varint()).hex()
        if kind == "text":
            return self.take(self.varint()).decode()
        if kind in ("bool", "u8"):
            return self.take(1)[0] if kind == "u8" else self.take(1) == b"\1"
        if kind[0] in "ui" and kind[1:].isdigit():
            value = self.varint()
            return value if kind[0] == "u" else (value >> 1) ^ -(value & 1)
        return self.struct(kind) if kind in STRUCTS else self.enum(kind)

    def struct(self, kind):
        fields = {}
        for field, inner, *_ in TABLES[kind]:
            fields[field] = self.read(inner)
        return fields

    def enum(self, kind):
        _, name, holds, *_ = TABLES[kind][self.varint()]
        if ": " in holds:
            return {name: {field: self.read(inner) for field, inner in (part.split(": ") for part in split(holds))}}
        values = [self.read(inner) for inner in split(holds)]
        return {name: values[0] if len(values) == 1 else values} if values else name


def decode(data):
    """A message as the object that `rigd-ctl decode` prints."""
    if data[:1] == b"{":
        return json.loads(data)
    if data[:1] == b"\xa2":  # Signatures are not checked here.
        return decode(data[3 + 72 * data[2]:])
    magic, kind, major, flags, boot, seq = struct.unpack("<BBBBIQ", data[:16])
    if magic != 0xA1 or major != 1:
        raise ValueError("not a message that this reader knows")
    name = TABLES["Kind"][kind - 1][1]
    body = Reader(data[16:]).struct(name.title())
    return {"kind": name, "major": major, "flags": flags, "boot": boot, "seq": seq, "body": body}


def subscribe(host, port, topic):
    """The topics and payloads of a broker's messages: CONNECT, SUBSCRIBE, then PUBLISH after PUBLISH (MQTT 5, chapter 3)."""
    link = socket.create_connection((host, port), timeout=30)
    stream = link.makefile("rb")
    text = lambda value: struct.pack(">H", len(value)) + value.encode()
    packet = lambda first, body: link.sendall(bytes([first, len(body)]) + body)
    packet(0x10, text("MQTT") + b"\x05\x02\x00\x00\x00" + text(""))
    packet(0x82, b"\x00\x01\x00" + text(topic) + b"\x00")
    while True:
        first, length, shift, byte = stream.read(1)[0], 0, 0, 0x80
        while byte & 0x80:
            byte = stream.read(1)[0]
            length, shift = length | (byte & 0x7F) << shift, shift + 7
        body = Reader(stream.read(length))
        if first >> 4 == 3:
            name = body.take(struct.unpack(">H", body.take(2))[0]).decode()
            body.take(body.varint())
            yield name, body.data[body.at:]


if __name__ == "__main__":
    if sys.argv[1:] == ["-"]:
        source = ((None, bytes.fromhex(line)) for line in sys.stdin)
    else:
        host, port, topic, count = sys.argv[1:]
        source = (pair for _, pair in zip(range(int(count)), subscribe(host, int(port), topic)))
    for name, data in source:
        print(json.dumps({"topic": name, "hex": data.hex(), "message": decode(data)}), flush=True)

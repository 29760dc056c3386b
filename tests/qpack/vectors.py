#!/usr/bin/env python3
"""QPACK vectors of an independent implementation, ls-qpack (PyPI: pylsqpack).

    vectors.py make FILE    writes what ls-qpack's encoder makes of the sections below
    vectors.py check FILE   reads what Tidegate's encoder made of them (UPDATE_GOLDEN=1 cargo test --lib qpack::vectors),
                            and compares what ls-qpack's decoder understands

A line of a file is one of
    connection CAPACITY BLOCKED    a new one: bytes of the table, streams that may wait
    encoder HEX                    bytes of the encoder stream
    section STREAM HEX             a block
    field NAME VALUE               of the section above, both in hex
"""

import random
import sys

import pylsqpack


def sections():
    """Requests and responses as they come, some fields over and over, some once, some odd."""
    rng = random.Random(9204)
    agents = ["curl/8.5.0", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"]
    for number in range(32):
        if number % 3:
            fields = [
                (":method", rng.choice(["GET", "GET", "POST", "OPTIONS"])),
                (":scheme", "https"),
                (":authority", rng.choice(["www.example.com", "api.example.org:8443"])),
                (":path", rng.choice(["/", "/index.html", "/api/v1/users/%d?q=%s" % (number, "x" * (number % 7))])),
                ("user-agent", rng.choice(agents)),
                ("accept", "*/*"),
                ("accept-encoding", rng.choice(["gzip, deflate, br", "gzip, br, zstd"])),
                ("cookie", "sid=%032x" % rng.getrandbits(128)),
            ]
        else:
            fields = [
                (":status", rng.choice(["200", "304", "404", "418", "503"])),
                ("server", "tidegate"),
                ("date", "Mon, 23 Nov 2026 12:00:%02d GMT" % (number // 8)),
                ("content-type", rng.choice(["text/html; charset=utf-8", "image/avif", "application/json"])),
                ("content-length", str(rng.randrange(100000))),
                ("vary", "accept-encoding"),
                ("x-request-id", "%016x" % rng.getrandbits(64)),
            ]
        if number % 5 == 0:
            fields.append(("x-odd", rng.choice(["", " ", "a, b; c=\"d\"", "\\~^|{}<>`", "\t!"])))
        if number % 7 == 0:
            fields.append(("x-long", "".join(chr(rng.randrange(33, 127)) for _ in range(rng.randrange(90)))))
        if number % 11 == 0:
            fields.append(("x-bytes", bytes(rng.randrange(128, 256) for _ in range(20))))
        as_bytes = lambda text: text if isinstance(text, bytes) else text.encode()
        yield [(as_bytes(name), as_bytes(value)) for name, value in fields]


CONNECTIONS = [(0, 0), (256, 0), (1024, 4), (4096, 0), (4096, 16)]


def make(path):
    with open(path, "w") as out:
        print("# By vectors.py of this folder, with pylsqpack", pylsqpack.__version__, file=out)
        for capacity, blocked in CONNECTIONS:
            encoder, decoder = pylsqpack.Encoder(), pylsqpack.Decoder(capacity, blocked)
            print("connection", capacity, blocked, file=out)
            begin = encoder.apply_settings(max_table_capacity=capacity, blocked_streams=blocked)
            if begin:
                print("encoder", begin.hex(), file=out)
                decoder.feed_encoder(begin)
            for number, fields in enumerate(sections()):
                stream = 4 * number
                instructions, block = encoder.encode(stream, fields)
                late = number % 4 == 1
                if instructions and not late:
                    print("encoder", instructions.hex(), file=out)
                print("section", stream, block.hex(), file=out)
                for name, value in fields:
                    print("field", name.hex(), value.hex() or "-", file=out)
                if instructions and late:
                    print("encoder", instructions.hex(), file=out)
                decoder.feed_encoder(instructions)
                control, decoded = decoder.feed_header(stream, block)
                assert decoded == fields
                # Some acknowledgements come late, or never.
                if number % 6:
                    encoder.feed_decoder(control)


def check(path):
    expected, decoder, count = [], None, 0
    blocked = {}

    def compare(fields, decoded):
        assert decoded == fields, (decoded, fields)

    lines = [line.split() for line in open(path) if not line.startswith("#")]
    for at, words in enumerate(lines):
        match words:
            case ["connection", capacity, streams]:
                assert not blocked
                decoder = pylsqpack.Decoder(int(capacity), int(streams))
                expected = list(sections())
            case ["encoder", hex]:
                for stream in decoder.feed_encoder(bytes.fromhex(hex)):
                    compare(blocked.pop(stream), decoder.resume_header(stream)[1])
            case ["section", stream, hex]:
                count += 1
                stream, fields = int(stream), expected.pop(0)
                try:
                    compare(fields, decoder.feed_header(stream, bytes.fromhex(hex))[1])
                except pylsqpack.StreamBlocked:
                    blocked[stream] = fields
            case ["field", *_]:
                pass
            case other:
                sys.exit(f"line {at}: {other}")
    assert not blocked and not expected and count == 32 * len(CONNECTIONS), count
    print(f"{count} sections are understood as they were meant")


{"make": make, "check": check}[sys.argv[1]](sys.argv[2])

"""A link between two network namespaces: each has a TUN device, and every packet of either, TCP and UDP alike, passes through
this program, which loses, delays and queues it. Lines on standard input set the weather and ask what passed; each is answered."""

import collections
import fcntl
import json
import os
import random
import select
import struct
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MAX_PACKET = 65536


def tun(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return descriptor


class Way:
    """One direction: a queue in front of a wire of a certain rate, then the distance."""

    def __init__(self, out):
        self.out, self.under_way, self.free_at = out, collections.deque(), 0.0
        self.passed = self.lost = self.dropped = self.bytes = 0

    def take(self, packet, now, weather, chance):
        if weather["loss"] and chance.random() < weather["loss"]:
            self.lost += 1
            return
        begins = max(now, self.free_at)
        # A queue that is longer than so many seconds takes nothing more.
        if begins - now > weather["queue"]:
            self.dropped += 1
            return
        self.free_at = begins + len(packet) * 8 / weather["rate"]
        # Order is kept: the distance is the same for all.
        self.under_way.append((self.free_at + weather["delay"], packet))
        self.passed += 1
        self.bytes += len(packet)

    def deliver(self, now):
        while self.under_way and self.under_way[0][0] <= now:
            _, packet = self.under_way.popleft()
            try:
                os.write(self.out, packet)
            except OSError:
                # No room there, or nobody: the device is not up yet.
                self.dropped += 1


def main(near_name, far_name):
    near, far = tun(near_name), tun(far_name)
    ways = {near: Way(far), far: Way(near)}
    weather, chance = {"loss": 0.0, "delay": 0.0, "rate": 1e9, "queue": 1.0}, random.Random(1)
    poll = select.epoll()
    for descriptor in (near, far, 0):
        poll.register(descriptor, select.EPOLLIN)
    print("ready", flush=True)
    while True:
        due = min((way.under_way[0][0] for way in ways.values() if way.under_way), default=None)
        # epoll counts in milliseconds: the last of them is waited for awake.
        wait = -1 if due is None else max(0.0, due - time.monotonic() - 0.0005)
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                order = json.loads(line)
                if "seed" in order:
                    chance.seed(order.pop("seed"))
                weather.update(order)
                told = {name: {key: getattr(way, key) for key in ("passed", "lost", "dropped", "bytes")} for name, way in (("up", ways[near]), ("down", ways[far]))}
                print(json.dumps(told), flush=True)
                continue
            # A few at a time, so that what is due is not kept waiting.
            for _ in range(32):
                try:
                    packet = os.read(descriptor, MAX_PACKET)
                except BlockingIOError:
                    break
                except OSError:
                    # The device is down: its namespace is going.
                    return
                ways[descriptor].take(packet, time.monotonic(), weather, chance)
        now = time.monotonic()
        for way in ways.values():
            way.deliver(now)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass

#!/usr/bin/env python3
"""Passes remoting connections through and keeps one example of every kind of frame.

record.py OUT LISTEN=TARGET [LISTEN=TARGET...]      (host:port each; runs until it is ended)

A kind is: direction (request, reply, push, answer), the request's code, for replies the reply's code, and the set of ext
fields. Of each code at most VARIANTS kinds are kept, each as OUT/<kind>-<code>[-<reply code>][-<n>].frame, the bytes of
the whole frame with its length word. Standard library only.
"""
import asyncio
import json
import os
import struct
import sys

FRAME_BYTES_MAX = 16 * 1024  # of a kept frame; larger ones only pass through
VARIANTS = 4
OPAQUES_MAX = 100_000


def read_header(frame):
    """(code, opaque, flag, ext field names) of a frame with its length word."""
    word = struct.unpack_from(">I", frame, 4)[0]
    kind, size = word >> 24, word & 0xFFFFFF
    head = frame[8 : 8 + size]
    if kind == 0:
        h = json.loads(head)
        return h["code"], h["opaque"], h["flag"], tuple(sorted(h.get("extFields") or {}))
    code, _, _, opaque, flag, remark = struct.unpack_from(">hBhiii", head)
    at = 17 + max(remark, 0)
    end = at + 4 + struct.unpack_from(">i", head, at)[0]
    at += 4
    keys = []
    while at < end:
        n = struct.unpack_from(">h", head, at)[0]
        keys.append(head[at + 2 : at + 2 + n].decode())
        at += 2 + n
        at += 4 + struct.unpack_from(">i", head, at)[0]
    return code & 0xFFFF, opaque, flag, tuple(sorted(keys))


class Keeper:
    def __init__(self, out):
        self.out = out
        self.seen = {}
        os.makedirs(out, exist_ok=True)

    def keep(self, kind, frame, code, reply, keys):
        stem = f"{kind}-{code}" + (f"-{reply}" if reply is not None else "")
        known = self.seen.setdefault(stem, set())
        shape = (keys, len(frame) > 8 + (struct.unpack_from(">I", frame, 4)[0] & 0xFFFFFF))
        if shape in known or len(known) >= VARIANTS or len(frame) > FRAME_BYTES_MAX:
            return
        known.add(shape)
        name = stem + (f"-{len(known)}" if len(known) > 1 else "") + ".frame"
        with open(os.path.join(self.out, name), "wb") as f:
            f.write(frame)


class Connection:
    """Cuts both directions into frames; replies are named by the request they answer."""

    def __init__(self, keeper):
        self.keeper = keeper
        self.asked = {"client": {}, "server": {}}
        self.rest = {"client": b"", "server": b""}

    def feed(self, side, data):
        buf = self.rest[side] + data
        at = 0
        while len(buf) - at >= 4:
            n = 4 + struct.unpack_from(">I", buf, at)[0]
            if len(buf) - at < n:
                break
            try:
                self.frame(side, buf[at : at + n])
            except Exception as e:  # a frame that is not understood still passes through
                print(f"not kept: {e!r}", file=sys.stderr)
            at += n
        self.rest[side] = buf[at:]

    def frame(self, side, frame):
        code, opaque, flag, keys = read_header(frame)
        if flag & 1:
            asked = self.asked["server" if side == "client" else "client"].pop(opaque, None)
            if asked is not None:
                self.keeper.keep("answer" if side == "client" else "reply", frame, asked, code, keys)
            return
        if not flag & 2 and len(self.asked[side]) < OPAQUES_MAX:
            self.asked[side][opaque] = code
        self.keeper.keep("request" if side == "client" else "push", frame, code, None, keys)


async def pipe(reader, writer, connection, side):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            connection.feed(side, data)
    except (ConnectionError, asyncio.CancelledError):
        pass
    finally:
        writer.close()


async def serve(listen, target, keeper):
    async def on_connection(reader, writer):
        try:
            host, port = target.rsplit(":", 1)
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.close()
            return
        c = Connection(keeper)
        await asyncio.gather(
            pipe(reader, server_writer, c, "client"), pipe(server_reader, writer, c, "server")
        )

    host, port = listen.rsplit(":", 1)
    return await asyncio.start_server(on_connection, host, int(port))


async def main():
    keeper = Keeper(sys.argv[1])
    servers = [await serve(*pair.split("=", 1), keeper) for pair in sys.argv[2:]]
    print("ready", flush=True)
    await asyncio.gather(*(s.serve_forever() for s in servers))


asyncio.run(main())

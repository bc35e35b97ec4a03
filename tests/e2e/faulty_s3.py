#!/usr/bin/env python3
"""A bad day of an S3 server: stands in front of a good one and lets a seeded share of the requests fail.

    python3 tests/e2e/faulty_s3.py PORT BACKEND_PORT [--share 0.05] [--seed N]

Requests and answers pass byte for byte, the Host header included, so that signatures stay valid. What fails:

    refused   503 SlowDown, and the server behind never sees the request
    lost      the server did it, the client is told 500 InternalError
    reset     the server did it, the connection is reset before an answer
    cut       the connection is reset in the middle of the answer
    late      the request waits for up to two seconds before it is passed on

Conditional puts fail like all others. SIGUSR1: it is away for some seconds, connections are refused. SIGTERM prints what was done to how many requests and ends it.
"""

import argparse
import asyncio
import collections
import random
import signal

LATE_SECONDS_MAX = 2.0
AWAY_SECONDS = 8.0
HEAD_BYTES_MAX = 1 << 20
KINDS = ["refused", "lost", "reset", "cut", "late"]


class Gone(Exception):
    """One of the two ends is not there any more."""


class Proxy:
    def __init__(self, backend_port, share, seed):
        self.backend_port, self.share = backend_port, share
        self.random = random.Random(seed)
        self.requests, self.outages = 0, 0
        self.clients = set()
        self.faults = collections.Counter()

    def fault(self, method):
        self.requests += 1
        if self.random.random() >= self.share:
            return None
        kind = self.random.choice(KINDS)
        self.faults[f"{kind} {method}"] += 1
        return kind

    async def serve(self, reader, writer):
        """One connection of a client, which has one to the server behind."""
        behind = None
        self.clients.add(writer)
        try:
            while True:
                head, method, body = await message(reader)
                fault = self.fault(method)
                if fault == "refused":
                    writer.write(error(method, "503 Service Unavailable", "SlowDown"))
                    await writer.drain()
                    continue
                if fault == "late":
                    await asyncio.sleep(self.random.uniform(0, LATE_SECONDS_MAX))
                if behind is None or behind[0].at_eof():
                    behind = await asyncio.open_connection("127.0.0.1", self.backend_port, limit=HEAD_BYTES_MAX)
                behind[1].write(head + body)
                await behind[1].drain()
                answer, _, answer_body = await message(behind[0], asked=method)
                if fault == "reset":
                    return writer.transport.abort()
                if fault == "cut":
                    writer.write((answer + answer_body)[: len(answer) // 2 + len(answer_body) // 2])
                    await writer.drain()
                    return writer.transport.abort()
                writer.write(error(method, "500 Internal Server Error", "InternalError") if fault == "lost" else answer + answer_body)
                await writer.drain()
                if b"connection: close" in answer.lower() + head.lower():
                    return None
        except (Gone, OSError):
            return None
        finally:
            self.clients.discard(writer)
            for end in (writer, behind and behind[1]):
                if end:
                    end.close()

    async def listen(self, port):
        return await asyncio.start_server(self.serve, "127.0.0.1", port, limit=HEAD_BYTES_MAX)

    async def run(self, port, stop, away):
        """Listens until `stop`, but for `AWAY_SECONDS` after every `away`."""
        stopped = asyncio.ensure_future(stop.wait())
        while not stop.is_set():
            server = await self.listen(port)
            left = asyncio.ensure_future(away.wait())
            await asyncio.wait([stopped, left], return_when=asyncio.FIRST_COMPLETED)
            left.cancel()
            server.close()
            if away.is_set():
                away.clear()
                self.outages += 1
                for client in list(self.clients):
                    client.transport.abort()
                await asyncio.wait([stopped], timeout=AWAY_SECONDS)

    def account(self):
        lines = [f"{self.requests} requests, {self.faults.total()} of them failed; away {self.outages} times"]
        return "\n".join(lines + [f"  {count:6} {kind}" for kind, count in sorted(self.faults.items())])


async def message(reader, asked=None):
    """(head, method, body) of a request; of the answer to a request with the method `asked`. The body as it is on the wire."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        method = lines[0].split(" ")[0]
        if asked == "HEAD" or asked and lines[0].split(" ")[1] in ("204", "304"):
            return head, method, b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return head, method, await chunks(reader)
        return head, method, await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError as end:
        raise Gone() from end


async def chunks(reader):
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return body


def error(method, status, code):
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>on purpose</Message></Error>'
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + ("" if method == "HEAD" else body)).encode()


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("backend_port", type=int)
    parser.add_argument("--share", type=float, default=0.05, help="of the requests fail")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    proxy = Proxy(args.backend_port, args.share, args.seed)
    stop, away = asyncio.Event(), asyncio.Event()
    for name, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGUSR1, away)):
        asyncio.get_running_loop().add_signal_handler(name, event.set)
    await proxy.run(args.port, stop, away)
    print(proxy.account(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

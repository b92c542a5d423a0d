"""One reading from a microcontroller. MicroPython (socket) and CPython alike; no other module.

Usage on a desk: python3 reading.py [HOST] [PORT]
"""

import socket
import sys


def put(host, port, key, value, once):
    """The HTTP status: 200 or 201, the cluster has it; 202, the box has it on disk; else send it again, with the same once."""
    s = socket.socket()
    try:
        s.connect(socket.getaddrinfo(host, port)[0][-1])
        head = "PUT /v1/kv/%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nIdempotency-Key: %s\r\nConnection: close\r\n\r\n"
        left = (head % (key, host, len(value), once)).encode() + value
        while left:  # MicroPython has no sendall everywhere
            left = left[s.send(left):]
        line = b""
        while not line.endswith(b"\n"):  # the first line is all that a device needs
            piece = s.recv(1)
            if not piece:
                break
            line += piece
        return int(line.split()[1]) if len(line.split()) > 1 else 0
    finally:
        s.close()


if __name__ == "__main__":
    host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 2379
    # On a device: its serial number and a counter kept over a reset.
    status = put(host, port, "readings/pump-7/temp", b"21.5", "pump-7-1")
    print("stored" if status in (200, 201, 202) else "send it again", status)
    sys.exit(0 if status in (200, 201, 202) else 1)

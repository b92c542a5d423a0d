#!/usr/bin/env python3
"""Reports readings to the agent beside it, and loses none.

Usage: readings.py [http://HOST:PORT] [COUNT]

A reading is done with when the cluster has it (200, 201) or this box has it on disk (202). Until then it is sent again, under
the same Idempotency-Key, so that it applies once however often it had to be sent.
"""

import sys
import time
import uuid

import requests

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:2379"
COUNT = int(sys.argv[2]) if len(sys.argv) > 2 else 5
ATTEMPTS = 10


def report(session, key, value):
    """Returns "cluster" or "box": who has it on disk. Raises when it was refused, or after ATTEMPTS without an answer."""
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    pause = 0.1
    for _ in range(ATTEMPTS):
        try:
            answer = session.put(f"{URL}/v1/kv/{key}", data=value, headers=headers, timeout=10)
        except requests.RequestException as lost:  # the answer may have been lost after it was stored
            problem = str(lost)
        else:
            if answer.status_code in (200, 201):
                return "cluster"
            if answer.status_code == 202:
                return "box"
            problem = answer.text
            if answer.status_code < 500 and answer.status_code != 429:
                raise ValueError(f"{key} is refused: {problem}")  # to send it again would not help
        time.sleep(pause)
        pause = min(2 * pause, 30)
    raise TimeoutError(f"{key} is not stored: {problem}")


def main():
    with requests.Session() as session:
        for n in range(COUNT):
            where = report(session, f"readings/python/{n}", str(20 + n / 10))
            print(f"reading {n}: on the disk of the {where}")
        listed = session.get(f"{URL}/v1/kv/readings/python/", params={"prefix": "", "keys_only": ""}, timeout=10)
        listed.raise_for_status()
        print(f"{len(listed.json()['kvs'])} readings are listed")


if __name__ == "__main__":
    main()

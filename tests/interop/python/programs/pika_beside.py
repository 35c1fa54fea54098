"""Runs the blocks of code that come on stdin as `docs/from-others.md` shows them, each on a line: `["the block", messages]`.

They have `channel`, `json`, `pika` and `uuid`. `start_consuming`, which would never end, returns when so many messages have been
through their callbacks. What they print comes on stdout, each a JSON string on a line.
"""

import json
import sys
import time
import uuid

import pika

LIMIT = 15  # seconds for the messages of a block

(url,) = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))


def say(*words):
    print(json.dumps(" ".join(map(str, words))), flush=True)


def run(block, messages):
    channel = connection.channel()
    channel.confirm_delivery()
    consume = channel.basic_consume
    seen = 0

    def basic_consume(queue, callback, **options):
        def counted(*delivery):
            nonlocal seen
            callback(*delivery)
            seen += 1

        return consume(queue, counted, **options)

    def start_consuming():
        end = time.monotonic() + LIMIT
        while seen < messages:
            if time.monotonic() > end:
                sys.exit(f"{seen} messages and not {messages} came within {LIMIT} s to\n{block}")
            connection.process_data_events(time_limit=1)

    channel.basic_consume, channel.start_consuming = basic_consume, start_consuming
    given = {"channel": channel, "json": json, "pika": pika, "uuid": uuid, "print": say}
    exec(compile(block, "from-others.md", "exec"), given)
    channel.close()


for line in sys.stdin:
    run(*json.loads(line))
connection.close()

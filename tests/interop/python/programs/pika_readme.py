"""Runs the blocks of code that come on stdin, each a JSON string on a line, as the README shows them.

They have `channel`, `json` and `pika`, and consume nothing: `start_consuming` would never end.
"""

import json
import sys

import pika

(url,) = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.start_consuming = lambda: None
for line in sys.stdin:
    exec(compile(json.loads(line), "README.md", "exec"), {"channel": channel, "json": json, "pika": pika})
connection.close()

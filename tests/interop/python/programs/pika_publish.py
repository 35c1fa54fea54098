"""Publishes the JSON objects that come on stdin, one a line, to a queue. No properties, as the shortest tutorial has it."""

import json
import sys

import pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
for line in sys.stdin:
    channel.basic_publish("", queue, json.dumps(json.loads(line)), mandatory=True)
connection.close()

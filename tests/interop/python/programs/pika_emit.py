"""Declares an exchange, and publishes to it what comes on stdin: lines of JSON `{"key": .., "headers": .., "body": ..}`."""

import json
import sys

import pika

url, exchange, kind = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
channel.exchange_declare(exchange, exchange_type=kind, durable=True)
print('"ready"', flush=True)

for line in sys.stdin:
    event = json.loads(line)
    properties = pika.BasicProperties(headers=event["headers"])
    channel.basic_publish(exchange, event["key"], json.dumps(event["body"]), properties)
connection.close()

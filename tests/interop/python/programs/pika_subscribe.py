"""Subscribes to an exchange with a queue of its own, says `ready`, and prints so many messages as lines of JSON.

The bindings stand behind the count: routing keys, or for a headers exchange JSON objects of binding arguments.
"""

import json
import sys

import pika

url, exchange, kind, count, *bindings = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.exchange_declare(exchange, exchange_type=kind, durable=True)
queue = channel.queue_declare("", exclusive=True).method.queue
for binding in bindings:
    if kind == "headers":
        channel.queue_bind(queue, exchange, arguments=json.loads(binding))
    else:
        channel.queue_bind(queue, exchange, routing_key=binding)
print('"ready"', flush=True)

left = int(count)
for method, properties, body in channel.consume(queue, auto_ack=True):
    message = {
        "body": json.loads(body),
        "key": method.routing_key,
        "type": properties.type,
        "headers": properties.headers,
    }
    print(json.dumps(message, default=repr), flush=True)
    left -= 1
    if left == 0:
        break
channel.cancel()
connection.close()

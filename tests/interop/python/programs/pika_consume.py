"""Consumes so many messages of a queue, and prints each as a line of JSON."""

import json
import sys

import pika

url, queue, count = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.basic_qos(prefetch_count=1)
left = int(count)
for method, properties, body in channel.consume(queue):
    message = {
        "body": json.loads(body),
        "key": method.routing_key,
        "id": properties.message_id,
        "type": properties.type,
        "content_type": properties.content_type,
        "delivery_mode": properties.delivery_mode,
        "priority": properties.priority,
        "timestamp": properties.timestamp,
        "headers": properties.headers,
    }
    print(json.dumps(message, default=repr), flush=True)
    channel.basic_ack(method.delivery_tag)
    left -= 1
    if left == 0:
        break
channel.cancel()
connection.close()

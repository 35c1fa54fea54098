"""Takes one message of a queue and wants it no more: `nack` without `requeue`."""

import sys

import pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
for method, _, _ in channel.consume(queue):
    channel.basic_nack(method.delivery_tag, requeue=False)
    break
channel.cancel()
connection.close()

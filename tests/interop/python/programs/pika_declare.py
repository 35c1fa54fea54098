"""Declares a durable classic queue: without arguments, or with a dead-letter exchange, key and queue behind its name."""

import sys

import pika

url, queue, *dead = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
arguments = {}
if dead:
    exchange, key, dead_queue = dead
    channel.exchange_declare(exchange, exchange_type="direct", durable=True)
    channel.queue_declare(dead_queue, durable=True)
    channel.queue_bind(dead_queue, exchange, routing_key=key)
    arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key}
channel.queue_declare(queue, durable=True, arguments=arguments)
connection.close()

"""Calls a task for each JSON object that comes on stdin, and prints what is replied, one JSON line each.

Replies come by a queue of its own, or with `direct` behind the queue's name by RabbitMQ's direct reply-to.
"""

import json
import sys
import uuid

import pika

url, queue, *direct = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
reply_to = "amq.rabbitmq.reply-to" if direct else channel.queue_declare("", exclusive=True).method.queue
replies = {}


def on_reply(channel, method, properties, body):
    replies[properties.correlation_id] = body


channel.basic_consume(reply_to, on_reply, auto_ack=True)
for line in sys.stdin:
    request = str(uuid.uuid4())
    properties = pika.BasicProperties(reply_to=reply_to, correlation_id=request)
    channel.basic_publish("", queue, line, properties)
    while request not in replies:
        connection.process_data_events(time_limit=1)
    print(json.dumps(json.loads(replies.pop(request))), flush=True)
connection.close()

"""Sends the jobs that come on stdin, one a line, to an actor, and prints the id of each. By Dramatiq itself."""

import json
import sys

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

url, queue = sys.argv[1:]
broker = RabbitmqBroker(url=url, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name=queue)
def charge(order, note=None):
    raise NotImplementedError("worked by Leveret")


for line in sys.stdin:
    job = json.loads(line)
    message = charge.send(*job["args"], **job["kwargs"])
    print(json.dumps(message.message_id), flush=True)
broker.close()

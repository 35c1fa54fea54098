"""Answers so many calls: joins `words` by `between`. Declares its queue, and says `ready`.

Where there are no words it says so in the two headers by which Leveret knows an error.
"""

import json
import sys

import pika

url, queue, count = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.queue_declare(queue, durable=True)
print('"ready"', flush=True)

left = int(count)
for method, properties, body in channel.consume(queue):
    request = json.loads(body)
    answer = pika.BasicProperties(correlation_id=properties.correlation_id)
    if request["words"]:
        result = request["between"].join(request["words"])
    else:
        answer.headers = {"q-error-kind": "permanent", "q-error": "no words"}
        result = {"error": "no words", "kind": "permanent"}
    channel.basic_publish("", properties.reply_to, json.dumps(result), answer)
    channel.basic_ack(method.delivery_tag)
    left -= 1
    if left == 0:
        break
channel.cancel()
connection.close()

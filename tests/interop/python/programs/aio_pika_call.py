"""Calls a task for each JSON object that comes on stdin, and prints what is replied, one JSON line each.

Replies come by a queue of its own, or with `direct` behind the queue's name by RabbitMQ's direct reply-to.
"""

import asyncio
import json
import sys
import uuid

import aio_pika


async def main(url, queue, *direct):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        if direct:
            reply_to = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        else:
            reply_to = await channel.declare_queue(exclusive=True)
        replies = {}

        async def on_reply(message):
            replies.pop(message.correlation_id).set_result(message.body)

        await reply_to.consume(on_reply, no_ack=True)
        for line in sys.stdin:
            request = str(uuid.uuid4())
            replies[request] = reply = asyncio.get_running_loop().create_future()
            message = aio_pika.Message(line.encode(), reply_to=reply_to.name, correlation_id=request)
            await channel.default_exchange.publish(message, routing_key=queue)
            print(json.dumps(json.loads(await reply)), flush=True)


asyncio.run(main(*sys.argv[1:]))

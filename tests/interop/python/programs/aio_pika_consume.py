"""Consumes so many messages of a queue, and prints each as a line of JSON."""

import asyncio
import json
import sys

import aio_pika


async def main(url, queue, count):
    left = int(count)
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(queue)
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    show(message)
                left -= 1
                if left == 0:
                    break


def show(message):
    words = {
        "body": json.loads(message.body),
        "key": message.routing_key,
        "id": message.message_id,
        "type": message.type,
        "content_type": message.content_type,
        "delivery_mode": message.delivery_mode,
        "priority": message.priority,
        "timestamp": message.timestamp and int(message.timestamp.timestamp()),
        "headers": message.headers,
    }
    print(json.dumps(words, default=repr), flush=True)


asyncio.run(main(*sys.argv[1:]))

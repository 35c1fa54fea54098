"""Subscribes to an exchange with a queue of its own, says `ready`, and prints so many messages as lines of JSON.

The bindings stand behind the count: routing keys, or for a headers exchange JSON objects of binding arguments.
"""

import asyncio
import json
import sys

import aio_pika


async def main(url, exchange, kind, count, *bindings):
    left = int(count)
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(exchange, kind, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        for binding in bindings:
            if kind == "headers":
                await queue.bind(exchange, arguments=json.loads(binding))
            else:
                await queue.bind(exchange, routing_key=binding)
        print('"ready"', flush=True)

        async with queue.iterator(no_ack=True) as messages:
            async for message in messages:
                show(message)
                left -= 1
                if left == 0:
                    break


def show(message):
    words = {
        "body": json.loads(message.body),
        "key": message.routing_key,
        "type": message.type,
        "headers": message.headers,
    }
    print(json.dumps(words, default=repr), flush=True)


asyncio.run(main(*sys.argv[1:]))

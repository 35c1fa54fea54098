"""Answers so many calls: joins `words` by `between`. Declares its queue, and says `ready`.

Where there are no words it says so in the two headers by which Leveret knows an error.
"""

import asyncio
import json
import sys

import aio_pika


async def main(url, queue, count):
    left = int(count)
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(queue, durable=True)
        print('"ready"', flush=True)

        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    reply = answer(json.loads(message.body), message.correlation_id)
                    await channel.default_exchange.publish(reply, routing_key=message.reply_to, mandatory=False)
                left -= 1
                if left == 0:
                    break


def answer(request, correlation_id):
    headers = {}
    if request["words"]:
        result = request["between"].join(request["words"])
    else:
        headers = {"q-error-kind": "permanent", "q-error": "no words"}
        result = {"error": "no words", "kind": "permanent"}
    return aio_pika.Message(json.dumps(result).encode(), correlation_id=correlation_id, headers=headers)


asyncio.run(main(*sys.argv[1:]))

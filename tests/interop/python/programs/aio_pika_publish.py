"""Publishes the JSON objects that come on stdin, one a line, to a queue: persistent, as UTF-8 without escapes."""

import asyncio
import json
import sys

import aio_pika


async def main(url, queue):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        for line in sys.stdin:
            message = aio_pika.Message(
                json.dumps(json.loads(line), ensure_ascii=False).encode(),
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            )
            await channel.default_exchange.publish(message, routing_key=queue)


asyncio.run(main(*sys.argv[1:]))

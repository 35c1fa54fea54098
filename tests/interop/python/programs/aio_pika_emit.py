"""Declares an exchange, and publishes to it what comes on stdin: lines of JSON `{"key": .., "headers": .., "body": ..}`."""

import asyncio
import json
import sys

import aio_pika


async def main(url, exchange, kind):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(exchange, kind, durable=True)
        print('"ready"', flush=True)

        for line in sys.stdin:
            event = json.loads(line)
            message = aio_pika.Message(json.dumps(event["body"]).encode(), headers=event["headers"])
            await exchange.publish(message, routing_key=event["key"])


asyncio.run(main(*sys.argv[1:]))

"""Declares a durable classic queue: without arguments, or with a dead-letter exchange, key and queue behind its name."""

import asyncio
import sys

import aio_pika


async def main(url, queue, *dead):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        arguments = None
        if dead:
            exchange, key, dead_queue = dead
            await channel.declare_exchange(exchange, "direct", durable=True)
            dead_queue = await channel.declare_queue(dead_queue, durable=True)
            await dead_queue.bind(exchange, routing_key=key)
            arguments = {"x-dead-letter-exchange": exchange, "x-dead-letter-routing-key": key}
        await channel.declare_queue(queue, durable=True, arguments=arguments)


asyncio.run(main(*sys.argv[1:]))

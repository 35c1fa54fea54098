"""Takes one message of a queue and wants it no more: `nack` without `requeue`."""

import asyncio
import sys

import aio_pika


async def main(url, queue):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(queue)
        async with queue.iterator() as messages:
            async for message in messages:
                await message.nack(requeue=False)
                break


asyncio.run(main(*sys.argv[1:]))

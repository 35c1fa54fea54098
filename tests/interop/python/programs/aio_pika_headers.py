"""Publishes an empty object to a queue, with every kind of header that aio-pika can write and with all properties."""

import asyncio
import datetime
import decimal
import sys

import aio_pika


async def main(url, queue):
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        message = aio_pika.Message(
            b"{}",
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            priority=3,
            correlation_id="correlation",
            expiration=60,
            message_id="ä job",
            timestamp=1_700_000_000,
            user_id="guest",
            app_id="interop",
            headers={
                "true": True,
                "int": 7,
                "big": 2**53 + 1,
                "lowest": -(2**63),
                "text": "grüße",
                "bytes": bytearray(b"\xff\x00"),
                "none": None,
                "list": [1, "two", None],
                "table": {"inner": "value"},
                "float": 1.5,
                "decimal": decimal.Decimal("3.14"),
                "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
                "x-theirs": "kept",
            },
        )
        await channel.default_exchange.publish(message, routing_key=queue)


asyncio.run(main(*sys.argv[1:]))

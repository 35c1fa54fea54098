"""Publishes an empty object to a queue, with every kind of header that pika can write and with all properties."""

import datetime
import decimal
import sys

import pika

url, queue = sys.argv[1:]
connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
channel.confirm_delivery()
properties = pika.BasicProperties(
    content_type="application/json",
    content_encoding="utf-8",
    delivery_mode=2,
    priority=3,
    correlation_id="correlation",
    expiration="60000",
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
        "bytes": b"\xff\x00",
        "none": None,
        "list": [1, "two", None],
        "table": {"inner": "value"},
        "decimal": decimal.Decimal("3.14"),
        "time": datetime.datetime(2026, 1, 2, 3, 4, 5),
        "x-theirs": "kept",
    },
)
channel.basic_publish("", queue, "{}", properties, mandatory=True)
connection.close()

"""Sends the tasks that come on stdin, one a line, to a queue, and prints the id of each. By Celery itself, as an
application does that does not have the tasks' code; with `1` in its first protocol."""

import json
import sys

from celery import Celery

url, queue, *protocol = sys.argv[1:]
app = Celery("shop", broker=url, set_as_current=False)
app.conf.task_default_queue = queue
app.conf.task_protocol = int(protocol[0]) if protocol else 2
for line in sys.stdin:
    job = json.loads(line)
    sent = app.send_task(job["task"], job["args"], job["kwargs"])
    print(json.dumps(sent.id), flush=True)
app.close()

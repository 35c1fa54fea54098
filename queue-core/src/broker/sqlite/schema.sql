-- Leveret's tables. Times are microseconds since 1970: datetime(due / 1e6, 'unixepoch').
-- Look at anything; insert into leveret_outbox, and put right what is `refused` there; write nothing else while a program
-- has the file open.

-- One row: what belongs to the file as a whole.
CREATE TABLE leveret_meta (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    schema   INTEGER NOT NULL,  -- the version of these tables
    sequence INTEGER NOT NULL,  -- the last number given to a client, consumer, queue or job; none is given twice
    topology INTEGER NOT NULL,  -- counts changes to exchanges, queues and bindings
    store    TEXT               -- names this file's store; a copy of the file has the same
);
INSERT INTO leveret_meta VALUES (1, 7, 0, 0, lower(hex(randomblob(16))));

-- Programs that have the file open.
CREATE TABLE leveret_client (
    client    INTEGER PRIMARY KEY,
    name      TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    beat      INTEGER NOT NULL, -- counts up while it lives; when it stands still for `lease`, its jobs go to others
    lease     INTEGER NOT NULL  -- microseconds
);

-- The files `<database>-client-<client>`, one for each program that has the file open. Each holds a lock on its own, which the system
-- lets go of when the program ends. A program that sleeps and was struck off above has its lock still.
CREATE TABLE leveret_lock (
    client INTEGER PRIMARY KEY,
    device INTEGER NOT NULL,
    inode  INTEGER NOT NULL
);

CREATE TABLE leveret_consumer (
    consumer INTEGER PRIMARY KEY,
    client   INTEGER NOT NULL,
    queue    TEXT NOT NULL,     -- or the address at which replies reach it
    name     TEXT
);
CREATE INDEX leveret_consumer_of ON leveret_consumer (queue);

CREATE TABLE leveret_exchange (
    name    TEXT PRIMARY KEY,
    kind    TEXT NOT NULL,      -- direct, fanout, topic or headers
    durable INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE leveret_queue (
    queue        INTEGER PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    durable      INTEGER NOT NULL,
    owner        INTEGER,           -- the client that it belongs to and goes with, if it is exclusive
    arguments    TEXT NOT NULL,     -- its x- arguments, as JSON
    ready        INTEGER NOT NULL,  -- how many jobs wait in it
    bytes        INTEGER NOT NULL,  -- how many bytes their payloads have
    unused_since INTEGER NOT NULL   -- since when it has had no consumer, for x-expires
);

CREATE TABLE leveret_binding (
    exchange    TEXT NOT NULL,
    queue       INTEGER NOT NULL,
    routing_key TEXT NOT NULL,
    arguments   TEXT NOT NULL,
    PRIMARY KEY (exchange, queue, routing_key, arguments)
) WITHOUT ROWID;

-- The jobs in queues, ready or being worked on. A job that is done is gone.
CREATE TABLE leveret_job (
    job            INTEGER PRIMARY KEY, -- its place in the queue
    queue          INTEGER NOT NULL,
    level          INTEGER NOT NULL,    -- higher ones are delivered first
    client         INTEGER,             -- who works on it; NULL is ready
    returns        INTEGER NOT NULL,    -- how often it was delivered and came back
    expires        INTEGER,             -- when it dies if it still waits
    exchange       TEXT,                -- what it was published to; NULL is the default exchange
    routing_key    TEXT,                -- NULL is the queue's name
    id             TEXT NOT NULL,       -- the job's id for users
    task           TEXT,
    payload        NOT NULL,            -- JSON
    content_type   TEXT,
    attempt        INTEGER NOT NULL,
    priority       INTEGER,
    enqueued_at    INTEGER,
    correlation_id TEXT,
    reply_to       TEXT,
    expiration     INTEGER,             -- microseconds that it may wait
    headers        TEXT,                -- as JSON
    content_encoding TEXT,              -- AMQP's properties that only programs of others write
    app_id         TEXT,
    cluster_id     TEXT,
    given_back     INTEGER NOT NULL DEFAULT 0, -- how many of the returns were in order, and do not count for the limit
    unmarked       TEXT                 -- the headers before `client` marked the job; it gets them again when it is given back
);
-- The next job of a queue, however many wait.
CREATE INDEX leveret_job_ready ON leveret_job (queue, level DESC) WHERE client IS NULL;
CREATE INDEX leveret_job_claimed ON leveret_job (client) WHERE client IS NOT NULL;
CREATE INDEX leveret_job_expiring ON leveret_job (expires) WHERE expires IS NOT NULL AND client IS NULL;

-- What waits for its time outside of any queue: delayed jobs, retries, and dead letters that nothing takes yet.
CREATE TABLE leveret_delayed (
    delayed        INTEGER PRIMARY KEY,
    due            INTEGER NOT NULL,
    queue          TEXT NOT NULL,   -- what it is for; for a dead letter, where it died
    exchange       TEXT,            -- where a dead letter goes; NULL is a job
    routing_key    TEXT,
    unroutable     TEXT,            -- where a job goes if its queue has gone
    id             TEXT NOT NULL,
    task           TEXT,
    payload        NOT NULL,
    content_type   TEXT,
    attempt        INTEGER NOT NULL,
    priority       INTEGER,
    enqueued_at    INTEGER,
    correlation_id TEXT,
    reply_to       TEXT,
    expiration     INTEGER,
    headers        TEXT,
    content_encoding TEXT,
    app_id         TEXT,
    cluster_id     TEXT
);
CREATE INDEX leveret_delayed_due ON leveret_delayed (due);
-- How many wait for each queue, and which, by their time.
CREATE INDEX leveret_delayed_for ON leveret_delayed (queue, due) WHERE exchange IS NULL;

-- Jobs that are done, as long as `?keep=` of whoever finished them says.
CREATE TABLE leveret_finished (
    finished    INTEGER PRIMARY KEY,
    finished_at INTEGER NOT NULL,
    until       INTEGER NOT NULL,   -- when it is deleted, whichever client does it
    queue       TEXT NOT NULL,
    id          TEXT NOT NULL,
    task        TEXT,
    payload     NOT NULL,
    attempt     INTEGER NOT NULL,
    enqueued_at INTEGER
);
CREATE INDEX leveret_finished_until ON leveret_finished (until);

-- Replies to the callers of other programs, until these pick them up.
CREATE TABLE leveret_reply (
    reply          INTEGER PRIMARY KEY,
    address        TEXT NOT NULL,   -- of a consumer
    id             TEXT NOT NULL,
    task           TEXT,
    payload        NOT NULL,
    content_type   TEXT,
    attempt        INTEGER NOT NULL,
    priority       INTEGER,
    enqueued_at    INTEGER,
    correlation_id TEXT,
    reply_to       TEXT,
    expiration     INTEGER,
    headers        TEXT,
    content_encoding TEXT,
    app_id         TEXT,
    cluster_id     TEXT
);

-- Jobs and events of a program that wrote them in a transaction of its own, until a client of this file puts them into
-- their queues.
CREATE TABLE leveret_outbox (
    entry        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue        TEXT NOT NULL,     -- a job's; empty for an event
    due          INTEGER,           -- not before; NULL is at once
    id           TEXT NOT NULL,
    task         TEXT,
    payload      NOT NULL,
    encoding     TEXT,              -- `hex` if the payload is that of bytes which are no text
    content_type TEXT,
    priority     INTEGER,
    enqueued_at  INTEGER,
    headers      TEXT,
    refused      TEXT,              -- why no broker can ever take it: put it right, and set this to NULL again
    exchange     TEXT,              -- an event's; NULL for a job
    routing_key  TEXT               -- an event's; NULL is an empty one
);
-- What waits for each queue or exchange, past all that waits for others.
CREATE INDEX leveret_outbox_jobs ON leveret_outbox (queue) WHERE refused IS NULL AND exchange IS NULL;
CREATE INDEX leveret_outbox_events ON leveret_outbox (exchange) WHERE refused IS NULL AND exchange IS NOT NULL;

-- Workers, and clients on which none works: those that are there, and for an hour those that fell silent.
CREATE TABLE leveret_member (
    member     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    kind       TEXT NOT NULL,       -- worker or client
    name       TEXT NOT NULL,
    host       TEXT NOT NULL,
    process    INTEGER NOT NULL,
    version    TEXT NOT NULL,       -- Leveret's
    protocol   INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    last_seen  INTEGER NOT NULL,    -- a heartbeat each 5 s
    busy       INTEGER NOT NULL,    -- how many jobs it works on
    queues     TEXT NOT NULL,       -- a JSON list, as are those below
    tasks      TEXT NOT NULL,
    running    TEXT NOT NULL        -- of {"id", "task", "queue", "since"}
);

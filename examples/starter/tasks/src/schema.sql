-- The application's own tables. Leveret's stand beside them, in the same file, and all of their names begin with `leveret_`.
CREATE TABLE IF NOT EXISTS account (
    id       INTEGER PRIMARY KEY,
    email    TEXT    NOT NULL UNIQUE,
    name     TEXT    NOT NULL,
    welcomed INTEGER NOT NULL DEFAULT 0
);

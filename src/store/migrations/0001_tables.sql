-- One row. Each change of a policy increments "change_counter", whose lock puts writers in order.
-- "last_id" is the latest id of an account or a token: ids are never used again.
CREATE TABLE store_state (
    id BIGINT NOT NULL PRIMARY KEY,
    change_counter BIGINT NOT NULL,
    purge_floor BIGINT NOT NULL,
    last_id BIGINT NOT NULL,
    maintained_at BIGINT NOT NULL,
    relay_policy TEXT NOT NULL,
    relay_changed BIGINT NOT NULL
){suffix};

INSERT INTO store_state
    (id, change_counter, purge_floor, last_id, maintained_at, relay_policy, relay_changed)
VALUES (1, 1, 0, 1, 0, '', 1);

-- In all tables: a time of 0 means none, and an empty text means the default. A row with a time in
-- "removed" is a tombstone.
CREATE TABLE accounts (
    id BIGINT NOT NULL PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    enabled BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    max_keys BIGINT NOT NULL,
    networks TEXT NOT NULL,
    limits TEXT NOT NULL,
    note TEXT NOT NULL,
    removed BIGINT NOT NULL,
    changed BIGINT NOT NULL
){suffix};

CREATE UNIQUE INDEX accounts_name ON accounts (name);
CREATE INDEX accounts_changed ON accounts (changed, id);

-- The account of servers that hold the master key.
INSERT INTO accounts
    (id, name, enabled, not_before, expires, max_keys, networks, limits, note, removed, changed)
VALUES (1, 'master', 1, 0, 0, 0, '', '', '', 0, 1);

CREATE TABLE credentials (
    id VARCHAR(32) NOT NULL PRIMARY KEY,
    account BIGINT NOT NULL,
    name VARCHAR(64) NOT NULL,
    role VARCHAR(8) NOT NULL,
    public_key VARCHAR(64) NOT NULL,
    welcome_key VARCHAR(64) NOT NULL,
    not_before BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    removed BIGINT NOT NULL,
    changed BIGINT NOT NULL
){suffix};

CREATE UNIQUE INDEX credentials_name ON credentials (account, name);
CREATE INDEX credentials_changed ON credentials (changed, id);

CREATE TABLE service_keys (
    id VARCHAR(64) NOT NULL PRIMARY KEY,
    label VARCHAR(64) NOT NULL,
    account BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    needs_credential BIGINT NOT NULL,
    register_networks TEXT NOT NULL,
    attach_networks TEXT NOT NULL,
    limits TEXT NOT NULL,
    note TEXT NOT NULL,
    removed BIGINT NOT NULL,
    changed BIGINT NOT NULL
){suffix};

CREATE INDEX service_keys_label ON service_keys (label, id);
CREATE INDEX service_keys_account ON service_keys (account, label, id);
CREATE INDEX service_keys_changed ON service_keys (changed, id);

CREATE TABLE tokens (
    id BIGINT NOT NULL PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    hash VARCHAR(64) NOT NULL,
    role VARCHAR(8) NOT NULL,
    expires BIGINT NOT NULL,
    revoked BIGINT NOT NULL,
    changed BIGINT NOT NULL
){suffix};

CREATE UNIQUE INDEX tokens_name ON tokens (name);

-- A transaction that writes usage increments the row "usage" first, so that such transactions run
-- one after another. Only the lock matters, not the number.
CREATE TABLE store_locks (
    name VARCHAR(16) NOT NULL PRIMARY KEY,
    taken BIGINT NOT NULL
){suffix};

INSERT INTO store_locks (name, taken) VALUES ('usage', 0);

-- One row for each start of a master: when it wrote last, and which of its flushes is committed.
CREATE TABLE masters (
    epoch VARCHAR(32) NOT NULL PRIMARY KEY,
    name VARCHAR(64) NOT NULL,
    beat BIGINT NOT NULL,
    flush_sequence BIGINT NOT NULL
){suffix};

-- The live numbers of a master at its latest beat, of subjects whose limits need them. "kind" is
-- relay, account or key. "attachments" are those of the last minute.
CREATE TABLE live_counts (
    epoch VARCHAR(32) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    subject VARCHAR(64) NOT NULL,
    links BIGINT NOT NULL,
    tunnels BIGINT NOT NULL,
    attachments BIGINT NOT NULL,
    PRIMARY KEY (epoch, kind, subject)
){suffix};

-- Usage of the last minutes. "minute" is in Unix seconds.
CREATE TABLE usage_minutes (
    kind VARCHAR(16) NOT NULL,
    subject VARCHAR(64) NOT NULL,
    minute BIGINT NOT NULL,
    up BIGINT NOT NULL,
    down BIGINT NOT NULL,
    PRIMARY KEY (kind, subject, minute)
){suffix};

CREATE INDEX usage_minutes_minute ON usage_minutes (minute);

-- "quota" is the period as text, and "period_start" the time at which it began.
CREATE TABLE quota_usage (
    kind VARCHAR(16) NOT NULL,
    subject VARCHAR(64) NOT NULL,
    quota VARCHAR(64) NOT NULL,
    period_start BIGINT NOT NULL,
    up BIGINT NOT NULL,
    down BIGINT NOT NULL,
    PRIMARY KEY (kind, subject, quota, period_start)
){suffix};

-- Usage of the past, packed: minutes, hours and days of a subject. "newest" is its latest minute.
CREATE TABLE usage_history (
    kind VARCHAR(16) NOT NULL,
    subject VARCHAR(64) NOT NULL,
    newest BIGINT NOT NULL,
    packed TEXT NOT NULL,
    PRIMARY KEY (kind, subject)
){suffix};

CREATE INDEX usage_history_newest ON usage_history (newest);

-- The ids begin with the time. "repeats" counts further equal events of the same minute.
CREATE TABLE audit (
    id VARCHAR(32) NOT NULL PRIMARY KEY,
    happened BIGINT NOT NULL,
    actor VARCHAR(128) NOT NULL,
    address VARCHAR(64) NOT NULL,
    action VARCHAR(64) NOT NULL,
    subject VARCHAR(128) NOT NULL,
    detail TEXT NOT NULL,
    repeats BIGINT NOT NULL
){suffix};

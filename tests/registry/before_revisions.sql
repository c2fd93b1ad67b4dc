-- The registry's tables as they were made before there were revisions.
CREATE TABLE adapters (
    name VARCHAR(64) NOT NULL,
    last_number INTEGER NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE keys (
    id VARCHAR(12) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    tenant VARCHAR(64) NOT NULL,
    adapters JSON,
    rpm INTEGER,
    tpm INTEGER,
    concurrency INTEGER,
    admin BOOLEAN NOT NULL,
    created_at DATETIME NOT NULL,
    expires_at DATETIME,
    revoked_at DATETIME,
    PRIMARY KEY (id)
);
CREATE TABLE aliases (
    name VARCHAR(64) NOT NULL,
    alias VARCHAR(32) NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE TABLE canaries (
    name VARCHAR(64) NOT NULL,
    alias VARCHAR(32) NOT NULL,
    number INTEGER NOT NULL,
    percent INTEGER NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE TABLE forced_promotions (
    id INTEGER NOT NULL,
    name VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL,
    alias VARCHAR(32) NOT NULL,
    refusal TEXT NOT NULL,
    reason TEXT NOT NULL,
    at DATETIME NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE TABLE promotions (
    id INTEGER NOT NULL,
    name VARCHAR(64) NOT NULL,
    alias VARCHAR(32) NOT NULL,
    number INTEGER NOT NULL,
    replaced INTEGER,
    at DATETIME NOT NULL,
    undone_at DATETIME,
    PRIMARY KEY (id),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE INDEX promotions_by_alias ON promotions (name, alias);
CREATE TABLE quarantines (
    name VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL,
    reason TEXT NOT NULL,
    at DATETIME NOT NULL,
    PRIMARY KEY (name, number),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE TABLE recordings (
    name VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    filed INTEGER NOT NULL,
    PRIMARY KEY (name, number),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE TABLE versions (
    id INTEGER NOT NULL,
    name VARCHAR(64) NOT NULL,
    number INTEGER NOT NULL,
    digest VARCHAR(71) NOT NULL,
    base_digest VARCHAR(71) NOT NULL,
    folder VARCHAR(160) NOT NULL,
    manifest TEXT NOT NULL,
    created_at DATETIME NOT NULL,
    removed_at DATETIME,
    PRIMARY KEY (id),
    UNIQUE (name, number),
    FOREIGN KEY(name) REFERENCES adapters (name)
);
CREATE INDEX versions_by_content ON versions (name, digest);

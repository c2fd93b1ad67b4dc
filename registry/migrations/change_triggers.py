"""The triggers of revision 0003: every write to what a server has in memory is noted in `changes`.

Whoever writes, an older Lorikeet and a person at `psql` too. Other triggers need another revision.
"""

from sqlalchemy import Connection

# Of a row of each table: the adapter or key that it is about.
_SUBJECTS = {
    "adapters": "{row}.name",
    "versions": "{row}.name",
    "aliases": "{row}.name",
    "canaries": "{row}.name",
    "quarantines": "{row}.name",
    "recordings": "{row}.name",
    "fine_tuned_models": "{row}.adapter",
    "keys": "'key:' || {row}.id",
}
_NOTE = """
    INSERT INTO changes (subject, number)
    SELECT {subject}, coalesce(max(number), 0) + 1 FROM changes WHERE true
    ON CONFLICT (subject) DO UPDATE SET number = excluded.number;
"""


def create(connection: Connection) -> None:
    """Create them, in the transaction of `connection`."""
    statements = _in_sqlite if connection.dialect.name == "sqlite" else _in_postgresql
    for table, subject in _SUBJECTS.items():
        for statement in statements(table, subject):
            connection.exec_driver_sql(statement)


def _in_sqlite(table: str, subject: str) -> list[str]:
    return [
        f"CREATE TRIGGER changed_{table}_{event} AFTER {event} ON {table} BEGIN"
        f" {_NOTE.format(subject=subject.format(row=row))} END"
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ]


def _in_postgresql(table: str, subject: str) -> list[str]:
    either = f"coalesce({subject.format(row='NEW')}, {subject.format(row='OLD')})"
    return [
        f"CREATE FUNCTION changed_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" {_NOTE.format(subject=either)} RETURN NULL; END $$",
        f"CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON {table}"
        f" FOR EACH ROW EXECUTE FUNCTION changed_{table}()",
    ]

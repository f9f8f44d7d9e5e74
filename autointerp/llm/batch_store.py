"""What deferred providers keep on disk: requests that wait, batches under way, and which request is in which batch.

One SQLite file with one writer. The rules that make a kill at any moment harmless:

- a request that is in no batch yet is dropped when the file is opened: whoever still wants it asks again, and what nobody
  asks any more (another model was chosen meanwhile) is not paid for;
- a batch is in the file, with its requests and a random token, before the provider hears of it;
- a request leaves the file after its answer was taken over, never before.

No key of an account ever comes here: payloads hold none.
"""

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from autointerp.errors import DataError, UserError
from autointerp.llm.provider import CallFailed, Queued, Reply

_VERSION = 1
_COMMIT_EVERY = 200  # answers; after a kill so many may be handed over again, and the journal has them
# Requests are apart from their records, so that marking a million of them does not rewrite their payloads.
_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY, remote TEXT, since REAL NOT NULL, count INTEGER NOT NULL, number INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, batch TEXT REFERENCES batches, asked INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS requests_by_batch ON requests (batch);
CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS known (key TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_FIELDS = tuple(field.name for field in fields(Queued))


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: submitted if `remote` (the provider's id) is known, else perhaps submitted.

    `token` names it on our side. `since` is the provider's time (seconds since 1970) of the newest batch that was there
    before: ours is not older. `count` is its number of requests at submission.
    """

    token: str
    remote: str | None
    since: float
    count: int


class RequestStore:
    """The file at `path`, made if missing. Raises UserError if another process has it, DataError if it is damaged.

    `commit` puts what was done since the last one on disk, whole; a kill before it undoes that.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handing: str | None = None
        self._again: Queued | None = None
        self._handed = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._db = sqlite3.connect(path, timeout=0, isolation_level="DEFERRED", cached_statements=64)
        try:
            with self._errors():
                self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._check_version()
                self._db.executescript(_TABLES)
                self._drop_unsubmitted()
        except BaseException:
            self._db.close()
            raise

    def add(self, queued: Queued) -> None:
        """Keep a request that is in no batch; one that is here already, in a batch or not, is only noted as asked."""
        if queued.key == self._handing:  # its failure is being handed over: it comes back when that is done
            self._again = queued
            return
        with self._errors():
            added = self._db.execute("INSERT OR IGNORE INTO requests (key, asked) VALUES (?, 1)", (queued.key,))
            if added.rowcount == 0:
                self._db.execute("UPDATE requests SET asked = 1 WHERE key = ?", (queued.key,))
                return
            record = {name: getattr(queued, name) for name in _FIELDS if name != "key"}
            # ASCII: a payload may hold a lone surrogate, which SQLite's UTF-8 can't.
            text = json.dumps({**record, "payload": dict(queued.payload)}, ensure_ascii=True, separators=(",", ":"))
            self._db.execute("INSERT INTO records VALUES (?, ?)", (added.lastrowid, text))

    def get(self, key: str, batch: str | None = None) -> Queued | None:
        """The request, if it is here and in that batch (None: in no batch)."""
        if not key.isascii():  # none of ours, and perhaps nothing that UTF-8 can hold
            return None
        query = "SELECT key, record FROM requests JOIN records USING (id) WHERE key = ? AND batch IS ?"
        return self._one(query, key, batch)

    def first(self, batch: str) -> Queued | None:
        """Any request that is still in the batch."""
        query = "SELECT key, record FROM requests JOIN records USING (id) WHERE batch = ? LIMIT 1"
        return self._one(query, batch)

    def waiting(self) -> Iterator[Queued]:
        """The requests that are in no batch, in the order in which they came. Change nothing in between."""
        query = "SELECT key, record FROM requests JOIN records USING (id) WHERE batch IS NULL ORDER BY requests.id"
        with self._errors():
            for key, record in self._db.execute(query):
                yield _queued(key, record)

    def count_waiting(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM requests WHERE batch IS NULL").fetchone()[0])

    def hand_over(self, queued: Queued) -> None:
        """The outcome of this request is about to be yielded; it stays here until `handed_over`."""
        self._handing = queued.key

    def handed_over(self, outcome: Reply | CallFailed) -> None:
        """The consumer came back for more, so this outcome is in the journal: forget its request, or keep it if asked again.

        A reply that is no answer is forgotten on disk at once: the journal, asked for answers, would not know it again, and
        after a kill would count it twice.
        """
        if self._handing is None:
            raise RuntimeError("nothing was handed over")
        self._forget(self._handing)
        self._handing, again, self._again = None, self._again, None
        if again is not None:
            self.add(again)
        self._handed += 1
        if self._handed % _COMMIT_EVERY == 0 or (isinstance(outcome, Reply) and outcome.finish != "stop"):
            self.commit()

    def batches(self) -> list[Batch]:
        """All batches, oldest first."""
        with self._errors():
            rows = self._db.execute("SELECT token, remote, since, count FROM batches ORDER BY number").fetchall()
        return [Batch(*row) for row in rows]

    def intend(self, token: str, keys: list[str], since: float) -> Batch:
        """Note, on disk, that these requests are about to be submitted as the batch `token`."""
        with self._errors():
            order = "(SELECT coalesce(max(number), 0) + 1 FROM batches)"
            self._db.execute(f"INSERT INTO batches VALUES (?, NULL, ?, ?, {order})", (token, since, len(keys)))
            self._db.executemany("UPDATE requests SET batch = ? WHERE key = ?", ((token, key) for key in keys))
        self.commit()
        return Batch(token, None, since, len(keys))

    def accept(self, token: str, remote: str) -> None:
        """Note, on disk, the provider's id of a batch."""
        with self._errors():
            self._db.execute("UPDATE batches SET remote = ? WHERE token = ?", (remote, token))
        self.commit()

    def release(self, token: str) -> None:
        """The batch is over, or never was: its requests wait again if they were asked by this process, else they go."""
        with self._errors():
            self._db.execute("UPDATE requests SET batch = NULL WHERE batch = ?", (token,))
            self._db.execute("DELETE FROM batches WHERE token = ?", (token,))
            self._drop_where("batch IS NULL AND asked = 0")
        self.commit()

    def remember_keys(self) -> None:
        """Keep the keys of all requests that are here, for `is_known`, beyond their answers."""
        with self._errors():
            self._db.execute("INSERT OR IGNORE INTO known SELECT key FROM requests")

    def is_known(self, key: str) -> bool:
        if not key.isascii():
            return False
        with self._errors():
            return self._db.execute("SELECT 1 FROM known WHERE key = ?", (key,)).fetchone() is not None

    def commit(self) -> None:
        with self._errors():
            self._db.commit()

    def close(self) -> None:
        """Commit and close. Closing twice is allowed."""
        try:
            self._db.commit()
        except sqlite3.Error:  # closed already, or a full disk: what is undone is done again
            pass
        finally:
            self._db.close()

    def _forget(self, key: str) -> None:
        with self._errors():
            self._db.execute("DELETE FROM records WHERE id = (SELECT id FROM requests WHERE key = ?)", (key,))
            self._db.execute("DELETE FROM requests WHERE key = ?", (key,))

    def _one(self, query: str, *values: str | None) -> Queued | None:
        with self._errors():
            row = self._db.execute(query, values).fetchone()
            return None if row is None else _queued(*row)

    def _drop_unsubmitted(self) -> None:
        self._drop_where("batch IS NULL")
        self._db.execute("UPDATE requests SET asked = 0")
        self._db.commit()

    def _drop_where(self, condition: str) -> None:
        self._db.execute(f"DELETE FROM records WHERE id IN (SELECT id FROM requests WHERE {condition})")
        self._db.execute(f"DELETE FROM requests WHERE {condition}")

    def _check_version(self) -> None:
        found = self._db.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _VERSION):
            raise DataError(
                f"{self._path} is of format {found}; this version knows {_VERSION}; finish with the version that "
                "wrote it, or move the file away to give up what is under way"
            )
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UserError(f"{self._path} is in use by another process; wait for it, or end it") from None
            raise UserError(
                f"{self._path} can't be written or read ({error}); make room and run again: nothing is lost"
            ) from None
        except (sqlite3.DatabaseError, ValueError, TypeError, RecursionError) as error:  # the latter of a record
            raise DataError(
                f"{self._path} is damaged ({error}); expected the requests under way; restore it from a copy, or move "
                "it away to give up what is under way"
            ) from None


def new_token() -> str:
    """A name for a batch that no other has: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def _queued(key: str, record: str) -> Queued:
    return Queued(key=key, **json.loads(record))

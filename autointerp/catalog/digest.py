"""One hash of everything that a catalog says, for comparing two runs: row order and the file's layout do not count."""

from autointerp.catalog.store import Catalog
from autointerp.hashing import hex_hash


def table_digests(catalog: Catalog) -> dict[str, str]:
    """table → hash of its rows, sorted. `stages` is taken without the version of the program."""
    tables = [name for (name,) in catalog.rows("SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY 1")]
    digests = {}
    for table in tables:
        columns = "stage, fingerprint, config, facts" if table == "stages" else "*"
        digests[table] = hex_hash(*(str(row) for row in catalog.rows(f"SELECT {columns} FROM {table} ORDER BY ALL")))
    return digests

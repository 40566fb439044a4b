"""Tables of duckdb: variable lists with a NULL, fixed ones without and with one (which pyarrow cannot read).

pip install duckdb==1.5.6 numpy
python tests/vectors/make/duckdb_files.py
"""

import duckdb
from rows import IDS, NULL, WIDTH, expect, folder, rows

vectors, here = rows(), folder("duckdb")
expected = {}
for name, kind, null in (
    ("list", "FLOAT[]", True),
    ("fixed", f"FLOAT[{WIDTH}]", False),
    ("fixed_null", f"FLOAT[{WIDTH}]", True),
):
    con = duckdb.connect()
    con.execute(f"CREATE TABLE t (row_id VARCHAR, activation_layer INTEGER, embedding {kind})")
    for at, (one, row) in enumerate(zip(IDS, vectors, strict=True)):
        con.execute("INSERT INTO t VALUES (?, ?, ?)", [one, 3, None if null and at == NULL else row.tolist()])
    con.execute(f"COPY t TO '{here / name}.parquet' (FORMAT parquet)")
    expected[f"{name}.parquet"] = {"rows": vectors, "null": [NULL] if null else [], "labels": IDS, "layer": 3}
expect("duckdb", expected)
print("duckdb", duckdb.__version__)

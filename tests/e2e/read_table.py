#!/usr/bin/env python3
"""What two readers not written here say of a local Delta table with the columns id and name: tests/e2e/read_table.py DIR

Called by src/sinks/delta/tests/summaries.rs with a table of whose log only a checkpoint of ours and what follows it is left.
"""

import sys

import chdb
import pyarrow.compute as pc
from deltalake import DeltaTable


def said(reader, rows, ids, names, different):
    print(f"{reader}: {rows} rows, ids {ids}, {names} names, {different} different")


path = sys.argv[1]
table = DeltaTable(path).to_pyarrow_table(columns=["id", "name"])
names = table["name"].drop_null()
said("deltalake", len(table), pc.sum(table["id"]), len(names), len(names.unique()))
answer = chdb.query(f"SELECT count(), sum(id), count(name), uniqExact(name) FROM deltaLakeLocal('{path}')", "CSV")
said("chdb", *str(answer).strip().split(","))

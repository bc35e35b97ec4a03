"""Asks a running pipeline over Flight SQL with clients not written here: ADBC's driver and pyarrow.

    python flight_client.py grpc://127.0.0.1:50051 --table hot.vehicle_latest --key vehicle_id \\
        --agree "SELECT (SELECT sum(n) FROM hot.speed_1m), (SELECT count(*) FROM lake.points)"

Needs: adbc-driver-flightsql adbc-driver-manager pyarrow. Exits 0 when everything is as it should be.
"""

import argparse
import sys
import warnings

import adbc_driver_flightsql.dbapi as flight_sql
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight

checks = []


def check(run):
    checks.append(run)
    return run


@check
def a_statement(connection, args):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {args.table}")
        table = cursor.fetch_arrow_table()
        assert table.num_rows > 0, "the table is empty"
        for field in table.schema:
            assert not pa.types.is_large_string(field.type), field
            assert str(field.type) not in ("string_view", "binary_view"), field


@check
def rows_as_a_stream_closed_early(connection, args):
    with connection.cursor() as cursor:
        cursor.execute("SELECT a.value FROM generate_series(1, 10000000) AS a")
        reader = cursor.fetch_record_batch()
        assert reader.read_next_batch().num_rows > 0


@check
def no_parameters(connection, args):
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one, 'x' AS x")
        assert cursor.fetchall() == [(1, "x")]


@check
def one_parameter(connection, args):
    for mark in ("$1", "?"):
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {args.table} WHERE {args.key} = {mark}", (args.value,))
            assert cursor.fetchone()[0] == 1, mark


@check
def twelve_parameters(connection, args):
    marks = ", ".join("? + 0" for _ in range(12))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {marks}", tuple(range(12)))
        assert cursor.fetchone() == tuple(range(12))


@check
def the_schema_without_running(connection, args):
    with connection.cursor() as cursor:
        schema = cursor.adbc_execute_schema(f"SELECT {args.key} FROM {args.table}")
        assert schema.names == [args.key], schema
        cursor.adbc_prepare(f"SELECT * FROM {args.table} WHERE {args.key} = $1")


@check
def parameters_are_described(connection, args):
    with connection.cursor() as cursor:
        schema = cursor.adbc_prepare(f"SELECT {args.key} FROM {args.table} WHERE {args.key} = $1 AND $2 > 1")
        assert schema.names == ["$1", "$2"], schema


@check
def objects_at_all_depths(connection, args):
    db_schema, name = args.table.split(".")
    for depth in ("catalogs", "db_schemas", "tables", "all"):
        catalogs = connection.adbc_get_objects(depth=depth).read_all().to_pylist()
        assert [c["catalog_name"] for c in catalogs] == ["pipe"], catalogs
        if depth == "catalogs":
            continue
        schemas = {s["db_schema_name"]: s for s in catalogs[0]["catalog_db_schemas"]}
        assert {"hot", "system", db_schema} <= set(schemas), schemas
        if depth == "db_schemas":
            continue
        tables = {t["table_name"]: t for t in schemas[db_schema]["db_schema_tables"]}
        assert tables[name]["table_type"] == "BASE TABLE", tables
        if depth == "all":
            columns = [c["column_name"] for c in tables[name]["table_columns"]]
            assert args.key in columns, columns


@check
def objects_by_filter(connection, args):
    db_schema, name = args.table.split(".")
    found = connection.adbc_get_objects(
        depth="tables", catalog_filter="pipe", db_schema_filter=db_schema, table_name_filter=name[:-1] + "%"
    )
    schemas = found.read_all().to_pylist()[0]["catalog_db_schemas"]
    assert [t["table_name"] for s in schemas for t in s["db_schema_tables"]] == [name], schemas
    system = connection.adbc_get_objects(depth="tables", table_types_filter=["SYSTEM TABLE"]).read_all().to_pylist()
    names = [t["table_name"] for s in system[0]["catalog_db_schemas"] for t in s["db_schema_tables"]]
    assert "queries" in names and name not in names, names


@check
def the_schema_of_a_table(connection, args):
    db_schema, name = args.table.split(".")
    schema = connection.adbc_get_table_schema(name, catalog_filter="pipe", db_schema_filter=db_schema)
    assert args.key in schema.names, schema


@check
def types_of_tables(connection, args):
    assert set(connection.adbc_get_table_types()) == {"BASE TABLE", "SYSTEM TABLE"}


@check
def facts_about_the_server(connection, args):
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "pipe", info


@check
def what_is_wrong_is_said(connection, args):
    for sql, expected in [
        ("SELECT nonsense FROM " + args.table, "1:8: column"),
        ("SELECT * FROM nowhere", "1:15: table"),
        ("CREATE TABLE t (a INT)", "CREATE is not a query"),
    ]:
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql)
            except adbc_driver_manager.Error as error:
                assert expected in str(error), error
            else:
                raise AssertionError(f"{sql} was taken")


@check
def pyarrow_with_sql_in_place_of_a_command(connection, args):
    client = flight.connect(args.url.replace("grpc://", "grpc+tcp://"))
    sql = f"SELECT {args.key} FROM {args.table}".encode()
    info = client.get_flight_info(flight.FlightDescriptor.for_command(sql))
    table = client.do_get(info.endpoints[0].ticket).read_all()
    assert table.schema.equals(info.schema), (table.schema, info.schema)
    assert table.num_rows > 0
    assert client.get_schema(flight.FlightDescriptor.for_command(sql)).schema.equals(info.schema)
    path = flight.FlightDescriptor.for_path(*args.table.split("."))
    assert args.key in client.get_flight_info(path).schema.names
    assert client.do_get(flight.Ticket(b"SELECT 1 AS one")).read_all().to_pylist() == [{"one": 1}]
    listed = [b".".join(info.descriptor.path).decode() for info in client.list_flights()]
    assert args.table in listed, listed


@check
def pyarrow_with_a_handshake(connection, args):
    client = flight.connect(args.url.replace("grpc://", "grpc+tcp://"))
    name, value = client.authenticate_basic_token(args.user, args.token or "anything")
    options = flight.FlightCallOptions(headers=[(name, value)])
    assert client.do_get(flight.Ticket(b"SELECT 1 AS one"), options).read_all().num_rows == 1


@check
def one_query_sees_one_cut(connection, args):
    """Every column of the --agree query is the same number, however often it is asked while data comes in."""
    for _ in range(20 if args.agree else 0):
        with connection.cursor() as cursor:
            cursor.execute(args.agree)
            numbers = cursor.fetchone()
            assert len(set(numbers)) == 1, numbers


@check
def queries_are_gone_when_their_readers_are(connection, args):
    import time

    left = None
    for _ in range(50):
        with connection.cursor() as cursor:
            cursor.execute("SELECT sql FROM system.queries WHERE sql NOT LIKE '%system.queries%'")
            left = cursor.fetchall()
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(left)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--table", default="hot.vehicle_latest")
    parser.add_argument("--key", default="vehicle_id")
    parser.add_argument("--value", default=None, help="a key that is there; taken from the table when not given")
    parser.add_argument("--agree", default=None, help="a query of one row whose columns must be equal")
    parser.add_argument("--user", default="anyone")
    parser.add_argument("--token", default=None)
    args = parser.parse_args()
    # ADBC warns that it cannot switch autocommit off: there are no transactions here.
    warnings.simplefilter("ignore")
    options = {}
    if args.token:
        options[flight_sql.DatabaseOptions.AUTHORIZATION_HEADER.value] = f"Bearer {args.token}"
    failed = 0
    with flight_sql.connect(args.url.replace("grpc://", "grpc+tcp://"), db_kwargs=options) as connection:
        if args.value is None:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT {args.key} FROM {args.table} LIMIT 1")
                args.value = cursor.fetchone()[0]
        for run in checks:
            try:
                run(connection, args)
                print(f"ok      {run.__name__}")
            except Exception as error:  # every check reports, whatever broke
                failed += 1
                print(f"FAILED  {run.__name__}: {type(error).__name__}: {error}")
    print(f"{len(checks) - failed} of {len(checks)} checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

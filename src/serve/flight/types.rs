//! The types a column may have, as ODBC and JDBC know them. Power BI reads no table without this list.

use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{Nullable, Searchable, XdbcDataType as X, XdbcDatetimeSubcode};

/// Name, type, size in digits or characters, the quotes around a literal.
const TYPES: [(&str, X, Option<i32>, Option<(&str, &str)>); 15] = [
    ("BOOLEAN", X::XdbcBit, Some(1), None),
    ("TINYINT", X::XdbcTinyint, Some(3), None),
    ("SMALLINT", X::XdbcSmallint, Some(5), None),
    ("INT", X::XdbcInteger, Some(10), None),
    ("BIGINT", X::XdbcBigint, Some(19), None),
    ("REAL", X::XdbcReal, Some(24), None),
    ("DOUBLE", X::XdbcDouble, Some(53), None),
    ("DECIMAL", X::XdbcDecimal, Some(38), None),
    ("TEXT", X::XdbcVarchar, None, Some(("'", "'"))),
    ("BYTEA", X::XdbcVarbinary, None, Some(("x'", "'"))),
    ("DATE", X::XdbcDate, Some(10), Some(("DATE '", "'"))),
    ("TIME", X::XdbcTime, Some(15), Some(("TIME '", "'"))),
    ("TIMESTAMP", X::XdbcTimestamp, Some(32), Some(("TIMESTAMP '", "'"))),
    ("INTERVAL", X::XdbcInterval, None, Some(("INTERVAL '", "'"))),
    ("STRUCT", X::XdbcUnknownType, None, None),
];

pub fn data() -> Result<XdbcTypeInfoData, FlightError> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, kind, size, quotes) in TYPES {
        let number = matches!(
            kind,
            X::XdbcTinyint
                | X::XdbcSmallint
                | X::XdbcInteger
                | X::XdbcBigint
                | X::XdbcReal
                | X::XdbcDouble
                | X::XdbcDecimal
        );
        builder.append(XdbcTypeInfo {
            type_name: name.into(),
            data_type: kind,
            column_size: size,
            literal_prefix: quotes.map(|(prefix, _)| prefix.into()),
            literal_suffix: quotes.map(|(_, suffix)| suffix.into()),
            create_params: (kind == X::XdbcDecimal).then(|| vec!["precision".into(), "scale".into()]),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: kind == X::XdbcVarchar,
            searchable: if kind == X::XdbcVarchar { Searchable::Full } else { Searchable::Basic },
            unsigned_attribute: number.then_some(false),
            fixed_prec_scale: false,
            auto_increment: number.then_some(false),
            local_type_name: Some(name.into()),
            minimum_scale: (kind == X::XdbcDecimal).then_some(0),
            maximum_scale: (kind == X::XdbcDecimal).then_some(38),
            sql_data_type: kind,
            datetime_subcode: (kind == X::XdbcTimestamp).then_some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
            num_prec_radix: number.then_some(if matches!(kind, X::XdbcReal | X::XdbcDouble) { 2 } else { 10 }),
            interval_precision: None,
        });
    }
    builder.build()
}

//! What SQL is understood: one row for every code of `SqlInfo`. Drivers fail on a code that is missing.

use arrow_flight::error::FlightError;
use arrow_flight::sql::SqlInfo as I;
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity, SqlSupportedGroupBy,
    SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction,
    SqlSupportedUnions, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::keywords;
use std::collections::HashMap;

pub fn data(session: &SessionState) -> Result<SqlInfoData, FlightError> {
    let mut b = SqlInfoDataBuilder::new();
    server(&mut b);
    names(&mut b, session);
    language(&mut b);
    limits(&mut b);
    transactions(&mut b);
    b.build()
}

fn server(b: &mut SqlInfoDataBuilder) {
    b.append(I::FlightSqlServerName, env!("CARGO_PKG_NAME"));
    b.append(I::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    b.append(I::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    b.append(I::FlightSqlServerReadOnly, true);
    b.append(I::FlightSqlServerSql, true);
    b.append(I::FlightSqlServerSubstrait, false);
    b.append(I::FlightSqlServerSubstraitMinVersion, "");
    b.append(I::FlightSqlServerSubstraitMaxVersion, "");
    b.append(I::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    b.append(I::FlightSqlServerCancel, true);
    b.append(I::FlightSqlServerBulkIngestion, false);
    b.append(I::FlightSqlServerIngestTransactionsSupported, false);
    b.append(I::FlightSqlServerStatementTimeout, 0i32);
    b.append(I::FlightSqlServerTransactionTimeout, 0i32);
    for code in [I::SqlDdlCatalog, I::SqlDdlSchema, I::SqlDdlTable] {
        b.append(code, false);
    }
}

fn names(b: &mut SqlInfoDataBuilder, session: &SessionState) {
    b.append(I::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    b.append(I::SqlIdentifierQuoteChar, "\"");
    b.append(I::SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32);
    b.append(I::SqlAllTablesAreSelectable, true);
    b.append(I::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedAtEnd as i32);
    b.append(I::SqlKeywords, keywords::ALL_KEYWORDS);
    let functions = functions(session);
    let of = |section: &str| functions.get(section).cloned().unwrap_or_default();
    b.append(I::SqlNumericFunctions, of("Math Functions"));
    b.append(I::SqlStringFunctions, [of("String Functions"), of("Regular Expression Functions")].concat());
    b.append(I::SqlSystemFunctions, of("Other Functions"));
    b.append(I::SqlDatetimeFunctions, of("Time and Date Functions"));
    b.append(I::SqlSearchStringEscape, "\\");
    b.append(I::SqlExtraNameCharacters, "");
    b.append(I::SqlSchemaTerm, "schema");
    b.append(I::SqlProcedureTerm, "procedure");
    b.append(I::SqlCatalogTerm, "catalog");
    b.append(I::SqlCatalogAtStart, true);
    b.append(I::SqlSchemasSupportedActions, 0i32);
    b.append(I::SqlCatalogsSupportedActions, 0i32);
}

/// Names by the section of DataFusion's documentation they stand in.
fn functions(session: &SessionState) -> HashMap<&str, Vec<String>> {
    let mut sections: HashMap<&str, Vec<String>> = HashMap::new();
    for function in session.scalar_functions().values() {
        let Some(documentation) = function.documentation() else { continue };
        sections.entry(documentation.doc_section.label).or_default().push(function.name().to_string());
    }
    for names in sections.values_mut() {
        names.sort();
        names.dedup();
    }
    sections
}

fn bits(values: &[i32]) -> i32 {
    values.iter().fold(0, |mask, bit| mask | (1 << bit))
}

fn language(b: &mut SqlInfoDataBuilder) {
    use SqlSupportedSubqueries as Sub;
    for code in [
        I::SqlSupportsColumnAliasing,
        I::SqlNullPlusNullIsNull,
        I::SqlSupportsTableCorrelationNames,
        I::SqlSupportsExpressionsInOrderBy,
        I::SqlSupportsOrderByUnrelated,
        I::SqlSupportsLikeEscapeClause,
        I::SqlSupportsNonNullableColumns,
        I::SqlCorrelatedSubqueriesSupported,
    ] {
        b.append(code, true);
    }
    for code in [
        I::SqlSupportsDifferentTableCorrelationNames,
        I::SqlSupportsIntegrityEnhancementFacility,
        I::SqlSelectForUpdateSupported,
        I::SqlStoredProceduresSupported,
        I::SqlStoredFunctionsUsingCallSyntaxSupported,
    ] {
        b.append(code, false);
    }
    b.append(I::SqlSupportsConvert, HashMap::<i32, Vec<i32>>::new());
    b.append(I::SqlSupportedGroupBy, bits(&[SqlSupportedGroupBy::SqlGroupByUnrelated as i32]));
    b.append(
        I::SqlSupportedGrammar,
        bits(&[SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32]),
    );
    // Entry level: bit 0. The enum of the levels is not exported.
    b.append(I::SqlAnsi92SupportedLevel, 1i32);
    b.append(I::SqlOuterJoinsSupportLevel, bits(&[SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32]));
    b.append(I::SqlSupportedPositionedCommands, 0i32);
    let subqueries = [Sub::SqlSubqueriesInComparisons, Sub::SqlSubqueriesInExists, Sub::SqlSubqueriesInIns];
    b.append(I::SqlSupportedSubqueries, bits(&subqueries.map(|s| s as i32)));
    b.append(
        I::SqlSupportedUnions,
        bits(&[SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32]),
    );
}

/// 0 says: no limit, or not known.
fn limits(b: &mut SqlInfoDataBuilder) {
    for code in [
        I::SqlMaxBinaryLiteralLength,
        I::SqlMaxCharLiteralLength,
        I::SqlMaxColumnNameLength,
        I::SqlMaxColumnsInGroupBy,
        I::SqlMaxColumnsInIndex,
        I::SqlMaxColumnsInOrderBy,
        I::SqlMaxColumnsInSelect,
        I::SqlMaxColumnsInTable,
        I::SqlMaxConnections,
        I::SqlMaxCursorNameLength,
        I::SqlMaxIndexLength,
        I::SqlDbSchemaNameLength,
        I::SqlMaxProcedureNameLength,
        I::SqlMaxCatalogNameLength,
        I::SqlMaxRowSize,
        I::SqlMaxStatementLength,
        I::SqlMaxStatements,
        I::SqlMaxTableNameLength,
        I::SqlMaxTablesInSelect,
        I::SqlMaxUsernameLength,
    ] {
        b.append(code, 0i64);
    }
    b.append(I::SqlMaxRowSizeIncludesBlobs, true);
}

fn transactions(b: &mut SqlInfoDataBuilder) {
    use SqlSupportedResultSetConcurrency as Concurrency;
    b.append(I::SqlDefaultTransactionIsolation, SqlTransactionIsolationLevel::SqlTransactionNone as i64);
    b.append(
        I::SqlSupportedTransactionsIsolationLevels,
        bits(&[SqlTransactionIsolationLevel::SqlTransactionNone as i32]),
    );
    for code in [
        I::SqlTransactionsSupported,
        I::SqlDataDefinitionCausesTransactionCommit,
        I::SqlDataDefinitionsInTransactionsIgnored,
        I::SqlBatchUpdatesSupported,
        I::SqlSavepointsSupported,
        I::SqlNamedParametersSupported,
        I::SqlLocatorsUpdateCopy,
    ] {
        b.append(code, false);
    }
    let forward = bits(&[SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]);
    b.append(I::SqlSupportedResultSetTypes, forward);
    let read_only = bits(&[Concurrency::SqlResultSetConcurrencyReadOnly as i32]);
    b.append(I::SqlSupportedConcurrenciesForResultSetForwardOnly, read_only);
    for code in [
        I::SqlSupportedConcurrenciesForResultSetUnspecified,
        I::SqlSupportedConcurrenciesForResultSetScrollSensitive,
        I::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
    ] {
        b.append(code, 0i32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::SessionStateBuilder;

    #[test]
    fn every_code_has_exactly_one_row() {
        let session = SessionStateBuilder::new_with_default_features().build();
        let data = data(&session).expect("builds");
        let known: Vec<i32> = (0..2_000).filter(|code| I::try_from(*code).is_ok()).collect();
        assert!(known.len() > 80, "the protocol has more codes than {}", known.len());
        for code in known {
            let rows = data.record_batch([code as u32]).expect("filters");
            assert_eq!(rows.num_rows(), 1, "{}", I::try_from(code).expect("is known").as_str_name());
        }
    }

    #[test]
    fn functions_are_listed_by_what_they_are_for() {
        let session = SessionStateBuilder::new_with_default_features().build();
        let functions = functions(&session);
        assert!(functions["Math Functions"].contains(&"abs".to_string()));
        assert!(functions["String Functions"].contains(&"lower".to_string()));
        assert!(functions["Time and Date Functions"].contains(&"date_bin".to_string()));
    }
}

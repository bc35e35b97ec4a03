//! Statements over small inputs: what leaves them.

use crate::sql::testing::{T, check, compile_text};

#[test]
fn a_projection_and_a_filter_keep_the_message() {
    check(
        "INSERT INTO lake.a SELECT id, n + 1 AS m FROM t WHERE n > 1;",
        r#"{"id":"a","n":1}
           {"id":"b","n":2}
           {"id":"c","n":3}"#,
        "+----+---+-------+
         | id | m | __msg |
         +----+---+-------+
         | b  | 3 | 1     |
         | c  | 4 | 2     |
         +----+---+-------+",
    );
}

#[test]
fn the_language_of_the_tests_compiles() {
    compile_text(T).unwrap();
}

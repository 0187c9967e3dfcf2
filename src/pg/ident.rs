//! The one place that quotes SQL identifiers and literals.

use crate::schema::TableName;

/// Quotes an identifier for Postgres and DuckDB: any text without NUL becomes one name.
///
/// # Examples
/// ```
/// assert_eq!(racealpha::pg::quote_ident("a\"b"), "\"a\"\"b\"");
/// ```
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a table name with its schema.
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_ident(table.schema()), quote_ident(table.name()))
}

/// Quotes a text literal for Postgres and DuckDB; a backslash stays itself under `standard_conforming_strings`,
/// which every session of ours has on.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quote_table(&TableName::new("Odd \"one\"", "select")), "\"Odd \"\"one\"\"\".\"select\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
    }
}

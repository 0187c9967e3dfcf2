//! Which tables a SQL file reads and which it creates, to compare with what its header says.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{ObjectName, ObjectNamePart, Query, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::{DuckDbDialect, PostgreSqlDialect};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer};

/// Whether SQL has a word, as a name or as anything else outside of texts and comments.
pub(super) fn names_word(sql: &str, word: &str) -> bool {
    match Tokenizer::new(&DuckDbDialect {}, sql).tokenize() {
        Ok(tokens) => {
            tokens.iter().any(|token| matches!(token, Token::Word(found) if found.value.eq_ignore_ascii_case(word)))
        }
        // Words that only one engine knows; too many answers are better than too few.
        Err(_) => sql.to_lowercase().contains(&word.to_lowercase()),
    }
}

/// The table or view that a statement creates, also where the rest of it is not in common SQL.
pub(super) fn created_relation(statement: &str) -> Option<String> {
    let tokens = Tokenizer::new(&DuckDbDialect {}, statement).tokenize().ok()?;
    let mut words = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).peekable();
    let mut is_next = |wanted: &[&str]| {
        let is_wanted = |word: &str| wanted.iter().any(|wanted| word.eq_ignore_ascii_case(wanted));
        words.next_if(|token| matches!(token, Token::Word(word) if is_wanted(&word.value))).is_some()
    };
    if !is_next(&["create"]) {
        return None;
    }
    while is_next(&["or", "replace", "temp", "temporary"]) {}
    if !is_next(&["table", "view"]) {
        return None;
    }
    while is_next(&["if", "not", "exists"]) {}
    let mut name = None;
    while let Some(Token::Word(word)) = words.next() {
        name = Some(word.value.clone());
        if !matches!(words.next(), Some(Token::Period)) {
            break;
        }
    }
    name
}

/// The tables of a file's statements by name.
#[derive(Debug, Default)]
pub(super) struct Relations {
    /// Tables that are read before the file makes them, if it does.
    pub(super) read: BTreeSet<String>,
    /// Tables and views created.
    pub(super) created: BTreeSet<String>,
}

impl Relations {
    /// Reads them from SQL for DuckDB, or for Postgres.
    ///
    /// # Errors
    /// The parser's, for statements in words that only one engine knows.
    pub(super) fn of(sql: &str, is_postgres: bool) -> Result<Self, ParserError> {
        let statements = match is_postgres {
            true => Parser::parse_sql(&PostgreSqlDialect {}, sql)?,
            false => Parser::parse_sql(&DuckDbDialect {}, sql)?,
        };
        let mut relations = Self::default();
        for statement in statements {
            let mut own = OfStatement::default();
            let _done = statement.visit(&mut own);
            let from_elsewhere = own.named.into_iter().filter(|name| !own.local.contains(name));
            relations.read.extend(from_elsewhere.filter(|name| !relations.created.contains(name)));
            relations.created.extend(own.created);
        }
        Ok(relations)
    }
}

/// The tables of one statement by name.
#[derive(Debug, Default)]
struct OfStatement {
    /// After `FROM` and `JOIN`, whatever they mean there.
    named: BTreeSet<String>,
    /// `WITH` names, which hide tables of the same name in this statement and no other.
    local: BTreeSet<String>,
    created: BTreeSet<String>,
}

impl Visitor for OfStatement {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<()> {
        match statement {
            Statement::CreateTable(table) => self.created.extend(last_part(&table.name)),
            Statement::CreateView(view) => self.created.extend(last_part(&view.name)),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.local.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| cte.alias.name.value.clone()));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.named.extend(last_part(name));
        }
        ControlFlow::Continue(())
    }
}

fn last_part(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(ObjectNamePart::as_ident).map(|ident| ident.value.clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn what_a_statement_creates_is_its_first_name() {
        let created = |sql: &str| created_relation(sql);
        assert_eq!(created("-- why\nCREATE OR REPLACE TABLE a AS SELECT 1").as_deref(), Some("a"));
        assert_eq!(created("create view \"B c\" as FROM a").as_deref(), Some("B c"));
        assert_eq!(created("CREATE TEMP TABLE IF NOT EXISTS main.t (i INTEGER)").as_deref(), Some("t"));
        assert_eq!(created("CREATE TABLE a AS UNPIVOT b ON COLUMNS(*) INTO NAME n VALUE v").as_deref(), Some("a"));
        assert_eq!(created("CREATE MACRO m() AS 1"), None);
        assert_eq!(created("SELECT 1"), None);
    }

    #[test]
    fn tables_are_told_from_with_names_and_functions() {
        let sql = "CREATE OR REPLACE TABLE a AS WITH w AS (SELECT * FROM races) \
                   SELECT * FROM w JOIN runners AS r USING (id) WHERE r.n IN (SELECT n FROM main.deep); \
                   CREATE OR REPLACE VIEW b AS SELECT * FROM a, generate_series(1, 2) QUALIFY row_number() OVER () = 1;";
        let relations = Relations::of(sql, false).unwrap();
        assert_eq!(relations.read.iter().collect::<Vec<_>>(), ["deep", "races", "runners"]);
        assert_eq!(relations.created.iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_with_name_hides_a_table_in_its_own_statement_only() {
        let sql = "CREATE TABLE a AS WITH races AS (SELECT 1 AS i) SELECT * FROM races; CREATE TABLE b AS SELECT * FROM races";
        assert_eq!(Relations::of(sql, false).unwrap().read.iter().collect::<Vec<_>>(), ["races"]);
        // A table that is read before it is made anew is somebody else's.
        let sql = "CREATE OR REPLACE TABLE a AS SELECT * FROM a; CREATE TABLE b AS SELECT * FROM a";
        assert_eq!(Relations::of(sql, false).unwrap().read.iter().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn the_words_of_postgres_are_understood() {
        let sql = "CREATE MATERIALIZED VIEW v AS SELECT DISTINCT ON (i) i FROM races, unnest(ARRAY[1]) AS u (i); \
                   CREATE UNIQUE INDEX v_key ON v (i)";
        let relations = Relations::of(sql, true).unwrap();
        assert_eq!(relations.read.iter().collect::<Vec<_>>(), ["races"]);
        assert_eq!(relations.created.iter().collect::<Vec<_>>(), ["v"]);
    }
}

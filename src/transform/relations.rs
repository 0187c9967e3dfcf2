//! Which tables a SQL file reads and which it creates, to compare with what its header says.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use sqlparser::ast::{ObjectName, ObjectNamePart, Query, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::DuckDbDialect;
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
        let is_wanted = |token: &&&Token| matches!(token, Token::Word(word) if wanted.iter().any(|wanted| word.value.eq_ignore_ascii_case(wanted)));
        words.next_if(|token| is_wanted(&token)).is_some()
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
    /// After `FROM` and `JOIN`, whatever they mean there.
    named: BTreeSet<String>,
    /// `WITH` names.
    local: BTreeSet<String>,
    /// Tables and views created.
    pub(super) created: BTreeSet<String>,
}

impl Relations {
    /// Reads them from SQL.
    ///
    /// # Errors
    /// The parser's, for statements in words that only one engine knows.
    pub(super) fn of(sql: &str) -> Result<Self, ParserError> {
        let mut relations = Self::default();
        for statement in Parser::parse_sql(&DuckDbDialect {}, sql)? {
            let _done = statement.visit(&mut relations);
        }
        Ok(relations)
    }

    /// Whether a table is named anywhere.
    pub(super) fn names(&self, table: &str) -> bool {
        self.named.contains(table)
    }

    /// Tables that are read and not made in the file itself.
    pub(super) fn read(&self) -> impl Iterator<Item = &String> {
        self.named.iter().filter(|name| !self.local.contains(*name) && !self.created.contains(*name))
    }
}

impl Visitor for Relations {
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
        let relations = Relations::of(sql).unwrap();
        assert_eq!(relations.read().collect::<Vec<_>>(), ["deep", "races", "runners"]);
        assert_eq!(relations.created.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert!(relations.names("w") && !relations.names("generate_series"));
    }
}

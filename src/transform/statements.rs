//! Cutting a SQL file into statements.

/// One statement of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    /// The line of its first word, from 1.
    pub(super) line: usize,
    /// Without the semicolon.
    pub(super) text: &'a str,
    /// The same from its first word on, without comments before it.
    pub(super) body: &'a str,
}

/// Cuts SQL at semicolons outside of quotes and comments; pieces without a word are left out.
pub(super) fn statements(sql: &str) -> Vec<Statement<'_>> {
    let bytes = sql.as_bytes();
    let (mut found, mut start, mut first_word, mut at) = (Vec::new(), 0, None, 0);
    while at < bytes.len() {
        let rest = &sql[at..];
        let length = match bytes[at] {
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            quote @ (b'\'' | b'"') => {
                first_word.get_or_insert(at);
                rest[1..].find(char::from(quote)).map_or(rest.len(), |end| end + 2)
            }
            b';' => {
                if let Some(word) = first_word.take() {
                    found.push(Statement { line: line_of(sql, word), text: &sql[start..at], body: &sql[word..at] });
                }
                start = at + 1;
                1
            }
            byte => {
                if !byte.is_ascii_whitespace() {
                    first_word.get_or_insert(at);
                }
                rest.chars().next().map_or(1, char::len_utf8)
            }
        };
        at += length;
    }
    if let Some(word) = first_word {
        found.push(Statement { line: line_of(sql, word), text: &sql[start..], body: &sql[word..] });
    }
    found
}

fn line_of(sql: &str, at: usize) -> usize {
    sql[..at].bytes().filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_do_not_cut() {
        let sql = "-- a; b\nSELECT ';''' AS \"a;b\"; /* ; */\n\nSELECT 2 -- end;\n;\n-- nothing more";
        let found = statements(sql);
        assert_eq!(found.iter().map(|statement| statement.line).collect::<Vec<_>>(), [2, 4]);
        assert!(found[0].text.ends_with("\"a;b\""));
    }

    #[test]
    fn a_last_statement_needs_no_semicolon() {
        assert_eq!(statements("SELECT 1"), [Statement { line: 1, text: "SELECT 1", body: "SELECT 1" }]);
        assert_eq!(statements(" \n-- only a comment"), []);
    }
}

//! Check files: a query for the offending rows, and what a person should know about it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TransformError;
use super::phase::{header, names};
use super::statements::{Statement, statements};

/// What a statement that prepares for the queries begins with.
const PREPARES: &str = "CREATE OR REPLACE TEMP ";

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Blocks the push.
    Error,
    /// Is shown.
    Warning,
}

/// One check file: `-- id`, `-- severity` and what else its header says, `CREATE OR REPLACE TEMP` statements for what its
/// queries share, then one or two queries.
#[derive(Debug, Clone)]
pub struct CheckFile {
    /// Such as `V05`.
    pub id: String,
    /// The file's name without its ending.
    pub name: String,
    /// How much a finding matters.
    pub severity: Severity,
    /// Tables like the dataset that it compares it with; an empty one stands for one that is not there.
    pub compares: Vec<String>,
    /// What the macro `check_limit()` gives.
    pub limit: Option<f64>,
    /// What is allowed, in words; `{limit}` stands for the limit.
    pub allowed: String,
    /// Why it exists.
    pub why: String,
    /// Makes what the queries share.
    pub prepares: Vec<String>,
    /// A query for one row that is shown whatever the verdict.
    pub observation: Option<String>,
    /// The query for the offending rows.
    pub offending: String,
}

impl CheckFile {
    /// Reads a file of the `checks` folder.
    ///
    /// # Errors
    /// [`TransformError::Header`].
    pub(super) fn parse(name: &str, sql: &str) -> Result<Self, TransformError> {
        let values = header(sql);
        let bad =
            |reason: &str| TransformError::Header { file: format!("checks/{name}.sql"), reason: reason.to_owned() };
        let severity = match values.get("severity").map(String::as_str) {
            Some("error") => Severity::Error,
            Some("warning") => Severity::Warning,
            _ => return Err(bad("the header needs a line `-- severity: error` or `-- severity: warning`")),
        };
        let limit = values.get("limit").map(|limit| f64::from_str(limit)).transpose();
        let (prepares, queries): (Vec<_>, Vec<_>) =
            statements(sql).into_iter().partition(|statement| statement.body.starts_with(PREPARES));
        let texts =
            |found: Vec<Statement<'_>>| found.into_iter().map(|found| found.text.to_owned()).collect::<Vec<_>>();
        let (prepares, queries) = (texts(prepares), texts(queries));
        let (observation, offending) = match queries.as_slice() {
            [offending] => (None, offending.clone()),
            [observation, offending] => (Some(observation.clone()), offending.clone()),
            _ => return Err(bad("a check is a query for the offending rows, or one for what is observed before it")),
        };
        Ok(Self {
            id: values.get("id").cloned().ok_or_else(|| bad("the header has no line `-- id: …`"))?,
            name: name.to_owned(),
            severity,
            compares: values.get("compares").map(|list| names(list)).unwrap_or_default(),
            limit: limit.map_err(|_| bad("the line `-- limit: …` needs a number"))?,
            allowed: values.get("limits").cloned().unwrap_or_else(|| "no offending row".to_owned()),
            why: values.get("why").cloned().unwrap_or_default(),
            prepares,
            observation,
            offending,
        })
    }

    /// What is checked, in the words of the file's name.
    pub fn title(&self) -> String {
        self.name.split_once('_').map_or(self.name.as_str(), |(_, title)| title).replace('_', " ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn a_file_with_all_of_a_header_is_read() {
        let text = "-- id: V90\n-- severity: warning\n-- compares: previous_dataset\n-- limit: 5\n\
                    -- limits: at most {limit} points\n-- why: so\n\n-- Both read it.\n\
                    CREATE OR REPLACE TEMP TABLE t AS SELECT 1;\nSELECT 1 AS one;\nSELECT 2;";
        let check = CheckFile::parse("V90_some_thing", text).unwrap();
        assert_eq!((check.id.as_str(), check.limit, check.title().as_str()), ("V90", Some(5.0), "some thing"));
        assert_eq!(check.compares, ["previous_dataset"]);
        assert!(check.prepares.len() == 1 && check.prepares[0].ends_with("t AS SELECT 1"));
        assert!(check.observation.unwrap().ends_with("SELECT 1 AS one") && check.offending.ends_with("SELECT 2"));
    }

    #[test]
    fn what_is_wrong_with_a_header_is_named() {
        let refused = |text: &str| CheckFile::parse("V90_x", text).unwrap_err().to_string();
        assert!(refused("-- id: V90\nSELECT 1").contains("severity"));
        assert!(refused("-- severity: error\nSELECT 1").contains("-- id"));
        assert!(refused("-- id: V90\n-- severity: error\n-- limit: much\nSELECT 1").contains("number"));
        assert!(refused("-- id: V90\n-- severity: error\n").contains("query"));
    }
}

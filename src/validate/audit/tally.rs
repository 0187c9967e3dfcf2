//! What all changes of one kind found together.

use serde_json::{Map, Value};

use super::compare::Compared;
use crate::transform::Severity;
use crate::validate::Finding;

/// Differing features named in a finding; the number of all is always given.
const NAMED_FEATURES: usize = 5;

/// The findings of one kind of change.
#[derive(Debug)]
pub(super) struct Tally {
    id: &'static str,
    check: &'static str,
    limit: &'static str,
    /// What is counted, such as `dates`.
    tries_of: &'static str,
    tries: u64,
    rows: u64,
    features: usize,
    missing: u64,
    extra: u64,
    /// Tries without a single row of their own to compare.
    empty: u64,
    /// Differing features and their rows, in the order in which they were found.
    differing: Vec<(String, u64)>,
    sample: Vec<Map<String, Value>>,
}

impl Tally {
    pub(super) fn new(id: &'static str, check: &'static str, tries_of: &'static str) -> Self {
        Self {
            id,
            check,
            limit: "no difference",
            tries_of,
            tries: 0,
            rows: 0,
            features: 0,
            missing: 0,
            extra: 0,
            empty: 0,
            differing: Vec::new(),
            sample: Vec::new(),
        }
    }

    /// The same with more to say of what must not differ.
    pub(super) fn with_limit(self, limit: &'static str) -> Self {
        Self { limit, ..self }
    }

    pub(super) fn add(&mut self, compared: Compared) {
        self.tries += 1;
        self.rows += compared.rows;
        self.features = compared.features;
        self.missing += compared.missing;
        self.extra += compared.extra;
        self.empty += u64::from(compared.own_rows == 0);
        for difference in compared.differences {
            match self.differing.iter_mut().find(|(column, _)| *column == difference.column) {
                Some((_, rows)) => *rows += difference.rows,
                None => self.differing.push((difference.column, difference.rows)),
            }
        }
        self.sample.extend(compared.sample);
    }

    /// Nothing compared proves nothing, so it does not pass.
    pub(super) fn into_finding(self) -> Finding {
        let problems = self.problems();
        let measured =
            format!("{} {}, {} rows, {} features compared", self.tries, self.tries_of, self.rows, self.features);
        let ok = problems.is_empty();
        let observed = if ok { measured } else { format!("{} ({measured})", problems.join("; ")) };
        let mut finding = Finding::new(self.id, self.check, Severity::Error, ok, observed, self.limit);
        finding.sample = self.sample;
        finding
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.differing.is_empty() {
            let mut named: Vec<String> =
                self.differing.iter().take(NAMED_FEATURES).map(|feature| self.describe(feature)).collect();
            if self.differing.len() > NAMED_FEATURES {
                named.push("…".to_owned());
            }
            problems.push(format!("{} features differ: {}", self.differing.len(), named.join(", ")));
        }
        if self.missing > 0 {
            problems.push(format!("{} rows are missing", self.missing));
        }
        if self.extra > 0 {
            problems.push(format!("{} rows are new", self.extra));
        }
        if self.tries == 0 {
            problems.push("the sources have nothing to try".to_owned());
        }
        if self.empty > 0 {
            problems.push(format!("{} of the {} had no row to compare", self.empty, self.tries_of));
        }
        problems
    }

    /// A differing feature with the first of its rows.
    fn describe(&self, (column, rows): &(String, u64)) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let first = self.sample.iter().find(|row| row.get("column").is_some_and(|name| name == column.as_str()));
        let Some(first) = first else { return format!("{column} (in {rows} rows)") };
        let key = first.get("key").and_then(Value::as_object).into_iter().flatten();
        let key: Vec<String> = key.map(|(name, value)| format!("{name} {}", text(value))).collect();
        let value = |name: &str| first.get(name).map(text).unwrap_or_default();
        format!(
            "{column} (in {rows} rows, first: {}, {} became {} by {})",
            key.join(", "),
            value("base"),
            value("variant"),
            value("change")
        )
    }
}

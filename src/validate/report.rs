//! What was found.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::transform::Severity;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Something to look at; does not block.
    Warn,
    /// Blocks the push.
    Fail,
}

/// The result of one check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// Such as `V04`.
    pub id: String,
    /// What is checked, in a few words.
    pub check: String,
    /// How much a failure matters.
    pub severity: Severity,
    /// What was measured.
    pub observed: String,
    /// What is allowed.
    pub limit: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Some of the offending rows.
    pub sample: Vec<Map<String, Value>>,
}

impl Finding {
    /// A finding whose verdict follows from `ok` and the severity.
    pub(super) fn new(id: &str, check: &str, severity: Severity, ok: bool, observed: String, limit: &str) -> Self {
        let verdict = match (ok, severity) {
            (true, _) => Verdict::Pass,
            (false, Severity::Error) => Verdict::Fail,
            (false, Severity::Warning) => Verdict::Warn,
        };
        Self {
            id: id.to_owned(),
            check: check.to_owned(),
            severity,
            observed,
            limit: limit.to_owned(),
            verdict,
            sample: Vec::new(),
        }
    }
}

/// All findings of one validation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// In the order of their ids.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether an error-level finding blocks the push.
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|finding| finding.verdict == Verdict::Fail)
    }

    /// The findings that block, as one line.
    pub fn blockers(&self) -> String {
        let failed = self.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
        failed
            .map(|f| format!("{} {}: {} (allowed: {})", f.id, f.check, f.observed, f.limit))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

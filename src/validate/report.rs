//! What was found.

use std::collections::BTreeMap;

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

impl Verdict {
    fn of_failure(severity: Severity) -> Self {
        match severity {
            Severity::Error => Self::Fail,
            Severity::Warning => Self::Warn,
        }
    }
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
        let verdict = if ok { Verdict::Pass } else { Verdict::of_failure(severity) };
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
    /// Gives findings another severity, by their ids.
    #[must_use]
    pub fn with_severities(mut self, severities: &BTreeMap<String, Severity>) -> Self {
        for finding in &mut self.findings {
            if let Some(severity) = severities.get(&finding.id) {
                finding.severity = *severity;
                if finding.verdict != Verdict::Pass {
                    finding.verdict = Verdict::of_failure(*severity);
                }
            }
        }
        self
    }

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

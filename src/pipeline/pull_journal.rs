//! What a pull notes of the files it has completed, so that the next can go on where this one was killed.
//!
//! Files can only be used again if their rows and all further ones are of one snapshot. A snapshot lasts as long as a
//! session that has it, so after a kill it is there only while the server has not noticed yet, or while somebody else
//! keeps it. The journal tells which one it was, what was asked for, and which ranges of which tables the files hold.

use std::collections::{BTreeMap, BTreeSet};

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::PipelineError;
use super::pull::PullOptions;
use super::pull_table::{Part, Pulling, Share, TablePull};
use crate::columnar::NumericSeen;
use crate::lake::{DataFile, Lake, LakeError, Version};
use crate::source::{CopyRange, SharedSnapshot, SnapshotInfo, Watermark};

/// The one journal of a lake: whoever writes it holds the lake's lock.
const PATH: &str = "journal/pull.json";

/// What was asked for; a pull of something else cannot go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The program's version, which decides how values become files.
    program: String,
    /// The lake version that the pull is based on.
    base: Option<Version>,
    incremental: bool,
    detect_deletes: bool,
    /// The tables with all their settings.
    tables: Vec<String>,
}

impl Asked {
    pub(super) fn new(base: Option<Version>, options: &PullOptions, tables: &[TablePull]) -> Self {
        Self {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            base,
            incremental: options.incremental,
            detect_deletes: options.detect_deletes,
            tables: tables.iter().map(|table| format!("{table:?}")).collect(),
        }
    }
}

/// Files with all rows of some ranges of a table.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotedShare {
    /// The folder of the table, or of its keys.
    table: String,
    ranges: Vec<CopyRange>,
    files: Vec<DataFile>,
    rows_sent: u64,
    seen: Vec<Option<NumericSeen>>,
    made_null: Vec<u64>,
}

/// What is noted of a pull.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Noted {
    pub(super) asked: Asked,
    /// Names by which the snapshot was exported.
    pub(super) snapshots: BTreeSet<String>,
    /// The snapshot itself.
    pub(super) identity: String,
    pub(super) info: SnapshotInfo,
    pub(super) watermark: Option<Watermark>,
    /// What is copied of each table, as the server described it.
    plans: BTreeMap<String, String>,
    shares: Vec<NotedShare>,
}

/// What an earlier pull completed of one table.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) ranges: Vec<CopyRange>,
    pub(super) shares: Vec<Share>,
}

impl Noted {
    /// Nothing yet.
    pub(super) fn new(asked: Asked, snapshot: &SharedSnapshot) -> Self {
        Self {
            asked,
            snapshots: BTreeSet::new(),
            identity: snapshot.identity().to_owned(),
            info: snapshot.info().clone(),
            watermark: snapshot.watermark().cloned(),
            plans: BTreeMap::new(),
            shares: Vec::new(),
        }
    }

    /// Reads what the last pull left, if all its files are still there.
    pub(super) async fn read(lake: &Lake) -> Option<Self> {
        let noted: Self = match lake.read_json(&Path::from(PATH)).await {
            Ok(noted) => noted,
            Err(error) => {
                tracing::debug!(%error, "there is no journal to go on from");
                return None;
            }
        };
        let is_whole = |file: &DataFile| {
            let size = std::fs::metadata(lake.local_path(&file.path)).map(|file| file.len());
            size.is_ok_and(|size| size == file.bytes)
        };
        let are_whole = noted.shares.iter().flat_map(|share| &share.files).all(is_whole);
        are_whole.then_some(noted)
    }

    /// The files, by their paths.
    pub(super) fn files(&self) -> BTreeSet<String> {
        self.shares.iter().flat_map(|share| &share.files).map(|file| file.path.clone()).collect()
    }

    /// Takes over the tables of a pull of the same snapshot; gives what was completed of each, or the first table that
    /// is another by now.
    pub(super) fn go_on(&mut self, pulling: &[Pulling]) -> Result<Vec<Kept>, usize> {
        for (index, table) in pulling.iter().enumerate() {
            let plan = plan(table);
            if *self.plans.entry(table.layout.table.clone()).or_insert_with(|| plan.clone()) != plan {
                return Err(index);
            }
        }
        let kept = |table: &Pulling| {
            let mut kept = Kept::default();
            for share in self.shares.iter().filter(|share| share.table == table.layout.table) {
                kept.ranges.extend(&share.ranges);
                kept.shares.push(Share {
                    files: share.files.clone(),
                    rows_sent: share.rows_sent,
                    seen: share.seen.clone(),
                    made_null: share.made_null.clone(),
                });
            }
            kept
        };
        Ok(pulling.iter().map(kept).collect())
    }
}

/// What is copied of a table, as the server described it.
fn plan(pulling: &Pulling) -> String {
    let rows = match &pulling.part {
        Part::Whole(_) => "all rows",
        Part::Changed(increment) => increment.condition.as_str(),
        Part::KeysOf(_) => "all keys",
    };
    let relation = &pulling.relation;
    // What its ranges mean.
    let split = relation.split.as_ref().map(|key| key.column.as_str());
    format!("{} {} {:?} {split:?} {rows}", relation.oid, relation.kind, relation.schema.columns)
}

/// The journal of a pull under way.
pub(super) struct Journal {
    lake: Lake,
    noted: Mutex<Noted>,
}

impl Journal {
    pub(super) fn new(lake: Lake, noted: Noted) -> Self {
        Self { lake, noted: Mutex::new(noted) }
    }

    /// Notes a table's completed files.
    pub(super) async fn add(&self, table: &str, ranges: Vec<CopyRange>, share: &Share) -> Result<(), PipelineError> {
        let mut noted = self.noted.lock().await;
        noted.shares.push(NotedShare {
            table: table.to_owned(),
            ranges,
            files: share.files.clone(),
            rows_sent: share.rows_sent,
            seen: share.seen.clone(),
            made_null: share.made_null.clone(),
        });
        Ok(self.lake.write_json(&Path::from(PATH), &*noted).await?)
    }
}

/// Removes the journal, if there is one.
pub(super) async fn remove_journal(lake: &Lake) -> Result<(), LakeError> {
    if lake.local_path(PATH).exists() { lake.delete(&Path::from(PATH)).await } else { Ok(()) }
}

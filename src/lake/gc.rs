//! What a lake can do without: versions that nobody needs any more, and files that no version names.
//!
//! A reader that opened a version takes no lock, so a version stays for a while after a newer one took its place. Manifests
//! go first and files after them: whoever finds a manifest finds its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path as LocalPath, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use object_store::path::Path;
use serde::Serialize;

use super::publish::{TABLES, manifest_path};
use super::{Lake, LakeError, Manifest, Version};

/// How long a version stays after a newer one took its place: a reader may still be at it.
pub const READING_TIME: TimeDelta = TimeDelta::hours(1);

/// A file that no version needs, or that no version that is kept names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GarbageFile {
    /// The path inside the lake.
    pub path: String,
    /// Its size.
    pub bytes: u64,
}

/// What can be removed from a lake, and what stays.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LakeGarbage {
    /// Versions to remove, oldest first.
    pub versions: Vec<Version>,
    /// Versions that stay, oldest first.
    pub kept: Vec<Version>,
    /// Files to remove, sorted.
    pub files: Vec<GarbageFile>,
    /// Their bytes.
    pub bytes: u64,
}

/// Versions that stay: from the newest back to the last whose every table is among the `keep` newest of that table, or
/// that was the latest less than the reading time ago. Versions come oldest first; the last always stays.
fn versions_to_keep(manifests: &[Manifest], keep: usize, superseded_before: DateTime<Utc>) -> BTreeSet<Version> {
    let mut of_table: BTreeMap<&str, BTreeSet<Version>> = BTreeMap::new();
    for (name, table) in manifests.iter().flat_map(|manifest| &manifest.tables) {
        of_table.entry(name).or_default().insert(table.version);
    }
    let oldest_kept: BTreeMap<&str, Version> = of_table
        .into_iter()
        .filter_map(|(name, versions)| Some((name, *versions.iter().rev().take(keep).min()?)))
        .collect();
    let is_new = |manifest: &Manifest| {
        let mut tables = manifest.tables.iter();
        tables.all(|(name, table)| oldest_kept.get(name.as_str()).is_some_and(|oldest| table.version >= *oldest))
    };
    let superseded = manifests.iter().skip(1).map(|next| Some(next.created)).chain([None]);
    let stays = |(manifest, superseded): &(&Manifest, Option<DateTime<Utc>>)| {
        is_new(manifest) || superseded.is_none_or(|superseded| superseded >= superseded_before)
    };
    let from_the_oldest: Vec<_> = manifests.iter().zip(superseded).collect();
    from_the_oldest.into_iter().rev().take_while(stays).map(|(manifest, _)| manifest.version).collect()
}

impl Lake {
    /// Finds what can go when `keep` versions of each table are kept, and with `at_once` without regard for readers of
    /// older ones. The caller holds the lake's lock, so no run is writing files.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub async fn garbage(&self, keep: usize, now: DateTime<Utc>, at_once: bool) -> Result<LakeGarbage, LakeError> {
        let manifests = self.manifests().await?;
        let superseded_before = if at_once { now + READING_TIME } else { now - READING_TIME };
        let keep = versions_to_keep(&manifests, keep.max(1), superseded_before);
        let (kept, old): (Vec<&Manifest>, Vec<_>) =
            manifests.iter().partition(|manifest| keep.contains(&manifest.version));
        let named: BTreeSet<&str> = kept
            .iter()
            .flat_map(|manifest| manifest.tables.values())
            .flat_map(|table| table.files.iter().map(|file| file.path.as_str()))
            .collect();
        let failed = |source: io::Error| LakeError::Read { path: Path::from(TABLES), source: source.into() };
        let mut files = Vec::new();
        // The store does not list what an interrupted upload left, so the folder is looked at.
        walk(self.root(), &self.local_path(TABLES), &mut files).map_err(failed)?;
        files.retain(|file| !named.contains(file.path.as_str()));
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let versions = |manifests: Vec<&Manifest>| manifests.iter().map(|manifest| manifest.version).collect();
        let bytes = files.iter().map(|file| file.bytes).sum();
        Ok(LakeGarbage { versions: versions(old), kept: versions(kept), files, bytes })
    }

    /// Removes what [`Lake::garbage`] found.
    ///
    /// # Errors
    /// [`LakeError::Write`]; what is left then is found again.
    pub async fn remove_garbage(&self, garbage: &LakeGarbage) -> Result<(), LakeError> {
        for version in &garbage.versions {
            self.delete(&manifest_path(*version)).await?;
        }
        for file in &garbage.files {
            let path = self.local_path(&file.path);
            fs::remove_file(&path)
                .map_err(|source| LakeError::Write { path: Path::from(file.path.as_str()), source: source.into() })?;
            // A folder that is not empty stays.
            let below = |folder: &&LocalPath| folder.starts_with(self.local_path(TABLES));
            for folder in path.ancestors().skip(1).take_while(below) {
                if fs::remove_dir(folder).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Files at any depth below a folder, which need not exist.
fn walk(root: &LocalPath, folder: &LocalPath, files: &mut Vec<GarbageFile>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path: PathBuf = entry.path();
        if entry.file_type()?.is_dir() {
            walk(root, &path, files)?;
        } else if let Ok(inside) = path.strip_prefix(root) {
            files.push(GarbageFile { path: inside.to_string_lossy().into_owned(), bytes: entry.metadata()?.len() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::sync::Arc;

    use arrow::datatypes::Schema;

    use super::*;
    use crate::lake::{LakeTable, Origin};

    /// The version's manifest, made at that hour, with each table's version.
    fn manifest(version: u64, tables: &[(&str, u64)]) -> Manifest {
        let created = DateTime::from_timestamp(i64::try_from(version).unwrap() * 3600, 0).unwrap();
        let table = |version: u64| LakeTable {
            version: Version(version),
            run_id: String::new(),
            created,
            origin: Origin::Dataset { from: Version(version), phases: String::new() },
            schema: Arc::new(Schema::empty()),
            rows: 0,
            bytes: 0,
            files: Vec::new(),
        };
        let tables = tables.iter().map(|(name, version)| ((*name).to_owned(), table(*version))).collect();
        Manifest { version: Version(version), created, run_id: String::new(), tables }
    }

    fn kept(manifests: &[Manifest], keep: usize, hour: i64) -> Vec<u64> {
        let superseded_before = DateTime::from_timestamp(hour * 3600, 0).unwrap();
        versions_to_keep(manifests, keep, superseded_before).into_iter().map(|version| version.0).collect()
    }

    #[test]
    fn versions_with_an_older_table_than_is_kept_go() {
        let manifests = [
            manifest(1, &[("races", 1)]),
            manifest(2, &[("races", 1), ("d", 2)]),
            manifest(3, &[("races", 3), ("d", 2)]),
            manifest(4, &[("races", 3), ("d", 4)]),
            manifest(5, &[("races", 5), ("d", 4)]),
            manifest(6, &[("races", 5), ("d", 6)]),
        ];
        assert_eq!(kept(&manifests, 1, 100), [6]);
        assert_eq!(kept(&manifests, 2, 100), [4, 5, 6]);
        assert_eq!(kept(&manifests, 9, 100), [1, 2, 3, 4, 5, 6]);
        // Version 4 was the latest until version 5 appeared at five o'clock.
        assert_eq!(kept(&manifests, 1, 5), [4, 5, 6]);
        assert_eq!(kept(&manifests[..1], 1, 100), [1], "the latest always stays");
        assert_eq!(kept(&[], 1, 100), [0; 0]);
    }
}

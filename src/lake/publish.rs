//! Reading and publishing versions.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;
use object_store::PutMode;
use object_store::path::Path;

use super::{Lake, LakeError, LakeTable, Manifest, Version};

/// The folder of manifests.
const MANIFESTS: &str = "manifest";
/// The folder of data files.
pub(super) const TABLES: &str = "tables";

pub(super) fn manifest_path(version: Version) -> Path {
    Path::from(format!("{MANIFESTS}/{:020}.json", version.0))
}

impl Lake {
    /// The latest version's manifest, if any was published.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub async fn latest(&self) -> Result<Option<Manifest>, LakeError> {
        match self.list(MANIFESTS).await?.iter().rev().find(|path| path.extension() == Some("json")) {
            Some(path) => self.read_json(path).await.map(Some),
            None => Ok(None),
        }
    }

    /// The latest version's manifest.
    ///
    /// # Errors
    /// [`LakeError::Empty`] when there is none.
    pub async fn require_latest(&self) -> Result<Manifest, LakeError> {
        self.latest().await?.ok_or_else(|| LakeError::Empty { url: self.root().display().to_string() })
    }

    /// The manifests of all versions, oldest first.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub(super) async fn manifests(&self) -> Result<Vec<Manifest>, LakeError> {
        let mut manifests = Vec::new();
        for path in self.list(MANIFESTS).await?.iter().filter(|path| path.extension() == Some("json")) {
            manifests.push(self.read_json(path).await?);
        }
        Ok(manifests)
    }

    /// One version's manifest, if that version was published and is still there.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub async fn manifest(&self, version: Version) -> Result<Option<Manifest>, LakeError> {
        match self.read_json(&manifest_path(version)).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(LakeError::Read { source, .. }) if is_not_found(source.as_ref()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes files of versions that were never published, which only a run that died can have left, but for those that
    /// are to be kept. The caller holds the lake's lock.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Write`].
    pub async fn remove_unpublished(&self, kept: &BTreeSet<String>) -> Result<u64, LakeError> {
        let latest = self.latest().await?.map_or(0, |manifest| manifest.version.0);
        let mut removed = 0;
        for path in self.list(TABLES).await? {
            let version = path.parts().find_map(|part| part.as_ref().strip_prefix("v=")?.parse::<u64>().ok());
            if version.is_some_and(|version| version > latest) && !kept.contains(path.as_ref()) {
                self.delete(&path).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn is_not_found(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(object_store::Error::NotFound { .. }))
}

/// A version being prepared: what it changes against the one it is based on.
#[derive(Debug)]
pub struct Publication {
    lake: Lake,
    base: Option<Manifest>,
    run_id: String,
}

impl Publication {
    /// Prepares the version after the latest.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub async fn prepare(lake: &Lake, run_id: &str) -> Result<Self, LakeError> {
        Ok(Self { lake: lake.clone(), base: lake.latest().await?, run_id: run_id.to_owned() })
    }

    /// The version that it is based on.
    pub fn base(&self) -> Option<&Manifest> {
        self.base.as_ref()
    }

    /// The version it will be.
    pub fn version(&self) -> Version {
        self.base.as_ref().map_or(Version(1), |base| base.version.next())
    }

    /// Makes the new tables visible, all at once, and carries every other table over.
    ///
    /// # Errors
    /// [`LakeError::AlreadyPublished`] when another run was first; its version stands and nothing of this one shows.
    pub async fn publish(self, tables: BTreeMap<String, LakeTable>) -> Result<Manifest, LakeError> {
        let version = self.version();
        let mut all = self.base.map(|base| base.tables).unwrap_or_default();
        all.extend(tables);
        let manifest = Manifest { version, created: Utc::now(), run_id: self.run_id, tables: all };
        let path = manifest_path(version);
        match self.lake.put_json(&path, &manifest, PutMode::Create).await {
            Ok(()) => Ok(manifest),
            Err(object_store::Error::AlreadyExists { .. }) => Err(LakeError::AlreadyPublished(version)),
            Err(source) => Err(LakeError::Write { path, source: source.into() }),
        }
    }
}

//! A lake's URL to its object store, and small JSON objects in it.

use std::path::{self, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::LakeError;

/// An opened lake. Clones share the store.
#[derive(Debug, Clone)]
pub struct Lake {
    store: Arc<dyn ObjectStore>,
    root: PathBuf,
}

impl Lake {
    /// Opens the lake in a local folder, creating the folder if it is not there.
    ///
    /// # Errors
    /// [`LakeError::Scheme`] for other stores, [`LakeError::Open`] when the folder cannot be made or read.
    pub fn open(url: &str) -> Result<Self, LakeError> {
        let folder = match url.split_once("://") {
            Some(("file", folder)) => folder,
            Some((scheme, _)) => return Err(LakeError::Scheme { scheme: scheme.to_owned() }),
            None => url,
        };
        let failed = |source| LakeError::Open { url: url.to_owned(), source };
        let io_failed =
            |source| failed(object_store::Error::Generic { store: "local folder", source: Box::new(source) });
        std::fs::create_dir_all(folder).map_err(io_failed)?;
        let root = path::absolute(folder).map_err(io_failed)?;
        let store = LocalFileSystem::new_with_prefix(&root).map_err(failed)?;
        Ok(Self { store: Arc::new(store), root })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The local folder.
    pub fn root(&self) -> &path::Path {
        &self.root
    }

    /// An object's place on the local disk.
    pub fn local_path(&self, object: &str) -> PathBuf {
        self.root.join(object)
    }

    /// Reads a JSON object.
    ///
    /// # Errors
    /// [`LakeError::Read`], [`LakeError::Malformed`].
    pub async fn read_json<T: DeserializeOwned>(&self, path: &Path) -> Result<T, LakeError> {
        let failed = |source: object_store::Error| LakeError::Read { path: path.clone(), source: source.into() };
        let bytes = self.store.get(path).await.map_err(failed)?.bytes().await.map_err(failed)?;
        serde_json::from_slice(&bytes).map_err(|source| LakeError::Malformed { path: path.clone(), source })
    }

    /// Writes a JSON object, whole or not at all.
    ///
    /// # Errors
    /// The store's error; `AlreadyExists` under [`PutMode::Create`].
    pub(super) async fn put_json<T: Serialize + Sync>(
        &self,
        path: &Path,
        value: &T,
        mode: PutMode,
    ) -> Result<(), object_store::Error> {
        let text = serde_json::to_vec_pretty(value)
            .map_err(|source| object_store::Error::Generic { store: "manifest", source: Box::new(source) })?;
        self.store.put_opts(path, text.into(), mode.into()).await.map(|_| ())
    }

    /// Writes or replaces a JSON object, whole or not at all.
    ///
    /// # Errors
    /// [`LakeError::Write`].
    pub async fn write_json<T: Serialize + Sync>(&self, path: &Path, value: &T) -> Result<(), LakeError> {
        self.put_json(path, value, PutMode::Overwrite)
            .await
            .map_err(|source| LakeError::Write { path: path.clone(), source: source.into() })
    }

    /// Names of the objects directly or deeper under a prefix, sorted.
    ///
    /// # Errors
    /// [`LakeError::Read`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Path>, LakeError> {
        let prefix = Path::from(prefix);
        let mut paths: Vec<Path> = self
            .store
            .list(Some(&prefix))
            .map_ok(|object| object.location)
            .try_collect()
            .await
            .map_err(|source| LakeError::Read { path: prefix.clone(), source: source.into() })?;
        paths.sort_unstable();
        Ok(paths)
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// [`LakeError::Write`].
    pub async fn delete(&self, path: &Path) -> Result<(), LakeError> {
        self.store.delete(path).await.map_err(|source| LakeError::Write { path: path.clone(), source: source.into() })
    }
}

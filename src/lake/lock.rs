//! One run at a time works on a lake.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};

use object_store::path::Path;

use super::{Lake, LakeError};

/// The lock file, in the lake's folder.
const LOCK_FILE: &str = "lock";

/// Held while a run writes to the lake; the operating system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct LakeLock {
    _file: File,
}

impl LakeLock {
    /// Takes the lock and writes down who holds it.
    ///
    /// # Errors
    /// [`LakeError::Locked`] names the holder; [`LakeError::Write`] when the file cannot be made.
    pub fn take(lake: &Lake, holder: &str) -> Result<Self, LakeError> {
        let failed = |source: std::io::Error| LakeError::Write { path: Path::from(LOCK_FILE), source: source.into() };
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(lake.local_path(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(failed)?;
                return Err(LakeError::Locked { holder });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(holder.as_bytes()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// Who holds the lock now, in their own words.
    pub fn holder(lake: &Lake) -> Option<String> {
        let mut file = File::open(lake.local_path(LOCK_FILE)).ok()?;
        let is_held = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        let mut holder = String::new();
        // What cannot be read is held all the same.
        is_held.then(|| file.read_to_string(&mut holder).map_or_else(|_| "another run".to_owned(), |_| holder))
    }

    /// Whether a run holds the lock now.
    pub fn is_held(lake: &Lake) -> bool {
        File::open(lake.local_path(LOCK_FILE))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

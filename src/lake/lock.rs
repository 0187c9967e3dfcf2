//! One run at a time works on a lake.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::time::Duration;

use object_store::path::Path;

use super::{Lake, LakeError};

/// The lock file, in the lake's folder.
const LOCK_FILE: &str = "lock";

/// How often a lock that is held is tried, and the pause between: who only looks whether it is held has it for a moment.
const TRIES_MAX: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

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
        for tried in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tried < TRIES_MAX => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    file.read_to_string(&mut holder).map_err(failed)?;
                    return Err(LakeError::Locked { holder });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn who_only_looks_keeps_nobody_from_taking_it() {
        const TAKES: usize = 50;
        let folder = tempfile::tempdir().unwrap();
        let lake = Lake::open(&folder.path().display().to_string()).unwrap();
        let taken = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !taken.load(Ordering::Relaxed) {
                    LakeLock::is_held(&lake);
                }
            });
            let all: Vec<_> = (0..TAKES).map(|take| LakeLock::take(&lake, &format!("take {take}")).map(drop)).collect();
            taken.store(true, Ordering::Relaxed);
            assert!(all.iter().all(Result::is_ok), "{all:?}");
        });
        let held = LakeLock::take(&lake, "the one").unwrap();
        assert!(matches!(LakeLock::take(&lake, "another"), Err(LakeError::Locked { holder }) if holder == "the one"));
        drop(held);
        assert_eq!(LakeLock::holder(&lake), None);
    }
}

//! How long the allocator keeps pages that are free.
//!
//! Each statement of a run takes gigabytes and frees them, and the next one takes them again. Pages that went back to the
//! system in between are faulted in and cleared once more, which is a tenth of the work of a run. Everything else wants
//! them back soon (`.cargo/config.toml`).

#[cfg(target_os = "linux")]
use tikv_jemalloc_ctl::{Access, AsName, Error, Name};

/// Longer than any statement takes between two uses of a page.
#[cfg(target_os = "linux")]
const KEPT_MS: isize = 30_000;

/// As long as it lives, free pages stay with the process; when it goes, so do they.
#[derive(Debug)]
pub struct KeptPages {
    /// What held before.
    #[cfg(target_os = "linux")]
    decay_ms: Option<isize>,
}

impl KeptPages {
    /// Begins to keep them. An allocator that cannot do it goes on as it was.
    #[cfg(target_os = "linux")]
    pub fn keep() -> Self {
        let decay_ms = default_decay().read().ok();
        set_decay(KEPT_MS);
        Self { decay_ms }
    }

    /// Only jemalloc can be told.
    #[cfg(not(target_os = "linux"))]
    pub fn keep() -> Self {
        Self {}
    }
}

#[cfg(target_os = "linux")]
impl Drop for KeptPages {
    fn drop(&mut self) {
        if let Some(decay_ms) = self.decay_ms {
            set_decay(decay_ms);
        }
    }
}

/// The time that arenas start with, in milliseconds.
#[cfg(target_os = "linux")]
fn default_decay() -> &'static Name {
    "arenas.dirty_decay_ms\0".name()
}

/// Sets the time of arenas to come and of all there are. Shorter than before means that what is free goes at once.
#[cfg(target_os = "linux")]
fn set_decay(decay_ms: isize) {
    let set = || -> Result<(), Error> {
        default_decay().write(decay_ms)?;
        let arenas: u32 = "arenas.narenas\0".name().read()?;
        for arena in 0..arenas {
            // One that no core has used yet refuses, and starts with the default.
            let _ = format!("arena.{arena}.dirty_decay_ms\0").as_str().name().write(decay_ms);
        }
        Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "the allocator keeps pages as long as it did");
    }
}

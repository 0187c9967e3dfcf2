//! What a pull has still to copy: pieces of tables, each in one COPY, shared by all workers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::source::CopyRange;

/// Times that one piece may fail before the pull does.
pub(super) const PIECE_FAILURES_MAX: u32 = 6;

/// A part of a table that one COPY reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The table's place in the pull.
    pub(super) table: usize,
    pub(super) range: CopyRange,
    /// How often it was the one being copied when something failed.
    pub(super) failures: u32,
    /// Whether it was copied before, and its files thrown away. Then it gets files of its own, so that the next failure
    /// costs no other piece.
    pub(super) is_repeated: bool,
}

/// The pieces that nobody copies yet.
#[derive(Debug)]
pub(super) struct PieceQueue {
    waiting: Mutex<VecDeque<Piece>>,
    repeated: AtomicU64,
}

impl PieceQueue {
    pub(super) fn new(pieces: impl IntoIterator<Item = (usize, CopyRange)>) -> Self {
        let piece = |(table, range)| Piece { table, range, failures: 0, is_repeated: false };
        Self { waiting: Mutex::new(pieces.into_iter().map(piece).collect()), repeated: AtomicU64::new(0) }
    }

    pub(super) fn next(&self) -> Option<Piece> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Puts pieces back whose files are thrown away; they come next.
    pub(super) fn put_back(&self, pieces: impl IntoIterator<Item = Piece>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in pieces {
            waiting.push_front(Piece { is_repeated: true, ..piece });
            self.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pieces that were put back.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

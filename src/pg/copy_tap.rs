//! Takes the rows of `COPY … TO STDOUT` out of a connection before the client library sees them.
//!
//! The server sends every row as a message of its own. Passing each through the library's queues costs more than
//! decoding it, so the stream between server and library is tapped: COPY messages go to the reader in blocks of many
//! rows, all others pass as they are. The library sees a plain query that is answered by its row count, so no
//! statement is prepared, which poolers could not carry.
//!
//! ```text
//! server ──▶ TLS or plain ──▶ CopyTap ──▶ tokio-postgres    login, errors, row counts, notices
//!                                └──────▶ CopyOut           bytes of whole CopyData messages
//! ```
//! On the way it notes the process that the server says it is, which the library keeps to itself: a pooler says
//! another one.
//!
//! Source: PostgreSQL documentation, "Message Formats".

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use tokio_postgres::{Error, SimpleQueryMessage, SimpleQueryStream};
use tokio_util::sync::PollSender;

use super::encryption::ServerStream;

/// Bytes read from the socket at once.
const READ_BYTES: usize = 64 << 10;
/// A block is handed over at the end of the message that reaches this size: small enough for the processor's cache.
const BLOCK_BYTES: usize = 128 << 10;
/// Capacity that a block begins with at most.
const BLOCK_CAPACITY_MAX: usize = 2 * BLOCK_BYTES;
/// Blocks that wait for the reader; then the socket is not read, and the server waits.
const QUEUED_BLOCKS_MAX: usize = 1;

/// A message's tag and length; the length counts itself and not the tag.
const HEADER_BYTES: usize = 5;
const LENGTH_BYTES: usize = 4;
const COPY_OUT_RESPONSE: u8 = b'H';
const COPY_DATA: u8 = b'd';
const COPY_DONE: u8 = b'c';
const BACKEND_KEY_DATA: u8 = b'K';

/// Where the tap is in the server's messages.
#[derive(Debug)]
enum Place {
    /// Inside a header, of which this many bytes are known.
    Header(usize),
    /// A header that the library gets, from this byte on; then its body.
    PassedHeader(usize),
    /// A body that the library gets.
    Passed,
    /// A body of rows.
    Rows,
    /// A body that nobody needs.
    Dropped,
}

/// The stream between server and client library, without COPY messages.
pub(super) struct CopyTap {
    stream: Box<dyn ServerStream>,
    /// What was read, from `start` to `end` not looked at yet.
    read: Box<[u8]>,
    start: usize,
    end: usize,
    place: Place,
    header: [u8; HEADER_BYTES],
    /// Bytes of the current body that are still to come.
    left: usize,
    block: Vec<u8>,
    /// Whether the block leaves before more is read.
    is_due: bool,
    blocks: PollSender<Vec<u8>>,
    /// The bytes of the process id that have come.
    process: Vec<u8>,
    announced: AnnouncedProcess,
}

/// The process id that the server announced at login, once it has.
pub(super) type AnnouncedProcess = Arc<OnceLock<i32>>;

impl CopyTap {
    /// Taps a stream at the beginning of a server's messages.
    pub(super) fn new(
        stream: Box<dyn ServerStream>,
        blocks: mpsc::Sender<Vec<u8>>,
        announced: AnnouncedProcess,
    ) -> Self {
        Self {
            stream,
            read: vec![0; READ_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            place: Place::Header(0),
            header: [0; HEADER_BYTES],
            left: 0,
            block: Vec::new(),
            is_due: false,
            blocks: PollSender::new(blocks),
            process: Vec::new(),
            announced,
        }
    }

    /// Notes the process id, which is the first thing in its message.
    fn note_process(&mut self, from: usize, count: usize) {
        self.process.extend(&self.read[from..from + count]);
        if let Some(id) = self.process.first_chunk() {
            // A server announces it once.
            let _ = self.announced.set(i32::from_be_bytes(*id));
        }
    }

    /// Sorts what was read, until all of it is, a block is due, or the library's buffer is full.
    fn sort(&mut self, library: &mut ReadBuf<'_>) -> io::Result<()> {
        while !self.is_due {
            let read = &self.read[self.start..self.end];
            let taken = match self.place {
                Place::PassedHeader(from) => {
                    let count = library.remaining().min(HEADER_BYTES - from);
                    library.put_slice(&self.header[from..from + count]);
                    self.place = match from + count {
                        HEADER_BYTES => Place::Passed,
                        from => Place::PassedHeader(from),
                    };
                    if library.remaining() == 0 {
                        return Ok(());
                    }
                    continue;
                }
                Place::Header(known) => {
                    let count = read.len().min(HEADER_BYTES - known);
                    self.header[known..known + count].copy_from_slice(&read[..count]);
                    self.place = match known + count {
                        HEADER_BYTES => self.begin_body()?,
                        known => Place::Header(known),
                    };
                    count
                }
                Place::Passed => {
                    let count = read.len().min(self.left).min(library.remaining());
                    library.put_slice(&read[..count]);
                    self.left -= count;
                    if self.header[0] == BACKEND_KEY_DATA {
                        self.note_process(self.start, count);
                    }
                    count
                }
                Place::Rows => {
                    let count = read.len().min(self.left);
                    self.block.extend_from_slice(&read[..count]);
                    self.left -= count;
                    count
                }
                Place::Dropped => {
                    let count = read.len().min(self.left);
                    self.left -= count;
                    count
                }
            };
            self.start += taken;
            if self.left == 0 && matches!(self.place, Place::Passed | Place::Rows | Place::Dropped) {
                self.is_due = match self.header[0] {
                    COPY_DATA => self.block.len() >= BLOCK_BYTES,
                    COPY_DONE => !self.block.is_empty(),
                    _ => false,
                };
                self.place = Place::Header(0);
            } else if taken == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the complete header.
    fn begin_body(&mut self) -> io::Result<Place> {
        let [tag, length @ ..] = self.header;
        self.left = usize::try_from(i32::from_be_bytes(length))
            .ok()
            .and_then(|length| length.checked_sub(LENGTH_BYTES))
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "the server sent a message of negative length")
            })?;
        Ok(match tag {
            COPY_DATA => Place::Rows,
            COPY_OUT_RESPONSE | COPY_DONE => Place::Dropped,
            _ => Place::PassedHeader(0),
        })
    }

    /// Hands the block over once the reader has room for it.
    fn poll_hand_over(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let nobody_reads = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the rows any more");
        ready!(self.blocks.poll_reserve(context)).map_err(nobody_reads)?;
        // One huge row does not make all later blocks huge.
        let next = Vec::with_capacity(self.block.capacity().min(BLOCK_CAPACITY_MAX));
        let block = std::mem::replace(&mut self.block, next);
        self.is_due = false;
        Poll::Ready(self.blocks.send_item(block).map_err(nobody_reads))
    }
}

impl AsyncRead for CopyTap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        library: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tap = &mut *self;
        let filled_before = library.filled().len();
        loop {
            tap.sort(library)?;
            if library.filled().len() > filled_before || library.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if tap.is_due {
                ready!(tap.poll_hand_over(context))?;
                continue;
            }
            let mut room = ReadBuf::new(&mut tap.read);
            ready!(Pin::new(&mut tap.stream).poll_read(context, &mut room))?;
            (tap.start, tap.end) = (0, room.filled().len());
            if tap.end == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for CopyTap {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl TlsStream for CopyTap {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// The queue from a tap to its reader.
pub(super) fn block_queue() -> (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>) {
    mpsc::channel(QUEUED_BLOCKS_MAX)
}

/// One running `COPY … TO STDOUT`. Dropped before its end it leaves the session unusable.
pub struct CopyOut<'a> {
    blocks: &'a mut mpsc::Receiver<Vec<u8>>,
    answer: Pin<Box<SimpleQueryStream>>,
    rows: u64,
    is_answered: bool,
}

impl std::fmt::Debug for CopyOut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyOut").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<'a> CopyOut<'a> {
    pub(super) fn new(blocks: &'a mut mpsc::Receiver<Vec<u8>>, answer: SimpleQueryStream) -> Self {
        Self { blocks, answer: Box::pin(answer), rows: 0, is_answered: false }
    }

    /// The next rows, as many as make a block; none at the end.
    ///
    /// # Errors
    /// The server's error, or the network's.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        while !self.is_answered {
            tokio::select! {
                biased;
                Some(block) = self.blocks.recv() => return Ok(Some(block)),
                message = self.answer.next() => match message.transpose()? {
                    Some(SimpleQueryMessage::CommandComplete(rows)) => self.rows = rows,
                    Some(_) => {}
                    None => self.is_answered = true,
                },
            }
        }
        // All rows come before the answer, so whatever is there now is all there is.
        Ok(self.blocks.try_recv().ok())
    }

    /// Rows that the server says it sent; known at the end.
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::pg::encryption::Unencrypted;

    fn tap(stream: tokio::io::DuplexStream, blocks: mpsc::Sender<Vec<u8>>) -> CopyTap {
        CopyTap::new(Box::new(Unencrypted(stream)), blocks, AnnouncedProcess::default())
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = i32::try_from(body.len() + LENGTH_BYTES).unwrap();
        [&[tag], length.to_be_bytes().as_slice(), body].concat()
    }

    /// What the library and the reader get when the stream arrives `cut` bytes at a time and the library takes
    /// `taken` at a time.
    async fn tapped(stream: Vec<u8>, cut: usize, taken: usize) -> (Vec<u8>, Vec<u8>) {
        let (blocks, mut copied) = block_queue();
        let (mut server, client) = duplex(cut);
        let mut tap = tap(client, blocks);
        let send = async move { server.write_all(&stream).await.unwrap() };
        let receive = async move {
            let (mut passed, mut buffer) = (Vec::new(), vec![0; taken]);
            loop {
                match tap.read(&mut buffer).await.unwrap() {
                    0 => return passed,
                    count => passed.extend_from_slice(&buffer[..count]),
                }
            }
        };
        let collect = async move {
            let mut rows = Vec::new();
            while let Some(block) = copied.recv().await {
                rows.extend(block);
            }
            rows
        };
        let ((), passed, rows) = tokio::join!(send, receive, collect);
        (passed, rows)
    }

    proptest! {
        #[test]
        fn rows_go_to_the_reader_and_all_else_to_the_library(
            messages in vec((prop_oneof![Just(COPY_OUT_RESPONSE), Just(COPY_DATA), Just(COPY_DATA), Just(b'C'), Just(b'N')],
                             vec(any::<u8>(), 0..40)), 0..30),
            cut in 1_usize..50,
            taken in 1_usize..50,
        ) {
            let of = |wanted: &dyn Fn(u8) -> bool| messages.iter().filter(|(tag, _)| wanted(*tag)).collect::<Vec<_>>();
            let mut stream: Vec<u8> = messages.iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            stream.extend(message(COPY_DONE, &[]));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (passed, rows) = runtime.block_on(tapped(stream, cut, taken));
            let library: Vec<u8> = of(&|tag| tag.is_ascii_uppercase() && tag != COPY_OUT_RESPONSE)
                .into_iter().flat_map(|(tag, body)| message(*tag, body)).collect();
            let reader: Vec<u8> = of(&|tag| tag == COPY_DATA).into_iter().flat_map(|(_, body)| body.clone()).collect();
            prop_assert_eq!(passed, library);
            prop_assert_eq!(rows, reader);
        }
    }

    #[tokio::test]
    async fn the_announced_process_is_noted_however_it_is_cut() {
        let stream = [message(BACKEND_KEY_DATA, &[0, 0, 1, 2, 9, 9, 9, 9]), message(b'Z', b"I")].concat();
        for cut in 1..stream.len() {
            let (blocks, _copied) = block_queue();
            let (mut server, client) = duplex(cut);
            let mut tap = tap(client, blocks);
            let announced = Arc::clone(&tap.announced);
            let mut passed = vec![0; stream.len()];
            let (sent, received) = tokio::join!(server.write_all(&stream), tap.read_exact(&mut passed));
            sent.unwrap();
            received.unwrap();
            assert_eq!((passed == stream, announced.get()), (true, Some(&258)), "{cut} bytes at once");
        }
    }

    #[tokio::test]
    async fn one_huge_row_does_not_make_the_blocks_after_it_huge() {
        let (blocks, mut copied) = block_queue();
        let (mut server, client) = duplex(READ_BYTES);
        let mut tap = tap(client, blocks);
        let row = |bytes: usize| message(COPY_DATA, &vec![7; bytes]);
        let sizes = [8 << 20, BLOCK_BYTES, BLOCK_BYTES];
        let stream = [sizes.map(row).concat(), message(b'Z', b"I")].concat();
        let send = async { server.write_all(&stream).await.unwrap() };
        let receive = async { tap.read_exact(&mut [0; 6]).await.map(drop).unwrap() };
        let read = async {
            let mut blocks = Vec::new();
            for _ in sizes {
                blocks.push(copied.recv().await.unwrap());
            }
            blocks
        };
        let ((), (), blocks) = tokio::join!(send, receive, read);
        assert_eq!(blocks.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        assert!(blocks[1..].iter().all(|block| block.capacity() <= BLOCK_CAPACITY_MAX));
    }

    #[tokio::test]
    async fn a_negative_length_is_refused() {
        let (blocks, _copied) = block_queue();
        let (mut server, client) = duplex(64);
        server.write_all(&[COPY_DATA, 0xFF, 0xFF, 0xFF, 0xFF]).await.unwrap();
        let mut tap = tap(client, blocks);
        assert_eq!(tap.read(&mut [0; 8]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

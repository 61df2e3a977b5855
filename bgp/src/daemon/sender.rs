//! The sending end of a connection, which its session and the rib task share.
//!
//! The rib task writes what is little itself: to wake the session for it costs as much as the write. What the socket
//! does not take, and what is much, waits here for the session, which waits for the socket. The rib task never waits for
//! that: while a batch is being written there is room for one more, and beyond that the session says when there is.
//!
//! What the session says itself, and what the tables say, goes out whole, one behind the other. Nothing of the tables
//! follows once the session is over.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::fsm::Sending;
use crate::rib::{Batch, Segment};
use crate::wire::header;

/// Segments in one system call.
const SEGMENTS: usize = 64;
/// Octets up to which the rib task writes a batch itself: the copy takes it about 10 us.
const LITTLE: usize = 32 * 1024;

/// Messages that a session was given to send, whichever connection it had.
pub(super) type Sent = Arc<AtomicU64>;

#[derive(Debug)]
pub(super) struct Sender {
    pub(super) stream: TcpStream,
    backlog: Mutex<Backlog>,
    /// Wakes the session for what the rib task has queued.
    queued: Notify,
    /// Set when the rib task found no room: the session then says when there is.
    awaited: AtomicBool,
    sent: Sent,
}

#[derive(Debug, Default)]
struct Backlog {
    queue: VecDeque<Segment>,
    /// Octets of the first segment that are written already.
    written: usize,
    /// The batch that comes when the queue is written.
    next: Batch,
    /// Whether the peer has taken anything since this was last asked.
    progress: bool,
    /// Whether the tables have a say.
    established: bool,
}

impl Sender {
    pub(super) fn new(stream: TcpStream, sent: Sent) -> Self {
        Self {
            stream,
            backlog: Mutex::default(),
            queued: Notify::new(),
            awaited: AtomicBool::new(false),
            sent,
        }
    }

    /// For the session: a message of its own.
    pub(super) fn queue(&self, message: Vec<u8>) {
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.lock().queue.push_back(message.into());
    }

    /// For the session: writes what the socket takes now; says whether the tables wait for room that there is now.
    pub(super) fn write(&self) -> io::Result<bool> {
        let mut backlog = self.lock();
        backlog.write(&self.stream)?;
        if backlog.queue.is_empty() && !backlog.next.is_empty() {
            let next = std::mem::take(&mut backlog.next);
            backlog.queue.extend(next);
            backlog.write(&self.stream)?;
        }
        let room = backlog.next.is_empty();
        // The rib task asks again behind its mark, so that it sees room or we see the mark.
        drop(backlog);
        Ok(room && self.awaited.swap(false, Ordering::SeqCst))
    }

    /// For the session: resolves when the socket can be read, if that is wanted, or written, if there is something to
    /// write.
    pub(super) async fn ready(&self, reading: bool) -> io::Result<Ready> {
        let interest = match (reading, self.is_flushed()) {
            (true, true) => Interest::READABLE,
            (true, false) => Interest::READABLE | Interest::WRITABLE,
            (false, false) => Interest::WRITABLE,
            (false, true) => Interest::ERROR,
        };
        tokio::select! {
            ready = self.stream.ready(interest) => ready,
            () = self.queued.notified() => Ok(Ready::WRITABLE),
        }
    }

    /// Whether everything queued is written.
    pub(super) fn is_flushed(&self) -> bool {
        self.lock().queue.is_empty()
    }

    /// Whether the socket takes what is queued; `None` while there was nothing to take.
    pub(super) fn sending(&self) -> Option<Sending> {
        let mut backlog = self.lock();
        if std::mem::take(&mut backlog.progress) {
            return Some(Sending::Progress);
        }
        (!backlog.queue.is_empty()).then_some(Sending::Blocked)
    }

    /// Lets the tables send from now on.
    pub(super) fn begin(&self) {
        self.lock().established = true;
    }

    /// What the tables say has no place in the connection any more.
    pub(super) fn end(&self) {
        let mut backlog = self.lock();
        backlog.established = false;
        backlog.next = Batch::new();
    }

    /// For the rib task: whether a batch can go; if not, the session will say when.
    pub(super) fn has_room(&self) -> bool {
        if self.sees_room() {
            return true;
        }
        self.awaited.store(true, Ordering::SeqCst);
        // Room that was made before the session could see that is seen here. Whoever has the lock is waited for: it need not be
        // for a write that it is held, and then nobody would say that there is room.
        self.lock().next.is_empty()
    }

    fn sees_room(&self) -> bool {
        // Mostly it is the session that has the lock, and writes.
        self.backlog.try_lock().is_ok_and(|backlog| backlog.next.is_empty())
    }

    /// For the rib task: sends a batch, for which there is room.
    pub(super) fn send(&self, batch: Batch) {
        let mut backlog = self.lock();
        if !backlog.established {
            // The end of the session is on its way to the tables.
            return;
        }
        let messages = batch.iter().map(|segment| header::count(segment)).sum();
        self.sent.fetch_add(messages, Ordering::Relaxed);
        if !backlog.queue.is_empty() {
            backlog.next.extend(batch);
            return;
        }
        let octets: usize = batch.iter().map(|segment| segment.len()).sum();
        backlog.queue.extend(batch);
        if octets <= LITTLE {
            match backlog.write(&self.stream) {
                Ok(()) if backlog.queue.is_empty() => return,
                Ok(()) => {}
                // What ends a session shows again when the session writes.
                Err(error) => tracing::debug!(%error, "write"),
            }
        }
        self.queued.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backlog {
    fn write(&mut self, stream: &TcpStream) -> io::Result<()> {
        while let Some(first) = self.queue.front() {
            let first = first.get(self.written..).unwrap_or_default();
            let written = if self.queue.len() == 1 {
                stream.try_write(first)
            } else {
                let rest = self.queue.iter().skip(1).map(|segment| &**segment);
                let slices: Vec<IoSlice<'_>> =
                    std::iter::once(first).chain(rest).take(SEGMENTS).map(IoSlice::new).collect();
                stream.try_write_vectored(&slices)
            };
            match written {
                Ok(octets) => self.advance(octets),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn advance(&mut self, octets: usize) {
        self.progress |= octets > 0;
        self.written += octets;
        while let Some(first) = self.queue.front() {
            if self.written < first.len() {
                return;
            }
            self.written -= first.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// The sending end of an established session, and the peer's socket.
    async fn established() -> (Arc<Sender>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        ours.writable().await.unwrap();
        let sender = Arc::new(Sender::new(ours, Sent::default()));
        sender.begin();
        (sender, peer)
    }

    async fn received(peer: &mut TcpStream, octets: usize) -> Vec<u8> {
        let mut received = vec![0; octets];
        timeout(DEADLINE, peer.read_exact(&mut received)).await.unwrap().unwrap();
        received
    }

    fn keepalive() -> Vec<u8> {
        let mut message = Vec::new();
        header::encode_keepalive(&mut message);
        message
    }

    /// What the session's task does until all is written: how often it had to tell the tables of room.
    async fn session(sender: &Sender) -> usize {
        let mut told = 0;
        loop {
            told += usize::from(sender.write().unwrap());
            if sender.is_flushed() {
                return told;
            }
            timeout(DEADLINE, sender.ready(false)).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_little_batch_is_written_without_the_session() {
        let (sender, mut peer) = established().await;
        sender.send(vec![keepalive().into(), keepalive().into()]);
        assert!(sender.is_flushed() && sender.has_room());
        assert_eq!(received(&mut peer, 38).await, [keepalive(), keepalive()].concat());
        assert_eq!(sender.sent.load(Ordering::Relaxed), 2);
        assert_eq!(sender.sending(), Some(Sending::Progress));
        assert_eq!(sender.sending(), None);
    }

    #[tokio::test]
    async fn a_large_batch_wakes_the_session_which_writes_it() {
        let (sender, mut peer) = established().await;
        let large = vec![7; LITTLE + 1];
        // It waits for something to read.
        let ready = timeout(DEADLINE, sender.ready(true));
        let (ready, ()) = tokio::join!(ready, async { sender.send(vec![large.clone().into()]) });
        assert!(ready.unwrap().unwrap().is_writable() && !sender.is_flushed());
        let (_, got) = tokio::join!(session(&sender), received(&mut peer, large.len()));
        assert_eq!(got, large);
    }

    #[tokio::test]
    async fn behind_a_batch_is_room_for_one_more_and_the_tables_hear_once_when_there_is_again() {
        let (sender, mut peer) = established().await;
        // More than both sockets take while nobody reads (`tcp_wmem` ends at 4 MiB, and who does not read gets no window).
        let octets = 8 << 20;
        for number in [1, 2] {
            assert!(sender.has_room());
            sender.send(vec![vec![number; octets].into()]);
        }
        assert!(!sender.has_room());
        assert!(!sender.write().unwrap());
        assert_eq!(sender.sending(), Some(Sending::Progress));
        assert_eq!(sender.sending(), Some(Sending::Blocked));
        sender.queue(keepalive());
        let (told, got) = tokio::join!(session(&sender), received(&mut peer, 2 * octets + 19));
        assert_eq!(told, 1);
        assert!(sender.has_room());
        let expected = [vec![1; octets], keepalive(), vec![2; octets]].concat();
        assert!(
            got == expected,
            "messages are whole, and those of the session do not wait for the next batch"
        );
    }

    #[tokio::test]
    async fn nothing_of_the_tables_follows_the_end_of_a_session_and_its_last_word_does() {
        let (sender, mut peer) = established().await;
        sender.end();
        sender.send(vec![vec![1; 100].into()]);
        sender.queue(keepalive());
        assert_eq!(session(&sender).await, 0);
        assert_eq!(sender.sent.load(Ordering::Relaxed), 1);
        drop(sender);
        let mut rest = Vec::new();
        timeout(DEADLINE, peer.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, keepalive());
    }
}

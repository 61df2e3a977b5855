//! The task of one BMP collector: dials it, writes what the tables have for it, and begins anew when it is lost.
//!
//! A collector that reads slowly costs the tables the set of routes that it must hear of yet (`rib/monitor.rs`) and two
//! batches of messages here, and nobody waits for it. One that takes nothing for [`STALLED`], or lags too far behind, is
//! left, dialled anew, and told all from the beginning.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::rib_task::{Inlet, MonitorDelivery, RibInput, Station, outlet};
use super::timer::until;
use crate::bmp::{self, TerminationReason};
use crate::config::{CheckedCollector, LONGEST_RETRY};
use crate::rib::MonitorId;

/// What a collector's task shows.
#[derive(Clone, Debug)]
pub(super) struct CollectorState {
    pub(super) connected: bool,
    /// Since when it is so.
    pub(super) since: Instant,
    pub(super) last_error: Option<String>,
    /// Routes that changed and that it must hear of yet, as of the tables' last word.
    waiting: Arc<AtomicUsize>,
    /// Sessions that began.
    pub(super) sessions: u64,
    /// Sessions that ended because the collector did not take what there was.
    pub(super) lagged: u64,
    /// Messages written, or about to be.
    pub(super) messages: u64,
    /// Octets written.
    pub(super) octets: u64,
}

impl CollectorState {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A running task.
#[derive(Debug)]
pub(super) struct CollectorHandle {
    pub(super) collector: CheckedCollector,
    pub(super) state: watch::Receiver<CollectorState>,
    end: oneshot::Sender<TerminationReason>,
    task: JoinHandle<()>,
}

/// How long a dial may take.
const DIAL_TIME: Duration = Duration::from_secs(10);
/// How long a collector may take nothing while something waits for it.
const STALLED: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });
/// How long the last message may take.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// A session that stayed up for so long proves that the collector works.
const STABLE: Duration = Duration::from_mins(1);

/// Why a session with a collector ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("connection")]
    Lost(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("it took nothing for {STALLED:?}")]
    Stalled,
    #[error("it lags too far behind, and begins anew")]
    Lags,
    #[error("the speaker ends, or other settings hold")]
    Wanted(TerminationReason),
}

/// How a session went.
struct Session {
    ended: Ended,
    /// The last message is written to its end.
    is_whole: bool,
}

struct CollectorTask {
    id: MonitorId,
    collector: CheckedCollector,
    rib: mpsc::Sender<RibInput>,
    state: watch::Sender<CollectorState>,
    end: oneshot::Receiver<TerminationReason>,
}

/// Starts the task of a collector under a number that no other has had.
pub(super) fn start(
    id: MonitorId,
    collector: CheckedCollector,
    rib: mpsc::Sender<RibInput>,
) -> CollectorHandle {
    let initial = CollectorState {
        connected: false,
        since: Instant::now(),
        last_error: None,
        waiting: Arc::default(),
        sessions: 0,
        lagged: 0,
        messages: 0,
        octets: 0,
    };
    let (state, watched) = watch::channel(initial);
    let (end, ended) = oneshot::channel();
    let task = CollectorTask { id, collector: collector.clone(), rib, state, end: ended };
    CollectorHandle { collector, state: watched, end, task: tokio::spawn(task.run()) }
}

/// Ends collectors with a Termination for each that is there, all at once.
pub(super) async fn end(ending: Vec<(CollectorHandle, TerminationReason)>) {
    let mut tasks = Vec::new();
    for (CollectorHandle { end, task, .. }, reason) in ending {
        if end.send(reason).is_err() {
            tracing::debug!("the task of a collector is gone already");
        }
        tasks.push(task);
    }
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "collector task");
        }
    }
}

impl CollectorTask {
    async fn run(mut self) {
        let address = self.collector.address;
        let mut failures = 0;
        loop {
            let dialled = tokio::select! {
                _ = &mut self.end => return,
                dialled = timeout(DIAL_TIME, dial(self.collector.address, self.collector.local_address)) => {
                    dialled.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
                }
            };
            match dialled {
                Ok(stream) => {
                    tracing::info!(collector = %address, "BMP session begins");
                    let begin = Instant::now();
                    let Session { ended, is_whole } = self.session(&stream).await;
                    // The tables may be gone before us.
                    drop(self.rib.send(RibInput::EndMonitor(self.id)).await);
                    if is_whole {
                        self.close(stream, &ended).await;
                    }
                    if matches!(ended, Ended::Wanted(_)) {
                        return;
                    }
                    tracing::warn!(collector = %address, reason = %in_words(&ended), "BMP session lost");
                    if begin.elapsed() >= STABLE {
                        failures = 0;
                    }
                    self.note_end(&ended);
                }
                Err(error) => {
                    tracing::debug!(collector = %address, %error, "dial");
                    self.state.send_modify(|state| state.last_error = Some(format!("dial: {error}")));
                }
            }
            let retry = retry(self.collector.connect_retry, failures);
            failures += 1;
            tokio::select! {
                _ = &mut self.end => return,
                () = until(Some(Instant::now() + retry)) => {}
            }
        }
    }

    fn note_end(&self, ended: &Ended) {
        self.state.send_modify(|state| {
            state.connected = false;
            state.since = Instant::now();
            state.last_error = Some(in_words(ended));
            state.waiting.store(0, Ordering::Relaxed);
            state.lagged += u64::from(matches!(ended, Ended::Stalled | Ended::Lags));
        });
    }

    /// Tells the collector all that the tables have for it, until something ends that.
    async fn session(&mut self, stream: &TcpStream) -> Session {
        let (outlet, inlet) = outlet();
        let mut writer = Writer { stream, octets: Vec::new(), written: 0, progress: Instant::now() };
        bmp::initiation(&self.sys_name(), &self.sys_descr(), &mut writer.octets);
        self.state.send_modify(|state| {
            state.connected = true;
            state.since = Instant::now();
            state.last_error = None;
            state.sessions += 1;
            state.messages += 1;
        });
        let waiting = Arc::clone(&self.state.borrow().waiting);
        let station = Station { outlet, waiting };
        let begin = RibInput::BeginMonitor { id: self.id, views: self.collector.views, station };
        // Gone only when the speaker ends, which the loop waits for.
        drop(self.rib.send(begin).await);
        let ended = match self.tell(&mut writer, inlet).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        // What is said at the end goes behind whole messages.
        if matches!(ended, Ended::Wanted(_) | Ended::Lags) {
            drop(timeout(CLOSE_TIME, writer.flush()).await);
        }
        Session { ended, is_whole: writer.is_flushed() }
    }

    async fn tell(
        &mut self,
        writer: &mut Writer<'_>,
        mut inlet: Inlet,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut report_at = self.collector.statistics_interval.map(|interval| Instant::now() + interval);
        loop {
            let idle = writer.is_flushed();
            let stalled_at = (!idle).then_some(writer.progress + STALLED);
            tokio::select! {
                reason = &mut self.end => {
                    return Err(Ended::Wanted(reason.unwrap_or(TerminationReason::Administrative)));
                }
                Some(delivery) = inlet.deliveries.recv(), if idle => match delivery {
                    MonitorDelivery::Messages(octets) => {
                        self.note_sent(&octets);
                        writer.take(octets);
                        writer.write()?;
                    }
                    MonitorDelivery::Lost => return Err(Ended::Lags),
                },
                ready = writer.ready() => {
                    let ready = ready?;
                    if ready.is_readable() || ready.is_read_closed() {
                        writer.read()?;
                    }
                    if ready.is_writable() {
                        writer.write()?;
                    }
                }
                () = until(stalled_at) => return Err(Ended::Stalled),
                () = until(report_at) => {
                    report_at = self.collector.statistics_interval.map(|interval| Instant::now() + interval);
                    drop(self.rib.send(RibInput::MonitorStatistics(self.id)).await);
                }
            }
            if writer.is_flushed() && inlet.is_awaited() {
                drop(self.rib.send(RibInput::Written).await);
            }
        }
    }

    fn note_sent(&self, octets: &[u8]) {
        self.state.send_modify(|state| {
            state.messages += bmp::count(octets);
            state.octets += u64::try_from(octets.len()).unwrap_or(u64::MAX);
        });
    }

    /// Says why the session ends, if the collector can be told.
    async fn close(&self, mut stream: TcpStream, ended: &Ended) {
        let reason = match ended {
            Ended::Wanted(reason) => *reason,
            Ended::Lags => TerminationReason::OutOfResources,
            // It does not read, or is not there.
            Ended::Lost(_) | Ended::Closed | Ended::Stalled => return,
        };
        let mut message = Vec::new();
        bmp::termination(reason, &mut message);
        let deliver = async {
            stream.write_all(&message).await?;
            stream.shutdown().await
        };
        // The connection goes in any case.
        drop(timeout(CLOSE_TIME, deliver).await);
    }

    fn sys_name(&self) -> String {
        self.collector.sys_name.clone().unwrap_or_else(|| {
            nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        })
    }

    fn sys_descr(&self) -> String {
        let own = || concat!("margay-bgp ", env!("CARGO_PKG_VERSION")).to_owned();
        self.collector.sys_descr.clone().unwrap_or_else(own)
    }
}

/// What is written to a collector.
struct Writer<'a> {
    stream: &'a TcpStream,
    octets: Vec<u8>,
    written: usize,
    /// When the collector last took something, or had nothing to take.
    progress: Instant,
}

impl Writer<'_> {
    fn is_flushed(&self) -> bool {
        self.written == self.octets.len()
    }

    fn take(&mut self, octets: Vec<u8>) {
        (self.octets, self.written, self.progress) = (octets, 0, Instant::now());
    }

    /// Resolves when the socket can be read, or written if there is something to write.
    async fn ready(&self) -> io::Result<tokio::io::Ready> {
        let reading = tokio::io::Interest::READABLE;
        let interest = if self.is_flushed() { reading } else { reading | tokio::io::Interest::WRITABLE };
        self.stream.ready(interest).await
    }

    /// Writes all there is.
    async fn flush(&mut self) -> io::Result<()> {
        while !self.is_flushed() {
            self.stream.writable().await?;
            self.write()?;
        }
        Ok(())
    }

    /// Writes what the socket takes now.
    fn write(&mut self) -> io::Result<()> {
        while let Some(rest @ [_, ..]) = self.octets.get(self.written..) {
            match self.stream.try_write(rest) {
                Ok(octets) => {
                    self.written += octets;
                    self.progress = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        (self.octets, self.written) = (Vec::new(), 0);
        Ok(())
    }

    /// A collector has nothing to say (RFC 7854 section 3.2) but that it goes.
    fn read(&self) -> Result<(), Ended> {
        let mut ignored = [0; 1024];
        match self.stream.try_read(&mut ignored) {
            Ok(0) => Err(Ended::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// How long a collector is left alone after so many failures in a row.
fn retry(first: Duration, failures: u32) -> Duration {
    let longest = Duration::from_secs(LONGEST_RETRY.into());
    first.saturating_mul(1 << failures.min(10)).min(longest)
}

async fn dial(address: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(local) = local {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    // Nothing may be said for long, and nobody answers: only the kernel can find out that the collector is gone.
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_mins(1)).with_interval(Duration::from_secs(10));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

fn in_words(ended: &Ended) -> String {
    match ended {
        Ended::Lost(error) => format!("{ended}: {error}"),
        _ => ended.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_time_between_dials_doubles_up_to_twelve_minutes() {
        let seconds = |failures| retry(Duration::from_secs(30), failures).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 5, 99].map(seconds), [30, 60, 120, 240, 480, 720, 720]);
    }

    /// A collector's task with its collector, and the tables' end of both.
    struct Stage {
        listener: TcpListener,
        handle: CollectorHandle,
        tables: mpsc::Receiver<RibInput>,
    }

    impl Stage {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let text = format!(
                "asn: 64500\nrouter_id: 192.0.2.1\nbmp:\n  sys_name: me\n  sys_descr: it\n  collectors:\n  \
                 - {{address: '{address}', connect_retry: 1, statistics_interval: 0}}\n"
            );
            let collector = Config::from_yaml(&text).unwrap().check().unwrap().collectors.remove(&address);
            let (rib, tables) = mpsc::channel(8);
            Self { listener, handle: start(MonitorId(7), collector.unwrap(), rib), tables }
        }

        /// The next session: the collector's socket behind the Initiation, and the way to the task.
        async fn session(&mut self) -> (TcpStream, Station) {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut initiation = [0; 18];
            stream.read_exact(&mut initiation).await.unwrap();
            assert_eq!(initiation, *b"\x03\0\0\0\x12\x04\0\x01\0\x02it\0\x02\0\x02me");
            loop {
                match self.tables.recv().await.unwrap() {
                    RibInput::BeginMonitor { id: MonitorId(7), station, .. } => return (stream, station),
                    RibInput::EndMonitor(MonitorId(7)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    async fn rest(mut stream: TcpStream) -> Vec<u8> {
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).await.unwrap();
        octets
    }

    fn with_runtime(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn one_that_lags_is_told_so_and_dialled_anew() {
        with_runtime(async {
            let mut stage = Stage::new().await;
            let (stream, station) = stage.session().await;
            station.outlet.send(MonitorDelivery::Lost);
            assert_eq!(rest(stream).await, [3, 0, 0, 0, 12, 5, 0, 1, 0, 2, 0, 2], "out of resources");
            let (stream, _station) = stage.session().await;
            let state = stage.handle.state.borrow().clone();
            assert_eq!((state.connected, state.sessions, state.lagged), (true, 2, 1));
            end(vec![(stage.handle, TerminationReason::ForGood)]).await;
            assert_eq!(rest(stream).await, [3, 0, 0, 0, 12, 5, 0, 1, 0, 2, 0, 4]);
        });
    }

    #[test]
    fn a_message_that_is_under_way_at_the_end_is_whole_or_the_last() {
        with_runtime(async {
            let mut stage = Stage::new().await;
            let (stream, station) = stage.session().await;
            // More than all buffers between the two hold.
            let batch = vec![0; 64 << 20];
            station.outlet.send(MonitorDelivery::Messages(batch.clone()));
            stage.handle.state.wait_for(|state| state.octets > 0).await.unwrap();
            let reading = tokio::spawn(rest(stream));
            end(vec![(stage.handle, TerminationReason::ForGood)]).await;
            let read = reading.await.unwrap();
            let termination = [3, 0, 0, 0, 12, 5, 0, 1, 0, 2, 0, 4];
            if let Some(behind) = read.strip_prefix(batch.as_slice()) {
                assert_eq!(behind, termination);
            } else {
                assert!(batch.starts_with(&read), "{} octets", read.len());
            }
        });
    }

    #[test]
    fn one_that_takes_nothing_is_left_and_one_that_goes_is_dialled_anew() {
        with_runtime(async {
            let mut stage = Stage::new().await;
            let (stream, station) = stage.session().await;
            // More than all buffers between the two hold.
            station.outlet.send(MonitorDelivery::Messages(vec![0; 64 << 20]));
            stage.handle.state.wait_for(|state| !state.connected).await.unwrap();
            let error = stage.handle.state.borrow().last_error.clone();
            assert_eq!(error.as_deref(), Some("it took nothing for 1s"));
            drop(stream);
            let (stream, _station) = stage.session().await;
            drop(stream);
            let _anew = stage.session().await;
            let state = stage.handle.state.borrow().clone();
            assert_eq!((state.sessions, state.lagged), (3, 1));
            end(vec![(stage.handle, TerminationReason::Administrative)]).await;
        });
    }
}

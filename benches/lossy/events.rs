//! Transfers while connections are cut: how many break, and how long an echo pauses.

use std::{
    fmt,
    io::{self, Read},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    load::{self, Target},
    options::Options,
    path::{LossyPath, tcp_flows::CutTarget},
    rows::{Event, EventRow},
    service::{CORRECT, Content, ECHO, RECEIVE, SEND},
};

/// The transfers at a time. Half of them go up.
const TRANSFERS: usize = 8;

/// The time between two cuts, and the time before the first one.
const CUT_INTERVAL: Duration = Duration::from_secs(1);

/// The time in which nothing passes after a cut of all connections.
const OUTAGE: Duration = Duration::from_secs(3);

/// The interval between two looks at running transfers.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// The outcome of the transfers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventResult {
    /// Transfers that failed or arrived with other content.
    pub broken: usize,
    /// Whether the connection of the echoes ended.
    pub is_echo_broken: bool,
    /// The longest round trip of an echo, in milliseconds.
    pub longest_ping: f64,
    /// The same beside transfers without cuts. It shows what the path and the processors cost.
    pub longest_ping_uncut: f64,
    /// The cuts while the transfers ran.
    pub cuts: usize,
    /// The time until the last transfer was complete or broken.
    pub seconds: f64,
    /// The most TCP connections that carried the transfers at the time of a cut.
    pub links: usize,
}

impl fmt::Display for EventResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} of {TRANSFERS} transfers broken by {} cuts, echo {} after at most {:.0} ms ({:.0} ms without cuts), {:.1} s, {} connections on the path",
            self.broken,
            self.cuts,
            if self.is_echo_broken {
                "broken"
            } else {
                "returns"
            },
            self.longest_ping,
            self.longest_ping_uncut,
            self.seconds,
            self.links
        )
    }
}

/// Runs the transfers without cuts, and then with cuts until all of them have ended.
pub(crate) fn measure(
    target: &Target<'_>,
    event: &EventRow,
    path: &LossyPath,
    options: &Options,
) -> anyhow::Result<EventResult> {
    let uncut = measure_transfers(target, event, None, path, options)?;
    let cut = measure_transfers(target, event, Some(event.event), path, options)?;
    Ok(EventResult {
        longest_ping_uncut: uncut.longest_ping,
        ..cut
    })
}

fn measure_transfers(
    target: &Target<'_>,
    row: &EventRow,
    event: Option<Event>,
    path: &LossyPath,
    options: &Options,
) -> anyhow::Result<EventResult> {
    let echoes = target.connect(&[ECHO])?;
    let (ended, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let length = row.bytes / options.event_divisor.max(1);
    let transfer = |seed: usize| {
        let content = Content {
            length,
            seed: seed as u64,
        };
        let is_complete = run_transfer(target, content, seed % 2 == 1);
        ended.fetch_add(1, Relaxed);
        is_complete
    };
    let begun = Instant::now();
    thread::scope(|scope| {
        let transfers: Vec<_> = (0..TRANSFERS)
            .map(|seed| scope.spawn(move || transfer(seed)))
            .collect();
        let pinging = scope.spawn(|| ping_until(&echoes, &stop));
        let is_running = || ended.load(Relaxed) < TRANSFERS;
        let (cuts, links) = cut_while(&is_running, event, path);
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        let results = transfers.into_iter().map(|transfer| transfer.join());
        let complete = results
            .filter(|result| matches!(result, Ok(Ok(true))))
            .count();
        let (longest_ping, is_echo_broken) = pinging.join().unwrap_or((f64::NAN, true));
        Ok(EventResult {
            broken: TRANSFERS - complete,
            is_echo_broken,
            longest_ping,
            longest_ping_uncut: longest_ping,
            cuts,
            seconds,
            links,
        })
    })
}

/// Cuts connections until the transfers have ended. Returns the number of cuts, and the most
/// connections that were in use.
fn cut_while(
    is_running: &impl Fn() -> bool,
    event: Option<Event>,
    path: &LossyPath,
) -> (usize, usize) {
    let (mut cuts, mut links) = (0, 0);
    while wait_while(is_running, CUT_INTERVAL) {
        links = links.max(load::links_in_use(path));
        match event {
            Some(Event::CutBusiest) => cuts += usize::from(cut_busiest(path)),
            Some(Event::CutAll) if cuts == 0 => {
                path.set_blocked(true);
                cuts = path.cut_all_connections();
                load::sleep(OUTAGE);
                path.set_blocked(false);
            }
            Some(Event::CutAll) | None => {}
        }
    }
    (cuts, links)
}

fn cut_busiest(path: &LossyPath) -> bool {
    path.cut_connection(CutTarget::Busiest).is_some()
}

/// Waits for this long, or until the transfers have ended. Returns whether they still run.
fn wait_while(is_running: &impl Fn() -> bool, time: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < time && is_running() {
        load::sleep(CHECK_INTERVAL);
    }
    is_running()
}

/// Moves content on a new connection. Returns whether it arrived unchanged.
fn run_transfer(target: &Target<'_>, content: Content, is_upload: bool) -> io::Result<bool> {
    let request = |command: u8| [&[command][..], &content.fields()[..]].concat();
    if is_upload {
        let mut stream = target.connect(&request(RECEIVE))?;
        content.send(&stream)?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        return Ok(answer == [CORRECT]);
    }
    let stream = target.connect(&request(SEND))?;
    let is_correct = content.receive(&stream)?;
    stream.shutdown(Shutdown::Write)?;
    Ok(is_correct)
}

/// Repeats echoes until `stop`. Returns the longest round trip in milliseconds, and whether the
/// connection ended.
fn ping_until(stream: &TcpStream, stop: &AtomicBool) -> (f64, bool) {
    let mut longest = 0.0_f64;
    while !stop.load(Relaxed) {
        match load::ping(stream) {
            Ok(time) => longest = longest.max(time),
            Err(_) => return (longest, true),
        }
    }
    (longest, false)
}

//! Where calls go: the simulated rig's driver behind a socket, or one in this process.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::nvmlDevice_t;
use rigd_sim::nvml::{Act, Call, Return, Standalone, code};
use rigd_sim::world::card::{MAX_CARDS, Profile};

/// A rig that does not answer for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Handles are these addresses, one a card: nothing is there.
const FIRST_HANDLE: usize = 0xfa4e_0000;

/// One for the process, as the real library's is; not held while a call hangs.
static LINK: Mutex<Option<Link>> = Mutex::new(None);

enum Link {
    Rig(BufReader<UnixStream>),
    Own(Box<Own>),
}

struct Own {
    driver: Standalone,
    last: Instant,
    /// Time moves on by so much at each call, and not by the clock.
    step: Option<Duration>,
}

/// The handle of a card.
pub(crate) fn handle(card: u32) -> nvmlDevice_t {
    let card = usize::try_from(card).unwrap_or(usize::MAX).min(MAX_CARDS);
    std::ptr::without_provenance_mut(FIRST_HANDLE + card)
}

/// The card of a handle. A real library would crash on a wrong one.
pub(crate) fn card(device: nvmlDevice_t) -> Result<usize, u32> {
    let card = device.addr().checked_sub(FIRST_HANDLE);
    card.filter(|card| *card < MAX_CARDS).ok_or(code::INVALID_ARGUMENT)
}

/// One call, with what a fault makes of it. Gives what came back where its code is success.
pub(crate) fn call(symbol: &str, card: Option<usize>, arguments: &[i64], text: &str) -> Result<Return, u32> {
    let call =
        Call { uid: uid(), symbol: symbol.to_owned(), card, arguments: arguments.to_vec(), text: text.to_owned() };
    let returned = exchange(&call)?;
    match returned.act {
        Act::None | Act::Race | Act::Sizes => {}
        Act::Slow(ms) => thread::sleep(Duration::from_millis(ms.into())),
        Act::Hang => loop {
            thread::park();
        },
        Act::Segv => die(),
        Act::Abort => std::process::abort(),
    }
    if returned.code == code::SUCCESS { Ok(returned) } else { Err(returned.code) }
}

/// The first signal may only undo the handler that Rust's runtime has for stack overflows.
fn die() -> ! {
    loop {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::SEGV).ok();
        thread::yield_now();
    }
}

fn uid() -> u32 {
    let said = env::var("RIGD_FAKE_NVML_UID").ok().and_then(|uid| uid.parse().ok());
    said.unwrap_or_else(|| rustix::process::geteuid().as_raw())
}

#[expect(clippy::disallowed_methods, reason = "the shell that asks the clock for a world of its own")]
fn exchange(call: &Call) -> Result<Return, u32> {
    let mut slot = LINK.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() {
        *slot = Some(open()?);
    }
    let link = slot.as_mut().ok_or(code::UNKNOWN)?;
    match link {
        Link::Own(own) => {
            let since = own.step.unwrap_or_else(|| own.last.elapsed());
            own.last = Instant::now();
            Ok(own.driver.call(call, since))
        }
        Link::Rig(stream) => {
            let returned = ask(stream, call);
            if returned.is_none() {
                *slot = None;
            }
            returned.ok_or(code::UNKNOWN)
        }
    }
}

fn ask(stream: &mut BufReader<UnixStream>, call: &Call) -> Option<Return> {
    stream.get_mut().write_all(format!("{call}\n").as_bytes()).ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    line.strip_suffix('\n')?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "the shell that asks the clock for a world of its own")]
fn open() -> Result<Link, u32> {
    if let Some(dir) = env::var_os("RIGD_SIMULATION") {
        let stream = UnixStream::connect(Path::new(&dir).join("nvml")).map_err(|_| code::DRIVER_NOT_LOADED)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|_| code::UNKNOWN)?;
        return Ok(Link::Rig(BufReader::new(stream)));
    }
    let cards = env::var("RIGD_FAKE_NVML").unwrap_or_else(|_| "ampere".to_owned());
    let cards = Profile::list(&cards).map_err(|_| code::DRIVER_NOT_LOADED)?;
    let mut driver = Standalone::new(cards, 1);
    for line in env::var("RIGD_FAKE_NVML_SAY").unwrap_or_default().split(';').filter(|line| !line.trim().is_empty()) {
        // What is wrong with it cannot be told through NVML; that nothing works is the next best.
        driver.control(line).map_err(|_| code::DRIVER_NOT_LOADED)?;
    }
    let step = env::var("RIGD_FAKE_NVML_STEP_MS").ok().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    Ok(Link::Own(Box::new(Own { driver, last: Instant::now(), step })))
}

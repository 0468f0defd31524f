//! Whether the rig is restarted for a payload or a GPU that nothing else helps. Off unless somebody has switched it on.
//!
//! Two things ask for it: the watchdog that has put a payload into quarantine for its rate, and an error of a GPU that
//! NVIDIA's catalogue answers with "restart the machine". A restart is written down before it is made, and what cannot be
//! written down is not made: a rig whose disk takes nothing would restart for ever. The payload that asked gets one more
//! chance after it; a second quarantine within the day costs the second restart of the budget, and then it stays there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use log::{error, info, warn};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use super::supervisor::{Order, What};
use crate::clock;
use crate::statefile::StateFile;

/// Wishes that wait; one more is the same wish.
pub const WISHES: usize = 1;
const DAY_S: u64 = 86_400;
const LARGEST: u64 = 4 * 1024;

/// Who asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A payload in quarantine for its rate, by its name.
    Payload(String),
    /// A GPU, by its PCI address.
    Gpu(String),
    /// The control plane.
    Ordered,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Payload(name) => write!(f, "payload {name} yields too little, and starting it anew did not help"),
            Self::Gpu(pci) => write!(f, "GPU {pci} asks for it"),
            Self::Ordered => f.write_str("the control plane ordered it"),
        }
    }
}

/// What comes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has switched it on.
    Off,
    /// There were as many within a day as there may be.
    Spent,
    /// The rig is restarted.
    Go,
}

/// Decides by the restarts before, in seconds since 1970. One that is ahead of the clock counts: where the clock was put
/// back nobody knows how long ago it was.
#[must_use]
pub fn decide(per_day: u8, before: &[u64], now_s: u64) -> Verdict {
    let spent = before.iter().filter(|at| is_recent(**at, now_s)).count();
    match usize::from(per_day) {
        0 => Verdict::Off,
        most if spent >= most => Verdict::Spent,
        _ => Verdict::Go,
    }
}

const fn is_recent(at: u64, now_s: u64) -> bool {
    at > now_s || now_s - at < DAY_S
}

/// What it goes by.
pub struct Inputs {
    /// Restarts in a day; 0 switches it off.
    pub per_day: u8,
    /// The agent's state directory.
    pub state: PathBuf,
    /// This boot of the rig.
    pub boot: String,
    /// What is wished for.
    pub wishes: mpsc::Receiver<Why>,
    /// The most that may be ordered in a day, those that were wished for counted too; 0 where the rig is a simulated one.
    pub ordered_per_day: u8,
    /// What is ordered, and where the answer goes: that it is under way, or why it is not.
    pub ordered: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
    /// The way to payloads.
    pub orders: mpsc::Sender<Order>,
    /// Restarts the rig.
    pub restart: fn() -> io::Result<()>,
}

/// What outlives the restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Seconds since 1970.
    restarts: Vec<u64>,
    /// The boot that was ended by the last one.
    boot: String,
    /// The payload that gets another chance after it.
    again: Option<String>,
}

/// Restarts the rig where that is wished for and allowed.
pub async fn run(inputs: Inputs) {
    let Inputs { per_day, state, boot, mut wishes, ordered_per_day, mut ordered, orders, restart } = inputs;
    let file = file(&state);
    let mut kept: Kept = file.load("the restarts of this day are counted anew");
    if kept.boot != boot
        && let Some(name) = kept.again.take()
    {
        if let Err(error) = file.save(&kept) {
            warn!("{}: {error}", state.display());
        }
        // Where there is no such payload any more nobody has to know.
        let _ = orders.send(Order { name, what: What::Again }).await;
    }
    // Payloads end when nobody can order anything any more.
    drop(orders);
    loop {
        let (why, per_day, answer) = tokio::select! {
            Some(why) = wishes.recv() => (why, per_day, None),
            Some(answer) = ordered.recv() => (Why::Ordered, ordered_per_day, Some(answer)),
            else => return,
        };
        let now_s = clock::unix_ms() / 1_000;
        let made = match decide(per_day, &kept.restarts, now_s) {
            Verdict::Off => {
                info!("the rig could be restarted: {why}; it is switched off");
                Err("restarting this rig is switched off".to_owned())
            }
            Verdict::Spent => {
                warn!("the rig is not restarted again: {why}; {per_day} in a day are enough");
                Err(format!("not restarted again: {per_day} in a day are enough"))
            }
            Verdict::Go => {
                warn!("the rig is restarted: {why}");
                kept = after(kept, &boot, &why, now_s);
                let (file, kept) = (file.clone(), kept.clone());
                let made = spawn_blocking(move || file.save(&kept).and_then(|()| restart())).await;
                made.unwrap_or_else(|error| Err(error.into())).map_err(|error| {
                    error!("the rig could not be restarted: {error}");
                    format!("could not be restarted: {error}")
                })
            }
        };
        let restarted = made.is_ok();
        if let Some(answer) = answer {
            // Who asked may be gone.
            let _ = answer.send(made);
        }
        if restarted {
            // Whatever else is wished for comes with it.
            return;
        }
    }
}

fn file(state: &Path) -> StateFile {
    StateFile::new(state, "restarts.json", LARGEST)
}

fn after(kept: Kept, boot: &str, why: &Why, now_s: u64) -> Kept {
    let again = match why {
        Why::Payload(name) => Some(name.clone()),
        Why::Gpu(_) | Why::Ordered => kept.again,
    };
    let recent = kept.restarts.into_iter().filter(|at| is_recent(*at, now_s));
    Kept { restarts: recent.chain([now_s]).collect(), boot: boot.to_owned(), again }
}

/// Has systemd restart the rig in good order, as `systemctl reboot` does; `systemd/rigd-reboot.rules` gives the agent's user
/// the right to it. A signal to systemd would need no such rule, but its number is another one where the C library is.
///
/// # Errors
/// What the system says, or systemctl's code; what it printed is in the agent's log.
pub fn restart() -> io::Result<()> {
    let status = Command::new("systemctl").args(["--no-ask-password", "reboot"]).stdin(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("systemctl reboot: {status}"))) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn it_is_off_or_within_a_budget() {
        let now = 1_000_000;
        for (name, per_day, before, expected) in [
            ("off", 0, vec![], Verdict::Off),
            ("the first", 2, vec![], Verdict::Go),
            ("the second", 2, vec![now - 60], Verdict::Go),
            ("the third", 2, vec![now - 120, now - 60], Verdict::Spent),
            ("the first was yesterday", 2, vec![now - DAY_S, now - 60], Verdict::Go),
            ("a second less", 2, vec![now - DAY_S + 1, now - 60], Verdict::Spent),
            ("the clock was put back", 1, vec![now + 5_000_000], Verdict::Spent),
        ] {
            assert_eq!(decide(per_day, &before, now), expected, "{name}");
        }
    }

    static MADE: AtomicU32 = AtomicU32::new(0);

    #[expect(clippy::unnecessary_wraps, reason = "stands in for one that fails")]
    fn counted() -> io::Result<()> {
        MADE.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// One boot of the rig, with these wishes; what payloads were ordered.
    async fn boot(state: &Path, boot: &str, per_day: u8, wishes: &[Why]) -> Vec<String> {
        let (wish, waiting) = mpsc::channel(8);
        let (orders, mut told) = mpsc::channel(8);
        for why in wishes {
            wish.send(why.clone()).await.unwrap();
        }
        drop(wish);
        let (state, boot) = (state.to_owned(), boot.to_owned());
        let (_, ordered_by_nobody) = mpsc::channel(1);
        let ordered = ordered_by_nobody;
        run(Inputs { per_day, state, boot, wishes: waiting, ordered_per_day: 0, ordered, orders, restart: counted })
            .await;
        let mut names = Vec::new();
        while let Some(Order { name, what }) = told.recv().await {
            assert!(matches!(what, What::Again), "{what:?}");
            names.push(name);
        }
        names
    }

    #[tokio::test]
    async fn the_budget_outlives_the_restart_and_the_payload_gets_another_chance() {
        let state = Scratch::new("reboot");
        let miner = [Why::Payload("miner".to_owned())];
        let made = || MADE.load(Ordering::Relaxed);
        assert!(boot(&state, "a", 0, &miner).await.is_empty());
        assert_eq!(made(), 0, "off");
        assert!(boot(&state, "a", 2, &miner).await.is_empty());
        assert_eq!(made(), 1);
        assert!(boot(&state, "a", 2, &[]).await.is_empty(), "another agent, and the rig was not restarted yet");
        assert_eq!(boot(&state, "b", 2, &miner).await, ["miner"]);
        assert_eq!(made(), 2);
        let gpu = [Why::Gpu("0000:01:00.0".to_owned())];
        assert_eq!(boot(&state, "c", 2, &[miner, gpu].concat()).await, ["miner"]);
        assert_eq!(made(), 2, "spent");
        assert!(boot(&state, "d", 2, &[]).await.is_empty(), "one chance each");
        // What cannot be written down is not made.
        std::fs::remove_dir_all(&*state).unwrap();
        assert!(boot(&state, "e", 2, &[Why::Gpu(String::new())]).await.is_empty());
        assert_eq!(made(), 2);
    }

    #[tokio::test]
    async fn what_is_ordered_has_a_budget_of_its_own_and_an_answer() {
        fn fails() -> io::Result<()> {
            Err(io::Error::other("no systemd here"))
        }
        for (most, before, expected) in [
            (0, 0, "restarting this rig is switched off"),
            (2, 2, "not restarted again: 2 in a day are enough"),
            (2, 1, "could not be restarted: no systemd here"),
        ] {
            let state = Scratch::new("reboot-order");
            let now = clock::unix_ms() / 1_000;
            let kept = Kept { restarts: vec![now; before], ..Kept::default() };
            file(&state).save(&kept).unwrap();
            let ((order, ordered), (_wish, wishes)) = (mpsc::channel(1), mpsc::channel(1));
            let (answer, answered) = oneshot::channel();
            order.send(answer).await.unwrap();
            let inputs = Inputs {
                per_day: 0,
                state: state.to_owned(),
                boot: String::new(),
                wishes,
                ordered_per_day: most,
                ordered,
                orders: mpsc::channel(1).0,
                restart: fails,
            };
            tokio::spawn(run(inputs));
            assert_eq!(answered.await.unwrap(), Err(expected.to_owned()));
        }
    }
}

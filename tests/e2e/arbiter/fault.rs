//! What breaks while GPUs change hands, and how that is done to a rig.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rigd::clock;

use super::World;
use crate::agent::until;
use crate::chaos::Dice;
use crate::house;

/// What breaks while GPUs change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The agent is killed.
    Killed,
    /// And the next one, soon after its start.
    KilledTwice,
    /// The comer ends at once.
    Fails,
    /// The process that owns the driver is killed.
    Helper,
    /// The driver forgets what was set.
    Reload,
    /// A card takes its time.
    Slow,
    /// A card is off the bus for a moment.
    Falls,
    /// A process that nobody knows of is on a card for a moment.
    Stranger,
    /// The market changes its mind, and once more.
    Mind,
}

impl Fault {
    /// How often each of them is met. A card that falls costs most of a minute.
    const OFTEN: [(Self, usize); 10] = [
        (Self::None, 2),
        (Self::Killed, 4),
        (Self::KilledTwice, 2),
        (Self::Fails, 3),
        (Self::Helper, 2),
        (Self::Reload, 2),
        (Self::Slow, 2),
        (Self::Falls, 1),
        (Self::Stranger, 3),
        (Self::Mind, 3),
    ];

    pub(super) fn any(dice: &mut Dice) -> Self {
        let mut at = dice.below(Self::OFTEN.iter().map(|(_, often)| often).sum());
        for (fault, often) in Self::OFTEN {
            if at < often {
                return fault;
            }
            at -= often;
        }
        Self::None
    }
}

impl World {
    /// The process that owns the driver.
    fn helper(&self) -> Option<i32> {
        let agent = i32::try_from(self.agent.pid()).unwrap();
        let is_helper =
            |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("rigd-nvml"));
        house::Seen::all().into_iter().find(|seen| seen.parent == agent && is_helper(seen.pid)).map(|seen| seen.pid)
    }

    /// Breaks something while `comer` takes over.
    pub(super) fn inject(&mut self, fault: Fault, comer: usize, dice: &mut Dice) {
        let later = |low, high, dice: &mut Dice| {
            let at = clock::now() + dice.between(Duration::from_millis(low), Duration::from_millis(high));
            until("some moments later", || (clock::now() >= at).then_some(()));
        };
        let say = |world: &Self, what: &str| world.agent.sim.control(what).map(drop).unwrap();
        match fault {
            Fault::None | Fault::Fails => {}
            Fault::Killed => self.kill(),
            Fault::KilledTwice => {
                self.kill();
                later(0, 2_500, dice);
                self.kill();
            }
            // One that dies again and again takes the blame to a card, which then is left alone until the agent's next start.
            Fault::Helper if self.helper_died => self.kill(),
            Fault::Helper => {
                if let Some(pid) = self.helper() {
                    house::kill(pid);
                    self.helper_died = true;
                }
            }
            Fault::Reload => say(self, "driver reload"),
            Fault::Slow => {
                say(self, "fault gpu 1 any slow 20");
                later(1_000, 4_000, dice);
                say(self, "clear gpu 1");
            }
            Fault::Falls => {
                say(self, "gpu 1 fall");
                later(500, 3_000, dice);
                say(self, "clear gpu 1");
            }
            Fault::Stranger => {
                let mut stranger = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
                say(self, &format!("gpu 1 process {} 2000", stranger.id()));
                later(500, 4_000, dice);
                stranger.kill().unwrap();
                stranger.wait().unwrap();
                say(self, &format!("gpu 1 process {} 0", stranger.id()));
            }
            Fault::Mind => {
                self.worth(Some(1 - comer));
                later(0, 3_000, dice);
                self.worth(Some(comer));
            }
        }
    }
}

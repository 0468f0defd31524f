//! A driver with a world of its own, for a library that is loaded without a simulated rig.

use std::time::Duration;

use super::{Call, Driver, Return, obey};
use crate::world::card::Profile;
use crate::world::{Layout, MAX_STEP, World};

/// Time that one call may make up for; more is let go.
const MOST_BEHIND: Duration = Duration::from_secs(60);

/// Cards in a frame with six fans, of which nobody but this process knows.
#[derive(Debug)]
pub struct Standalone {
    world: World,
    driver: Driver,
    client: u64,
}

impl Standalone {
    /// These cards.
    #[must_use]
    pub fn new(cards: Vec<&'static Profile>, seed: u64) -> Self {
        let layout = Layout {
            gpus: (0..cards.len()).map(|card| format!("gpu{card}")).collect(),
            fans: (1..=6).map(|fan| (format!("fan{fan}"), 6000.0, 0.2)).collect(),
            profiles: cards,
            ..Layout::default()
        };
        let mut driver = Driver::new(layout.gpus.len(), seed);
        let client = driver.connect();
        Self { world: World::new(&layout, seed), driver, client }
    }

    /// Does what one line says, as on the control socket of a rig.
    ///
    /// # Errors
    /// A line that is not about cards, or a mistake in it.
    pub fn control(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (obey(&mut self.driver, &mut self.world, &words), words.as_slice()) {
            (Some(said), _) => said,
            (None, ["load", load]) => {
                let load: f64 = load.parse().map_err(|_| format!("`{load}` is no load"))?;
                self.world.gpus.iter_mut().for_each(|gpu| gpu.load = load.clamp(0.0, 1.0));
                Ok(String::new())
            }
            (None, _) => Err(format!("no command `{line}`; there are fault, clear, gpu, driver and load")),
        }
    }

    /// One call, so long after the last.
    pub fn call(&mut self, call: &Call, since: Duration) -> Return {
        let mut left = since.min(MOST_BEHIND);
        while !left.is_zero() {
            let step = left.min(MAX_STEP);
            self.world.step(step);
            self.driver.notice(&mut self.world);
            left -= step;
        }
        self.driver.call(&mut self.world, self.client, call)
    }
}

//! Which earlier starts have nothing left here: what the control plane has not got of them by then is lost, and it is told so.

use super::super::Lane;
use super::{Freed, Keeper};

/// Starts that are newly named at a time: the next ones follow when these are confirmed. A control plane that forgot what it had
/// confirmed is told of all again, which are no more than it names marks.
const NAMED: usize = 16;

impl Keeper {
    /// The earlier starts that the next telemetry has to name.
    ///
    /// One is named until a message is confirmed that was made after its end was known, because each copy of such a message names it:
    /// of one that was made before, the copy that is stored may have gone out before.
    pub(super) fn ended(&mut self) -> Vec<u32> {
        let last = self.lines.get(Lane::Telemetry).last_seq;
        let confirmed = self.freed.get(&(self.boot, Lane::Telemetry)).map_or(0, Freed::confirmed);
        let marks = &self.marks;
        self.ended.retain(|boot, _| marks.iter().any(|mark| mark.boot == *boot));
        let mut open = self.ended.values().filter(|since| confirmed <= **since).count();
        for mark in &self.marks {
            let news = mark.boot != self.boot && !self.ended.contains_key(&mark.boot);
            if news && open < NAMED && !self.left_of(mark.boot) {
                self.ended.insert(mark.boot, last);
                open += 1;
            }
        }
        self.ended.iter().filter(|(_, since)| confirmed <= **since).map(|(boot, _)| *boot).collect()
    }

    /// Whether anything of an earlier start may still be sent; yes where the disk was not seen, or not all of it.
    fn left_of(&self, boot: u32) -> bool {
        let left = |lane: Lane| {
            let mut runs = self.lines.get(lane).shelf.segments.iter().flat_map(|segment| &segment.runs);
            // What could not be read yet counts as of no start.
            runs.any(|run| run.boot == 0 || (run.boot == boot && self.left(lane, *run) > 0))
        };
        !self.open || Lane::ALL.into_iter().any(left)
    }
}

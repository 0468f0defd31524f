use std::sync::mpsc::sync_channel;

use super::*;
use crate::gpu::card::FORGIVEN;
use crate::gpu::helper::DEADLINE;
use crate::scratch::Scratch;

/// A worker with three GPUs and no helper.
fn worker(scratch: &Scratch) -> Worker {
    let places = Places { launch: None, sysfs: scratch.to_path_buf(), kmsg: scratch.join("kmsg") };
    let (publish, _) = watch::channel(Arc::default());
    let (tell, _) = sync_channel(1);
    let (_, commands) = sync_channel(1);
    let mut worker = Worker::new(places, (GpuConfig::default(), Store::load(scratch)), publish, tell, commands);
    let pci = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"].map(|pci| pci.parse().unwrap());
    worker.cards = pci.map(Card::new).into();
    worker
}

/// What it is, how long ago a helper was lost over several calls, over which GPUs further ones are, and which are left alone then.
type Row = (&'static str, Option<Duration>, &'static [usize], &'static [usize]);

#[test]
fn a_loss_that_nobody_is_known_for_counts_against_one_gpu_at_most() {
    let scratch = Scratch::new("blame");
    let ago = |time| now().checked_sub(time).unwrap();
    let rows: [Row; 6] = [
        ("known both times", None, &[0, 0], &[0]),
        ("once each", None, &[0, 1, 2], &[]),
        ("the one that did it does it again", Some(Duration::ZERO), &[1], &[1]),
        ("others that are late once are well", Some(Duration::ZERO), &[1, 0, 2], &[1]),
        ("one of them is late again", Some(Duration::ZERO), &[1, 0, 2, 0], &[1, 0]),
        ("long ago", Some(FORGIVEN), &[1], &[]),
    ];
    for (what, lost, blamed, alone) in rows {
        let mut worker = worker(&scratch);
        if let Some(lost) = lost {
            worker.unblamed.lost(ago(lost));
        }
        for card in blamed {
            worker.lose(Some(*card), &Failure::Silent(DEADLINE));
        }
        let hung = |card: usize| worker.cards[card].now.presence == Presence::Hung;
        assert!((0..3).all(|card| hung(card) == alone.contains(&card)), "{what}");
        // Calls go one after the other all the same.
        assert_eq!(worker.unblamed.lately(now()), lost == Some(Duration::ZERO), "{what}");
    }
}

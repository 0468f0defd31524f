use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::*;

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("rigd-log-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn settings(max_bytes: u64, max_rate: u64) -> Log {
    Log { max_bytes, max_rate, mask: Vec::new() }
}

/// Says something through a keeper, and waits until it has written it down.
fn say(ring: &Ring, texts: &[&[u8]]) {
    let keeper = ring.keep(None).unwrap();
    let mut writer: File = keeper.writer.try_clone().unwrap().into();
    for text in texts {
        writer.write_all(text).unwrap();
    }
    assert!(keeper.works());
    drop(writer);
    let pidfd = keeper.release();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
}

fn size(directory: &Path) -> u64 {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn what_was_said_is_read_from_any_offset_across_keepers() {
    let directory = directory("read");
    let ring = Ring::new(&directory, &settings(4_096, 1 << 20));
    assert_eq!(ring.read(None, MOST, false, &Mask::default()).unwrap(), Part::default());
    say(&ring, &[b"one\n"]);
    say(&ring, &[b"two\n", &[b'x'; 1_500], b"\nend\nhalf a l"]);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
    let read = |from, ended| ring.read(from, LEAST, ended, &Mask::default()).unwrap();
    let part = |from, next, text: &str| Part { from, next, text: text.to_owned() };
    assert_eq!(read(Some(0), false), part(0, 8, "one\ntwo\n"));
    assert_eq!(read(Some(4), false), part(4, 8, "two\n"));
    // From within a line on, the next one is the first.
    assert_eq!(read(Some(1), false), part(4, 8, "two\n"));
    // A line that does not fit, then the rest of it, across the border of two files.
    assert_eq!(read(Some(8), false), part(8, 1_032, TOO_LONG));
    assert_eq!(read(Some(1_032), false), part(1_509, 1_513, "end\n"));
    // What is not finished is waited for, and shown when nothing more can come.
    assert_eq!(read(Some(1_513), false), part(1_513, 1_513, ""));
    assert_eq!(read(Some(1_513), true), part(1_513, 1_521, "half a l"));
    assert_eq!(read(Some(99_999), true), part(1_521, 1_521, ""));
    assert_eq!(read(None, true), part(1_509, 1_521, "end\nhalf a l"));
    fs::remove_dir_all(&directory).unwrap();
}

/// Whoever may choose where to read is shown no part of a secret.
#[test]
fn a_secret_is_not_read_in_halves() {
    let directory = directory("halves");
    let ring = Ring::new(&directory, &settings(65_536, 1 << 40));
    let secret = "correct-horse-battery-staple";
    say(&ring, &[format!("start\nkey is {secret} today\nend\nkey={secret}").as_bytes()]);
    let mask = Mask::new(&[], [secret.to_owned()].into_iter());
    for from in 0..100 {
        for ended in [false, true] {
            let text = ring.read(Some(from), LEAST, ended, &mask).unwrap().text;
            let shown = (0..secret.len() - 4).find(|at| text.contains(&secret[*at..at + 4]));
            assert_eq!(shown, None, "from {from}: {text}");
        }
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// As it is under a unit that may not look into other users' processes.
#[test]
fn a_pipe_is_taken_over_from_its_keeper_and_outlives_it() {
    let directory = directory("over");
    let ring = Ring::new(&directory, &settings(65_536, 1 << 20));
    let first = ring.keep(None).unwrap();
    let (pipe, mut payload) = (first.pipe(), File::from(first.writer.try_clone().unwrap()));
    // Of the kernel's word on the keeper's process, its number: the fourth field of its descriptor's information.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", first.pidfd.as_raw_fd())).unwrap();
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).and_then(Pid::from_raw);
    let nobody = i32::MAX;
    // It is a keeper once the pipe is where it reads.
    let (place, began) = (format!("/proc/{}/fd/0", pid.unwrap().as_raw_nonzero()), crate::clock::now());
    while fs::metadata(&place).map(|at| at.ino()).ok() != Some(pipe) {
        assert!(began.elapsed() < Duration::from_secs(10), "{place} is not the pipe");
        std::thread::yield_now();
    }
    assert!(ring.take_over(nobody, pipe + 1, pid, None).is_err() && ring.take_over(nobody, pipe, None, None).is_err());
    let mut taken = ring.take_over(nobody, pipe, pid, None).unwrap();
    // The agent before is gone, and with it its ends of the pipe; then the keeper dies.
    let Keeper { writer, input, pidfd, .. } = first;
    drop((writer, input));
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    payload.write_all(b"nobody reads this yet\n").unwrap();
    ring.go_on(&mut taken, None).unwrap();
    assert!(taken.works());
    payload.write_all(b"and now somebody does\n").unwrap();
    drop(payload);
    let pidfd = taken.release();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    let said = ring.read(None, MOST, true, &Mask::default()).unwrap().text;
    assert_eq!(said, "nobody reads this yet\nand now somebody does\n");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_ring_stays_within_its_budget_and_keeps_the_newest() {
    let directory = directory("budget");
    let ring = Ring::new(&directory, &settings(65_536, 1 << 40));
    let line = [[b'a'; 9_999].as_slice(), b"\n"].concat();
    let mut texts: Vec<&[u8]> = vec![line.as_slice(); 100];
    texts.push(b"last words");
    say(&ring, &texts);
    assert!(size(&directory) <= 65_536, "{} bytes", size(&directory));
    let part = ring.read(Some(0), MOST, true, &Mask::default()).unwrap();
    assert!(part.text.ends_with("last words") && part.from > 900_000 && part.next == 1_000_010, "from {}", part.from);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_is_beyond_the_rate_is_dropped_and_counted() {
    let directory = directory("rate");
    let ring = Ring::new(&directory, &settings(262_144, 1));
    say(&ring, &[&vec![b'a'; 4_000_000]]);
    assert!(size(&directory) <= 262_144, "{} bytes", size(&directory));
    let part = ring.read(None, MOST, true, &Mask::default()).unwrap();
    assert!(part.text.ends_with(" bytes dropped]\n"), "{}", &part.text[part.text.len().saturating_sub(80)..]);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn secrets_are_not_shown() {
    let mask = Mask::new(
        &["--api-key=".to_owned(), "token: ".to_owned()],
        ["hunter2hunter2".to_owned(), "ab".to_owned()].into_iter(),
    );
    for (said, shown) in [
        ("run --api-key=abc --x", "run --api-key=*** --x"),
        ("\"--api-key=abc\" --api-key=d", "\"--api-key=***\" --api-key=***"),
        ("token: \n", "token: \n"),
        ("it is xhunter2hunter2y, ab", "it is x***y, ab"),
        ("nothing", "nothing"),
    ] {
        assert_eq!(mask.apply(said), shown);
    }
}

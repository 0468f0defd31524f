use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal};

use super::*;

fn directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("rigd-log-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    directory
}

fn settings(max_bytes: u64, max_rate: u64) -> Log {
    Log { max_bytes, max_rate, mask: Vec::new() }
}

fn ring(directory: &Path, max_bytes: u64, max_rate: u64) -> Ring {
    Ring::new(directory, directory.join("pipe"), &settings(max_bytes, max_rate))
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
    let ring = ring(&directory, 4_096, 1 << 20);
    assert_eq!(ring.read(None, MOST, false, &Mask::default()).unwrap(), Part::default());
    say(&ring, &[b"one\n"]);
    say(&ring, &[b"two\n", &[b'x'; 1_500], b"\nend\nhalf a l"]);
    assert_eq!(ring.segments().len(), 2);
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
    let ring = ring(&directory, 65_536, 1 << 40);
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

/// Waits, at most a minute.
fn until<T>(what: &str, is: impl Fn() -> Option<T>) -> T {
    let began = crate::clock::now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: never");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Who has the lock, and its second: a pair that works.
fn pair(directory: &Path) -> (Pid, Pid) {
    until("a pair", || {
        let lock = File::options().read(true).write(true).open(directory.join(LOCK)).ok()?;
        let first = fcntl_getlk(&lock, &Flock::from(FlockType::WriteLock)).ok()??.pid?;
        let number = first.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).ok()?;
        Some((first, Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)?))
    })
}

/// Ends a process, and waits until it has ended: one that was only sent a signal may still take what is written next, and keep it.
fn kill(process: Pid) {
    let pidfd = pidfd_open(process, PidfdFlags::empty()).unwrap();
    pidfd_send_signal(&pidfd, Signal::KILL).unwrap();
    ended(&pidfd);
}

fn ended(pidfd: &OwnedFd) {
    rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None).unwrap();
}

fn end(keeper: Keeper) {
    let pidfd = keeper.release();
    // Of a second that has become the first this is no child.
    if waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).is_err() {
        ended(&pidfd);
    }
}

#[test]
fn a_pipe_is_taken_over_by_its_name_and_outlives_both_who_kept_it() {
    let directory = directory("over");
    let ring = ring(&directory, 65_536, 1 << 20);
    let first = ring.keep(None).unwrap();
    let (pipe, mut payload) = (first.pipe(), File::from(first.writer.try_clone().unwrap()));
    let (keeper, _) = pair(&directory);
    assert!(ring.take_over(pipe + 1, None).is_err());
    let mut taken = ring.take_over(pipe, None).unwrap();
    assert!(taken.found && !first.found);
    // The agent before is gone, and with it its end of the pipe; then both die at once.
    let Keeper { writer, pidfd, .. } = first;
    drop(writer);
    kill_process_group(keeper, Signal::KILL).unwrap();
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    // With no other reader than the payload itself.
    payload.write_all(b"nobody reads this yet\n").unwrap();
    ring.go_on(&mut taken, None).unwrap();
    assert!(taken.works() && !taken.found);
    payload.write_all(b"and now somebody does\n").unwrap();
    drop(payload);
    end(taken);
    let said = ring.read(None, MOST, true, &Mask::default()).unwrap().text;
    assert_eq!(said, "nobody reads this yet\nand now somebody does\n");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn each_of_the_two_is_followed_by_the_other_without_an_agent() {
    let directory = directory("two");
    let ring = ring(&directory, 65_536, 1 << 20);
    let mut kept = ring.keep(None).unwrap();
    let mut payload = File::from(kept.writer.try_clone().unwrap());
    let said = |text: &str| {
        until(text, || ring.read(None, MOST, true, &Mask::default()).unwrap().text.contains(text).then_some(()));
    };
    let others = |before: (Pid, Pid)| {
        until("others", || {
            let now = pair(&directory);
            (now != before).then_some(now)
        })
    };
    let pair = pair(&directory);
    payload.write_all(b"zero\n").unwrap();
    kill(pair.1);
    payload.write_all(b"one\n").unwrap();
    said("one\n");
    let second = others(pair);
    assert!(second.0 == pair.0 && second.1 != pair.1);
    kill(second.0);
    payload.write_all(b"two\n").unwrap();
    said("two\n");
    let third = others(second);
    assert_eq!(third.0, second.1, "the second is the first now");
    // The agent finds it.
    until("the first has ended", || (!kept.works()).then_some(()));
    ring.go_on(&mut kept, None).unwrap();
    assert!(kept.found);
    drop(payload);
    end(kept);
    let all = ring.read(None, MOST, true, &Mask::default()).unwrap().text;
    assert!(all.ends_with("one\ntwo\n"), "{all}");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_disk_that_hangs_loses_log_and_holds_nobody_up() {
    let directory = directory("hangs");
    let ring = ring(&directory, 65_536, 1 << 40);
    let kept = ring.keep(None).unwrap();
    let mut payload = File::from(kept.writer.try_clone().unwrap());
    let (_, second) = pair(&directory);
    // Who is in such a disk's hands does not go on, as one that is stopped.
    kill_process(second, Signal::STOP).unwrap();
    let line = [[b'a'; 9_999].as_slice(), b"\n"].concat();
    for _ in 0..1_000 {
        payload.write_all(&line).unwrap();
    }
    // All of it is read, and what found no room is lost; told behind what comes next, which is the last.
    let all_read = || until("all is read", || (rustix::io::ioctl_fionread(&payload).unwrap() == 0).then_some(()));
    all_read();
    // Who reads the next has done with what it had read before, which might have waited for the second still.
    (&payload).write_all(b"short\n").unwrap();
    all_read();
    kill_process(second, Signal::CONT).unwrap();
    payload.write_all(b"last words\n").unwrap();
    drop(payload);
    end(kept);
    let part = ring.read(None, MOST, true, &Mask::default()).unwrap();
    assert!(part.text.contains(" bytes dropped]\n"), "nothing was dropped");
    assert!(size(&directory) <= 65_536, "{} bytes", size(&directory));
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn one_that_is_left_of_an_earlier_run_keeps_the_next_one_too() {
    let directory = directory("left");
    let ring = ring(&directory, 65_536, 1 << 20);
    let first = ring.keep(None).unwrap();
    // Something that has left its session, where there are no cgroups.
    let mut left = File::from(first.writer.try_clone().unwrap());
    let (keeper, _) = pair(&directory);
    drop(first);
    let next = ring.keep(None).unwrap();
    assert!(next.found);
    let mut payload = File::from(next.writer.try_clone().unwrap());
    payload.write_all(b"the next run\n").unwrap();
    left.write_all(b"what was left\n").unwrap();
    assert_eq!(pair(&directory).0, keeper);
    drop((payload, left));
    end(next);
    let said = ring.read(None, MOST, true, &Mask::default()).unwrap().text;
    assert_eq!(said, "the next run\nwhat was left\n");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_ring_stays_within_its_budget_and_keeps_the_newest() {
    let directory = directory("budget");
    let ring = ring(&directory, 65_536, 1 << 40);
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
    let ring = ring(&directory, 262_144, 1);
    say(&ring, &[&vec![b'a'; 4_000_000]]);
    assert!(size(&directory) <= 262_144, "{} bytes", size(&directory));
    let part = ring.read(None, MOST, true, &Mask::default()).unwrap();
    assert!(part.text.ends_with(" bytes dropped]\n"), "{}", &part.text[part.text.len().saturating_sub(80)..]);
    fs::remove_dir_all(&directory).unwrap();
}

/// What is lost begins and ends within a line. Neither half of it is shown as if it were one.
#[test]
fn of_a_line_that_is_lost_in_part_nothing_is_shown() {
    let directory = directory("part");
    // A reserve of 64 KiB, and a byte a second.
    let ring = ring(&directory, 65_536, 1);
    let keeper = ring.keep(None).unwrap();
    let mut payload = File::from(keeper.writer.try_clone().unwrap());
    let lines = [[b'a'; 99].as_slice(), b"\n"].concat().repeat(650);
    for said in [lines.as_slice(), b"key: correct-horse", &[b'x'; 2_000], b"battery-staple\nwhole\n", b"another"] {
        payload.write_all(said).unwrap();
        // Taken, or left, as one.
        until("it is read", || (rustix::io::ioctl_fionread(&payload).unwrap() == 0).then_some(()));
    }
    drop(payload);
    end(keeper);
    let mask = Mask::new(&[], ["correct-horse-battery-staple".to_owned()].into_iter());
    let text = ring.read(None, LEAST, true, &mask).unwrap().text;
    let expected = "a\n[rigd: part of a line]\n[rigd: 2015 bytes dropped]\nwhole\nanother";
    assert!(text.ends_with(expected), "{text}");
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn only_our_own_mark_hides_what_is_before_it() {
    for (text, shown) in [
        ("one\ntw[rigd: part of a line]\nthree", "one\n[rigd: part of a line]\nthree"),
        ("half[rigd: 1[rigd: part of a line]\r\n", "[rigd: part of a line]\r\n"),
        ("half[rigd: 7 bytes dropped]\nwhole\n", "[rigd: 7 bytes dropped]\nwhole\n"),
        ("[rigd: 7 bytes dropped]\n", "[rigd: 7 bytes dropped]\n"),
        ("see [1]\nsee [rigd: and so on\n", "see [1]\nsee [rigd: and so on\n"),
        ("", ""),
    ] {
        assert_eq!(Mask::default().apply(text), shown);
    }
}

#[test]
fn secrets_are_not_shown() {
    let mask = Mask::new(
        &["--api-key=".to_owned(), "token: ".to_owned()],
        ["hunter2hunter2", "ab", "-----BEGIN KEY-----\r\nMIIabcdef\r\n  MIIabcdefgh\nend\n"]
            .map(str::to_owned)
            .into_iter(),
    );
    for (said, shown) in [
        ("run --api-key=abc --x", "run --api-key=*** --x"),
        ("\"--api-key=abc\" --api-key=d", "\"--api-key=***\" --api-key=***"),
        ("token: \n", "token: \n"),
        ("it is xhunter2hunter2y, ab", "it is x***y, ab"),
        ("nothing", "nothing"),
        // Each line of one that has several; and of one that another begins with nothing is left.
        ("key: -----BEGIN KEY-----\n> MIIabcdef <\n\"MIIabcdefgh\\nend\"\n", "key: ***\n> *** <\n\"***\\nend\"\n"),
        ("-----BEGIN KEY-----\r\nMIIabcdef\r\n  MIIabcdefgh\nend\n", "***"),
    ] {
        assert_eq!(mask.apply(said), shown);
    }
}

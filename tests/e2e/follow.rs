//! A payload's log followed from afar: asked for by a signed command, told as it grows, ended by time or by another command, and
//! bounded whatever the payload says.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rigd::wire::{Kind, Message};

use crate::agent::Scratch;
use crate::commands::keygen;
use crate::house::House;
use crate::subscriber::Subscriber;

/// Two payloads: one writes ten numbered lines a second, the other a hundred times what may go out.
fn house(keys: &Scratch) -> House {
    let manifest = |body: &str| {
        format!("kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"{body}\"]\n")
    };
    let calm = manifest("i=0; while :; do i=$((i+1)); echo line $i; sleep 0.1; done");
    let loud =
        manifest("while :; do i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo much too much $i; done; sleep 0.05; done");
    let tables = format!("[fleet]\ntrust_clock = true\n{}", keygen(keys, "viewer", &["observe"]));
    let house = House::with("follow", &tables, &[calm, loud]);
    house.runs(0);
    house.runs(1);
    house
}

fn command(house: &House, keys: &Scratch, place: usize, time: &str) -> Command {
    let key: PathBuf = keys.path.join("viewer.key");
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
    command.args(["send", "--rig", "rig-1", "--broker", &format!("mqtt://127.0.0.1:{}", house.broker.port), "--sign"]);
    command.arg(key).args(["logs", &house.names[place], "--follow", "--for", time]);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// A process that ends with the test.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_is_told_line_by_line_until_its_time_is_over_or_another_order_ends_it() {
    let keys = Scratch::new("follow-keys");
    let house = house(&keys);
    let subscriber = Subscriber::new(house.broker.port);
    let output = command(&house, &keys, 0, "3s").output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && said.starts_with("rig-1: accepted\n"), "{said}");
    assert!(said.ends_with("rig-1: done: its time is over; 0 bytes were passed over\n"), "{said}");
    let numbers: Vec<u32> = said.lines().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
    assert!(numbers.len() >= 10 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{said}");
    let pieces = subscriber.all(|heard| {
        let Message::Log(lines) = &heard.message else { return None };
        assert_eq!((heard.header.kind, heard.header.seq, heard.retain), (Kind::Log, 0, false), "it waits nowhere");
        Some(lines.payload.clone())
    });
    assert!(!pieces.is_empty() && pieces.iter().all(|payload| *payload == house.names[0]));

    let mut follower = Follower(command(&house, &keys, 0, "10m").stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("line ")), "it follows");
    let other = command(&house, &keys, 0, "0s").output().unwrap();
    assert!(other.status.success(), "{}", text(&other));
    let last = lines.last().unwrap();
    assert!(last.starts_with("rig-1: done: another order ended it; "), "{last}");
    assert!(follower.0.wait().unwrap().success());
    let output = command(&house, &keys, 0, "11m").output().unwrap();
    assert!(text(&output).contains("no rig would take this: followed for too long"), "{}", text(&output));
}

#[test]
fn a_payload_that_says_too_much_is_told_in_part_and_the_rest_is_counted() {
    let keys = Scratch::new("follow-keys");
    let house = house(&keys);
    let subscriber = Subscriber::new(house.broker.port);
    let output = command(&house, &keys, 1, "4s").output().unwrap();
    let said = text(&output);
    assert!(output.status.success() && said.contains(" bytes are not shown …]\n"), "{said}");
    let pieces = subscriber.all(|heard| {
        let Message::Log(lines) = &heard.message else { return None };
        Some((lines.text.len(), lines.skipped))
    });
    // A piece of 4 KiB each half second, and one at each end.
    let bytes: usize = pieces.iter().map(|(length, _)| length).sum();
    assert!((4_096..=10 * 4_096).contains(&bytes), "{pieces:?}");
    let skipped = pieces.last().unwrap().1;
    assert!(skipped > u64::try_from(bytes).unwrap(), "{pieces:?}");
    assert!(pieces.windows(2).all(|pair| pair[0].1 <= pair[1].1), "it only grows: {pieces:?}");
}

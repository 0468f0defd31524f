//! A board file with mistakes of any kind: refused with the file's name, or taken and decided on.

use rigd::board::{BUILTIN, Board};
use rigd::clock;
use rigd::control::step::{Inputs, State, step};
use rigd::reading::{Fan, Missing, Power};
use rigd::units::{Duty, Millicelsius, Milliwatts, Rpm};

use crate::tape::Tape;

const FILE: &str = "fuzzed.toml";
/// Mistakes in one file; more of them and it is no TOML any more.
const MISTAKES: u8 = 6;
/// What people write in the place of something else.
const WORDS: [&str; 22] = [
    "",
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65536",
    "4294967296",
    "9223372036854775807",
    "-2147483648",
    "1e9",
    "nan",
    "true",
    "\"\"",
    "[]",
    "[[0, 0]]",
    "{}",
    "\"U20\"",
    "\"1\"",
    "[\"fan1\", \"fan1\"]",
    "[[2147483647, 100]]",
    "0x77",
];

/// A built-in board with the mistakes that the bytes say.
pub(crate) fn exercise(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let Some((_, text)) = BUILTIN.get(usize::from(tape.byte()) % BUILTIN.len()) else { return };
    let mut lines: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    for _ in 0..tape.byte() % (MISTAKES + 1) {
        mistake(&mut lines, &mut tape);
    }
    take(&lines.join("\n"));
}

/// A text that need not look like a board file at all.
pub(crate) fn take(text: &str) {
    match Board::parse(FILE, text) {
        Ok(board) => decide(&board),
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason:\n{text}");
            for problem in &problems.0 {
                assert_eq!(problem.file, FILE, "{problem}");
                assert!(problem.line.is_none_or(|line| (1..=text.lines().count().max(1)).contains(&line)), "{problem}");
                assert!(!problem.text.is_empty() && !problem.to_string().contains('\n'), "{problem}");
            }
        }
    }
}

fn mistake(lines: &mut Vec<String>, tape: &mut Tape) {
    let (kind, word) = (tape.byte(), tape.byte());
    let mut place = || usize::from(u16::from_le_bytes([tape.byte(), tape.byte()])) % lines.len().max(1);
    let (here, there) = (place(), place());
    let word = WORDS.get(usize::from(word) % WORDS.len()).copied().unwrap_or_default();
    let other = lines.get(there).cloned().unwrap_or_default();
    let Some(line) = lines.get_mut(here) else { return };
    let (key, value) =
        line.split_once('=').map_or((line.clone(), String::new()), |(k, v)| (k.to_owned(), v.to_owned()));
    match kind % 8 {
        0 => *line = format!("{key}= {word}"),
        // A value that belongs to another key.
        1 => *line = format!("{key}={}", other.split_once('=').map_or("", |(_, value)| value)),
        2 => *line = format!("{}={value}", other.split_once('=').map_or(word, |(key, _)| key)),
        3 => drop(lines.remove(here)),
        4 => lines.insert(here, other),
        5 => *line = line.chars().filter(|char| !"[]\"=".contains(*char)).collect(),
        6 => *line = line.replace(|char: char| char.is_ascii_digit(), word),
        _ => lines.truncate(here),
    }
}

/// Whatever was taken can be decided on.
fn decide(board: &Board) {
    let start = clock::now();
    let mut state = State::new(board, start);
    for second in 0..8 {
        let celsius =
            [Ok(Millicelsius(40_000)), Ok(Millicelsius(i32::MAX)), Ok(Millicelsius(i32::MIN)), Err(Missing::Bus)];
        let celsius = celsius.into_iter().cycle().nth(second).unwrap_or(Err(Missing::Off));
        let power = Power { power: Ok(Milliwatts(u32::MAX)), ..Power::missing(Missing::Off) };
        let fan = Fan { rpm: Ok(Rpm(0)), duty: Ok(Duty::OFF), fault: true };
        let inputs = Inputs {
            now: start + std::time::Duration::from_secs(u64::try_from(second).unwrap_or(0)),
            sensors: &vec![celsius; board.sensors.len()],
            fans: &vec![fan; board.fans.len()],
            rails: &vec![power; board.rails.len()],
            curves: &[],
            quiet: (second % 3 == 0).then_some(Duty::OFF),
            gpus: &[],
            request: None,
            power: None,
        };
        let (next, orders) = step(board, state, &inputs);
        state = next;
        let driven = board.fans.iter().zip(&orders.duties).filter(|(fan, _)| fan.zone.is_some());
        assert!(driven.clone().all(|(_, duty)| duty.is_some()), "{orders:?}");
    }
}

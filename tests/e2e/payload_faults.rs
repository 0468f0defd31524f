//! Payloads whose API and log misbehave at once, under the real agent: none of it costs another payload its meter, or the agent its
//! memory, its disk or its time.

use std::cell::Cell;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rigd::clock;
use rigd::wire::PayloadPhase;

use crate::house::{House, Seen, api, cgroup, procs};

/// Of the flood's log, KiB.
const BUDGET: u64 = 256;
/// That the agent's memory may grow by, KiB. An answer is read up to 256 KiB.
const GROWTH: u64 = 4_096;
/// Each bad API is asked so often before we look.
const ASKED: u64 = 6;

/// Serves each client on its own thread, so that one that is kept waiting keeps nobody else.
fn server(serve: fn(TcpStream)) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 1024]);
                serve(stream);
            });
        }
    });
    port
}

/// 100 MB of JSON.
fn pours(mut stream: TcpStream) {
    let start = "HTTP/1.1 200 OK\r\nContent-Length: 104857600\r\n\r\n{\"long\": \"";
    let block = [b'x'; 64 * 1024];
    let mut going = stream.write_all(start.as_bytes());
    for _ in 0..1_600 {
        if going.is_err() {
            return;
        }
        going = stream.write_all(&block);
    }
}

/// A byte now and then, for ever.
fn drips(mut stream: TcpStream) {
    while stream.write_all(b"x").is_ok() {
        thread::park_timeout(Duration::from_millis(50));
    }
}

/// Nothing, until the client goes.
fn silent(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1]);
}

/// Half of an answer that says it is whole.
fn half(mut stream: TcpStream) {
    let body = "{\"work\": 4711, \"rate\": 12";
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

fn manifest(script: &str, more: &str) -> String {
    format!(
        "kind = \"ai\"\nautostart = true\nuser = \"nobody\"\nargv = [\"/bin/sh\", \"-c\", \"{script}\"]\n[restart]\nbudget = 3\n{more}"
    )
}

fn metered(port: u16) -> String {
    manifest("exec sleep 1000", &format!("[meter]\nname = \"generic-json\"\nport = {port}\ninterval_s = 1\n"))
}

/// Processor time of a process so far, s (proc_pid_stat(5), fields 14 and 15; 100 ticks a second everywhere Linux runs us).
fn cpu(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

fn rss_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_flood_and_four_bad_apis_cost_nobody_else_anything() {
    // About 100 MB/s, where the machine is not busy with something else.
    let flood = manifest(
        "while :; do head -c 2000000 /dev/zero; sleep 0.02; done",
        &format!("[log]\nmax_kib = {BUDGET}\nmax_kib_per_s = 64\n"),
    );
    let bad = [pours, drips, silent, half].map(|serve| metered(server(serve)));
    let mut manifests = vec![metered(api())];
    manifests.extend(bad);
    manifests.push(flood);
    let house = House::new("faults", &manifests);
    let (good, flood) = (0, manifests.len() - 1);
    let pids: Vec<i32> = (0..manifests.len()).map(|place| house.runs(place)).collect();
    let measured = house.until(good, "its meter", |payload| payload.now.accepted.0.is_ok());
    let (agent, began) = (i32::try_from(house.agent.pid()).unwrap(), clock::now());
    let (memory, spent) = (rss_kib(agent), cpu(agent));
    let keepers = cgroup(pids[flood])
        .filter(|group| group.ends_with(&house.names[flood]))
        .map_or_else(Vec::new, |group| procs(&group.with_file_name(format!("{}.log", house.names[flood]))));
    let keep = || keepers.iter().copied().map(cpu).sum::<f64>();
    let kept = keep();
    let wanted = measured.now.accepted.0.unwrap() + ASKED;
    let (largest, slowest) = (Cell::new(0), Cell::new(Duration::ZERO));
    house.until(good, "it goes on", |payload| {
        let size = |entry: fs::DirEntry| entry.metadata().map_or(0, |file| file.len());
        let files = fs::read_dir(house.home(flood).join("log")).into_iter().flatten().flatten();
        largest.set(largest.get().max(files.map(size).sum::<u64>()));
        let before = clock::now();
        assert!(house.ps().is_some());
        slowest.set(slowest.get().max(before.elapsed()));
        payload.now.accepted.0.is_ok_and(|accepted| accepted >= wanted)
    });
    let (largest, slowest) = (largest.get(), slowest.get());
    let took = began.elapsed().as_secs_f64();
    let (grown, busy) = (rss_kib(agent).saturating_sub(memory), (cpu(agent) - spent) / took);
    let keeping = (keep() - kept) / took;
    println!(
        "in {took:.1} s: log {largest} bytes at most, agent grown by {grown} KiB, {:.1} % of a processor (debug build), who keeps the \
         log {:.1} %, slowest answer {slowest:?}",
        busy * 100.0,
        keeping * 100.0
    );
    assert!(largest > 0 && largest <= BUDGET * 1024, "the log has {largest} bytes");
    assert!(grown <= GROWTH, "the agent has grown by {grown} KiB");
    assert!(busy < 0.5, "the agent takes {busy} of a processor");
    assert!(slowest < Duration::from_secs(10), "the agent answered after {slowest:?}");
    for (place, pid) in pids.iter().enumerate() {
        let payload = house.one(place).unwrap();
        assert_eq!((payload.pid, payload.now.restarts, payload.now.phase), (Some(*pid), 0, PayloadPhase::Running));
        // What a bad API says of accepted work is nothing, never a zero.
        assert_eq!(payload.now.accepted.0.is_ok(), place == good, "{}", house.names[place]);
        assert!(Seen::of(*pid).is_some());
    }
}

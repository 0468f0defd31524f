use std::io::{ErrorKind, Write};
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn event(pci: &str, kind: Kind) -> Option<Event> {
    Some(Event { pci: Some(pci.parse().unwrap()), kind })
}

/// Lines as they were published; the source is the comment above each.
#[test]
fn published_lines() {
    let nowhere = |kind| Some(Event { pci: None, kind });
    for (line, expected) in [
        // docs.nvidia.com/deploy/xid-errors, the catalogue's own example.
        ("NVRM: Xid (PCI:0000:34:00): 45, Ch 00000010", event("0000:34:00.0", Kind::Xid(45))),
        // docs.nvidia.com/deploy/pdf/XID_Errors.pdf, r340.
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", event("0000:03:00.0", Kind::Xid(14))),
        // leptonai/gpud, components/accelerator/nvidia/xid/matcher_test.go.
        (
            "NVRM: Xid (PCI:0000:05:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            event("0000:05:00.0", Kind::Xid(79)),
        ),
        // The same line after 545, without a process.
        ("NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus.", event("0000:01:00.0", Kind::Xid(79))),
        // NVIDIA/NVSentinel, syslog-health-monitor's tests: a process, and a domain of Azure.
        (
            "NVRM: Xid (PCI:0002:00:00): 119, pid=1582259, name=nvc:[driver], Timeout after 6s of waiting for RPC response \
             from GPU1 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20802a02 0x8).",
            event("0002:00:00.0", Kind::Xid(119)),
        ),
        ("NVRM: Xid (PCI:0000:b3:00.0): 79, pid=1234", event("0000:b3:00.0", Kind::Xid(79))),
        // NVIDIA/open-gpu-kernel-modules, the comment on contained errors: a divided GPU.
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
            event("0000:01:00.0", Kind::Xid(94)),
        ),
        // The same source's format with a compute instance.
        (
            "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a, Graphics Exception",
            event("0000:3b:00.0", Kind::Xid(13)),
        ),
        // docs.nvidia.com/deploy/xid-errors on Xid 154, with the head of 2025 in gpud and NVSentinel.
        (
            "NVRM: Xid (PCI:0008:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)",
            event("0008:01:00.0", Kind::Recovery(1)),
        ),
        (
            "NVRM: Xid (PCI:0000:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)",
            event("0000:01:00.0", Kind::Recovery(2)),
        ),
        // NVIDIA/NVSentinel, issue 155: one record with breaks as /dev/kmsg escapes them: no Xid.
        (
            "3,912,1843308145,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: (PCI ID: 10de:26b5) installed in this system \
             has\\x0aNVRM: fallen off the bus and is not responding to commands.",
            event("0000:b3:00.0", Kind::FellOff),
        ),
        // Drivers of before 2021, on one line; and its second half alone, as a log without records tells it.
        (
            "NVRM: The NVIDIA GPU 0000:05:00.0 installed in this system has fallen off the bus and is not responding to \
             commands.",
            event("0000:05:00.0", Kind::FellOff),
        ),
        ("NVRM: fallen off the bus and is not responding to commands.", nowhere(Kind::FellOff)),
        // pop-os/pop, issue 3363, and others.
        ("NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.", event("0000:01:00.0", Kind::FellOff)),
        // Bumblebee-Project/Bumblebee, issue 554, 2014.
        ("NVRM: GPU at 0000:01:00.0 has fallen off the bus.", event("0000:01:00.0", Kind::FellOff)),
        // Cyridd/cmpunlocker, issue 4; an Ubuntu forum post of 2011, before addresses were told.
        ("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x22:0x56:894)", event("0000:01:00.0", Kind::NotStarted)),
        ("NVRM: RmInitAdapter failed! (0x27:0x38:1193)", nowhere(Kind::NotStarted)),
        // The other lines of those logs are no events of their own.
        ("NVRM: GPU at PCI:0000:01:00: GPU-f1648d72-c7c8-9814-2832-7a062b009188", None),
        ("NVRM: GPU Board Serial Number: 1651522000466", None),
        ("NVRM: GPU 0000:01:00.0: rm_init_adapter failed, device minor number 0", None),
        ("NVRM: RmInitAdapter: osInitNvMapping failed, bailing out of RmInitAdapter", None),
        ("NVRM: A GPU crash dump has been created. If possible, please run", None),
        ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025", None),
        ("pcieport 0000:00:01.0: PCIe Bus Error: severity=Corrected, type=Physical Layer, (Receiver ID)", None),
        // NVSwitch's own errors are of no GPU.
        ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 28006, Non-fatal, Link 46 MC TS crumbstore MCTO (First)", None),
    ] {
        assert_eq!(parse(line), expected, "{line}");
    }
}

#[test]
fn only_the_kernel_is_believed_and_torn_lines_are_not() {
    const XID: &str = "NVRM: Xid (PCI:0000:01:00): 79, GPU; lost";
    for (head, believed) in [
        ("", true),
        ("3,912,1843308145,-;", true),
        ("6,912,1843308145,-,caller=T1;", true),
        // Facility 1: a process wrote it to /dev/kmsg.
        ("12,912,1843308145,-;", false),
        ("x,912;", false),
        ("3x,912;", false),
        ("4294967299,1,1,-;", false),
        ("audit: ", false),
    ] {
        assert_eq!(parse(&format!("{head}{XID}")).is_some(), believed, "{head}");
    }
    for line in [
        "",
        ";",
        "NVRM: ",
        "NVRM: Xid (",
        "NVRM: Xid (PCI:0000:01:00): ",
        "NVRM: Xid (PCI:0000:01:00): abc, pid=2280636",
        "NVRM: Xid (PCI:0000:01:00): 99999999999999999999, x",
        "NVRM: Xid error: xyz, invalid data",
    ] {
        assert_eq!(parse(line), None, "{line}");
    }
    // An address that is none does not hide the error; nor does a text of 154 that is not understood.
    assert_eq!(parse("NVRM: Xid (PCI:zz): 79, x"), Some(Event { pci: None, kind: Kind::Xid(79) }));
    assert_eq!(parse("NVRM: Xid (PCI:0000:01:00): 154, odd"), event("0000:01:00", Kind::Xid(154)));
}

#[test]
fn what_comes_with_an_xid_counts_as_it() {
    for (kind, xid) in
        [(Kind::Xid(31), Some(31)), (Kind::Recovery(2), Some(154)), (Kind::FellOff, Some(79)), (Kind::NotStarted, None)]
    {
        assert_eq!(kind.xid(), xid);
    }
}

proptest! {
    /// A process's name is in these lines: whatever it is, there is an answer.
    #[test]
    fn nothing_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nothing_near_a_good_line_makes_the_parser_panic(cut in 0..90usize, junk in "\\PC{0,8}", skip in 0..20usize) {
        const LINE: &str = "3,9,1,-;NVRM: Xid (PCI:0008:01:00): 154, GPU recovery action changed from 0x0 (None) to 0x1 (x)";
        let text: String = LINE.chars().take(cut).chain(junk.chars()).chain(LINE.chars().skip(cut + skip)).collect();
        let _ = parse(&text);
        let _ = parse(&text.replace("Xid", "GPU ").replace("changed", "fallen off the bus"));
    }
}

fn fifo(test: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rigd-kmsg-{test}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    make_fifo(&path);
    path
}

fn make_fifo(path: &Path) {
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string that lives through the call, which keeps nothing of it.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0, "{}", io::Error::last_os_error());
}

fn writer(path: &Path) -> File {
    File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap()
}

fn codes(poll: &Poll) -> Vec<Kind> {
    assert!(poll.error.is_none(), "{:?}", poll.error);
    poll.events.iter().map(|event| event.kind).collect()
}

fn line(code: usize) -> String {
    format!("NVRM: Xid (PCI:0000:01:00): {code}, x\n")
}

#[test]
fn a_fifo_is_read_line_by_line_without_waiting() {
    let path = fifo("lines");
    let mut reader = Reader::new(path.clone());
    assert_eq!(codes(&reader.poll()), [], "nobody writes");
    let mut log = writer(&path);
    assert_eq!(codes(&reader.poll()), [], "nothing is written");
    log.write_all(b"6,1,1,-;usb 1-1: new device\n SUBSYSTEM=usb\nNVRM: Xid (PCI:0000:01:00): 31, a\nNVRM: Xid (PCI")
        .unwrap();
    assert_eq!(codes(&reader.poll()), [Kind::Xid(31)], "and half a line waits");
    log.write_all(b":0000:02:00): 79, b\n").unwrap();
    let poll = reader.poll();
    assert_eq!((codes(&poll), poll.lost), (vec![Kind::Xid(79)], false));
    drop(log);
    assert_eq!(codes(&reader.poll()), [], "the writer is gone");
    writer(&path).write_all(line(13).as_bytes()).unwrap();
    assert_eq!(codes(&reader.poll()), [Kind::Xid(13)], "and another one came");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_poll_takes_so_many_and_a_line_that_is_too_long_is_told() {
    let path = fifo("bounds");
    let mut reader = Reader::new(path.clone());
    reader.poll();
    let mut log = writer(&path);
    let lines: String = (1..=RECORDS + 6).map(line).collect();
    log.write_all(lines.as_bytes()).unwrap();
    let first = reader.poll();
    let second = reader.poll();
    assert_eq!((first.more, second.more), (true, false));
    let (first, second) = (codes(&first), codes(&second));
    assert_eq!((first.len() + second.len(), second.last()), (RECORDS + 6, Some(&Kind::Xid(70))));
    assert!(first.len() <= RECORDS && !second.is_empty());
    log.write_all("x".repeat(2 * LONGEST + 10).as_bytes()).unwrap();
    log.write_all(format!("{}{}", line(31), line(79)).as_bytes()).unwrap();
    let poll = reader.poll();
    assert_eq!((codes(&poll), poll.lost), (vec![Kind::Xid(79)], true), "31 is the tail of the long line");
    assert!(!reader.poll().lost, "told once");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_log_that_is_gone_is_opened_again() {
    let path = fifo("gone");
    fs::remove_file(&path).unwrap();
    let mut reader = Reader::new(path.clone());
    let kind = |poll: Poll| poll.error.map(|error| error.kind());
    assert_eq!(kind(reader.poll()), Some(ErrorKind::NotFound));
    make_fifo(&path);
    assert_eq!(codes(&reader.poll()), []);
    fs::remove_file(&path).unwrap();
    make_fifo(&path);
    assert_eq!(codes(&reader.poll()), [], "the old one has come to its end");
    let poll = reader.poll();
    assert_eq!((codes(&poll), poll.lost), (vec![], true), "the new one is open");
    writer(&path).write_all(line(79).as_bytes()).unwrap();
    assert_eq!(codes(&reader.poll()), [Kind::Xid(79)]);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_file_is_read_from_its_end() {
    let path = fifo("file");
    fs::remove_file(&path).unwrap();
    fs::write(&path, line(31)).unwrap();
    let mut reader = Reader::new(path.clone());
    assert_eq!(codes(&reader.poll()), []);
    File::options().append(true).open(&path).unwrap().write_all(line(79).as_bytes()).unwrap();
    assert_eq!(codes(&reader.poll()), [Kind::Xid(79)]);
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_device_gives_a_record_a_read_and_one_that_never_ends_is_left_after_so_many() {
    // Zeros for ever, a full buffer each time.
    let poll = Reader::new(PathBuf::from("/dev/zero")).poll();
    assert_eq!((codes(&poll), poll.lost, poll.more), (vec![], false, true));
    assert_eq!(codes(&Reader::new(PathBuf::from("/dev/null")).poll()), []);
}

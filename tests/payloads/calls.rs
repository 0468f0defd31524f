//! System calls that no payload may make: a list of its own, to be held against the agent's, and each of them made.

use std::io::Write;

use rigd::payload::lifecycle::Exit;
use rigd::payload::sandbox::Layer;

use super::jail::{possible, tried};
use super::rig::root;

/// libc has it for x86-64 only; on aarch64 it is 294 (asm-generic/unistd.h).
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = libc::SYS_kexec_file_load;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// Refused as if the privilege were missing. Made by root, who has every one, with arguments that none of them takes.
const REFUSED: [(&str, libc::c_long); 47] = [
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("fsopen", libc::SYS_fsopen),
    ("fsconfig", libc::SYS_fsconfig),
    ("fsmount", libc::SYS_fsmount),
    ("fspick", libc::SYS_fspick),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("swapon", libc::SYS_swapon),
    ("swapoff", libc::SYS_swapoff),
    ("quotactl", libc::SYS_quotactl),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("kexec_load", libc::SYS_kexec_load),
    ("kexec_file_load", KEXEC_FILE_LOAD),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("reboot", libc::SYS_reboot),
    ("syslog", libc::SYS_syslog),
    ("acct", libc::SYS_acct),
    ("nfsservctl", libc::SYS_nfsservctl),
    ("vhangup", libc::SYS_vhangup),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("kcmp", libc::SYS_kcmp),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("fanotify_init", libc::SYS_fanotify_init),
    ("lookup_dcookie", libc::SYS_lookup_dcookie),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("settimeofday", libc::SYS_settimeofday),
    ("clock_settime", libc::SYS_clock_settime),
    ("adjtimex", libc::SYS_adjtimex),
    ("clock_adjtime", libc::SYS_clock_adjtime),
    ("sethostname", libc::SYS_sethostname),
    ("setdomainname", libc::SYS_setdomainname),
];

/// Said not to exist.
const ABSENT: [(&str, libc::c_long); 4] = [
    ("clone3", libc::SYS_clone3),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("io_uring_register", libc::SYS_io_uring_register),
];

/// A new one of each by clone(2).
const NAMESPACES: [(&str, libc::c_int); 7] = [
    ("mounts", libc::CLONE_NEWNS),
    ("users", libc::CLONE_NEWUSER),
    ("processes", libc::CLONE_NEWPID),
    ("network", libc::CLONE_NEWNET),
    ("queues", libc::CLONE_NEWIPC),
    ("names", libc::CLONE_NEWUTS),
    ("groups", libc::CLONE_NEWCGROUP),
];

/// ioctl_tty(2). The kernel looks at the lower half only.
const TYPED: [(&str, u64); 2] = [("typed", 0x5412), ("typed with a bit more", 0x1_0000_5412)];

/// The number that the kernel answers a call with.
fn errno(call: libc::c_long, arguments: [u64; 3]) -> i32 {
    let [first, second, third] = arguments;
    let none = u64::MAX;
    // SAFETY: no pointer among these leads anywhere, and no call with them does what its name says: flags, sizes and descriptors
    // are none that exist. Where a filter holds nothing is done at all.
    let result = unsafe { libc::syscall(call, first, second, third, none, none, none) };
    if result < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

#[test]
#[ignore = "run as a payload by the others"]
fn payload_that_calls() {
    let mut said = std::io::stdout();
    let none = u64::MAX;
    for (name, call) in REFUSED.into_iter().chain(ABSENT) {
        writeln!(said, "{name}: {}", errno(call, [none; 3])).unwrap();
    }
    for (name, flag) in NAMESPACES {
        // Handlers are never shared without memory (clone(2)): where no filter refuses it the kernel does, by another number.
        let flags = u64::try_from(flag | libc::CLONE_SIGHAND).unwrap();
        writeln!(said, "{name}: {}", errno(libc::SYS_clone, [flags, 0, 0])).unwrap();
    }
    for (name, request) in TYPED {
        writeln!(said, "{name}: {}", errno(libc::SYS_ioctl, [0, request, none])).unwrap();
    }
    #[cfg(target_arch = "x86_64")]
    writeln!(said, "x32: {}", errno(0x4000_0000 | libc::SYS_getppid, [none; 3])).unwrap();
    // What is not on the list is asked of the kernel, which answers in its own way.
    writeln!(said, "another request: {}", errno(libc::SYS_ioctl, [0, 0x5413, none])).unwrap();
    writeln!(said, "close: {}", errno(libc::SYS_close, [none; 3])).unwrap();
    writeln!(said, "the end").unwrap();
}

#[test]
fn each_system_call_that_is_denied_is_refused_and_no_other() {
    if !root() || !possible(Layer::SystemCalls) {
        return;
    }
    // With all that root may: what is refused is refused by the filter.
    let off = "off = [\"files\", \"ports\", \"scope\", \"capabilities\"]";
    let (said, layers, _) = tried("calls", "calls::payload_that_calls", "user = \"root\"", off);
    assert!(layers.held.has(Layer::SystemCalls) && !layers.held.has(Layer::Capabilities), "{layers:?}");
    let refused = REFUSED.iter().map(|(name, _)| (*name, libc::EPERM));
    let refused = refused.chain(NAMESPACES.iter().map(|(name, _)| (*name, libc::EPERM)));
    let refused = refused.chain(TYPED.iter().map(|(name, _)| (*name, libc::EPERM)));
    let absent = ABSENT.iter().map(|(name, _)| (*name, libc::ENOSYS));
    let native = [("another request", libc::ENOTTY), ("close", libc::EBADF)];
    let x32 = cfg!(target_arch = "x86_64").then_some(("x32", libc::ENOSYS));
    let wrong: Vec<_> = refused
        .chain(absent)
        .chain(native)
        .chain(x32)
        .map(|(name, errno)| format!("{name}: {errno}"))
        .filter(|expected| !said.contains(expected))
        .collect();
    assert!(wrong.is_empty(), "not {wrong:?} in {said:?}");
}

/// Asks for its process number as a program of 32 bits does.
#[test]
#[ignore = "run as a payload by the others"]
#[cfg(target_arch = "x86_64")]
fn payload_of_another_architecture() {
    writeln!(std::io::stdout(), "the end").unwrap();
    let mut number = 20_u64;
    // SAFETY: getpid takes nothing and changes nothing; the kernel gives it back in the same register.
    unsafe { std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _) };
    assert_eq!(number, u64::from(std::process::id()));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_call_of_another_processor_architecture_is_the_end() {
    if !possible(Layer::SystemCalls) {
        return;
    }
    let user = if root() { "user = \"nobody\"" } else { "" };
    let (_, layers, exit) = tried("foreign", "calls::payload_of_another_architecture", user, "");
    assert!(layers.held.has(Layer::SystemCalls), "{layers:?}");
    // A kernel that runs no such programs at all ends it by itself.
    assert!(matches!(exit, Exit::Signal(libc::SIGSYS | libc::SIGSEGV)), "{exit:?}");
}

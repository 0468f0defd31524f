//! Seccomp: system calls that no payload has a use for.

use std::collections::BTreeMap;

use crate::sorted;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// One program for the kernel.
pub(crate) type Filter = BpfProgram;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

/// libc has it for x86-64 only; on aarch64 it is 294 (asm-generic/unistd.h).
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: libc::c_long = libc::SYS_kexec_file_load;
#[cfg(target_arch = "aarch64")]
const KEXEC_FILE_LOAD: libc::c_long = 294;

/// Refused as if the privilege were missing.
const DENIED: [libc::c_long; 47] = [
    // File systems and their namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // The kernel itself.
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_nfsservctl,
    libc::SYS_vhangup,
    // What sees or changes other processes and the kernel's inside.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // Keys.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The rig's clock and names.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Namespaces that clone(2) would make: refused by its flags, as unshare(2) is by name. CLONE_NEWTIME shares its bit with the exit
/// signal there, and is not among them.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The programs, to be put in force one after the other; `None` where one could not be made.
#[must_use]
pub(crate) fn filters() -> Option<Vec<Filter>> {
    // clone3 hides its flags behind a pointer, where no filter looks. It is said not to exist, and the C libraries take clone.
    // io_uring makes system calls past any filter; programs that use it have another way, and container engines say the same.
    let absent = [libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];
    let absent = program(sorted::map(absent.map(|call| (call, Vec::new()))), libc::ENOSYS)?;
    let mut denied = sorted::map(DENIED.map(|call| (call, Vec::new())));
    let namespaces = NAMESPACES.into_iter().map(|flag| {
        let flag = u64::try_from(flag).ok()?;
        let set = SeccompCmpOp::MaskedEq(flag);
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, set, flag).ok()?;
        SeccompRule::new(vec![condition]).ok()
    });
    denied.insert(libc::SYS_clone, namespaces.collect::<Option<_>>()?);
    // TIOCSTI types into a terminal that others read.
    let typed =
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, u64::try_from(TIOCSTI).ok()?).ok()?;
    denied.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![typed]).ok()?]);
    Some(vec![absent, program(denied, libc::EPERM)?])
}

/// ioctl_tty(2).
const TIOCSTI: i64 = 0x5412;

fn program(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: libc::c_int) -> Option<BpfProgram> {
    let refuse = SeccompAction::Errno(u32::try_from(errno).ok()?);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, ARCH).ok()?;
    let program: BpfProgram = filter.try_into().ok()?;
    Some(native_only().into_iter().chain(program).collect())
}

/// On x86-64 a second set of numbers, x32, is the same architecture to a filter: all of it is absent (seccomp(2), Caveats).
fn native_only() -> Vec<sock_filter> {
    const X32: u32 = 0x4000_0000;
    // Classic BPF: load the number; below X32 jump over the return.
    let load = u16::try_from(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let at_least = u16::try_from(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
    let give = u16::try_from(libc::BPF_RET | libc::BPF_K);
    let (Ok(load), Ok(at_least), Ok(give)) = (load, at_least, give) else { return Vec::new() };
    let absent = libc::SECCOMP_RET_ERRNO | u32::try_from(libc::ENOSYS).unwrap_or_default();
    if cfg!(target_arch = "x86_64") {
        vec![
            sock_filter { code: load, jt: 0, jf: 0, k: 0 },
            sock_filter { code: at_least, jt: 0, jf: 1, k: X32 },
            sock_filter { code: give, jt: 0, jf: 0, k: absent },
        ]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_fit_the_kernel() {
        let filters = filters().unwrap();
        assert_eq!(filters.len(), 2);
        // BPF_MAXINSNS.
        assert!(filters.iter().all(|filter| filter.len() < 4_096));
    }

    #[test]
    fn no_call_is_denied_twice() {
        let distinct: std::collections::BTreeSet<_> = DENIED.iter().collect();
        assert_eq!(distinct.len(), DENIED.len());
    }
}

//! A view of the file system of our own, and of whatever we start.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{getegid, geteuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Lays `class` over `/sys/class` for this process and its children. Before the first thread is started: the kernel gives a
/// user namespace to a process of one thread only, and other threads would keep the old view.
pub(crate) fn cover_class(class: &Path) -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    let user_namespace = if user.is_root() { UnshareFlags::empty() } else { UnshareFlags::NEWUSER };
    // SAFETY: what can go wrong is threads that no longer share their files; file descriptors are not unshared here.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | user_namespace) }.context("a mount namespace")?;
    if !user.is_root() {
        // user_namespaces(7): groups may be mapped only by who has given up setgroups.
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw()))?;
    }
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).context("a private mount tree")?;
    mount_bind(class, "/sys/class").context("a mount over /sys/class")
}

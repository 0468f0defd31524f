//! What one payload's task waits for, where there is anything to wait for.

use std::future::pending;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::super::super::process::Process;

pub(super) async fn ended(process: Option<&Process>, lingering: bool) {
    match process.filter(|_| !lingering) {
        Some(process) => process.ended().await,
        None => pending().await,
    }
}

pub(super) async fn readable(end: Option<&AsyncFd<OwnedFd>>) {
    match end {
        // An error is no end; nothing more is heard then.
        Some(end) if end.readable().await.is_ok() => {}
        Some(_) | None => pending().await,
    }
}

pub(super) async fn after(wait: Option<Duration>) {
    match wait {
        Some(wait) => sleep(wait).await,
        None => pending().await,
    }
}

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use super::super::sandbox::LayerSet;
use super::*;
use crate::{clock, sorted};

/// A shell that leaves this file behind where it runs at all.
fn launch(file: &Path) -> Launch {
    let text = |text: &str| CString::new(text).unwrap();
    let script = format!("touch {}; exec sleep 1000", file.display());
    let null = || File::options().read(true).write(true).open("/dev/null").unwrap().into();
    Launch {
        program: text("/bin/sh"),
        arguments: vec![text("sh"), text("-c"), text(&script)],
        environment: Vec::new(),
        directory: text("/"),
        input: null(),
        output: null(),
        cgroup: None,
        procs: None,
        ignored: 0,
        user: None,
        tmp: None,
        limits: Vec::new(),
        rules: None,
        filters: Vec::new(),
        wanted: LayerSet::NONE,
        require: LayerSet::NONE,
    }
}

/// From here on the kernel takes no more descriptors of this thread to watch, as where `fs.epoll.max_user_watches` is reached.
fn watch_no_more() {
    let add = u64::try_from(libc::EPOLL_CTL_ADD).unwrap();
    let adds = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, add).unwrap();
    let rules = sorted::map([(libc::SYS_epoll_ctl, vec![SeccompRule::new(vec![adds]).unwrap()])]);
    let refuse = SeccompAction::Errno(u32::try_from(libc::ENOSPC).unwrap());
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap().try_into().unwrap();
    seccompiler::apply_filter(&filter).unwrap();
}

#[test]
fn what_cannot_be_watched_never_runs_and_leaves_nothing_behind() {
    let file = std::env::temp_dir().join(format!("rigd-unwatched-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        watch_no_more();
        let mut pid = 0;
        let write_down = |known: Known| {
            pid = known.pid;
            Ok(())
        };
        let refused = Process::start(&launch(&file), None, None, write_down).await.unwrap_err();
        assert!(!refused.lasting && refused.text.starts_with("could not be watched: "), "{}", refused.text);
        let deadline = clock::now() + Duration::from_secs(60);
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(clock::now() < deadline, "{pid} is a zombie for ever");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(!file.exists());
    let _ = fs::remove_file(file);
}

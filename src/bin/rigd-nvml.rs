//! The process that owns NVML: dynamic, where the agent is static, and given up when the driver hangs.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use log::error;
use rigd::gpu::nvml::pipes::{self, End};
use rigd::logger;

const HELP: &str = "\
rigd-nvml - owns NVIDIA's library for rigd, which starts it

Usage: rigd-nvml [--library FILE]

  --library FILE  load this instead of libnvidia-ml.so.1: a simulated one
  --version       print the version
  --help          print this

Speaks frames on standard input and output. Gives every fan back to the driver when its input ends, on SIGTERM, SIGINT and
SIGHUP, and when rigd does not drive them for 5 seconds.
Environment: RIGD_LOG=error|warn|info|debug
Exit: 0 asked to end, 1 no NVML or a driver that hangs, 2 wrong usage
";

enum Verb {
    Serve(Option<PathBuf>),
    Say(String),
}

fn main() -> ExitCode {
    close_what_was_inherited();
    pipes::block_signals();
    logger::start();
    let code = match arguments(std::env::args_os().skip(1)) {
        // Whoever asked may have gone away; that is no failure of ours but of theirs.
        Ok(Verb::Say(text)) if std::io::stdout().write_all(text.as_bytes()).is_ok() => ExitCode::SUCCESS,
        Ok(Verb::Say(_)) => ExitCode::FAILURE,
        Ok(Verb::Serve(library)) => match serve(library) {
            Ok(end) => end.exit(),
            Err(error) => {
                error!("{error}");
                End::Failed.exit()
            }
        },
        Err(text) => {
            error!("{text}; see rigd-nvml --help");
            ExitCode::from(2)
        }
    };
    logger::finish();
    code
}

fn arguments(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Verb, String> {
    let mut library = None;
    while let Some(argument) = arguments.next() {
        match argument.to_string_lossy().as_ref() {
            "--library" => library = Some(arguments.next().ok_or("--library needs a file")?.into()),
            "--help" | "-h" => return Ok(Verb::Say(HELP.to_owned())),
            "--version" | "-V" => return Ok(Verb::Say(format!("rigd-nvml {}\n", env!("CARGO_PKG_VERSION")))),
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Verb::Serve(library))
}

fn serve(library: Option<PathBuf>) -> std::io::Result<End> {
    let input = File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    print_to_stderr();
    pipes::run(input, output, library.as_deref())
}

/// A library that prints must not print into a frame.
fn print_to_stderr() {
    // SAFETY: both are open numbers of this process, and nobody relies on where standard output goes.
    unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) };
}

/// What the agent had open is none of this process's business: a bus, a socket, a GPU that is to be reset.
fn close_what_was_inherited() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let inherited: Vec<i32> = open.flatten().filter_map(number).filter(|fd| *fd > libc::STDERR_FILENO).collect();
    for fd in inherited {
        // SAFETY: nothing was opened by this process yet, so nobody owns this number. That of the listing itself is among
        // them and closed by now, which `close` only answers with an error.
        unsafe { libc::close(fd) };
    }
}

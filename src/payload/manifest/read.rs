//! From TOML to a manifest: every mistake with its file, line and key, all at once.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::super::lifecycle::{Expectation, Policy, Restart};
use super::super::meter::Meter;
use super::super::sandbox::{Layer, LayerSet};
use super::{
    Container, Gpus, Kind, Limits, Log, Manifest, MeterUse, PauseUse, Planned, Probe, Sandbox, Stop, StopSignal, Target,
};
use crate::plan::Yield;
use crate::sorted;
use crate::source::{Problems, Source, Table};
use crate::units::{MicroPerTera, MilliPerSecond, Milliwatts};

const PODMAN: &str = "/usr/bin/podman";
const KEYS: [&str; 23] = [
    "kind",
    "autostart",
    "argv",
    "container",
    "environment",
    "secret",
    "user",
    "group",
    "working_directory",
    "state_directory",
    "gpus",
    "probe",
    "meter",
    "pause",
    "stop",
    "restart",
    "expect",
    "limits",
    "sandbox",
    "log",
    "name",
    "plan",
    "tenant",
];

impl Manifest {
    /// Parses a manifest's text; `name` is the payload's where the text gives none.
    ///
    /// # Errors
    /// Every problem found, with file, line and key.
    pub fn parse(file: &str, name: &str, text: &str) -> Result<Self, Problems> {
        let source = Source::parse(file, text)?;
        let root = source.root();
        root.only(&KEYS);
        let name = root.text("name").unwrap_or_else(|| name.to_owned());
        if !is_name(&name) {
            root.complain("name", format!("`{name}` cannot be a payload's name: 1 to 32 of a-z, 0-9 and -"));
        }
        let kind = root.chosen("kind", &[("mining", Kind::Mining), ("ai", Kind::Ai), ("batch", Kind::Batch)]);
        if kind.is_none() && !root.has("kind") {
            root.complain("kind", "is missing: mining, ai or batch");
        }
        let kind = kind.unwrap_or(Kind::Batch);
        let argv = root.texts("argv");
        let container = root.has("container").then(|| read_container(&root.table("container")));
        match (&container, argv.first()) {
            (Some(_), Some(_)) => root.complain("argv", "a container is started by [container] alone"),
            (None, None) => root.complain("argv", "is missing: the program and its arguments, or a [container]"),
            (None, Some(program)) => rooted(&root, "argv", program),
            (Some(_), None) => {}
        }
        let environment = root.named_texts("environment");
        let secrets = root.named_texts("secret");
        for (table, (key, value)) in
            environment.iter().map(|entry| ("environment", entry)).chain(secrets.iter().map(|entry| ("secret", entry)))
        {
            let table = root.table(table);
            if !is_variable(key) {
                table.complain(key, "is no name of a variable");
            }
            if value.contains('\0') {
                table.complain(key, "has a zero byte");
            }
        }
        for (key, value) in &secrets {
            rooted(&root.table("secret"), key, value);
            if environment.iter().any(|(name, _)| name == key) {
                root.table("secret").complain(key, "is in [environment] too");
            }
        }
        if argv.iter().any(|argument| argument.contains('\0')) {
            root.complain("argv", "has a zero byte");
        }
        let path = |key: &str| {
            let path = root.text(key)?;
            rooted(&root, key, &path);
            Some(PathBuf::from(path))
        };
        let manifest = Self {
            file: file.to_owned(),
            kind,
            autostart: root.flag("autostart").unwrap_or(false),
            user: root.text("user"),
            group: root.text("group"),
            working_directory: path("working_directory"),
            state_directory: path("state_directory"),
            gpus: read_gpus(&root.table("gpus")),
            probe: root.has("probe").then(|| read_probe(&root.table("probe"))).flatten(),
            meter: root.has("meter").then(|| read_meter(&root.table("meter"))),
            pause: root.has("pause").then(|| read_pause(&root.table("pause"))),
            stop: read_stop(&root.table("stop")),
            restart: read_restart(&root.table("restart"), kind),
            expect: root.has("expect").then(|| read_expect(&root.table("expect"), kind)),
            limits: read_limits(&root.table("limits")),
            sandbox: read_sandbox(&root.table("sandbox"), container.is_some()),
            log: read_log(&root.table("log")),
            plan: root.has("plan").then(|| read_plan(&root.table("plan"))),
            tenant: root.flag("tenant").unwrap_or(false),
            name,
            argv,
            container,
            environment: sorted::map(environment),
            secrets: sorted::map(secrets.into_iter().map(|(key, path)| (key, path.into()))),
        };
        if manifest.expect.is_some() && manifest.meter.is_none() {
            root.complain("expect", "needs a [meter] that says what the rate is");
        }
        if manifest.pause.is_some() && kind == Kind::Ai {
            root.complain("pause", "is of no use: an ai is never paused, it is drained");
        }
        if manifest.group.is_some() && manifest.user.is_none() {
            root.complain("group", "needs a user too");
        }
        source.finish()?;
        Ok(manifest)
    }
}

fn read_container(table: &Table<'_>) -> Container {
    table.only(&["image", "podman", "options", "arguments"]);
    let image = table.needed_text("image");
    if image.starts_with('-') || image.chars().any(char::is_whitespace) {
        table.complain("image", "is no name of an image");
    }
    let podman = table.text("podman").unwrap_or_else(|| PODMAN.to_owned());
    rooted(table, "podman", &podman);
    Container { image, podman, options: table.texts("options"), arguments: table.texts("arguments") }
}

fn read_gpus(table: &Table<'_>) -> Gpus {
    table.only(&["count", "uuids", "min_vram_mib", "profile"]);
    let uuids = table.texts("uuids");
    if table.has("count") && table.has("uuids") {
        table.complain("count", "is what uuids says already");
    }
    let named = u8::try_from(uuids.len()).unwrap_or(u8::MAX);
    let count = if uuids.is_empty() { table.ranged("count", 0, 64).unwrap_or(0) } else { named };
    Gpus {
        count,
        uuids,
        min_vram_mib: table.number("min_vram_mib").unwrap_or_default(),
        profile: table.text("profile"),
    }
}

fn read_plan(table: &Table<'_>) -> Planned {
    table.only(&["value_micro_per_tera", "most_gpus", "hours", "lost_work", "guess_rate", "guess_w"]);
    if table.has("guess_rate") != table.has("guess_w") {
        table.complain(
            "guess_rate",
            "needs guess_w, and that needs this: what it yields on a GPU, and what it draws there",
        );
    }
    let guess = table.number::<u64>("guess_rate").map(|rate| Yield {
        rate: MilliPerSecond(rate.saturating_mul(1_000)),
        power: Milliwatts(table.ranged("guess_w", 1, 10_000).unwrap_or(1_u32) * 1_000),
    });
    let hours = table.text("hours").and_then(|hours| {
        let minutes = crate::config::minutes(&hours).filter(|(from, to)| from != to);
        if minutes.is_none() {
            table.complain("hours", format!("must be like 22:00-07:00, not `{hours}`"));
        }
        minutes
    });
    Planned {
        value: MicroPerTera(table.number("value_micro_per_tera").unwrap_or(0)),
        most_gpus: table.ranged("most_gpus", 1, 64).unwrap_or(1),
        hours,
        lost_milli: table.number::<u64>("lost_work").unwrap_or(0).saturating_mul(1_000),
        guess,
    }
}

fn read_probe(table: &Table<'_>) -> Option<Probe> {
    table.only(&["http", "tcp", "exec", "interval_s", "timeout_s", "failures", "startup_s"]);
    if ["http", "tcp", "exec"].iter().filter(|key| table.has(key)).count() != 1 {
        table.complain("http", "is one of http, tcp and exec, and one it must be");
        return None;
    }
    let target = if table.has("http") {
        let url = table.needed_text("http");
        let target = local_url(&url);
        if target.is_none() {
            table.complain("http", format!("must be http://127.0.0.1:PORT/PATH, not `{url}`"));
        }
        let (port, path) = target?;
        Target::Http { port, path }
    } else if table.has("tcp") {
        Target::Tcp(table.ranged("tcp", 1, u16::MAX).unwrap_or_default())
    } else {
        let exec = table.texts("exec");
        match exec.first() {
            Some(program) => rooted(table, "exec", program),
            None => table.complain("exec", "is empty"),
        }
        Target::Exec(exec)
    };
    Some(Probe {
        target,
        interval: seconds(table, "interval_s", 10, 1, 3_600),
        timeout: seconds(table, "timeout_s", 5, 1, 60),
        failures: table.ranged("failures", 1, 100).unwrap_or(3),
        startup: seconds(table, "startup_s", 300, 1, 86_400),
    })
}

/// Port and path of a URL on the rig itself.
fn local_url(url: &str) -> Option<(u16, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = host.split_once(':').unwrap_or((host, "80"));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let clean = path.bytes().all(|byte| byte.is_ascii_graphic());
    let path = if path.is_empty() { "/" } else { path };
    (clean && matches!(host, "127.0.0.1" | "localhost")).then(|| (port, path.to_owned()))
}

fn read_meter(table: &Table<'_>) -> MeterUse {
    table.only(&["name", "port", "interval_s", "work_within_s", "idle_w", "options"]);
    MeterUse {
        name: table.needed_text("name"),
        port: table.ranged("port", 1, u16::MAX),
        interval: seconds(table, "interval_s", 10, 1, 3_600),
        work_within: seconds(table, "work_within_s", 600, 0, 86_400),
        idle: Milliwatts(table.ranged("idle_w", 0, 100_000).unwrap_or(0) * 1_000),
        options: sorted::map(table.named_texts("options")),
    }
}

fn read_pause(table: &Table<'_>) -> PauseUse {
    table.only(&["api", "port", "token_file"]);
    let api = table.needed_text("api");
    // One of its own is read when it is needed; it may not be there yet.
    if table.has("api") && !api.contains('/') && Meter::load(&api).map_or(true, |meter| meter.pause.is_none()) {
        table.complain("api", format!("`{api}` is no built-in meter that can pause, and no path of a meter file"));
    }
    let token_file = table.text("token_file");
    token_file.iter().for_each(|path| rooted(table, "token_file", path));
    PauseUse { api, port: table.ranged("port", 1, u16::MAX), token_file: token_file.map(PathBuf::from) }
}

fn read_stop(table: &Table<'_>) -> Stop {
    table.only(&["signal", "grace_s"]);
    let signals =
        [("TERM", StopSignal::Term), ("INT", StopSignal::Int), ("QUIT", StopSignal::Quit), ("HUP", StopSignal::Hup)];
    Stop {
        signal: table.chosen("signal", &signals).unwrap_or(StopSignal::Term),
        grace: seconds(table, "grace_s", 30, 0, 3_600),
    }
}

fn read_restart(table: &Table<'_>, kind: Kind) -> Restart {
    table.only(&["policy", "min_s", "max_s", "budget", "window_s", "stable_s"]);
    let policies = [("always", Policy::Always), ("on-failure", Policy::OnFailure), ("never", Policy::Never)];
    let usual = match kind {
        Kind::Mining | Kind::Ai => Policy::Always,
        Kind::Batch => Policy::OnFailure,
    };
    let restart = Restart {
        policy: table.chosen("policy", &policies).unwrap_or(usual),
        min: seconds(table, "min_s", 1, 1, 3_600),
        max: seconds(table, "max_s", 300, 1, 86_400),
        budget: table.ranged("budget", 1, 100).unwrap_or(10),
        window: seconds(table, "window_s", 3_600, 10, 86_400),
        stable: seconds(table, "stable_s", 60, 1, 86_400),
    };
    if restart.min > restart.max {
        table.complain("min_s", "is above max_s");
    }
    restart
}

fn read_expect(table: &Table<'_>, kind: Kind) -> Expectation {
    table.only(&["rate", "min_pct", "warmup_s", "low_s"]);
    let rate = table.number::<u64>("rate").map(|rate| rate.saturating_mul(1_000));
    if kind == Kind::Ai && !table.has("rate") {
        table.complain("rate", "is missing: an ai's rate follows its requests and cannot be learnt");
    }
    Expectation {
        rate,
        min_pct: table.ranged("min_pct", 1, 100).unwrap_or(70),
        warmup: seconds(table, "warmup_s", 120, 0, 86_400),
        low: seconds(table, "low_s", 300, 10, 86_400),
    }
}

fn read_limits(table: &Table<'_>) -> Limits {
    table.only(&["memory_mib", "cpu_weight", "cpu_pct", "pids", "open_files", "locked_mib"]);
    Limits {
        memory_mib: table.ranged("memory_mib", 16, u32::MAX),
        cpu_weight: table.ranged("cpu_weight", 1, 10_000),
        cpu_pct: table.ranged("cpu_pct", 1, 1_000_000),
        pids: table.ranged("pids", 1, 4_194_304),
        open_files: table.ranged("open_files", 64, 1_048_576).unwrap_or(65_536),
        locked_mib: table.number("locked_mib"),
    }
}

fn read_sandbox(table: &Table<'_>, container: bool) -> Sandbox {
    table.only(&["read", "write", "tcp_bind", "tcp_connect", "off", "require"]);
    let paths = |key: &str| {
        let paths = table.texts(key);
        paths.iter().for_each(|path| rooted(table, key, path));
        paths.into_iter().map(PathBuf::from).collect()
    };
    let layers = |key: &str| {
        let mut set = LayerSet::NONE;
        for name in table.texts(key) {
            match Layer::ALL.into_iter().find(|layer| layer.name() == name) {
                Some(layer) => set = set.with(layer),
                None => {
                    let known = Layer::ALL.map(Layer::name).join(", ");
                    table.complain(key, format!("`{name}` is no layer; there are {known}"));
                }
            }
        }
        set
    };
    let (off, require) = (layers("off"), layers("require"));
    if let Some(both) = Layer::ALL.into_iter().find(|layer| off.has(*layer) && require.has(*layer)) {
        table.complain("require", format!("{} is off", both.name()));
    }
    let needing = [Layer::Files, Layer::Ports, Layer::Scope, Layer::SystemCalls];
    if off.has(Layer::NoNewPrivs) && needing.iter().any(|layer| !off.has(*layer)) {
        table.complain("off", "without no-new-privs there can be no files, ports, scope or system-calls either");
    }
    // What builds a container needs what these layers take away, and makes a jail of its own.
    let off = if container { LayerSet::CONTAINER.union(off) } else { off };
    Sandbox {
        read: paths("read"),
        write: paths("write"),
        tcp_bind: table.numbers("tcp_bind"),
        tcp_connect: table.numbers("tcp_connect"),
        off,
        require,
    }
}

fn read_log(table: &Table<'_>) -> Log {
    table.only(&["max_kib", "max_kib_per_s", "mask"]);
    let mask = table.texts("mask");
    if mask.iter().any(|pattern| pattern.len() < 3) {
        table.complain("mask", "has a pattern of less than 3 bytes");
    }
    if mask.len() > 16 {
        table.complain("mask", "has more than 16 patterns");
    }
    Log {
        max_bytes: u64::from(table.ranged("max_kib", 64, 1_048_576).unwrap_or(4_096_u32)) * 1024,
        max_rate: u64::from(table.ranged("max_kib_per_s", 1, 65_536).unwrap_or(256_u32)) * 1024,
        mask,
    }
}

fn is_name(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    plain && (1..=32).contains(&name.len()) && !name.starts_with('-')
}

fn is_variable(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain && !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit())
}

/// Complains of a path that does not start at the root, or climbs.
fn rooted(table: &Table<'_>, key: &str, path: &str) {
    let path = Path::new(path);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        table.complain(key, format!("must be a path from the root without `..`, not `{}`", path.display()));
    }
}

fn seconds(table: &Table<'_>, key: &str, default: u32, low: u32, high: u32) -> Duration {
    Duration::from_secs(table.ranged(key, low, high).unwrap_or(default).into())
}

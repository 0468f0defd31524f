use super::super::lifecycle::Policy;
use super::super::sandbox::Layer;
use super::*;
use crate::scratch::Scratch;

/// Every example, by its name.
const EXAMPLES: [(&str, &str); 8] = [
    ("llama-server", include_str!("../../../examples/payloads/llama-server.toml")),
    ("ollama", include_str!("../../../examples/payloads/ollama.toml")),
    ("open-webui", include_str!("../../../examples/payloads/open-webui.toml")),
    ("render", include_str!("../../../examples/payloads/render.toml")),
    ("t-rex", include_str!("../../../examples/payloads/t-rex.toml")),
    ("teamredminer", include_str!("../../../examples/payloads/teamredminer.toml")),
    ("vllm", include_str!("../../../examples/payloads/vllm.toml")),
    ("xmrig", include_str!("../../../examples/payloads/xmrig.toml")),
];

fn example(wanted: &str) -> Manifest {
    let (name, text) = EXAMPLES.into_iter().find(|(name, _)| *name == wanted).unwrap();
    Manifest::parse("example", name, text).unwrap()
}

fn parse(text: &str) -> Result<Manifest, String> {
    Manifest::parse("x.toml", "x", text).map_err(|problems| problems.to_string())
}

#[test]
fn every_example_parses_and_says_whose_file_it_is() {
    for (name, text) in EXAMPLES {
        let manifest = Manifest::parse(name, name, text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(manifest.name, name);
        assert!(text.starts_with(&format!("# /etc/rigd/payloads.d/{name}.toml: ")), "{name}");
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/payloads");
    let (loaded, problems) = Manifest::load_all(&directory);
    assert_eq!(problems, []);
    let names: Vec<_> = loaded.iter().map(|manifest| manifest.name.as_str()).collect();
    assert_eq!(names, EXAMPLES.map(|(name, _)| name));
}

#[test]
fn little_is_needed_and_the_rest_is_sane() {
    let manifest = parse("kind = \"mining\"\nargv = [\"/bin/miner\"]").unwrap();
    assert_eq!((manifest.name.as_str(), manifest.kind, manifest.autostart), ("x", Kind::Mining, false));
    assert_eq!(manifest.restart.policy, Policy::Always);
    assert_eq!(manifest.stop, Stop { signal: StopSignal::Term, grace: Duration::from_secs(30) });
    assert_eq!((manifest.probe, manifest.meter, manifest.expect), (None, None, None));
    assert_eq!((manifest.sandbox.off, manifest.sandbox.tcp_bind), (LayerSet::NONE, None));
    assert_eq!(manifest.log.max_bytes, 4 << 20);
    let batch = parse("kind = \"batch\"\nargv = [\"/bin/job\"]").unwrap();
    assert_eq!(batch.restart.policy, Policy::OnFailure);
}

#[test]
fn examples_mean_what_they_say() {
    let vllm = example("vllm");
    assert_eq!((vllm.gpus.count, vllm.gpus.min_vram_mib), (4, 24_000));
    assert_eq!(vllm.secrets.get("VLLM_API_KEY"), Some(&PathBuf::from("/etc/rigd/secrets/vllm")));
    let probe = vllm.probe.unwrap();
    assert_eq!(probe.target, Target::Http { port: 8_000, path: "/health".to_owned() });
    assert_eq!((probe.startup, probe.failures), (Duration::from_secs(1_800), 3));
    // Thousandths of a hash a second.
    assert_eq!(example("xmrig").expect.map(|expect| (expect.rate, expect.min_pct)), Some((Some(12_000_000), 80)));
    assert_eq!(example("xmrig").probe.map(|probe| probe.target), Some(Target::Tcp(16_000)));
    let pause = PauseUse { api: "xmrig".to_owned(), port: None, token_file: None };
    assert_eq!((example("xmrig").pause, example("t-rex").pause), (Some(pause), None));
    let trm = example("teamredminer");
    assert_eq!(trm.probe.map(|probe| probe.target), Some(Target::Tcp(4_028)));
    assert_eq!(trm.stop, Stop { signal: StopSignal::Int, grace: Duration::from_secs(20) });
    let render = example("render");
    assert!(render.sandbox.require.has(Layer::Files) && !render.sandbox.require.has(Layer::Tmp));
    assert_eq!((render.sandbox.tcp_bind, render.limits.cpu_pct), (Some(vec![]), Some(400)));
}

#[test]
fn a_container_is_started_by_podman_with_its_gpus_and_without_its_secrets() {
    let manifest = example("open-webui");
    let argv = manifest.command(&["GPU-1".to_owned(), "GPU-2".to_owned()]);
    let expected = "/usr/bin/podman run --rm --replace --init --cgroups=split --log-driver=none --network=host --name=rigd-open-webui \
        --stop-timeout=30 --env=PORT --env=WEBUI_SECRET_KEY --device=nvidia.com/gpu=GPU-1 --device=nvidia.com/gpu=GPU-2 \
        --volume=open-webui:/app/backend/data ghcr.io/open-webui/open-webui:v0.6.5-cuda";
    assert_eq!(argv.join(" "), expected);
    assert!(manifest.sandbox.off.has(Layer::Files) && !manifest.sandbox.off.has(Layer::Cgroup));
}

#[test]
fn every_mistake_names_file_line_and_key() {
    let good = "kind = \"ai\"\nargv = [\"/a\"]\n";
    for (text, expected) in [
        ("", "x.toml: kind: is missing: mining, ai or batch\nx.toml: argv: is missing: the program"),
        ("kind = \"coin\"\nargv = [\"/a\"]", "x.toml:1: kind: must be one of mining, ai, batch, not `coin`"),
        ("kind = \"ai\"\nargv = [\"a\"]", "x.toml:2: argv: must be a path from the root without `..`, not `a`"),
        ("kind = \"ai\"\nargv = \"/a\"", "x.toml:2: argv: must be a list, not a string"),
        ("kind = \"ai\"\nargv = [\"/a\"]\nname = \"X\"", "x.toml:3: name: `X` cannot be a payload's name"),
        ("kind = \"ai\"\nargv = [\"/a\"]\nuser = 7", "x.toml:3: user: must be a string"),
        ("kind = \"ai\"\nargv = [\"/a\"]\ngroup = \"g\"", "x.toml:3: group: needs a user too"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[secret]\nA = \"hunter2\"",
            "x.toml:4: secret.A: must be a path from the root",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[environment]\nA-B = \"1\"",
            "x.toml:4: environment.A-B: is no name of a variable",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[container]\nimage = \"x\"", "x.toml:2: argv: a container is started by"),
        ("kind = \"ai\"\n[container]\nimage = \"-x\"", "x.toml:3: container.image: is no name of an image"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[probe]\nhttp = \"http://10.0.0.1:1/\"",
            "x.toml:4: probe.http: must be http://127.0.0.1:PORT",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[probe]\nhttp = \"http://127.0.0.1:1/a b\"",
            "x.toml:4: probe.http: must be http://127.0.0.1:PORT",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[probe]\ninterval_s = 5",
            "x.toml:3: probe.http: is one of http, tcp and exec",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[probe]\ntcp = 70000", "x.toml:4: probe.tcp: must be 1 to 65535, not 70000"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[stop]\nsignal = \"KILL\"",
            "x.toml:4: stop.signal: must be one of TERM, INT, QUIT, HUP",
        ),
        ("kind = \"mining\"\nargv = [\"/a\"]\n[pause]\nport = 1", "x.toml:3: pause.api: is missing"),
        (
            "kind = \"mining\"\nargv = [\"/a\"]\n[pause]\napi = \"vllm\"",
            "x.toml:4: pause.api: `vllm` is no built-in meter",
        ),
        (
            "kind = \"mining\"\nargv = [\"/a\"]\n[pause]\napi = \"xmrig\"\ntoken_file = \"t\"",
            "x.toml:5: pause.token_file: must be a path from the root",
        ),
        (
            "kind = \"mining\"\nargv = [\"/a\"]\n[pause]\napi = \"xmrig\"\nbody = \"\"",
            "x.toml:5: pause.body: unknown key",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[pause]\napi = \"xmrig\"",
            "x.toml:3: pause: is of no use: an ai is never paused",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[restart]\nmin_s = 400", "x.toml:4: restart.min_s: is above max_s"),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[restart]\nbudget = 0", "x.toml:4: restart.budget: must be 1 to 100, not 0"),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[plan]\nguess_w = 5", "x.toml:3: plan.guess_rate: needs guess_w"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[plan]\nguess_rate = 5\nguess_w = 0",
            "x.toml:5: plan.guess_w: must be 1 to 10000, not 0",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[expect]\nrate = 5", "x.toml:3: expect: needs a [meter]"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[meter]\nname = \"vllm\"\n[expect]\nmin_pct = 50",
            "x.toml:5: expect.rate: is missing: an ai's rate follows its requests",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[sandbox]\noff = [\"no-new-privs\"]",
            "x.toml:4: sandbox.off: without no-new-privs there can be no files",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[sandbox]\noff = [\"file\"]", "x.toml:4: sandbox.off: `file` is no layer"),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[sandbox]\noff = [\"tmp\"]\nrequire = [\"tmp\"]",
            "x.toml:5: sandbox.require: tmp is off",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[sandbox]\nwrite = [\"/a/../etc\"]",
            "x.toml:4: sandbox.write: must be a path from the root",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[sandbox]\ntcp_bind = [\"80\"]",
            "x.toml:4: sandbox.tcp_bind: must be a list of whole numbers",
        ),
        (
            "kind = \"ai\"\nargv = [\"/a\"]\n[log]\nmask = [\"=\"]",
            "x.toml:4: log.mask: has a pattern of less than 3 bytes",
        ),
        ("kind = \"ai\"\nargv = [\"/a\"]\n[limits]\nmemory_mb = 1", "x.toml:4: limits.memory_mb: unknown key"),
        ("kind = ", "x.toml:1: "),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(expected), "{text:?} gave {error:?}");
    }
    let error = parse(&format!("{good}x = 1\n[log]\nmax_kib = 1\n[gpus]\ncount = 65")).unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn one_bad_file_keeps_no_other_away() {
    let directory = Scratch::new("manifests");
    for (file, text) in [
        ("a.toml", "kind = \"ai\"\nargv = [\"/a\"]"),
        ("b.toml", "kind = 1"),
        ("c.txt", "no manifest"),
        ("UP.toml", "kind = \"ai\"\nargv = [\"/a\"]"),
    ] {
        fs::write(directory.join(file), text).unwrap();
    }
    let (loaded, problems) = Manifest::load_all(&directory);
    assert_eq!(loaded.iter().map(|manifest| manifest.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(problems.len(), 2);
    assert_eq!(Manifest::load_all(Path::new("/nonexistent")), (vec![], vec![]));
}

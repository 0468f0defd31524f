use super::*;

/// Control's end without a thread behind it, and what the thread would see.
fn handle(launch: bool) -> (Handle, mailbox::Inbox<Order>, watch::Sender<Arc<GpuSnapshot>>, Receiver<Command>) {
    let (orders, inbox) = mailbox();
    let (publish, snapshot) = watch::channel(Arc::new(GpuSnapshot::default()));
    let (_, happenings) = sync_channel(1);
    let (_, finished) = sync_channel(1);
    let (desk, commands) = Desk::pair(1);
    (Handle { launch, orders, snapshot, happenings, finished, desk }, inbox, publish, commands)
}

#[test]
fn no_order_is_left_where_there_is_nothing_to_do() {
    let now = crate::clock::now();
    let found = |gpus: usize, ago: Option<Duration>| {
        let gpus = (0..gpus).map(|_| Gpu::unseen("0000:01:00.0".parse().unwrap())).collect();
        GpuSnapshot { taken: ago.map(|ago| now.checked_sub(ago).unwrap()), gpus, ..GpuSnapshot::default() }
    };
    let ms = |ms| Some(Duration::from_millis(ms));
    let rows = [
        ("no way to a driver, and no pass was made", false, found(0, None), false),
        ("no way to a driver", false, found(0, ms(100_000)), false),
        ("no pass was made yet", true, found(0, None), true),
        ("no GPU, looked just now", true, found(0, ms(0)), false),
        ("no GPU, not to be looked for yet", true, found(0, ms(29_999)), false),
        ("no GPU, to be looked for again", true, found(0, ms(30_000)), true),
        ("a GPU", true, found(1, ms(0)), true),
    ];
    for (what, launch, snapshot, ordered) in rows {
        let (handle, inbox, publish, _commands) = handle(launch);
        publish.send_replace(Arc::new(snapshot));
        handle.order(Order::default(), now);
        assert_eq!(inbox.look().is_some(), ordered, "{what}");
    }
}

#[test]
fn what_an_operator_asks_is_a_pass_and_no_more_than_one() {
    let (handle, inbox, _publish, commands) = handle(false);
    let now = crate::clock::now();
    let (answer, _) = oneshot::channel();
    assert!(handle.desk().ask(Command::Release { time: Duration::ZERO, answer }));
    let (answer, _) = oneshot::channel();
    assert!(!handle.desk().ask(Command::Release { time: Duration::ZERO, answer }), "there is room for one");
    handle.order(Order::default(), now);
    assert!(inbox.look().is_some() && commands.try_recv().is_ok());
    handle.order(Order::default(), now);
    assert_eq!(inbox.look(), None);
}

/// The thread itself on a machine without GPUs: one pass finds that out, and is enough.
#[test]
fn one_pass_is_enough_to_find_no_gpu() {
    let nowhere = std::env::temp_dir().join(format!("rigd-gpus-{}", std::process::id()));
    let text = format!("rig = \"rig-1\"\nboard = \"a\"\nstate = {nowhere:?}\n[broker]\nurl = \"mqtt://127.0.0.1:1\"\n");
    let config = Config::parse("rigd.toml", &text, "host").unwrap();
    let program = helper::Program::Run(nowhere.join("rigd-nvml"));
    let (start, deadline) = (helper::START, helper::DEADLINE);
    let launch = Launch { program, library: None, simulation: None, start, deadline };
    let places = |launch| Places { launch, sysfs: nowhere.clone(), kmsg: nowhere.join("kmsg") };
    let mut handle = spawn(places(Some(launch)), &config).unwrap();
    assert!(handle.launch && due(&handle.snapshot(), crate::clock::now()));
    handle.order(Order::default(), crate::clock::now());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handle.snapshot.changed()).unwrap();
    let found = handle.snapshot();
    assert!(found.gpus.is_empty() && found.driver == Driver::None);
    assert!(!due(&found, found.taken.unwrap()));
    assert_eq!(handle.leave().recv(), Ok(true));
    let handle = spawn(places(None), &config).unwrap();
    assert!(!handle.launch);
    assert_eq!(handle.leave().recv(), Ok(true));
}

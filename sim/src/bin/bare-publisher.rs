//! The least that publishes over MQTT 5 with the agent's own library: the floor that `cargo xtask measure` sets the agent
//! beside. It measures nothing and keeps nothing; the payload is zeros.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, MqttOptions};
use tokio::time::interval;

const HELP: &str = "\
bare-publisher: publishes zeros to an MQTT 5 broker on the loopback, once a second, QoS 1

usage: bare-publisher PORT TOPIC BYTES
";
const PERIOD: Duration = Duration::from_secs(1);
/// As the agent's link has them.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const WINDOW: u16 = 16;
/// Packets between the two tasks; a full channel makes the publisher wait.
const CHANNEL: usize = 32;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "bare-publisher: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, topic, bytes] = args.as_slice() else { bail!("{HELP}") };
    let (port, bytes) = (port.parse().context("PORT")?, bytes.parse().context("BYTES")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(publish(port, topic, bytes))
}

async fn publish(port: u16, topic: &str, bytes: usize) -> Result<()> {
    let mut options = MqttOptions::new(topic, "127.0.0.1", port);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options
        .set_keep_alive(KEEP_ALIVE)
        .set_receive_maximum(Some(WINDOW))
        .set_outgoing_inflight_upper_limit(WINDOW)
        .set_network_options(network);
    let (client, mut eventloop) = AsyncClient::new(options, CHANNEL);
    let payload = vec![0; bytes];
    let ticks = async {
        let mut ticks = interval(PERIOD);
        loop {
            ticks.tick().await;
            if let Err(error) = client.publish(topic, QoS::AtLeastOnce, false, payload.clone()).await {
                return error.into();
            }
        }
    };
    let link = async {
        loop {
            if let Err(error) = eventloop.poll().await {
                return error.into();
            }
        }
    };
    // Neither ends but by an error.
    tokio::select! {
        error = ticks => Err(error),
        error = link => Err(error),
    }
}

//! The broker of `systemd/mosquitto` with real certificates: who may do what, who is refused, and what is renewed.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber, date_time_ymd};
use rigd::clock;
use rigd::config::Broker as Place;
use rigd::config::broker::TlsGiven;
use rigd::mqtt::{connect_options, tls};
use rigd::wire::{Kind, Message};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason};
use rumqttc::v5::{Client, Connection, Event, MqttOptions};
use rustix::process::Signal;

use crate::agent::{Agent, Setup, until};
use crate::broker::{Broker, free_port};
use crate::certificates::{Authority, Wanted, put};
use crate::collect::Follower;
use crate::subscriber::Subscriber;

const CONFIG: &str = include_str!("../../systemd/mosquitto/rigd.conf");
const ACL: &str = include_str!("../../systemd/mosquitto/rigd.acl");

/// The shipped broker on free ports, with its authorities.
struct Site {
    broker: Broker,
    /// Of the control plane's listener.
    control_port: u16,
    rigs: Authority,
    control: Authority,
}

/// The shipped broker with its access list and no certificate yet, on free ports of the loopback; the second is that of the
/// control plane's listener.
pub(crate) fn shipped(change: impl Fn(String) -> String) -> (Broker, u16) {
    let (port, control_port) = (free_port(), free_port());
    let config = CONFIG
        .replace("/etc/mosquitto/rigd/", "{dir}/")
        .replace("listener 8883", &format!("listener {port} 127.0.0.1"))
        .replace("listener 8884", &format!("listener {control_port} 127.0.0.1"))
        // Nothing is kept from test to test.
        .replace("persistence true", "persistence false");
    let broker = Broker::configured(port, &format!("log_dest none\n{}", change(config)));
    put(&broker.directory().join("rigd.acl"), ACL);
    (broker, control_port)
}

impl Site {
    /// Runs; the certificate of rigs with serial number 13 is revoked.
    fn start() -> Self {
        let mut site = Self::prepare();
        site.broker.run();
        site
    }

    fn prepare() -> Self {
        let (broker, control_port) =
            shipped(|config| config.replace("#crlfile {dir}/rigs.crl", "crlfile {dir}/rigs.crl"));
        let site = Self { broker, control_port, rigs: Authority::new("rigs"), control: Authority::new("control") };
        put(&site.path("rigs-ca.pem"), &site.rigs.pem());
        put(&site.path("control-ca.pem"), &site.control.pem());
        put(&site.path("rigs.crl"), &revoked(&site.rigs, 13));
        // Rigs and people know the broker by the control plane's authority.
        site.control
            .issue_to(&site.path("broker"), &Wanted { also: &["127.0.0.1", "localhost"], ..Wanted::by("broker") });
        site.open();
        site
    }

    /// mosquitto has dropped root's privileges when it reads some of these.
    fn open(&self) {
        fs::set_permissions(self.broker.directory(), PermissionsExt::from_mode(0o755)).unwrap();
        for file in ["rigs-ca.pem", "control-ca.pem", "rigs.crl", "rigd.acl", "broker.pem", "broker.key"] {
            fs::set_permissions(self.path(file), PermissionsExt::from_mode(0o644)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.broker.directory().join(name)
    }

    fn url(&self) -> String {
        format!("mqtts://127.0.0.1:{}", self.broker.port)
    }

    /// Options of a client with this certificate.
    fn options(&self, port: u16, id: &str, identity: Option<(PathBuf, PathBuf)>) -> MqttOptions {
        let mut place = Place::from_url(&format!("mqtts://localhost:{port}")).unwrap();
        let (cert, key) = identity.unzip();
        place.secure(TlsGiven { ca: Some(self.path("control-ca.pem")), cert, key, ..TlsGiven::default() }).unwrap();
        let loaded = tls::load(place.tls.as_ref().unwrap()).unwrap();
        connect_options(&place, &place.addresses[0], id, None, Some(loaded.config))
    }

    fn rig(&self, name: &str) -> Peer {
        let identity = self.rigs.issue_to(&self.path(name), &Wanted::by(name));
        Peer::connect(self.options(self.broker.port, name, Some(identity))).unwrap()
    }

    fn person(&self, name: &str) -> MqttOptions {
        let identity = self.control.issue_to(&self.path(name), &Wanted::by(name));
        self.options(self.control_port, &format!("{name}-1"), Some(identity))
    }

    fn control(&self) -> Peer {
        Peer::connect(self.person("ctl.control")).unwrap()
    }

    /// The agent's lines for TLS.
    fn lines(&self, identity: &(PathBuf, PathBuf)) -> String {
        let (cert, key) = identity;
        format!("ca_file = {:?}\ncert_file = {cert:?}\nkey_file = {key:?}", self.path("control-ca.pem"))
    }
}

/// The list of what an authority has revoked, in PEM.
fn revoked(authority: &Authority, serial: u64) -> String {
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2024, 1, 1),
        next_update: date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&authority.issuer).unwrap().pem().unwrap()
}

/// A client that does one thing at a time.
struct Peer {
    client: Client,
    connection: Connection,
}

impl Peer {
    /// Connects once; the reason where it is refused.
    fn connect(mut options: MqttOptions) -> Result<Self, String> {
        options.set_max_packet_size(Some(1 << 20));
        let (client, connection) = Client::new(options, 16);
        let mut peer = Self { client, connection };
        peer.wait(|packet| matches!(packet, Packet::ConnAck(_)).then_some(()))?;
        Ok(peer)
    }

    /// The next packet that is looked for.
    fn wait<T>(&mut self, look: impl Fn(&Packet) -> Option<T>) -> Result<T, String> {
        let deadline = clock::now() + Duration::from_secs(30);
        while clock::now() < deadline {
            match self.connection.recv_timeout(Duration::from_secs(10)) {
                Ok(Ok(Event::Incoming(packet))) => {
                    if let Some(found) = look(&packet) {
                        return Ok(found);
                    }
                }
                Ok(Ok(Event::Outgoing(_))) => {}
                Ok(Err(error)) => return Err(tls::explain(&error, 0)),
                Err(_) => return Err("nothing came".to_owned()),
            }
        }
        Err("waited in vain".to_owned())
    }

    /// What the broker says to a message on this topic.
    fn publish(&mut self, topic: &str) -> PubAckReason {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, topic.to_owned()).unwrap();
        self.wait(|packet| if let Packet::PubAck(ack) = packet { Some(ack.reason) } else { None }).unwrap()
    }

    fn subscribe(&mut self, filter: &str) {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.wait(|packet| matches!(packet, Packet::SubAck(_)).then_some(())).unwrap();
    }

    /// The topics of all messages up to this one.
    fn hears_until(&mut self, last: &str) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|topic| topic != last) {
            let topic = self.wait(|packet| {
                let Packet::Publish(publish) = packet else { return None };
                Some(String::from_utf8_lossy(&publish.topic).into_owned())
            });
            heard.push(topic.unwrap());
        }
        heard
    }
}

fn taken(reason: PubAckReason) -> bool {
    matches!(reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers)
}

#[test]
fn each_writes_what_is_its_own_and_nobody_but_the_control_plane_commands() {
    let site = Site::start();
    let (mut rig, mut control) = (site.rig("rig-1"), site.control());
    let mut operator = Peer::connect(site.person("ctl.operator")).unwrap();
    let mut sender = Peer::connect(site.person("ctl.send")).unwrap();
    for (topic, by_sender) in [
        ("r1/rig-1/dn/cmd", true),
        ("r1/rig-1/dn/des", true),
        ("r1/g/all/dn/cmd", true),
        ("r1/rig-1/dn/wm", false),
        ("r1/ctl/state", false),
        ("r1/rig-1/up/ack", false),
    ] {
        assert_eq!(taken(sender.publish(topic)), by_sender, "a person who gives orders on {topic}");
    }
    for (topic, by_rig, by_control) in [
        ("r1/rig-1/up/tele", true, false),
        ("r1/rig-1/up/ack/deeper", true, false),
        ("r1/rig-2/up/tele", false, false),
        ("r1/rig-1/dn/cmd", false, true),
        ("r1/rig-1/dn/wm", false, true),
        ("r1/rig-2/dn/cmd", false, true),
        ("r1/g/all/dn/cmd", false, true),
        ("r1/g/all/dn/des", false, false),
        ("r1/ctl/state", false, true),
        ("r1/ctl/other", false, false),
        ("other", false, false),
    ] {
        assert_eq!(taken(rig.publish(topic)), by_rig, "rig-1 on {topic}");
        assert_eq!(taken(control.publish(topic)), by_control, "the control plane on {topic}");
        assert!(!taken(operator.publish(topic)), "an operator on {topic}");
    }
}

#[test]
fn a_rig_hears_what_is_for_it_whatever_it_subscribes_to() {
    let site = Site::start();
    let (mut one, mut two, mut control) = (site.rig("rig-1"), site.rig("rig-2"), site.control());
    let mut operator = Peer::connect(site.person("ctl.operator")).unwrap();
    two.subscribe("r1/#");
    operator.subscribe("r1/#");
    assert!(taken(one.publish("r1/rig-1/up/tele")));
    for topic in ["r1/rig-1/dn/cmd", "r1/rig-2/dn/cmd", "r1/g/all/dn/cmd", "r1/rig-1/dn/wm", "r1/ctl/state"] {
        assert!(taken(control.publish(topic)), "{topic}");
    }
    assert_eq!(two.hears_until("r1/ctl/state"), ["r1/rig-2/dn/cmd", "r1/g/all/dn/cmd", "r1/ctl/state"]);
    let all = operator.hears_until("r1/ctl/state");
    assert_eq!(all.len(), 6, "{all:?}");
}

#[test]
fn who_has_no_right_certificate_does_not_get_in() {
    let site = Site::start();
    let port = site.broker.port;
    let stranger = Authority::new("rigs").issue_to(&site.path("stranger"), &Wanted::by("rig-1"));
    let person = site.control.issue_to(&site.path("person"), &Wanted::by("rig-1"));
    let rig = site.rigs.issue_to(&site.path("rig"), &Wanted::by("rig-1"));
    let expired = site.rigs.issue_to(&site.path("old"), &Wanted { years: (2020, 2021), ..Wanted::by("rig-1") });
    let revoked = site.rigs.issue_to(&site.path("revoked"), &Wanted { serial: 13, ..Wanted::by("rig-1") });
    let refused = |options| Peer::connect(options).err().unwrap_or_else(|| "it got in".to_owned());
    for (what, port, identity, expected) in [
        ("no certificate", port, None, "the broker wants a certificate of ours"),
        (
            "signed by another authority of the same name",
            port,
            Some(stranger),
            "TLS: received fatal alert: DecryptError",
        ),
        (
            "signed by the control plane's authority",
            port,
            Some(person),
            "does not know the authority that signed our certificate",
        ),
        (
            "a rig at the control plane's door",
            site.control_port,
            Some(rig),
            "does not know the authority that signed our certificate",
        ),
        (
            "expired",
            port,
            Some(expired),
            "finds our certificate (cert_file) expired or not valid yet; the rig's clock says 1970-01-01",
        ),
        ("revoked", port, Some(revoked), "our certificate (cert_file) is revoked"),
    ] {
        let said = refused(site.options(port, "rig-1", identity));
        assert!(said.contains(expected), "{what}: {said}");
    }
    let said = refused(MqttOptions::new("rig-1", "127.0.0.1", port));
    assert!(!said.contains("it got in"), "plain text: {said}");
    assert!(Peer::connect(site.options(port, "rig-1", Some((site.path("rig.pem"), site.path("rig.key"))))).is_ok());
}

/// As `systemctl reload mosquitto` does it.
#[test]
fn a_certificate_is_revoked_without_a_restart_of_the_broker() {
    let site = Site::start();
    let identity = site.rigs.issue_to(&site.path("rig-1"), &Wanted { serial: 14, ..Wanted::by("rig-1") });
    let connect = || Peer::connect(site.options(site.broker.port, "rig-1", Some(identity.clone())));
    assert!(connect().is_ok());
    put(&site.path("rigs.crl"), &revoked(&site.rigs, 14));
    site.open();
    site.broker.signal(Signal::HUP);
    let reason = until("the broker refuses it", || connect().err());
    assert!(reason.contains("our certificate (cert_file) is revoked"), "{reason}");
}

#[test]
fn a_rig_cannot_throw_another_off_by_its_client_id() {
    let site = Site::start();
    let mut one = site.rig("rig-1");
    let two = site.rigs.issue_to(&site.path("rig-2"), &Wanted::by("rig-2"));
    let mut thief = Peer::connect(site.options(site.broker.port, "rig-1", Some(two))).unwrap();
    assert!(taken(thief.publish("r1/rig-2/up/tele")), "it is itself, whatever id it says");
    assert!(taken(one.publish("r1/rig-1/up/tele")), "and the other is still there");
}

/// Both listeners have one list of ids: who could say any id on one of them could throw off whoever is on the other.
#[test]
fn nobody_on_the_control_planes_side_can_throw_a_rig_off_either() {
    let site = Site::start();
    let mut one = site.rig("rig-1");
    for name in ["ctl.operator", "ctl.send", "ctl.control"] {
        let identity = site.control.issue_to(&site.path("person"), &Wanted::by(name));
        let mut thief = Peer::connect(site.options(site.control_port, "rig-1", Some(identity))).unwrap();
        assert!(!taken(thief.publish("r1/rig-1/up/tele")), "{name} is itself, whatever id it says");
        assert!(taken(one.publish("r1/rig-1/up/tele")), "and the rig is still there after {name}");
    }
}

#[test]
fn who_comes_second_with_one_certificate_takes_the_place_of_the_first() {
    let site = Site::start();
    let (cert, key) = site.control.issue_to(&site.path("me"), &Wanted::by("ctl.operator"));
    let url = format!("mqtts://localhost:{}", site.control_port);
    let first = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"))
        .args(["desired", "get", "rig-1", "--broker", &url])
        .arg("--ca")
        .arg(site.path("control-ca.pem"))
        .arg("--cert")
        .arg(&cert)
        .arg("--key")
        .arg(&key)
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let first = std::cell::RefCell::new(first);
    until("the first one ends", || {
        let options = site.options(site.control_port, "x", Some((cert.clone(), key.clone())));
        drop(Peer::connect(options).unwrap());
        first.borrow_mut().try_wait().unwrap().map(drop)
    });
    let output = first.into_inner().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Connection closed by peer"), "{said}");
}

#[test]
fn the_agent_gets_in_and_takes_a_renewed_certificate_without_a_restart() {
    let site = Site::start();
    let identity = site.rigs.issue_to(&site.path("rig-1"), &Wanted { years: (2020, 2080), ..Wanted::by("rig-1") });
    let mut agent = Agent::prepare(&site.url(), Setup { broker: site.lines(&identity), ..Setup::default() });
    agent.run();
    agent.logged("rig-1.pem: in force, valid until 2080-01-01");
    let subscriber = Subscriber::with(site.person("ctl.operator"));
    subscriber.telemetry("a sample over TLS", |_| true);
    // Half of a renewal is no reason to let go.
    let (cert, key) = site.rigs.issue(&Wanted { years: (2020, 2081), ..Wanted::by("rig-1") });
    put(&identity.0, &cert);
    agent.logged("rig-1.key: is not the key of ");
    agent.logged("what was read before stays in force");
    subscriber.telemetry("samples go on", |_| true);
    assert_eq!(agent.log().matches("connected to").count(), 1);
    put(&identity.1, &key);
    agent.logged("rig-1.pem: in force, valid until 2081-01-01");
    until("a second connection", || (agent.log().matches("connected to").count() == 2).then_some(()));
    let seen = subscriber.wait("a birth of the second connection", |heard| {
        let mut births =
            heard.iter().filter(|one| matches!(&one.message, Message::Birth(birth) if birth.connection == 2));
        births.next_back().map(|birth| birth.header.boot)
    });
    subscriber.wait("samples of the same start", |heard| {
        heard
            .iter()
            .rev()
            .find(|one| one.header.kind == Kind::Telemetry)
            .filter(|one| one.header.boot == seen)
            .map(drop)
    });
    assert!(!agent.log().contains("PRIVATE"));
}

#[test]
fn the_agent_refuses_a_broker_that_is_not_the_one() {
    let site = Site::start();
    let identity = site.rigs.issue_to(&site.path("rig-1"), &Wanted::by("rig-1"));
    let good = site.lines(&identity);
    put(&site.path("other-ca.pem"), &Authority::new("other").pem());
    let other = good.replace("control-ca.pem", "other-ca.pem");
    let start = |lines: String| {
        let mut agent = Agent::prepare(&site.url(), Setup { broker: lines, ..Setup::default() });
        agent.run();
        agent
    };
    let wrong_authority = start(other);
    wrong_authority.logged("the broker's certificate is not signed by an authority in ca_file");
    let wrong_name = start(format!("{good}\nserver_name = \"other\""));
    wrong_name.logged("not for other: see server_name");
    // The name that is asked for need not be the host's.
    start(format!("{good}\nserver_name = \"broker\"")).logged("connected to 127.0.0.1");
    let no_file = start(good.replace("control-ca.pem", "none.pem"));
    no_file.logged("none.pem: could not be read: No such file or directory");
    for agent in [&wrong_authority, &wrong_name, &no_file] {
        agent.fans("fans are under control", |percent| percent < 100);
        assert!(!agent.log().contains("connected to 127.0.0.1"), "{}", agent.log());
    }
    // The file comes, and so does the connection.
    fs::copy(site.path("control-ca.pem"), site.path("none.pem")).unwrap();
    no_file.logged("connected to 127.0.0.1");
}

#[test]
fn a_broker_whose_certificate_has_expired_is_refused_with_both_dates() {
    let mut site = Site::prepare();
    let wanted = Wanted { also: &["127.0.0.1"], years: (2020, 2021), ..Wanted::by("broker") };
    site.control.issue_to(&site.path("broker"), &wanted);
    site.open();
    site.broker.run();
    let identity = site.rigs.issue_to(&site.path("rig-1"), &Wanted::by("rig-1"));
    let mut agent = Agent::prepare(&site.url(), Setup { broker: site.lines(&identity), ..Setup::default() });
    agent.run();
    agent.logged("the broker's certificate was valid until 2021-01-01, and the rig's clock says 20");
}

fn ctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rigd-ctl")).args(arguments).output().unwrap()
}

#[test]
fn the_tool_gets_in_with_a_certificate_and_says_what_is_wrong_without() {
    let site = Site::start();
    let rig = site.rigs.issue_to(&site.path("rig-1"), &Wanted::by("rig-1"));
    let mut agent = Agent::prepare(&site.url(), Setup { broker: site.lines(&rig), ..Setup::default() });
    agent.run();
    agent.logged("connected to");
    let url = format!("mqtts://localhost:{}", site.control_port);
    let (cert, key) = site.control.issue_to(&site.path("me"), &Wanted::by("ctl.operator"));
    let ca = site.path("control-ca.pem");
    let watch = ["watch", "--once", "--rig", "rig-1", "--broker", &url, "--ca", ca.to_str().unwrap()];
    let stranger = ctl(&watch);
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && said.contains("wants a certificate of ours"), "{said}");
    let mine = [&watch[..], &["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()]].concat();
    let operator = ctl(&mine);
    assert!(operator.status.success(), "{}", String::from_utf8_lossy(&operator.stderr));
    assert!(String::from_utf8_lossy(&operator.stdout).contains("rig-1  online  simulated-8gpu"));
    let plain = ctl(&["watch", "--once", "--broker", "mqtt://broker"]);
    let said = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(!plain.status.success() && said.contains("--broker: mqtt://broker:1883 is not encrypted"), "{said}");
}

/// Seen to fail where the collector said what rustls says.
#[test]
fn a_collector_says_what_to_put_right() {
    let site = Site::start();
    put(&site.path("other-ca.pem"), &Authority::new("other").pem());
    let (store, log) = (site.path("store"), site.path("collector.log"));
    fs::create_dir(&store).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigd-ctl"));
    command.args(["collect", "--broker", &format!("mqtts://localhost:{}", site.control_port), "--store"]).arg(&store);
    command.arg("--ca").arg(site.path("other-ca.pem")).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let _collector = Follower(command.spawn().unwrap());
    let words = format!(
        "no connection to broker mqtts://localhost:{}: the broker's certificate is not signed by an authority in ca_file",
        site.control_port
    );
    until("the collector's words", || fs::read_to_string(&log).ok().filter(|log| log.contains(&words)));
}

#[test]
fn check_looks_into_the_files_and_the_agent_refuses_plain_text_to_elsewhere() {
    let site = Site::prepare();
    let identity = site.rigs.issue_to(&site.path("rig-1"), &Wanted::by("rig-1"));
    let agent = Agent::prepare(&site.url(), Setup { broker: site.lines(&identity), ..Setup::default() });
    let file = agent.scratch.path.join("rigd.toml");
    let check = || ctl(&["check", "--config", file.to_str().unwrap()]);
    let good = check();
    let stdout = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    assert!(
        stdout.contains(&site.url()) && stdout.contains("as         rig-1, certificate valid until 2090-01-01"),
        "{stdout}"
    );
    site.rigs.issue_to(&site.path("rig-1"), &Wanted::by("rig-9"));
    let wrong = check();
    let stderr = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        !wrong.status.success() && stderr.contains("is the certificate of rig-9, and this rig is rig-1"),
        "{stderr}"
    );
    let plain = Agent::prepare("mqtt://broker.example", Setup::default());
    let output = plain.command().output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr.contains("broker.url: mqtt://broker.example:1883 is not encrypted and leaves this machine"),
        "{stderr}"
    );
}

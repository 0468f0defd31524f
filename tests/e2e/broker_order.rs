//! Several brokers: in order, the first that lets us in holds, and after it is lost the first comes first.

use crate::agent::{Agent, Setup, until};
use crate::broker::Broker;
use crate::subscriber::Subscriber;

fn url(broker: &Broker) -> String {
    // By a name: what is in /etc/hosts is found.
    format!("mqtt://localhost:{}", broker.port)
}

#[test]
fn the_first_that_lets_us_in_holds_and_when_it_is_lost_the_first_comes_first() {
    let (mut first, mut second) = (Broker::absent(), Broker::start());
    let subscriber = Subscriber::new(second.port);
    let mut agent = Agent::prepare_for(&[&url(&first), &url(&second)], Setup::default());
    agent.run();
    let connected = |broker: &Broker| format!("connected to localhost:{}", broker.port);
    agent.logged(&connected(&second));
    agent.logged(&format!("no connection to broker localhost:{}", first.port));
    subscriber.telemetry("a sample on the second", |_| true);
    // The first is there now, and nothing moves.
    first.run();
    let late = Subscriber::new(first.port);
    subscriber.telemetry("samples go on", |t| t.uptime_ms > 3_000);
    assert_eq!(agent.log().matches("connected to localhost").count(), 1);
    second.kill();
    agent.logged(&connected(&first));
    late.telemetry("a sample on the first", |_| true);
    // And the other way round, in the same start.
    second.run();
    first.kill();
    until("the second again", || (agent.log().matches(&connected(&second)).count() == 2).then_some(()));
}

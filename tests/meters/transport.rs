//! The transport against real servers on the loopback.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rigd::payload::meter::{Answer, LARGEST_ANSWER, Meter, TIMEOUT, Token, fetch, read};
use rigd::reading::Missing;
use rigd::units::MilliPerSecond;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

const OK: &str = "HTTP/1.1 200 OK\r\n";
const BODY: &str = r#"{"rate": 12.5, "queue": 3}"#;

/// A server for one connection, which reads until an empty line or a line feed and then does as it is told.
async fn server<F: Future<Output = ()> + Send + 'static>(
    then: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") && !asked.ends_with(b"}\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        then(stream).await;
        String::from_utf8(asked).unwrap()
    });
    (at, task)
}

/// A server that says this and closes.
async fn says(text: String) -> SocketAddr {
    server(|mut stream| async move { stream.write_all(text.as_bytes()).await.unwrap() }).await.0
}

fn json() -> Meter {
    Meter::load("generic-json").unwrap()
}

#[expect(clippy::disallowed_methods, reason = "what is tested is how long it really takes")]
async fn timed(at: SocketAddr, meter: &Meter) -> (Result<Answer, Missing>, Duration) {
    let start = Instant::now();
    let answer = fetch(at, meter, None).await;
    (answer, start.elapsed())
}

#[tokio::test]
async fn an_answer_comes_whole_by_length_by_chunks_or_by_the_end() {
    let (one, two) = BODY.split_at(9);
    for text in [
        format!("{OK}Content-Length: {}\r\n\r\n{BODY}", BODY.len()),
        format!(
            "{OK}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
            one.len(),
            two.len()
        ),
        format!("{OK}\r\n{BODY}"),
    ] {
        let answer = fetch(says(text.clone()).await, &json(), None).await;
        assert_eq!(answer, Ok(Answer { bytes: BODY.as_bytes().to_vec(), whole: true }), "{text}");
        let sample = read(&json(), &answer.unwrap(), None, Duration::ZERO);
        assert_eq!((sample.rate, sample.queue), (Ok(MilliPerSecond(12_500)), Ok(3)));
    }
}

#[tokio::test]
async fn a_line_is_asked_and_an_answer_ends_with_its_connection_or_a_nul() {
    let meter = Meter::load("cgminer").unwrap();
    for (text, keep) in [("{\"a\":1}\0", true), ("{\"a\":1}", false)] {
        let (at, task) = server(move |mut stream| async move {
            stream.write_all(text.as_bytes()).await.unwrap();
            if keep {
                // Until the other side goes.
                let _ = stream.read_u8().await;
            }
        })
        .await;
        // Whole: it has not ended by the time that it took.
        let answer = fetch(at, &meter, None).await;
        assert_eq!(answer, Ok(Answer { bytes: text.as_bytes().to_vec(), whole: true }));
        assert_eq!(task.await.unwrap(), "{\"command\":\"summary\"}\n");
    }
}

#[tokio::test]
async fn a_token_is_sent_and_only_to_this_machine() {
    let path = std::env::temp_dir().join(format!("rigd-token-{}", std::process::id()));
    std::fs::write(&path, " secret-1 \n").unwrap();
    let token = Token::read(&path).unwrap();
    assert_eq!(format!("{token:?}"), "Token");
    let (at, task) = server(|mut stream| async move { stream.write_all(OK.as_bytes()).await.unwrap() }).await;
    let _ = fetch(at, &json(), Some(&token)).await;
    let asked = task.await.unwrap();
    assert!(
        asked.starts_with("GET /status HTTP/1.1\r\n") && asked.contains("\r\nAuthorization: Bearer secret-1\r\n"),
        "{asked}"
    );
    for bad in ["", " \n", "two words", "line\nfeed", "ünicode", &"x".repeat(5_000)] {
        std::fs::write(&path, bad).unwrap();
        assert!(Token::read(&path).is_err(), "{bad:?}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(Token::read(&path).is_err());
    // TEST-NET-1: nothing is sent there, and nothing is waited for.
    let (answer, took) = timed("192.0.2.1:80".parse().unwrap(), &json()).await;
    assert_eq!(answer, Err(Missing::NotPresent));
    assert!(took < TIMEOUT, "{took:?}");
}

#[tokio::test]
async fn who_refuses_is_not_there_and_who_loads_is_off() {
    // Taken, so that nobody else gets it meanwhile, and not listened on.
    let unused = TcpSocket::new_v4().unwrap();
    unused.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    assert_eq!(fetch(unused.local_addr().unwrap(), &json(), None).await, Err(Missing::NotPresent));
    for (text, expected) in [
        ("HTTP/1.1 401 Unauthorized\r\n\r\n", Missing::NotPresent),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"error\":\"Loading model\"}", Missing::Off),
        ("HTTP/1.1 500 Internal Server Error\r\n\r\n", Missing::Bus),
        ("\u{1}\u{2}nonsense\n\n\n\u{fffd}", Missing::Bus),
        ("", Missing::Bus),
    ] {
        assert_eq!(fetch(says(text.to_owned()).await, &json(), None).await, Err(expected), "{text:?}");
    }
}

#[tokio::test]
async fn who_never_answers_costs_two_seconds_and_who_drips_gives_what_came() {
    let wait = |mut stream: TcpStream| async move {
        let _ = stream.read_u8().await;
    };
    let drip = |mut stream: TcpStream| async move {
        let text = format!("{OK}\r\n{{\"rate\": 12.5, \"queue\": 3, \"more\": \"{}", "x".repeat(100_000));
        for byte in text.as_bytes() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (never, dripping, never_tcp) = (server(wait).await.0, server(drip).await.0, server(wait).await.0);
    let (json, cgminer) = (json(), Meter::load("cgminer").unwrap());
    let (never, dripping, never_tcp) =
        tokio::join!(timed(never, &json), timed(dripping, &json), timed(never_tcp, &cgminer));
    for (name, (_, took)) in [("never", &never), ("dripping", &dripping), ("never by line", &never_tcp)] {
        assert!(*took >= TIMEOUT && *took < TIMEOUT + Duration::from_secs(20), "{name}: {took:?}");
    }
    assert_eq!((never.0, never_tcp.0), (Err(Missing::Bus), Err(Missing::Bus)));
    let answer = dripping.0.unwrap();
    assert!(!answer.whole);
    let sample = read(&json, &answer, None, Duration::ZERO);
    assert_eq!((sample.rate, sample.queue), (Ok(MilliPerSecond(12_500)), Ok(3)));
    assert_eq!(sample.accepted, Err(Missing::Bus));
}

#[tokio::test]
async fn a_hundred_megabytes_are_read_up_to_the_bound() {
    let pour = |mut stream: TcpStream| async move {
        let start = format!("{OK}Content-Length: 104857600\r\n\r\n{{\"rate\": 12.5, \"long\": \"");
        let block = [b'x'; 64 * 1024];
        let mut going = stream.write_all(start.as_bytes()).await;
        for _ in 0..1_600 {
            if going.is_err() {
                return;
            }
            going = stream.write_all(&block).await;
        }
    };
    for meter in [json(), Meter::load("cgminer").unwrap()] {
        let answer = fetch(server(pour).await.0, &meter, None).await.unwrap();
        assert_eq!((answer.bytes.len(), answer.whole), (LARGEST_ANSWER, false));
    }
    let answer = fetch(server(pour).await.0, &json(), None).await;
    assert_eq!(read(&json(), &answer.unwrap(), None, Duration::ZERO).rate, Ok(MilliPerSecond(12_500)));
}

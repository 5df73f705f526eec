use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// What of `bytes`, which come in pieces of `size`, passes before the stream ends or fails.
async fn passed(bytes: &[u8], size: usize) -> (Vec<u8>, Option<io::ErrorKind>) {
    let (mut theirs, ours) = duplex(1 << 20);
    let mut strict = Strict::new(ours, PATIENCE);
    let mut passed = Vec::new();
    let mut piece = vec![0; 1 << 16];
    for sent in bytes.chunks(size) {
        theirs.write_all(sent).await.expect("sent");
        match strict.read(&mut piece).await {
            Ok(read) => passed.extend_from_slice(&piece[..read]),
            Err(error) => return (passed, Some(error.kind())),
        }
    }
    drop(theirs);
    let rest = strict.read_to_end(&mut passed).await;
    (passed, rest.err().map(|error| error.kind()))
}

/// The same bytes at once, one by one and in odd pieces.
const PIECES: [usize; 4] = [1 << 16, 1, 3, 17];

fn head(fields: &str) -> String {
    format!("POST /orders HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[tokio::test]
async fn requests_with_one_reading_pass_as_they_came() {
    let requests = [
        head(""),
        head("content-length: 0\r\n"),
        head("Content-Length:5\r\n") + "hello",
        head("content-length: 2 \r\nx-empty:\r\n") + "\0\n",
        head("TRANSFER-encoding:  Chunked\r\n") + "5\r\nhel\r\n\r\n0A\r\n0123456789\r\n0\r\n\r\n",
        head("transfer-encoding: chunked\r\n") + "1\r\n\n\r\n000\r\nchecksum: 1\r\nx-b: \u{f6}\r\n\r\n",
        "GET /x HTTP/1.0\r\nhost: a\r\n\r\n".to_owned(),
        "OPTIONS * HTTP/1.1\r\nhost: a\r\nx-tab:\ta\tb\r\n\r\n".to_owned(),
    ];
    for first in &requests {
        // The end of each is where the next begins.
        for second in &requests {
            let both = format!("{first}{second}");
            for size in PIECES {
                let (passed, failed) = passed(both.as_bytes(), size).await;
                assert_eq!(String::from_utf8_lossy(&passed), both, "{size}");
                assert_eq!(failed, None, "{size}");
            }
        }
    }
}

/// Two statements about the end of one body.
const TWO_ENDS: &[&str] = &[
    "content-length: 5\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "content-length: 0\r\ntransfer-encoding: chunked\r\n",
];

/// Fields that no head has.
const NO_FIELDS: &[&str] = &[
    "content-length: 5\r\ncontent-length: 5\r\n",
    "content-length: 5\r\ncontent-length: 6\r\n",
    "content-length: 5, 5\r\n",
    "content-length: +5\r\n",
    "content-length: 0x5\r\n",
    "content-length: 5 5\r\n",
    "content-length:\r\n",
    "content-length: 1234567890123456789\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: xchunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding: \"chunked\"\r\n",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding\t: chunked\r\n",
    "transfer-encoding : chunked\r\n",
    "transfer-encoding:\x0bchunked\r\n",
    "x: a\r\n folded\r\n",
    "x: a\r\n\tfolded\r\n",
    " x: a\r\n",
    "x: a\n",
    "x: a\nb: c\r\n",
    "x: a\rb: c\r\n",
    "x: a\0b\r\n",
    "x: a\x7fb\r\n",
    "x\u{f6}: a\r\n",
    "no colon\r\n",
    ": nothing\r\n",
];

/// What is no head at all.
const NO_HEADS: &[&str] = &[
    "\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
    " GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
    "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /\u{f6} HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /\r\n\r\n",
    "GET / HTTP/0.9\r\n\r\n",
    "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
    "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
    "GET / http/1.1\r\nhost: a\r\n\r\n",
    "G\u{e9}T / HTTP/1.1\r\nhost: a\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
    "\x16\x03\x01\x02\0",
];

/// G28: whatever could end elsewhere for somebody else, or mean something else to him.
#[tokio::test]
async fn heads_with_two_readings_do_not_pass() {
    let smuggled = "0\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n";
    let two_ends = TWO_ENDS.iter().map(|fields| head(fields) + smuggled);
    let no_fields = NO_FIELDS.iter().map(|fields| head(fields));
    let refused = two_ends
        .chain(no_fields)
        .chain(NO_HEADS.iter().map(|text| (*text).to_owned()));
    for bad in refused {
        for before in [String::new(), head("content-length: 3\r\n") + "abc"] {
            for size in PIECES {
                let (passed, failed) = passed(format!("{before}{bad}").as_bytes(), size).await;
                assert_eq!(failed, None, "{bad:?}");
                // Of the bad one hyper sees no end, and at its end what is no head.
                let text = String::from_utf8_lossy(&passed).into_owned();
                let rest = text.strip_prefix(&before).expect("the good one");
                let rest = rest.strip_suffix("\0\r\n\r\n").expect("what no head has");
                assert!(!rest.contains("\n\r\n"), "{bad:?}: {rest:?}");
                assert!(!rest.contains("/x"), "{bad:?}: {rest:?}");
            }
        }
    }
}

/// G28: the same for bodies. What has passed of one is broken off.
#[tokio::test]
async fn bodies_that_are_not_what_was_announced_are_broken_off() {
    let announced = head("transfer-encoding: chunked\r\n");
    for bad in [
        "\r\n",
        "x\r\n",
        "5;ext\r\nhello\r\n",
        "5;ext=\"\n\"\r\nhello\r\n",
        "5 \r\nhello\r\n",
        " 5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\rhello\r\n",
        "5\r\nhello\n",
        "5\r\nhello!\r\n",
        "5\r\nhello\r\r\n",
        "1234567890123456\r\n",
        "0\n\n",
        "0\r\n\n",
        "0\r\na: b\n\r\n",
        "0\r\na: b\r\n c\r\n\r\n",
        "0\r\na : b\r\n\r\n",
        "0\r\nGET / HTTP/1.1\r\n\r\n",
        "0\r\na: \0\r\n\r\n",
    ] {
        for size in PIECES {
            let all = format!("{announced}{bad}");
            let (passed, failed) = passed(all.as_bytes(), size).await;
            assert_eq!(failed, Some(io::ErrorKind::InvalidData), "{bad:?}");
            assert!(passed.len() < all.len(), "{bad:?}");
        }
    }
}

/// What is made of `bytes`, which come in pieces of `size`: what is wrong, if something is, and what is waited for next.
fn made_of(bytes: &[u8], size: usize) -> (Option<Wrong>, String) {
    let mut strict = Strict::new(tokio::io::empty(), PATIENCE);
    let wrong = bytes.chunks(size).find_map(|piece| strict.judge(piece).1);
    (wrong, format!("{:?}", strict.phase))
}

/// G28: whatever is changed in a request, it means the same in whatever pieces it comes.
#[test]
fn changed_requests_mean_the_same_in_pieces() {
    let requests = [
        head("content-length: 5\r\n") + "hello",
        head("transfer-encoding: chunked\r\n") + "5\r\nhello\r\n0\r\nchecksum: 1\r\n\r\n",
    ];
    let mut passed = 0;
    for request in &requests {
        for at in 0..request.len() {
            for byte in *b"\0\t\n\r \"#,:;05Gafxz\x7f\xf6" {
                let mut changed = request.clone().into_bytes();
                changed[at] = byte;
                let whole = made_of(&changed, changed.len());
                for size in [1, 2, 7] {
                    assert_eq!(
                        made_of(&changed, size),
                        whole,
                        "{:?}",
                        String::from_utf8_lossy(&changed)
                    );
                }
                passed += usize::from(whole.0.is_none());
            }
        }
    }
    assert!(passed > 500, "{passed} pass");
}

/// G18: a head that is too long ends for us where it is; hyper is shown that it is too long.
#[tokio::test]
async fn no_head_is_read_beyond_its_limit() {
    let long = format!("{}x", head(&format!("x: {}\r\n", "y".repeat(HEADER_LIST))));
    for size in [1 << 16, 1000] {
        let (passed, failed) = passed(long.as_bytes(), size).await;
        assert!(passed.len() >= HEADER_LIST, "{}", passed.len());
        assert_eq!(failed, None);
    }
    let of_length = |length: usize| {
        let rest = length - head("x: \r\n").len();
        head(&format!("x: {}\r\n", "y".repeat(rest)))
    };
    let longest = of_length(HEADER_LIST);
    assert_eq!(passed(longest.as_bytes(), 999).await.0.len(), HEADER_LIST);
    let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(HEADER_LIST));
    let (_, failed) = passed(
        (head("transfer-encoding: chunked\r\n") + &trailers).as_bytes(),
        999,
    )
    .await;
    assert_eq!(failed, Some(io::ErrorKind::InvalidData));
}

/// Sends `text` byte by byte with this pause between, until nobody takes it.
fn drip(mut theirs: DuplexStream, text: String, pause: Duration) {
    tokio::spawn(async move {
        for byte in text.into_bytes() {
            if theirs.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    });
}

async fn time_until_given_up(text: String, pause: Duration) -> Duration {
    let (theirs, ours) = duplex(1 << 16);
    drip(theirs, text, pause);
    let mut strict = Strict::new(ours, PATIENCE);
    let start = Instant::now();
    let mut sink = Vec::new();
    let error = strict.read_to_end(&mut sink).await.expect_err("it is given up");
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    start.elapsed()
}

/// G25: a byte now and then is no head. In a body it is, while bytes come.
#[tokio::test(start_paused = true)]
async fn slow_heads_and_bodies_are_given_up() {
    let seconds = Duration::from_secs;
    let around = |time: Duration, least: u64| (seconds(least)..seconds(least + 2)).contains(&time);
    let time = time_until_given_up(head(""), seconds(3)).await;
    assert!(around(time, 10), "{time:?}");
    for body in [
        head("content-length: 9\r\n") + "12345",
        head("transfer-encoding: chunked\r\n") + "2\r\na",
    ] {
        let until_body = u64::try_from(body.len()).expect("short") / 10;
        let time = time_until_given_up(body, Duration::from_millis(100)).await;
        assert!(around(time, until_body + PATIENCE.as_secs()), "{time:?}");
    }
    let (mut theirs, ours) = duplex(1 << 16);
    let text = head("content-length: 20\r\n");
    theirs.write_all(text.as_bytes()).await.expect("sent");
    drip(theirs, "01234567890123456789".to_owned(), PATIENCE / 2);
    let mut all = vec![0; text.len() + 20];
    let mut strict = Strict::new(ours, PATIENCE);
    strict.read_exact(&mut all).await.expect("all of it");
}

/// Between two requests nobody has to hurry: that is the idle time's affair.
#[tokio::test(start_paused = true)]
async fn silence_between_requests_is_no_slow_head() {
    let (mut theirs, ours) = duplex(1 << 16);
    let mut strict = Strict::new(ours, PATIENCE);
    let text = head("");
    let mut read = vec![0; text.len()];
    for _ in 0..2 {
        theirs.write_all(text.as_bytes()).await.expect("sent");
        strict.read_exact(&mut read).await.expect("read");
        let silence = tokio::time::timeout(Duration::from_secs(3600), strict.read(&mut [0; 8])).await;
        assert!(silence.is_err(), "nothing comes, and nothing fails");
    }
}

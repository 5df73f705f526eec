//! HTTP/2 frames and header blocks made by hand (RFC 9113, RFC 7541), and what a peer answers to them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const COMPRESSION_ERROR: u32 = 9;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// The most that one frame carries unless the peer allows more.
pub(crate) const LARGEST_FRAME: usize = 16_384;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The beginning of a connection, with these settings.
pub(crate) fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &payload),
    ]
    .concat()
}

/// A field, neither indexed nor to be indexed.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    literal(0, name, value)
}

/// A field that goes into the peer's dynamic table.
pub(crate) fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    literal(0x40, name, value)
}

fn literal(kind: u8, name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![kind];
    for text in [name, value] {
        write_length(&mut block, text.len());
        block.extend(text.as_bytes());
    }
    block
}

fn write_length(block: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short) if short < 127 => block.push(short),
        Ok(_) | Err(_) => {
            block.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).expect("small") | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).expect("small"));
        }
    }
}

/// The fields of a call of `path`.
pub(crate) fn call(path: &str) -> Vec<u8> {
    [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .flat_map(|(name, value)| field(name, value))
    .collect()
}

/// What the peer did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaction {
    /// It ended the connection.
    pub(crate) ended: bool,
    /// With this code in the last GOAWAY.
    pub(crate) goaway: Option<u32>,
    /// RST_STREAM frames by code.
    pub(crate) resets: BTreeMap<u32, usize>,
    /// Header blocks.
    pub(crate) answers: usize,
    /// Bytes that it, or the system for it, took.
    pub(crate) taken: usize,
}

/// Writes all of `chunks` to the peer, reads what it answers, and gives up `within` that time.
pub(crate) async fn flood<S>(
    stream: S,
    chunks: impl Iterator<Item = Vec<u8>> + Send,
    within: Duration,
) -> Reaction
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    flood_at(stream, chunks, u32::MAX, within).await
}

/// The same, with no more than so many bytes in a second.
pub(crate) async fn flood_at<S>(
    stream: S,
    chunks: impl Iterator<Item = Vec<u8>> + Send,
    bytes: u32,
    within: Duration,
) -> Reaction
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reading, mut writing) = tokio::io::split(stream);
    let mut reaction = Reaction::default();
    let mut taken = 0;
    let began = Instant::now();
    let writes = async {
        for chunk in chunks {
            for part in chunk.chunks(LARGEST_FRAME) {
                if writing.write_all(part).await.is_err() {
                    return;
                }
                taken += part.len();
                let millis = u64::try_from(taken).expect("small") * 1000 / u64::from(bytes);
                sleep_until(began + Duration::from_millis(millis)).await;
            }
        }
        // The end is the peer's to make.
        if writing.flush().await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let reads = read(reading, &mut reaction);
    let both = async {
        tokio::pin!(reads);
        tokio::select! {
            () = writes => reads.await,
            () = &mut reads => {}
        }
    };
    // Time is up for a peer that neither reads nor ends.
    let _elapsed = timeout(within, both).await;
    reaction.taken = taken;
    reaction
}

async fn read(mut stream: impl AsyncRead + Unpin, reaction: &mut Reaction) {
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).expect("small")];
        if stream.read_exact(&mut payload).await.is_err() {
            break;
        }
        let code = |at: usize| {
            payload
                .get(at..at + 4)
                .map(|code| u32::from_be_bytes(code.try_into().expect("four")))
        };
        match head[3] {
            HEADERS => reaction.answers += 1,
            RST_STREAM => *reaction.resets.entry(code(0).unwrap_or_default()).or_default() += 1,
            GOAWAY => reaction.goaway = code(4),
            _ => {}
        }
    }
    reaction.ended = true;
}

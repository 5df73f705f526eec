//! What is thrown at the ports that speak HTTP/2, once a connection is there.

use std::iter::once;

use crate::frames::{
    COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS,
    LARGEST_FRAME, PING, PRIORITY, PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, Reaction, SETTINGS,
    WINDOW_UPDATE, call, field, frame, indexed_field, preface,
};

type Chunks = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// One way to misuse a connection.
pub(crate) struct Attack {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    /// What is sent, as a function of a method's path that the port knows.
    pub(crate) sends: fn(&'static str) -> Chunks,
    /// What must come of it. That the process lives and answers others is looked at besides.
    pub(crate) comes_of_it: Outcome,
}

/// What must come of an attack.
pub(crate) enum Outcome {
    /// The connection is ended, and this holds.
    Ended(fn(&Reaction) -> bool),
    /// The connection may go on: it costs its own share of work and no more memory, however long it does.
    Borne,
}

impl Attack {
    /// Whether the peer reacted as it must.
    pub(crate) fn is_contained(&self, reaction: &Reaction) -> bool {
        match self.comes_of_it {
            Outcome::Ended(holds) => reaction.ended && holds(reaction),
            Outcome::Borne => true,
        }
    }
}

/// `count` chunks of `one(stream)` after the preface; streams are those that a client opens, one after the other.
fn on_streams(count: u32, mut one: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> Chunks {
    Box::new(once(preface(&[])).chain((0..count).map(move |number| one(2 * number + 1))))
}

/// The same frame again and again, many to a chunk.
fn again(first: Vec<u8>, repeated: &[u8], times: usize) -> Chunks {
    let batch = repeated.repeat(1000);
    Box::new(once(first).chain((0..times / 1000).map(move |_| batch.clone())))
}

fn opened(path: &str, flags: u8) -> Vec<u8> {
    [preface(&[]), frame(HEADERS, flags, 1, &call(path))].concat()
}

fn block(block: &[u8]) -> Chunks {
    Box::new(once(
        [preface(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 1, block)].concat(),
    ))
}

/// A field of 4 KiB, put into the table once and named for as long as there is room in a frame.
fn bomb() -> Vec<u8> {
    let mut bomb = indexed_field("a", &"x".repeat(4000));
    bomb.resize(LARGEST_FRAME, 0xbe);
    bomb
}

const fn calmed(reaction: &Reaction) -> bool {
    matches!(reaction.goaway, Some(ENHANCE_YOUR_CALM))
}

/// RFC 9113 asks for the first; the HTTP/2 library says the second.
const fn uncompressed(reaction: &Reaction) -> bool {
    matches!(reaction.goaway, Some(COMPRESSION_ERROR | PROTOCOL_ERROR))
}

/// What a peer may have taken in before it ended the connection: buffers of both ends, and no more.
const BUFFERS: usize = 8 << 20;

pub(crate) const ATTACKS: &[Attack] = &[
    Attack {
        id: "G19",
        name: "rapid reset",
        sends: |path| {
            let block = call(path);
            on_streams(100_000, move |id| {
                [
                    frame(HEADERS, END_HEADERS | END_STREAM, id, &block),
                    frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()),
                ]
                .concat()
            })
        },
        comes_of_it: Outcome::Ended(calmed),
    },
    Attack {
        id: "G20",
        name: "made to reset: window updates of nothing",
        sends: |path| {
            let block = call(path);
            on_streams(100_000, move |id| {
                [
                    frame(HEADERS, END_HEADERS, id, &block),
                    frame(WINDOW_UPDATE, 0, id, &[0; 4]),
                ]
                .concat()
            })
        },
        // Ended at the first, before anything is reset.
        comes_of_it: Outcome::Ended(|reaction| reaction.goaway.is_some()),
    },
    Attack {
        id: "G20",
        name: "made to reset: windows that overflow",
        sends: |path| {
            let block = call(path);
            on_streams(100_000, move |id| {
                [
                    frame(HEADERS, END_HEADERS, id, &block),
                    frame(WINDOW_UPDATE, 0, id, &0x7fff_ffff_u32.to_be_bytes()),
                ]
                .concat()
            })
        },
        comes_of_it: Outcome::Ended(calmed),
    },
    Attack {
        id: "G20",
        name: "made to reset: streams that depend on themselves",
        sends: |path| {
            let block = call(path);
            on_streams(100_000, move |id| {
                let weight = [&id.to_be_bytes()[..], &[16]].concat();
                [
                    frame(HEADERS, END_HEADERS, id, &block),
                    frame(PRIORITY, 0, id, &weight),
                ]
                .concat()
            })
        },
        comes_of_it: Outcome::Ended(calmed),
    },
    Attack {
        id: "G21",
        name: "continuations for ever",
        sends: |path| {
            let more = frame(
                CONTINUATION,
                0,
                1,
                &field("x", &"y".repeat(1000)).repeat(16)[..16_000],
            );
            again(opened(path, 0), &more, 100_000)
        },
        comes_of_it: Outcome::Ended(|reaction| reaction.taken < BUFFERS),
    },
    Attack {
        id: "G21",
        name: "empty continuations for ever",
        sends: |path| again(opened(path, 0), &frame(CONTINUATION, 0, 1, &[]), 1_000_000),
        comes_of_it: Outcome::Ended(|reaction| reaction.taken < BUFFERS),
    },
    Attack {
        id: "G22",
        name: "pings",
        sends: |_| again(preface(&[]), &frame(PING, 0, 0, &[0; 8]), 100_000),
        comes_of_it: Outcome::Borne,
    },
    Attack {
        id: "G22",
        name: "settings",
        sends: |_| again(preface(&[]), &frame(SETTINGS, 0, 0, &[]), 100_000),
        comes_of_it: Outcome::Borne,
    },
    Attack {
        id: "G22",
        name: "empty data",
        sends: |path| again(opened(path, END_HEADERS), &frame(DATA, 0, 1, &[]), 100_000),
        comes_of_it: Outcome::Borne,
    },
    Attack {
        id: "G22",
        name: "data byte by byte",
        sends: |path| again(opened(path, END_HEADERS), &frame(DATA, 0, 1, &[0]), 100_000),
        comes_of_it: Outcome::Borne,
    },
    Attack {
        id: "G23",
        name: "index 0",
        sends: |_| block(&[0x80]),
        comes_of_it: Outcome::Ended(uncompressed),
    },
    Attack {
        id: "G23",
        name: "an index past the table",
        sends: |_| block(&[0xff, 0xff, 0xff, 0x7f]),
        comes_of_it: Outcome::Ended(uncompressed),
    },
    Attack {
        id: "G23",
        name: "a table over the limit",
        sends: |_| block(&[0x3f, 0xe1, 0xff, 0xff, 0x07]),
        comes_of_it: Outcome::Ended(uncompressed),
    },
    Attack {
        id: "G23",
        name: "the end of a string inside of it",
        sends: |_| block(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'x']),
        comes_of_it: Outcome::Ended(uncompressed),
    },
    Attack {
        id: "G23",
        name: "a large field named again and again",
        sends: |path| {
            let bomb = [call(path), bomb()].concat()[..LARGEST_FRAME].to_vec();
            on_streams(200, move |id| frame(HEADERS, END_HEADERS | END_STREAM, id, &bomb))
        },
        comes_of_it: Outcome::Ended(|reaction| reaction.taken < BUFFERS),
    },
    Attack {
        id: "G24",
        name: "answers that nobody has room for",
        sends: |path| {
            let block = call(path);
            // SETTINGS_INITIAL_WINDOW_SIZE
            let first = preface(&[(4, 0)]);
            let calls = (0..100).map(move |n| frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &block));
            Box::new(once(first).chain(calls))
        },
        comes_of_it: Outcome::Borne,
    },
    Attack {
        id: "G26",
        name: "five thousand calls at once",
        sends: |path| {
            let block = call(path);
            on_streams(5000, move |id| frame(HEADERS, END_HEADERS, id, &block))
        },
        comes_of_it: Outcome::Ended(|reaction| {
            reaction.resets.contains_key(&REFUSED_STREAM) || calmed(reaction)
        }),
    },
    Attack {
        id: "G18",
        name: "ten thousand fields",
        sends: |path| {
            let fields = field("x", "y").repeat(10_000 / 4);
            let (first, rest) = (
                frame(HEADERS, END_STREAM, 1, &call(path)),
                frame(CONTINUATION, 0, 1, &fields),
            );
            let last = frame(CONTINUATION, END_HEADERS, 1, &fields);
            Box::new(once([preface(&[]), first, rest.repeat(3), last].concat()))
        },
        comes_of_it: Outcome::Ended(|_| true),
    },
];

//! Whatever is sent to whichever port of whichever process: it lives, it answers others meanwhile, and it is afterwards
//! as small as it was (G18 to G26, S21). Real processes, so that their memory and their descriptors can be counted.
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]
#![expect(clippy::print_stdout, reason = "the figures are part of the report")]

mod attacks;
mod frames;
mod goodput;
mod world;

use std::iter::once;
use std::time::Duration;

use attacks::{ATTACKS, Attack, Outcome};
use countersign_harness::eventually;
use frames::{Reaction, flood, frame, preface};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use world::{Pipe, Port, Usage, World};

/// What one test does to the machine would be measured by another.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How long an attacker goes on against a peer that may let him.
const BORNE: Duration = Duration::from_millis(500);

/// How long a peer that must end the connection may take, on a busy machine.
const UNTIL_ENDED: Duration = Duration::from_secs(20);

/// Attackers at the same port at the same time.
const ATTACKERS: usize = 3;

/// What a process may take more than before the first attack, in MiB: what its limits add up to for this many
/// connections, and what the allocator does not give back.
const GROWTH: u64 = 64;

/// What it may take more after the second time than after the first: nothing, but for the allocator's moods.
const LEAK: u64 = 16;

/// Connections that outlast their attack by a moment.
const LINGERING: usize = 4;

/// Connections that the sidecar keeps to the service behind it, at most (`limits.upstream_connections`).
const TO_THE_SERVICE: usize = 64;

async fn attack(world: &World, port: Port, attack: &Attack, method: &'static str) -> Vec<Reaction> {
    let attackers = (0..ATTACKERS).map(|_| async {
        let stream = world.connect_well(port).await;
        let within = match attack.comes_of_it {
            Outcome::Ended(_) => UNTIL_ENDED,
            Outcome::Borne => BORNE,
        };
        flood(stream, (attack.sends)(method), within).await
    });
    join_all(attackers).await
}

/// Every attack on every port that speaks HTTP/2, with well-behaved callers all the while: the longest that one of them
/// had to wait.
async fn all_attacks(world: &World, token: &str) -> Duration {
    let (mut longest, mut uncontained) = (Duration::ZERO, Vec::new());
    for one in ATTACKS {
        for (port, method) in Port::ALL
            .into_iter()
            .filter_map(|port| Some((port, port.method()?)))
        {
            let name = format!("{} {} at {port:?}", one.id, one.name);
            let attacking = attack(world, port, one, method);
            let (reactions, waited) = tokio::join!(attacking, world.answers(token, &name));
            let ended = reactions.iter().filter(|reaction| reaction.ended).count();
            println!("{name}: {ended} of {ATTACKERS} ended, others waited {waited:?} at most");
            longest = longest.max(waited);
            let free = reactions
                .into_iter()
                .filter(|reaction| !one.is_contained(reaction));
            uncontained.extend(free.map(|reaction| format!("{name}: {reaction:?}")));
        }
    }
    assert!(uncontained.is_empty(), "{}", uncontained.join("\n"));
    longest
}

/// Bytes that begin nothing.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    vec![
        ("nothing", Vec::new()),
        ("one byte", vec![0]),
        ("zeros", vec![0; 4096]),
        ("noise", (0..=255).cycle().take(100_000).collect()),
        ("half a TLS hello", hello.clone()),
        (
            "a TLS hello in single bytes",
            hello.iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect(),
        ),
        ("a TLS alert", b"\x15\x03\x03\x00\x02\x02\x28".repeat(100)),
        ("half a preface", preface(&[])[..12].to_vec()),
        ("preface, then noise", [preface(&[]), vec![0xff; 10_000]].concat()),
        (
            "a frame of 16 MiB",
            [
                preface(&[]),
                vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
                vec![0; 1000],
            ]
            .concat(),
        ),
        (
            "a request line for ever",
            b"GET /"
                .iter()
                .copied()
                .chain(std::iter::repeat_n(b'a', 1 << 20))
                .collect(),
        ),
        (
            "headers for ever",
            [&b"GET /live HTTP/1.1\r\n"[..], &b"x: y\r\n".repeat(100_000)].concat(),
        ),
        (
            "a body for ever",
            [
                &b"GET /live HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"[..],
                &b"ffff\r\n".repeat(1000),
            ]
            .concat(),
        ),
        (
            "data without headers",
            [preface(&[]), frame(0, 0, 1, &[0; 10_000])].concat(),
        ),
        (
            "a push promise",
            [preface(&[]), frame(5, 4, 1, &[0, 0, 0, 2, 0x82])].concat(),
        ),
    ]
}

async fn throw_garbage(world: &World, token: &str) {
    for (name, what) in garbage() {
        let throwing = Port::ALL.map(|port| {
            let what = what.clone();
            async move {
                let stream = world.connect(port).await.expect("accepted");
                flood(stream, once(what), Duration::from_millis(300)).await;
            }
        });
        tokio::join!(join_all(throwing), world.answers(token, name));
    }
}

async fn settled(world: &World, before: &[Usage]) -> Vec<Usage> {
    for ((name, pid), before) in world.processes().into_iter().zip(before) {
        let kept = if name == "sidecar" { TO_THE_SERVICE } else { 0 };
        eventually(&format!("the connections of the {name} are gone"), || async {
            Usage::of(pid).descriptors <= before.descriptors + LINGERING + kept
        })
        .await;
    }
    let usages = world.processes().map(|(name, pid)| {
        let usage = Usage::of(pid);
        println!("{name}: {usage:?}");
        usage
    });
    usages.to_vec()
}

/// G18 to G24, G26, G28.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flood_at_any_port_stops_or_grows_a_process() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let token = world.token().await;
    for _ in 0..3 {
        world.answers(&token, "peace").await;
    }
    let mut peace = Vec::new();
    for (_, pid) in world.processes() {
        peace.push(Usage::of(pid));
    }
    println!("before: {peace:?}");
    throw_garbage(&world, &token).await;
    let longest = all_attacks(&world, &token).await;
    let first = settled(&world, &peace).await;
    throw_garbage(&world, &token).await;
    let again = all_attacks(&world, &token).await;
    let second = settled(&world, &peace).await;
    println!(
        "the longest wait of a well-behaved caller: {:?}",
        longest.max(again)
    );
    for ((before, first), second) in peace.iter().zip(&first).zip(&second) {
        assert!(first.memory <= before.memory + GROWTH, "{before:?} {first:?}");
        assert!(second.memory <= first.memory + LEAK, "{first:?} {second:?}");
    }
    let alive = world.answers(&world.token().await, "peace again").await;
    println!("afterwards {alive:?}");
}

/// What is called how, what is said before falling silent, and at which ports it is the beginning of something.
type Beginning = (&'static str, Vec<u8>, fn(Port) -> bool);

fn beginnings() -> Vec<Beginning> {
    vec![
        ("nothing", Vec::new(), |_| true),
        (
            "half a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(),
            Port::is_tls,
        ),
        ("half a preface", preface(&[])[..12].to_vec(), |port| {
            !port.is_tls() && port.method().is_some()
        }),
        ("a preface", preface(&[]), |port| {
            !port.is_tls() && port.method().is_some()
        }),
        ("half a request", b"GET /live HTT".to_vec(), |port| {
            port.method().is_none()
        }),
    ]
}

/// How long whoever says nothing is borne, with time for a busy machine.
const SILENCE: Duration = Duration::from_secs(30);

/// G25: who connects and falls silent, or goes on a byte at a time, is hung up on, and takes nobody's place meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_and_dripping_peers_are_hung_up_on_at_every_port() {
    let _alone = ALONE.lock().await;
    let world = World::start().await;
    let token = world.token().await;
    world.answers(&token, "peace").await;
    let peace = world.processes().map(|(_, pid)| Usage::of(pid));
    let mut silent: Vec<(String, Box<dyn Pipe>)> = Vec::new();
    for (name, said, fits) in beginnings() {
        for port in Port::ALL.into_iter().filter(|port| fits(*port)) {
            for _ in 0..10 {
                let mut stream = world.connect(port).await.expect("accepted");
                stream.write_all(&said).await.expect("sent");
                silent.push((format!("{name} at {port:?}"), stream));
            }
        }
    }
    let crowd = silent.len();
    let waiting = join_all(silent.into_iter().map(|(name, stream)| async move {
        let began = Instant::now();
        assert!(is_hung_up_on(stream).await, "{name}: {:?}", began.elapsed());
    }));
    let dripping = join_all(Port::ALL.map(|port| drip(&world, port)));
    let (_, _, waited) = tokio::join!(waiting, dripping, world.answers(&token, "silence"));
    println!("{crowd} silent peers are gone; others waited {waited:?} at most");
    settled(&world, &peace).await;
}

async fn is_hung_up_on(mut stream: Box<dyn Pipe>) -> bool {
    let mut sink = [0; 1024];
    let end = async { while stream.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    timeout(SILENCE, end).await.is_ok()
}

/// The beginning of something, a byte every half second.
async fn drip(world: &World, port: Port) {
    let stream = world.connect(port).await.expect("accepted");
    let said = if port.is_tls() {
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(10)
    } else if port.method().is_some() {
        preface(&[])
    } else {
        b"GET /live HTTP/1.1\r\nx: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy".to_vec()
    };
    let (reading, mut writing) = tokio::io::split(stream);
    let dripping = async {
        for byte in said {
            tokio::time::sleep(Duration::from_millis(500)).await;
            if writing.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    };
    let mut reading = reading;
    let mut sink = [0; 1024];
    let end = async { while reading.read(&mut sink).await.is_ok_and(|read| read > 0) {} };
    let ended = timeout(SILENCE, async { tokio::join!(dripping, end) }).await;
    assert!(ended.is_ok(), "{port:?} goes on listening");
}

/// All of them, at the same time.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    futures_util::future::join_all(futures).await
}

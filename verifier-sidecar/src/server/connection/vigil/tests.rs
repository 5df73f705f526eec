use super::*;
use crate::server::Keepalive;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const LIMITS: Limits = Limits {
    connections: 1,
    streams: 1,
    idle: seconds(300),
    age: seconds(1800),
    drain: seconds(30),
    keepalive: Keepalive {
        every: Duration::from_secs(30),
        patience: Duration::from_secs(10),
    },
};

const fn seen(now: u64) -> Seen {
    Seen {
        now: seconds(now),
        preface: true,
        any_call: true,
        active: 0,
        quiet_since: seconds(0),
    }
}

/// G25: silence before the preface, or a byte now and then, ends after 10 s.
#[test]
fn a_connection_without_a_preface_is_cut_after_ten_seconds() {
    let mut vigil = Vigil::new(LIMITS, None);
    let silent = |now| Seen {
        preface: false,
        any_call: false,
        ..seen(now)
    };
    assert_eq!(vigil.step(&silent(0)), Step::Wait(seconds(10)));
    assert_eq!(vigil.step(&silent(10)), Step::Cut(End::NoPreface));
}

/// G25: a preface and then silence ends within 30 s.
#[test]
fn a_connection_without_a_call_is_cut_within_thirty_seconds() {
    let mut vigil = Vigil::new(LIMITS, None);
    let silent = |now| Seen {
        any_call: false,
        ..seen(now)
    };
    assert_eq!(vigil.step(&silent(9)), Step::Wait(seconds(20)));
    assert_eq!(vigil.step(&silent(20)), Step::WindUp);
    assert_eq!(vigil.end(true), End::NoCall);
    assert_eq!(vigil.step(&silent(21)), Step::Cut(End::Cut));
}

/// Short times hold, too, although nobody tells when a connection's first bytes come.
#[test]
fn a_short_age_or_idle_time_is_not_waited_past() {
    let limits = Limits {
        idle: seconds(3),
        age: seconds(5),
        ..LIMITS
    };
    let mut vigil = Vigil::new(limits, None);
    let silent = |now| Seen {
        preface: false,
        any_call: false,
        ..seen(now)
    };
    assert_eq!(vigil.step(&silent(0)), Step::Wait(seconds(3)));
    assert_eq!(vigil.step(&silent(3)), Step::Wait(seconds(5)));
    assert_eq!(vigil.step(&silent(5)), Step::Wait(seconds(8)));
    assert_eq!(vigil.step(&silent(8)), Step::Wait(seconds(10)));
    let quiet = Seen {
        quiet_since: seconds(1),
        ..seen(4)
    };
    assert_eq!(vigil.step(&quiet), Step::WindUp);
}

#[test]
fn a_quiet_connection_is_wound_up_and_then_cut() {
    let mut vigil = Vigil::new(LIMITS, None);
    let quiet_since = seconds(100);
    let quiet = |now| Seen {
        quiet_since,
        ..seen(now)
    };
    assert_eq!(vigil.step(&quiet(101)), Step::Wait(seconds(400)));
    assert_eq!(vigil.step(&quiet(400)), Step::WindUp);
    assert_eq!(vigil.step(&quiet(400)), Step::Wait(seconds(401)));
    assert_eq!(vigil.step(&quiet(401)), Step::Cut(End::Cut));
}

#[test]
fn a_call_that_came_in_during_the_goodbye_gets_its_time() {
    let mut vigil = Vigil::new(LIMITS, None);
    assert_eq!(vigil.step(&seen(300)), Step::WindUp);
    let busy = |now| Seen {
        active: 1,
        ..seen(now)
    };
    assert_eq!(vigil.step(&busy(301)), Step::Wait(seconds(330)));
    assert_eq!(vigil.step(&busy(330)), Step::Cut(End::Cut));
}

/// A call is over here once its end is handed to HTTP/2; a slow reader may not have it yet.
#[test]
fn the_end_of_a_call_has_time_to_reach_its_caller() {
    let mut vigil = Vigil::new(LIMITS, None);
    let ended_at = |quiet_since| Seen {
        quiet_since: seconds(quiet_since),
        ..seen(1800)
    };
    assert_eq!(vigil.step(&ended_at(1790)), Step::WindUp);
    for ended in [1771, 1799, 1800] {
        assert_eq!(vigil.step(&ended_at(ended)), Step::Wait(seconds(1830)), "{ended}");
    }
    assert_eq!(vigil.step(&ended_at(1770)), Step::Wait(seconds(1801)));
    let late = Seen {
        now: seconds(1801),
        ..ended_at(1801)
    };
    assert_eq!(vigil.step(&late), Step::Wait(seconds(1830)));
}

/// G33: a call keeps a connection open, but not beyond its age and the time to drain.
#[test]
fn an_old_connection_is_wound_up_although_it_is_busy() {
    let mut vigil = Vigil::new(LIMITS, None);
    let busy = |now| Seen {
        active: 1,
        ..seen(now)
    };
    assert_eq!(vigil.step(&busy(1000)), Step::Wait(seconds(1300)));
    assert_eq!(vigil.step(&busy(1799)), Step::Wait(seconds(1800)));
    assert_eq!(vigil.step(&busy(1800)), Step::WindUp);
    assert_eq!(vigil.end(true), End::Aged);
    assert_eq!(vigil.step(&busy(1829)), Step::Wait(seconds(1830)));
    assert_eq!(vigil.step(&busy(1830)), Step::Cut(End::Cut));
}

/// S22: a connection does not outlive the certificate that it was opened with.
#[test]
fn a_connection_is_wound_up_when_its_certificate_ends() {
    let mut vigil = Vigil::new(LIMITS, Some(seconds(60)));
    let busy = |now| Seen {
        active: 1,
        ..seen(now)
    };
    assert_eq!(vigil.step(&busy(59)), Step::Wait(seconds(60)));
    assert_eq!(vigil.step(&busy(60)), Step::WindUp);
}

#[test]
fn a_connection_that_ends_by_itself_says_how() {
    let mut vigil = Vigil::new(LIMITS, None);
    assert_eq!((vigil.end(true), vigil.end(false)), (End::Closed, End::Error));
    vigil.drain(&seen(5));
    assert_eq!(vigil.end(true), End::Drained);
    assert!(vigil.is_winding_up());
}

//! Values as they are shown: times, digests, lists.

use std::time::{Duration, UNIX_EPOCH};

use countersign_core::Timestamp;
use serde::{Serialize, Serializer};

use crate::output::{Text, Tone};

/// The time as RFC 3339 in UTC.
#[must_use]
pub(crate) fn time(time: Timestamp) -> String {
    let since = Duration::from_secs(time.as_seconds());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

/// A time: RFC 3339 for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct At(pub(crate) Timestamp);

impl At {
    /// The time of a message, if it has one.
    #[must_use]
    pub(crate) fn read(time: Option<&prost_types::Timestamp>) -> Option<Self> {
        time.and_then(countersign_wire::read_time).map(Self)
    }

    /// The time of day in UTC, for people; with the date when that is not the one of `now`.
    #[must_use]
    pub(crate) fn clock(self, now: Timestamp) -> String {
        let whole = time(self.0);
        let (date, clock) = whole.trim_end_matches('Z').split_once('T').unwrap_or_default();
        if time(now).starts_with(date) {
            clock.to_owned()
        } else {
            format!("{date} {clock}")
        }
    }
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time(self.0))
    }
}

/// The time of a message, if it has one.
#[must_use]
pub(crate) fn wire_time(time: Option<&prost_types::Timestamp>) -> Option<String> {
    time.and_then(countersign_wire::read_time).map(self::time)
}

/// A duration in whole seconds, as people write it.
#[must_use]
pub(crate) fn duration(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}

/// A number of things: `1 key`, `2 keys`.
pub(crate) fn count(number: impl TryInto<u64>, thing: &str) -> String {
    match number.try_into() {
        Ok(1) => format!("1 {thing}"),
        Ok(number) => format!("{number} {thing}s"),
        Err(_too_many) => format!("countless {thing}s"),
    }
}

/// The bytes in hexadecimal.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A list in one cell.
#[must_use]
pub(crate) fn list(items: &[String]) -> Text {
    optional((!items.is_empty()).then(|| items.join(" ")))
}

/// A value that may not be there.
#[must_use]
pub(crate) fn optional(value: Option<String>) -> Text {
    value.map_or_else(|| Text::toned("-", Tone::Faint), Text::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_people_read_them() {
        assert_eq!(
            time(Timestamp::from_seconds(1_800_000_000)),
            "2027-01-15T08:00:00Z"
        );
        assert_eq!(wire_time(None), None);
        let (at, day) = (At(Timestamp::from_seconds(1_800_000_000)), 24 * 3600);
        assert_eq!(at.clock(Timestamp::from_seconds(1_800_000_000 - 60)), "08:00:00");
        let yesterday = Timestamp::from_seconds(1_800_000_000 - day);
        assert_eq!(at.clock(yesterday), "2027-01-15 08:00:00");
        assert_eq!(serde_json::json!(at), "2027-01-15T08:00:00Z");
        assert_eq!(duration(Duration::from_millis(90_500)), "1m 30s");
        assert_eq!(hex(&[0, 255]), "00ff");
        assert_eq!(
            (count(1_u32, "key"), count(0_usize, "key")),
            ("1 key".to_owned(), "0 keys".to_owned())
        );
    }
}

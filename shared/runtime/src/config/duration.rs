//! Lengths of time as people write them: `"90s"`, `"15m"`, `"1h30m"`.
//!
//! Strict: a number without a unit, a sign, a fraction, a space, an exponent, a unit twice or out of order is refused.
//! Zero is a length of its own type, so that nobody gets "never" or "at once" by accident.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Visitor};

/// No length of time is longer: ten years. Everything can be added to it without overflow.
pub const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The text is no length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It is not of the form.
    #[error("a length of time is digits and units, such as \"90s\", \"15m\" or \"1h30m\" (d, h, m, s, ms)")]
    Form,
    /// It is over [`MAX_DURATION`].
    #[error("a length of time is at most 3650d")]
    TooLong,
    /// It is nothing, where that has no meaning.
    #[error("must be longer than nothing")]
    Zero,
}

/// Reads a length of time; nothing (`"0s"`) is one too.
///
/// # Errors
/// [`InvalidDuration`].
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let (mut rest, mut units, mut millis) = (text, UNITS.as_slice(), 0_u64);
    loop {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at_checked(digits).ok_or(InvalidDuration::Form)?;
        let unit_end = tail.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end).ok_or(InvalidDuration::Form)?;
        if number.is_empty() {
            return Err(InvalidDuration::Form);
        }
        let at = units
            .iter()
            .position(|(name, _)| *name == unit)
            .ok_or(InvalidDuration::Form)?;
        let (Some((_, size)), Some(smaller)) = (units.get(at), units.get(at + 1..)) else {
            return Err(InvalidDuration::Form);
        };
        let number: u64 = number.parse().map_err(|_overflow| InvalidDuration::TooLong)?;
        let part = number.checked_mul(*size).ok_or(InvalidDuration::TooLong)?;
        millis = millis.checked_add(part).ok_or(InvalidDuration::TooLong)?;
        (rest, units) = (tail, smaller);
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::from_millis(millis);
    if duration > MAX_DURATION {
        Err(InvalidDuration::TooLong)
    } else {
        Ok(duration)
    }
}

/// A length of time in a configuration file, longer than nothing and at most [`MAX_DURATION`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// A length of time in a configuration file, at most [`MAX_DURATION`], where nothing has a meaning.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeriodOrZero(Duration);

impl Period {
    /// From its text.
    ///
    /// # Errors
    /// [`InvalidDuration`].
    pub fn parse(text: &str) -> Result<Self, InvalidDuration> {
        match parse_duration(text)? {
            Duration::ZERO => Err(InvalidDuration::Zero),
            duration => Ok(Self(duration)),
        }
    }
}

impl PeriodOrZero {
    /// From its text.
    ///
    /// # Errors
    /// [`InvalidDuration`].
    pub fn parse(text: &str) -> Result<Self, InvalidDuration> {
        parse_duration(text).map(Self)
    }
}

macro_rules! period {
    ($name:ident) => {
        impl $name {
            /// The length.
            #[must_use]
            pub const fn get(self) -> Duration {
                self.0
            }
        }

        impl From<$name> for Duration {
            fn from(period: $name) -> Self {
                period.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidDuration;

            fn from_str(text: &str) -> Result<Self, InvalidDuration> {
                Self::parse(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text(Self::parse))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_duration(self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_duration(self.0, f)
            }
        }
    };
}

period!(Period);
period!(PeriodOrZero);

struct Text<T>(fn(&str) -> Result<T, InvalidDuration>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time in quotes, such as \"15m\"")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }
}

/// A length of time, shown as it is written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written(pub Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_duration(self.0, f)
    }
}

fn write_duration(duration: Duration, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return f.write_str("0s");
    }
    for (unit, size) in UNITS {
        if left >= size {
            write!(f, "{}{unit}", left / size)?;
            left %= size;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        for (text, millis) in [
            ("90s", 90_000),
            ("15m", 900_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1d", 86_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("3650d", 315_360_000_000),
            ("007s", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    /// C02: whatever could be read as two lengths is none.
    #[test]
    fn what_has_no_unit_a_sign_a_space_or_an_exponent_is_refused() {
        for text in [
            "", "5", "-1s", "+1s", "5 min", "5min", "1e9s", "1.5s", "s", "1h30", "30m1h", "1s1s", "1S",
            "1 s", " 1s", "1s ", "1y", "\u{661}s", "1s\n", "1mss", "5,0s", "0x1s", "1_000s", "inf", "NaN",
        ] {
            assert_eq!(parse_duration(text), Err(InvalidDuration::Form), "{text:?}");
        }
        for text in [
            "3650d1ms",
            "99999999999999999999s",
            "18446744073709551615d",
            "18446744073709551615ms",
        ] {
            assert_eq!(parse_duration(text), Err(InvalidDuration::TooLong), "{text:?}");
        }
    }

    /// C02: nothing is refused where it would mean never or always.
    #[test]
    fn nothing_is_a_length_only_where_it_is_allowed() {
        for text in ["0s", "0ms", "0d0h0m0s"] {
            assert_eq!(Period::parse(text), Err(InvalidDuration::Zero), "{text}");
            assert_eq!(
                PeriodOrZero::parse(text).map(PeriodOrZero::get),
                Ok(Duration::ZERO),
                "{text}"
            );
        }
    }

    #[test]
    fn a_length_is_written_as_it_is_read() {
        for text in ["90s", "15m", "1h30m", "250ms", "1d2h3m4s5ms", "2h"] {
            let period = Period::parse(text).expect("valid");
            assert_eq!(Period::parse(&period.to_string()), Ok(period), "{text}");
        }
        assert_eq!(Period::parse("90s").expect("valid").to_string(), "1m30s");
        assert_eq!(PeriodOrZero::parse("0ms").expect("valid").to_string(), "0s");
    }
}

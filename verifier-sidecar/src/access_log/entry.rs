//! One line of the access log: a JSON object in printable ASCII, whatever a caller wrote.
//!
//! Names are Envoy's where Envoy has one (docs/access-log.md lists them all). Nothing secret has a field: of a request only the
//! path without its query and the authority without a user are told, and of a token what its claims say.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use countersign_core::trust::Epoch;
use serde::{Serialize, Serializer};
use serde_json::ser::Formatter;

/// The longest path or authority that is told. The rest of a longer one is left out.
const LONGEST: usize = 1024;

/// What there is to tell of a call. What is nothing has no field.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) start_time: String,
    /// The kind of listener, or who was asked.
    pub(crate) listener: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) downstream_remote_address: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) downstream_peer_uri_san: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "without_user")]
    pub(crate) authority: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "without_query")]
    pub(crate) path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<&'static str>,
    /// The pattern that the configuration has for the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decision: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<Epoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trust_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpc_status: Option<&'static str>,
    /// Why the sidecar ended a call that it had let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) response_code_details: Option<&'static str>,
    /// Why it would have ended a call that went on because its method is only observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) would_end_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) decision_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
}

impl Entry<'_> {
    /// A time in milliseconds since 1970 as lines have it (RFC 3339).
    pub(super) fn time(millis: u64) -> String {
        /// The end of the year 9999, beyond which there is no such form.
        const LAST: u64 = 253_402_300_799_999;
        let time = UNIX_EPOCH + Duration::from_millis(millis.min(LAST));
        humantime::format_rfc3339_millis(time).to_string()
    }

    /// The line, with its end.
    pub(super) fn line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = Vec::with_capacity(512);
        let mut writer = serde_json::Serializer::with_formatter(&mut line, Ascii);
        self.serialize(&mut writer)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// Queries are where some put tokens (RFC 6750, section 2.3), and no part of a gRPC path.
fn without_query<S: Serializer>(path: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    let path = path.map(|path| path.split(['?', '#']).next().unwrap_or_default());
    path.map(bounded).serialize(serializer)
}

/// A user in an authority may have a password.
fn without_user<S: Serializer>(authority: &Option<&str>, serializer: S) -> Result<S::Ok, S::Error> {
    let authority = authority.map(|authority| authority.rsplit('@').next().unwrap_or_default());
    authority.map(bounded).serialize(serializer)
}

fn bounded(text: &str) -> &str {
    text.split_at(text.floor_char_boundary(LONGEST)).0
}

/// JSON in which every character beyond printable ASCII is escaped: no terminal, and no tool that reads lines, takes any of it for
/// more than text (T84).
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return writer.write_all(fragment.as_bytes());
        }
        for unit in fragment.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte @ b' '..=b'~') => writer.write_all(&[byte])?,
                Ok(_) | Err(_) => write!(writer, "\\u{unit:04x}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(entry: &Entry<'_>) -> (String, Value) {
        let line = entry.line().expect("is written");
        let line = String::from_utf8(line).expect("text");
        let value = serde_json::from_str(&line).expect("JSON");
        (line, value)
    }

    #[test]
    fn what_is_nothing_has_no_field() {
        let entry = Entry {
            listener: "tls",
            downstream_remote_address: "192.0.2.7:1234".parse().ok(),
            epoch: Some(7),
            ..Entry::default()
        };
        let expected = json!({
            "start_time": "", "listener": "tls", "downstream_remote_address": "192.0.2.7:1234", "epoch": 7,
        });
        assert_eq!(read(&entry).1, expected);
    }

    /// T84: whatever a caller writes stays text in one line of printable ASCII, and is read back as it was.
    #[test]
    fn hostile_text_stays_text() {
        let hostile = [
            "/a.A/\n{\"decision\":\"allowed\"}",
            "/a\r\n\u{7f}\u{0}\u{1b}[31m",
            "/\u{202e}evil\u{2066}\u{2028}\u{85}",
            "/\u{1f600}\"\\",
            "/%0a%00/../'; DROP TABLE",
        ];
        for path in hostile {
            let entry = Entry {
                path: Some(path),
                authority: Some(path),
                ..Entry::default()
            };
            let (line, value) = read(&entry);
            let (text, end) = line.split_at(line.len() - 1);
            assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
            assert_eq!(
                (end, &value["path"], &value["authority"]),
                ("\n", &json!(path), &json!(path))
            );
        }
    }

    /// H11: where callers put secrets by custom, nothing is told.
    #[test]
    fn neither_query_nor_password_is_told() {
        let entry = Entry {
            path: Some("/a.A/Get?access_token=canary#canary"),
            authority: Some("user:canary@orders:443"),
            ..Entry::default()
        };
        let (line, value) = read(&entry);
        assert_eq!(
            (&value["path"], &value["authority"]),
            (&json!("/a.A/Get"), &json!("orders:443"))
        );
        assert!(!line.contains("canary"), "{line}");
    }

    #[test]
    fn a_line_is_bounded() {
        let long = "/\u{1f600}".repeat(20_000);
        let entry = Entry {
            path: Some(&long),
            authority: Some(&long),
            ..Entry::default()
        };
        // Of four bytes of text, twelve at most are made.
        assert!(read(&entry).0.len() < 2 * 3 * LONGEST + 512);
    }
}
